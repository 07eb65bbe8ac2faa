"""Handlers of If and Loop. Branches decided at compile time and short loops leave no control flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import GraphProto, NodeProto

from ....ir import Dim, DType, Graph, RunTimeSize, TensorType, Value, depth_of, dim_max, lower, sym, symbols_of
from ....ir import ops as O
from ..compose import Build, optional, required
from ..context import HandlerTable, ImportContext
from ..dim_arithmetic import equality_of
from ..held import Held, join
from ..region import Region
from ..stacked import no_rows, sequence_of, split_stack, stack_of, with_rows
from .loop_states import ChangedTypeError, LoopStates, alike
from .scan import scan, scan_8

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
    sequences = _added_rows(ctx, a, c, captures)
    a, c = _of_one_rank(b := Build(ctx), a, c)
    misfit = next((f"{x.type} and {y.type}" for x, y in zip(a, c, strict=True) if not alike(x, y)), None)
    if misfit is not None:
        ctx.equal = required_before  # the traced branches are dropped
        if any(x.dtype is not y.dtype for x, y in zip(a, c, strict=True)):
            raise ctx.unsupported(f"If whose branches give {misfit}")
        return _assume_branch(ctx, cond, then, orelse)
    results, places = _joined(ctx, a, c, regions)
    outs = [list(a), list(c)]
    if places:  # how large results are that may differ is a result too
        for values in outs:
            values.append(ctx.dim_vector([values[i].shape[axis] for i, axis, _ in places]))
        results = (*results, TensorType(DType.I64, (len(places),)))

    def graphs() -> tuple[Graph, Graph]:
        first, second = (r.graph(o, (), g.name) for r, o, g in zip(regions, outs, (then, orelse), strict=True))
        return first, second

    regions[0].drop_unused(*graphs())
    regions[1].captures = captures = regions[0].captures
    node_ = ctx.emit(O.If(*graphs(), results=results if places else ()), b.reshape(cond, ()), *captures)
    ctx.sizes += [RunTimeSize(name, node_.outputs[-1], k) for k, (_, _, name) in enumerate(places)]
    found = list(node_.outputs[: len(a)])
    for i, (v, x, y) in enumerate(zip(node_.outputs, a, c, strict=False)):
        if i in sequences:
            found[i] = sequence_of(ctx, with_rows(ctx, sequences[i], v))
        elif v.dtype is DType.OBJECT:
            ctx.held[v] = _held_by_either(ctx, (x, y), regions)
    return found


def _added_rows(ctx: ImportContext, a: list[Value], c: list[Value], captures: Mapping[Value, Value]) -> dict[int, Value]:
    """Sequences that both branches have from outside, but for what they append: stacks of those from outside, by result.

    In their place, the branches give stacks of what they append.
    """
    outside = {inner: outer for outer, inner in captures.items()}
    found = {}
    for i, pair in enumerate(zip(a, c, strict=True)):
        parts = [split_stack(stack) for v in pair if (stack := stack_of(ctx, v)) is not None]
        if len(parts) < len(pair) or parts[0][0] is not parts[1][0] or parts[0][0] not in outside:
            continue
        base = parts[0][0]
        found[i] = outside[base]
        for values, (_, rows) in zip((a, c), parts, strict=True):
            values[i] = Build(ctx).concat(0, *rows) if rows else no_rows(ctx, base.dtype, base.shape[1:])
    return found


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


def _joined(ctx: ImportContext, a: list[Value], c: list[Value], regions: Sequence[Region]) -> tuple[tuple[TensorType, ...], list[Place]]:
    """Types that results of both branches have, and where they have new symbols because the branches differ."""
    inner = {s.symbol for r in regions for s in r.sizes}
    results, places = [], []
    for i, (x, y) in enumerate(zip(a, c, strict=True)):
        dims: list[Dim] = []
        for axis, (d, e) in enumerate(zip(x.shape, y.shape, strict=True)):
            if d != e or symbols_of((d,)) & inner:
                ctx.met.append((d, e))
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


def _assume_branch(ctx: ImportContext, cond: Value, then: GraphProto, orelse: GraphProto) -> Sequence[Value]:
    """One branch, where the branches' results do not fit together; the other one is taken in a graph of its own.

    PyTorch exports x.squeeze(d) as "if size d is 1: Squeeze, else Identity", of which often only one fits what follows. What a region
    needs of sizes known before is compared where it runs: another one may be for them (silero-vad has one for each of two sampling rates).
    """
    content = ctx.content(cond)
    holds = ctx.size(Build(ctx).cast(cond, DType.I64)) if content is None else content.ravel()[0]
    answer = ctx.assume if content is None else ctx.choose
    if equality_of(1 - holds):
        return ctx.inline(orelse if answer(1 - holds, False) else then, [])
    return ctx.inline(then if answer(holds, True) else orelse, [])


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
    traced = LoopStates(ctx, body, states, n_scan, past)
    try:
        traced.trace()
    except ChangedTypeError as e:
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
