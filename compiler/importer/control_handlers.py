"""Handlers of If, Loop and Scan. Branches decided at compile time and short loops leave no control flow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, NodeProto

from ...ir import Const, Dim, DType, Input, Node, TensorType, Value
from ...ir import ops as O
from .compose import Build, optional, required
from .context import HandlerTable, ImportContext, Region
from .shapes import equality_of

# Loops of at most this many nodes in total are unrolled; those that have to be (states change type) up to the second.
_UNROLL_NODES = 256
_UNROLL_TRIPS = 256


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
    misfit = next((f"{x.type} and {y.type}" for x, y in zip(a, c, strict=True) if x.type != y.type), None)
    if misfit is not None:
        ctx.equal = required_before  # the traced branches are dropped
        return _assume_branch(ctx, cond, then, orelse, misfit)
    graphs = [r.graph(outs, (), g.name) for r, outs, g in zip(regions, (a, c), (then, orelse), strict=True)]
    b = Build(ctx)
    return ctx.emit(O.If(graphs[0], graphs[1]), b.reshape(cond, ()), *captures).outputs


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


def _formal(type_: TensorType, loc: tuple[str, ...]) -> Value:
    return Node.make(Input(type_), (), loc).out


def loop(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    trip, cond, states = optional(ins, 0), optional(ins, 1), required(ctx, node, list(ins[2:]), len(ins) - 2)
    body: GraphProto = ctx.attr(node, "body")
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
        unrolled = _unroll(ctx, body, trips, states)
        if unrolled is not None:
            return unrolled
    region = Region()
    required_before = dict(ctx.equal)
    counter, running = _formal(TensorType(DType.I64, ()), ctx.loc), _formal(TensorType(DType.BOOL, ()), ctx.loc)
    formals = [_formal(v.type, ctx.loc) for v in states]
    outs = [b.reshape(v, ()) if i == 0 else v for i, v in enumerate(ctx.trace(body, [counter, running, *formals], region))]
    always = outs[0] is running or outs[0] == running or (isinstance(outs[0].node.op, Const) and bool(outs[0].node.op.data))
    changed = [(f.type, o.type) for f, o in zip(formals, outs[1:], strict=False) if f.type != o.type]
    if changed:
        ctx.equal = required_before
        if isinstance(trips, int) and trips <= _UNROLL_TRIPS and not unknown_start:
            unrolled = _unroll(ctx, body, trips, states)
            if unrolled is not None:
                return unrolled
        raise ctx.unsupported(f"Loop that turns a state of {changed[0][0]} into {changed[0][1]}")
    if n_scan and (trips is None or not always or unknown_start):
        raise ctx.unsupported("Loop with scan outputs whose number of iterations depends on data")
    graph = region.graph(outs, (counter, running, *formals), body.name)
    limit = ctx.const(np.int64(2**63 - 1)) if trip is None else b.reshape(trip, ())
    start = ctx.const(np.bool_(True)) if cond is None else b.reshape(cond, ())
    return ctx.emit(O.Loop(graph, len(states), n_scan, trips), limit, start, *states, *region.captures).outputs


def _unroll(ctx: ImportContext, body: GraphProto, trips: int, states: list[Value]) -> list[Value] | None:
    """All iterations in place, or None when the condition is not known after one of them."""
    b = Build(ctx)
    scans: list[list[Value]] = [[] for _ in range(len(body.output) - 1 - len(states))]
    for i in range(trips):
        cond, *rest = ctx.inline(body, [ctx.const(np.int64(i)), ctx.const(np.bool_(True)), *states])
        states = rest[: len(states)]
        for scan, value in zip(scans, rest[len(states) :], strict=True):
            scan.append(b.reshape(value, (1, *value.shape)))
        known = ctx.known(cond)
        if known is None:
            return None
        if not known.ravel()[0]:
            break
    if trips == 0 and scans:
        return None
    return [*states, *(b.concat(0, *s) for s in scans)]


def scan(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """A Loop over the scanned axis: element i of every scan input is gathered inside, scan outputs are stacked."""
    values = required(ctx, node, ins, len(ins))
    body: GraphProto = ctx.attr(node, "body")
    b, n_in = Build(ctx), int(ctx.attr(node, "num_scan_inputs"))
    n_state = len(values) - n_in
    n_out = len(body.output) - n_state
    states, xs = values[:n_state], values[n_state:]
    axes = [a % x.type.rank for a, x in zip(ctx.attr(node, "scan_input_axes", (0,) * n_in), xs, strict=True)]
    backward = ctx.attr(node, "scan_input_directions", (0,) * n_in)
    steps = xs[0].shape[axes[0]]
    region = Region()
    captures = region.captures
    counter, running = _formal(TensorType(DType.I64, ()), ctx.loc), _formal(TensorType(DType.BOOL, ()), ctx.loc)
    formals = [_formal(v.type, ctx.loc) for v in states]
    elements = []
    for x, axis, reverse in zip(xs, axes, backward, strict=True):
        if x not in captures:
            captures[x] = _formal(x.type, ctx.loc)
        at = b.sub(b.dim(steps - 1, DType.I64), counter) if reverse else counter
        elements.append(b.emit(O.Gather(axis), captures[x], at))
    outs = ctx.trace(body, [*formals, *elements], region)
    for f, o in zip(formals, outs, strict=False):
        if f.type != o.type:
            raise ctx.unsupported(f"Scan that turns a state of {f.type} into {o.type}")
    graph = region.graph([running, *outs], (counter, running, *formals), body.name)
    results = ctx.emit(O.Loop(graph, n_state, n_out, steps), b.dim(steps, DType.I64), ctx.const(np.bool_(True)), *states, *captures).outputs
    stacked = []
    out_axes = ctx.attr(node, "scan_output_axes", (0,) * n_out)
    out_backward = ctx.attr(node, "scan_output_directions", (0,) * n_out)
    for y, axis, reverse in zip(results[n_state:], out_axes, out_backward, strict=True):
        if reverse:
            y = b.slice(y, 0, steps - 1, steps, -1)
        rank = y.type.rank
        perm = list(range(1, rank))
        perm.insert(axis % rank, 0)
        stacked.append(b.transpose(y, perm))
    return [*results[:n_state], *stacked]


CONTROL_HANDLERS: HandlerTable = {
    ("If", 1): if_,
    ("Loop", 1): loop,
    ("Scan", 9): scan,
}
