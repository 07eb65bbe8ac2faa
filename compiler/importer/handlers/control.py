"""Handlers of If and Loop. Branches decided at compile time and short loops leave no control flow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, NodeProto

from ....errors import OnnxImportError
from ....ir import Const, Dim, DType, RunTimeSize, TensorType, Value, depth_of, dim_max, lower, sym, symbols_of
from ....ir import ops as O
from ....ir.ops.host import OBJECT
from ..compose import Build, optional, required
from ..context import HandlerTable, ImportContext, Region
from ..dim_arithmetic import equality_of
from ..held import Element, Held, join
from .scan import formal, scan, scan_8

# Loops of at most this many nodes in total are unrolled; those that have to be (states change type) up to the second.
_UNROLL_NODES = 256
_UNROLL_TRIPS = 256
_PEEL = 2  # iterations taken out of a loop for the sake of its states' types
_UNROLL_DEPTH = 8  # of sizes that become more complicated in every iteration, which takes exponential time
Place = tuple[int, int, str]  # result, axis, symbol


def if_(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (cond,) = required(ctx, node, ins, 1)
    then, orelse = ctx.attr(node, "then_branch"), ctx.attr(node, "else_branch")
    known = ctx.known(cond)
    if known is not None:
        return ctx.inline(then if bool(known.ravel()[0]) else orelse, [])
    regions = Region(), Region()
    regions[1].captures = captures = regions[0].captures
    required_before = dict(ctx.equal)
    a, c = (ctx.trace(g, [], r) for g, r in zip((then, orelse), regions, strict=True))
    a, c = _of_one_rank(b := Build(ctx), a, c)
    misfit = next((f"{x.type} and {y.type}" for x, y in zip(a, c, strict=True) if not _alike(x, y)), None)
    if misfit is not None:
        ctx.equal = required_before  # the traced branches are dropped
        return _assume_branch(ctx, cond, then, orelse, misfit)
    results, places = _joined(ctx, a, c, regions)
    outs = [list(a), list(c)]
    if places:  # how large results are that may differ is a result too
        for values in outs:
            values.append(ctx.dim_tensor(_objects([values[i].shape[axis] for i, axis, _ in places]), DType.I64))
        results = (*results, TensorType(DType.I64, (len(places),)))
    graphs = [r.graph(o, (), g.name) for r, o, g in zip(regions, outs, (then, orelse), strict=True)]
    node_ = ctx.emit(O.If(graphs[0], graphs[1], results if places else ()), b.reshape(cond, ()), *captures)
    ctx.sizes += [RunTimeSize(name, node_.outputs[-1], k) for k, (_, _, name) in enumerate(places)]
    for v, x, y in zip(node_.outputs, a, c, strict=False):
        if v.dtype is DType.OBJECT:
            ctx.held[v] = _held_by_either(ctx, (x, y), regions)
    return node_.outputs[: len(a)]


def _of_one_rank(b: Build, a: Sequence[Value], c: Sequence[Value]) -> tuple[list[Value], list[Value]]:
    """Results, of which single elements have the rank of the other branch's if that is less.

    Paddle's exporter gives [] in one branch and [1] in the other. What the rank is would depend on the data.
    """
    outs = list(a), list(c)
    for i, pair in enumerate(zip(a, c, strict=True)):
        if all(v.dtype is not DType.OBJECT and v.type.numel == 1 for v in pair):
            shape = min((v.shape for v in pair), key=len)
            for values, v in zip(outs, pair, strict=True):
                values[i] = b.reshape(v, shape)
    return outs


def _alike(x: Value, y: Value) -> bool:
    return x.dtype is y.dtype and x.type.rank == y.type.rank


def _joined(ctx: ImportContext, a: list[Value], c: list[Value], regions: Sequence[Region]) -> tuple[tuple[TensorType, ...], list[Place]]:
    """Types that results of both branches have, and where they have new symbols because the branches differ."""
    inner = {s.symbol for r in regions for s in r.sizes}
    results, places = [], []
    for i, (x, y) in enumerate(zip(a, c, strict=True)):
        dims: list[Dim] = []
        for axis, (d, e) in enumerate(zip(x.shape, y.shape, strict=True)):
            if d != e or symbols_of((d,)) & inner:
                places.append((i, axis, ctx.fresh()))
                d = sym(places[-1][2])
            dims.append(d)
        results.append(TensorType(x.dtype, tuple(dims)))
    return tuple(results), places


def _held_by_either(ctx: ImportContext, values: Sequence[Value], regions: Sequence[Region]) -> Held:
    inner = {s.symbol for r in regions for s in r.sizes}
    x, y = (ctx.held[v].abroad(inner) for v in values)
    found = join(x, y)
    assert isinstance(found, Held)
    return found


def _assume_branch(ctx: ImportContext, cond: Value, then: GraphProto, orelse: GraphProto, misfit: str) -> Sequence[Value]:
    """One branch, where the condition depends on sizes only and the branches' results do not fit together.

    PyTorch exports x.squeeze(d) as "if size d is 1: Squeeze, else Identity". Only one of them fits what follows; the sizes for
    which the condition holds (or not) become a requirement of the model.
    """
    truth = ctx.content(cond)
    if truth is None or not ctx.is_symbolic(cond):
        raise ctx.unsupported(f"If whose branches give {misfit}")
    (holds,) = truth.ravel()
    taken = ctx.decide()
    if not ctx.in_region:
        pair = equality_of(holds) if taken else None
        ctx.require_equal(*(pair or (holds, int(taken))))
    return ctx.inline(then if taken else orelse, [])


def loop(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    trip, cond, states = optional(ins, 0), optional(ins, 1), required(ctx, node, list(ins[2:]), len(ins) - 2)
    return _loop(ctx, ctx.attr(node, "body"), trip, cond, states, 0)


def _loop(ctx: ImportContext, body: GraphProto, trip: Value | None, cond: Value | None, states: list[Value], past: int) -> Sequence[Value]:
    """A Loop of which so many iterations are `past`; at most `trip` more follow."""
    b = Build(ctx)
    n_scan = len(body.output) - 1 - len(states)
    trips: Dim | None = None
    if trip is not None:
        dims = ctx.dims(trip)
        trips = dims[0] if dims else None
    first = None if cond is None else ctx.known(cond)
    if cond is not None and first is not None and not first.ravel()[0]:
        trips = 0
    unknown_start = cond is not None and first is None
    if isinstance(trips, int) and not unknown_start and 0 < trips * max(1, len(body.node)) <= _UNROLL_NODES:
        unrolled = _unroll(ctx, body, trips, states, past)
        if unrolled is not None:
            return unrolled
    required_before = dict(ctx.equal)
    traced = _Loop(ctx, body, states, n_scan, past)
    try:
        traced.trace()
    except _ChangedTypeError as e:
        ctx.equal = required_before
        if isinstance(trips, int) and trips <= _UNROLL_TRIPS and not unknown_start:
            unrolled = _unroll(ctx, body, trips, states, past)
            if unrolled is not None:
                return unrolled
        if past < _PEEL and not unknown_start and (trip is None or (trips is not None and lower(trips) > 0)):
            return _peeled(ctx, body, trip, states, past)
        raise ctx.unsupported(str(e)) from None
    if trips is None and trip is not None and traced.always and not unknown_start:
        trips = dim_max(ctx.size(trip, lo=-(2**62)), 0)
    if trips is None or not traced.always or unknown_start or traced.ragged:
        traced.collect()
    limit = ctx.const(np.int64(2**63 - 1)) if trip is None else b.reshape(trip, ())
    start = ctx.const(np.bool_(True)) if cond is None else b.reshape(cond, ())
    return traced.emit(limit, start, trips)


def _peeled(ctx: ImportContext, body: GraphProto, trip: Value | None, states: list[Value], past: int) -> Sequence[Value]:
    """A Loop that runs at least once: its first iteration in place, and a Loop of the others.

    Paddle's exporter starts states from placeholders that the first iteration replaces with tensors of another rank.
    """
    b = Build(ctx)
    cond, *results = ctx.inline(body, [ctx.const(np.int64(past)), ctx.const(np.bool_(True)), *states])
    states, scans = results[: len(states)], results[len(states) :]
    fewer = None if trip is None else b.sub(trip, ctx.const(np.int64(1)))
    rest = _loop(ctx, body, fewer, cond, states, past + 1)
    ends = (b.concat(0, b.reshape(one, (1, *one.shape)), more) for one, more in zip(scans, rest[len(states) :], strict=True))
    return [*rest[: len(states)], *ends]


class _ChangedTypeError(Exception):
    """A state turns into one of another element type or rank."""


class _Loop:
    """A Loop as a region. Dims of states that change are symbols, read from a state vector that is added for them.

    Scan outputs whose number is not known beforehand are collected in lists, which are states too. States that the body passes
    on (exporters carry weights so) are none: the region reads their initial values from outside.
    """

    def __init__(self, ctx: ImportContext, body: GraphProto, states: list[Value], n_scan: int, past: int) -> None:
        self.ctx, self.body, self.states, self.n_scan, self.past = ctx, body, states, n_scan, past
        self.live = list(range(len(states)))  # places of those that iterations change
        self.lists: list[Value] = []
        self._start()

    def _start(self) -> None:
        self.initial = [self.states[i] for i in self.live]
        self.open: list[tuple[int, int]] = []  # live state and axis of dims that change
        held = self.ctx.held
        self.held: dict[int, Held] = {i: held[v].abroad(frozenset()) for i, v in enumerate(self.initial) if v in held}

    def trace(self) -> None:
        """Again with fewer states or more open dims, until an iteration gives what the next one takes."""
        while True:
            before = dict(self.ctx.equal)
            changed = self._trace_once()
            if not changed:
                return
            self.ctx.equal = before

    def _trace_once(self) -> bool:
        ctx = self.ctx
        self.region = region = Region()
        self.counter, self.running = formal(TensorType(DType.I64, ()), ctx.loc), formal(TensorType(DType.BOOL, ()), ctx.loc)
        self.formals = []
        names = {place: ctx.fresh() for place in self.open}
        for i, v in enumerate(self.initial):
            dims = tuple(sym(names[i, axis]) if (i, axis) in names else d for axis, d in enumerate(v.shape))
            self.formals.append(formal(TensorType(v.dtype, dims), ctx.loc))
            if i in self.held:
                ctx.held[self.formals[-1]] = self.held[i]
        self.extents = formal(TensorType(DType.I64, (len(self.open),)), ctx.loc)
        region.sizes += [RunTimeSize(names[place], self.extents, k) for k, place in enumerate(self.open)]
        number = Build(ctx).add(self.counter, ctx.const(np.int64(self.past))) if self.past else self.counter
        inside = dict(zip(self.live, self.formals, strict=True))
        states = [inside.get(i) or ctx.captured(region, v) for i, v in enumerate(self.states)]
        outs = ctx.trace(self.body, [number, self.running, *states], region)
        if len(outs) != 1 + len(states) + self.n_scan:
            raise OnnxImportError(f"a Loop body of {len(outs)} outputs", expected=str(1 + len(states) + self.n_scan))
        self.next = [outs[1 + i] for i in self.live]
        changing = [i for i, f, o in zip(self.live, self.formals, self.next, strict=True) if f is not o]
        if changing != self.live:
            self.live = changing
            self._start()
            return True
        self.scanned = outs[1 + len(states) :]
        self.go = Build(ctx).reshape(outs[0], ())
        self.always = self.go == self.running or (isinstance(self.go.node.op, Const) and bool(self.go.node.op.data))
        self.bound = {s.symbol for s in region.sizes}
        self.ragged = any(symbols_of(v.shape) & self.bound for v in self.scanned)
        return self._widen()

    def _widen(self) -> bool:
        """Open what this trace showed to change; whether there was anything."""
        changed = False
        for i, (f, o) in enumerate(zip(self.formals, self.next, strict=True)):
            if not _alike(f, o):
                raise _ChangedTypeError(f"Loop that turns a state of {f.type} into {o.type}")
            for axis, (d, e) in enumerate(zip(f.shape, o.shape, strict=True)):
                if d != e and (i, axis) not in self.open:
                    self.open.append((i, axis))
                    changed = True
            if i in self.held:
                found = join(self.held[i], self.ctx.held[o].abroad(self.bound))
                assert isinstance(found, Held)
                changed |= found != self.held[i]
                self.held[i] = found
        return changed

    def collect(self) -> None:
        """Scan outputs as lists."""
        ctx = self.ctx
        for v in self.scanned:
            start = ctx.object(O.SequenceConstruct((OBJECT,)), (), Held("sequence"))
            items = formal(OBJECT, ctx.loc)
            self.initial.append(start)
            self.formals.append(items)
            self.next.append(ctx.emit(O.ListAppend((OBJECT,)), items, v).out)
            self.lists.append(v)
        self.scanned = []

    def emit(self, limit: Value, start: Value, trips: Dim | None) -> Sequence[Value]:
        ctx, places = self.ctx, self.open
        formals, initial, following = list(self.formals), list(self.initial), list(self.next)
        types = [f.type for f in formals]
        names = [ctx.fresh() for _ in places]
        if places:
            for (i, axis), name in zip(places, names, strict=True):
                types[i] = TensorType(types[i].dtype, tuple(sym(name) if k == axis else d for k, d in enumerate(types[i].shape)))
            types.append(self.extents.type)
            formals.append(self.extents)
            initial.append(ctx.dim_tensor(_objects([initial[i].shape[axis] for i, axis in places]), DType.I64))
            following.append(ctx.dim_tensor(_objects([following[i].shape[axis] for i, axis in places]), DType.I64))
        graph = self.region.graph([self.go, *following, *self.scanned], (self.counter, self.running, *formals), self.body.name)
        op = O.Loop(graph, len(initial), len(self.scanned), trips if self.scanned else None, tuple(types) if places else ())
        node = ctx.emit(op, limit, start, *initial, *self.region.captures)
        ctx.sizes += [RunTimeSize(name, node.outputs[len(initial) - 1], k) for k, name in enumerate(names)]
        count = len(self.initial) - len(self.lists)
        for i, held in self.held.items():
            ctx.held[node.outputs[i]] = held
        stacked = [self._stacked(node.outputs[count + k], v) for k, v in enumerate(self.lists)]
        results = list(self.states)
        for i, v in zip(self.live, node.outputs[:count], strict=True):
            results[i] = v
        return [*results, *(stacked or node.outputs[len(initial) :])]

    def _stacked(self, items: Value, element: Value) -> Value:
        dims = tuple(None if symbols_of((d,)) & self.bound else d for d in element.shape)
        known = tuple(d if isinstance(d, int) else -1 for d in dims)
        name = element.dtype.value
        return self.ctx.run_host(lambda r: O.ListStack(r, known, name), (items,), Element(element.dtype, (None, *dims)))[0]


def _objects(dims: Sequence[Dim]) -> np.ndarray:
    out = np.empty(len(dims), object)
    out[:] = dims
    return out


def _unroll(ctx: ImportContext, body: GraphProto, trips: int, states: list[Value], past: int) -> list[Value] | None:
    """All iterations in place, or None when the condition is not known after one of them, or sizes get out of hand."""
    b = Build(ctx)
    scans: list[list[Value]] = [[] for _ in range(len(body.output) - 1 - len(states))]
    for i in range(past, past + trips):
        cond, *rest = ctx.inline(body, [ctx.const(np.int64(i)), ctx.const(np.bool_(True)), *states])
        states = rest[: len(states)]
        if any(depth_of(v.shape) > _UNROLL_DEPTH for v in states):
            return None
        for parts, value in zip(scans, rest[len(states) :], strict=True):
            parts.append(b.reshape(value, (1, *value.shape)))
        known = ctx.known(cond)
        if known is None:
            return None
        if not known.ravel()[0]:
            break
    if trips == 0 and scans:
        return None
    return [*states, *(b.concat(0, *s) for s in scans)]


CONTROL_HANDLERS: HandlerTable = {
    ("If", 1): if_,
    ("Loop", 1): loop,
    ("Scan", 8): scan_8,
    ("Scan", 9): scan,
}
