"""A Loop as a region: which states change, in size too, and sequences and results whose number is not known beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto

from ....errors import OnnxImportError
from ....ir import Const, Dim, DType, RunTimeSize, TensorType, Value, sym, symbols_of
from ....ir import ops as O
from ....ir.ops.host import OBJECT
from ..compose import Build
from ..context import ImportContext
from ..held import Element, Held, join
from ..region import Region, formal, iteration
from ..stacked import empty_stack, sequence_of, stack_of


def alike(x: Value, y: Value) -> bool:
    """Of one element type and rank."""
    return x.dtype is y.dtype and x.type.rank == y.type.rank


class ChangedTypeError(Exception):
    """A state turns into one of another element type or rank."""


class LoopStates:
    """A Loop as a region. Dims of states that change are symbols, read from a state vector that is added for them.

    Sequences whose elements are alike are tensors that grow, and so are scan outputs whose number is not known beforehand; where
    elements may differ they are lists. States that the body passes on (exporters carry weights so) are none: the region reads
    their initial values from outside.
    """

    def __init__(self, ctx: ImportContext, body: GraphProto, states: list[Value], n_scan: int, past: int) -> None:
        self.ctx, self.body, self.states, self.n_scan, self.past = ctx, body, states, n_scan, past
        self.live = list(range(len(states)))  # places of those that iterations change
        self.collected: list[Value] = []  # scan outputs that are states, behind the others
        self.stacks: dict[int, Value] = {}  # sequences that are tensors which grow, by place: what these are at the start
        self.refused: set[int] = set()  # places of other sequences
        self._start()

    def _start(self) -> None:
        self.initial = [self.stacks.get(i, self.states[i]) for i in self.live]
        # live state and axis of dims that change
        self.open: list[tuple[int, int]] = [(k, 0) for k, i in enumerate(self.live) if i in self.stacks]
        held = self.ctx.held
        self.held: dict[int, Held] = {i: held[v].abroad(frozenset()) for i, v in enumerate(self.initial) if v in held}

    def trace(self) -> None:
        """Again with fewer states or more open dims, until an iteration gives what the next one takes."""
        while True:
            before = dict(self.ctx.equal)
            changed = self._trace_once() or self._stack()
            if not changed:
                return
            self.ctx.equal = before

    def _stack(self) -> bool:
        """Whether there are sequences whose elements this trace showed to be alike; they become tensors."""
        found = {}
        for k, i in enumerate(self.live):
            held = self.held.get(k)
            if held is None or held.kind != "sequence" or i in self.refused or not isinstance(held.element, Element):
                continue
            empty = self.ctx.held[self.states[i]].values == ()
            start = empty_stack(self.ctx, held.element) if empty else stack_of(self.ctx, self.states[i])
            if start is not None and start.shape[1:] == held.element.shape:
                found[i] = start
        if found:
            self.stacks |= found
            self._start()
        return bool(found)

    def _trace_once(self) -> bool:
        ctx = self.ctx
        self.region = region = Region()
        self.counter, self.running = iteration(ctx.loc)
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
        inside = {i: sequence_of(ctx, f) if i in self.stacks else f for i, f in zip(self.live, self.formals, strict=True)}
        states = [inside.get(i) or ctx.captured(region, v) for i, v in enumerate(self.states)]
        outs = ctx.trace(self.body, [number, self.running, *states], region)
        if len(outs) != 1 + len(states) + self.n_scan:
            raise OnnxImportError(f"a Loop body of {len(outs)} outputs", expected=str(1 + len(states) + self.n_scan))
        following = [stack_of(ctx, outs[1 + i]) if i in self.stacks else outs[1 + i] for i in self.live]
        traced = zip(self.live, self.formals, following, strict=True)
        other = {i for i, f, o in traced if o is None or (i in self.stacks and not alike(f, o))}
        if other:  # they turn into sequences of something else
            self.refused |= other
            self.stacks = {i: v for i, v in self.stacks.items() if i not in other}
            self._start()
            return True
        self.next = [v for v in following if v is not None]
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
            if not alike(f, o):
                raise ChangedTypeError(f"Loop that turns a state of {f.type} into {o.type}")
            for axis, (d, e) in enumerate(zip(f.shape, o.shape, strict=True)):
                if d != e and (i, axis) not in self.open:
                    self.open.append((i, axis))
                    self.ctx.met.append((d, e))
                    changed = True
            if i in self.held:
                found = join(self.held[i], self.ctx.held[o].abroad(self.bound))
                assert isinstance(found, Held)
                changed |= found != self.held[i]
                self.held[i] = found
        return changed

    def collect(self) -> None:
        """Scan outputs as tensors that grow, or as lists where their elements may differ in size."""
        ctx, b = self.ctx, Build(self.ctx)
        count = sym(ctx.fresh())
        self.region.sizes += [RunTimeSize(name, self.counter) for name in count.symbols]
        for v in self.scanned:
            start = None if symbols_of(v.shape) & self.bound else empty_stack(ctx, Element(v.dtype, v.shape))
            if start is not None:
                rows = formal(TensorType(v.dtype, (count, *v.shape)), ctx.loc)
                after = b.concat(0, rows, b.reshape(v, (1, *v.shape)))
            else:
                start = ctx.object(O.SequenceConstruct((OBJECT,)), (), Held("sequence"))
                rows = formal(OBJECT, ctx.loc)
                after = ctx.emit(O.ListAppend((OBJECT,)), rows, v).out
            self.initial.append(start)
            self.formals.append(rows)
            self.next.append(after)
        self.collected, self.scanned = self.scanned, []

    def emit(self, limit: Value, start: Value, trips: Dim | None) -> Sequence[Value]:
        ctx, b, places = self.ctx, Build(self.ctx), self.open
        formals, initial, following = list(self.formals), list(self.initial), list(self.next)
        types = [f.type for f in formals]
        names = [ctx.fresh() for _ in places]
        for (i, axis), name in zip(places, names, strict=True):
            types[i] = TensorType(types[i].dtype, tuple(sym(name) if k == axis else d for k, d in enumerate(types[i].shape)))
        if places:
            formals.append(self.extents)
            initial.append(ctx.dim_vector([initial[i].shape[axis] for i, axis in places]))
            following.append(ctx.dim_vector([following[i].shape[axis] for i, axis in places]))
        live, iterations = len(self.live), ctx.fresh()
        if self.collected:  # how many there are
            formals.append(formal(TensorType(DType.I64, (1,)), ctx.loc))
            initial.append(ctx.const([0], DType.I64))
            following.append(b.reshape(b.add(self.counter, 1), (1,)))
            for i in range(live, live + len(self.collected)):
                if types[i].dtype is not DType.OBJECT:
                    types[i] = TensorType(types[i].dtype, (sym(iterations), *types[i].shape[1:]))
        types += [f.type for f in formals[len(types) :]]
        outs, inputs = [self.go, *following, *self.scanned], (self.counter, self.running, *formals)
        graph = self.region.trimmed(outs, inputs, self.body.name)
        changing = tuple(types) if places or self.collected else ()
        op = O.Loop(graph, len(initial), len(self.scanned), trips if self.scanned else None, changing)
        node = ctx.emit(op, limit, start, *initial, *self.region.captures)
        behind = live + len(self.collected)
        ctx.sizes += [RunTimeSize(name, node.outputs[behind], k) for k, name in enumerate(names)]
        if self.collected:
            ctx.sizes.append(RunTimeSize(iterations, node.outputs[len(initial) - 1], 0))
        for i, held in self.held.items():
            ctx.held[node.outputs[i]] = held
        results = list(self.states)
        for i, v in zip(self.live, node.outputs[:live], strict=True):
            results[i] = sequence_of(ctx, v) if i in self.stacks else v
        pairs = zip(node.outputs[live:behind], self.collected, strict=True)
        rows = [r if r.dtype is not DType.OBJECT else self._stacked(r, v) for r, v in pairs]
        return [*results, *(rows or node.outputs[len(initial) :])]

    def _stacked(self, items: Value, element: Value) -> Value:
        dims = tuple(None if symbols_of((d,)) & self.bound else d for d in element.shape)
        shape = self.ctx.dim_vector([0 if d is None else d for d in dims])  # of no iterations
        name = element.dtype.value
        return self.ctx.run_host(lambda r: O.ListStack(r, name), (items, shape), Element(element.dtype, (None, *dims)))[0]
