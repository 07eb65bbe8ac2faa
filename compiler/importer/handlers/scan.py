"""Handlers of Scan: a Loop over the scanned axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, NodeProto

from ....ir import DType, Value, symbols_of
from ....ir import ops as O
from ..compose import Build, axis_in, optional, required
from ..context import ImportContext
from ..region import Region, formal, iteration


def scan(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """A Loop over the scanned axis: element i of every scan input is gathered inside, scan outputs are stacked."""
    values = required(ctx, node, ins, len(ins))
    body: GraphProto = ctx.attr(node, "body")
    b, n_in = Build(ctx), int(ctx.attr(node, "num_scan_inputs"))
    n_state = len(values) - n_in
    n_out = len(body.output) - n_state
    states, xs = values[:n_state], values[n_state:]
    axes = [axis_in(ctx, node, a, x.type.rank) for a, x in zip(ctx.attr(node, "scan_input_axes", (0,) * n_in), xs, strict=True)]
    backward = ctx.attr(node, "scan_input_directions", (0,) * n_in)
    steps = xs[0].shape[axes[0]]
    for x, axis in zip(xs[1:], axes[1:], strict=True):
        ctx.require_equal(x.shape[axis], steps)
    region = Region()
    counter, running = iteration(ctx.loc)
    formals = [formal(v.type, ctx.loc) for v in states]
    elements = []
    for x, axis, reverse in zip(xs, axes, backward, strict=True):
        at = b.sub(b.dim(steps - 1, DType.I64), counter) if reverse else counter
        elements.append(b.emit(O.Gather(axis), region.capture(x, ctx.loc), at))
    outs = ctx.trace(body, [*formals, *elements], region)
    outs[:n_state] = [_kept(ctx, region, f, o) for f, o in zip(formals, outs, strict=False)]
    graph = region.trimmed([running, *outs], (counter, running, *formals), body.name)
    op = O.Loop(graph, n_state, n_out, steps)
    results = ctx.emit(op, b.dim(steps, DType.I64), ctx.const(np.bool_(True)), *states, *region.captures).outputs
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


def _kept(ctx: ImportContext, region: Region, before: Value, after: Value) -> Value:
    """A state behind an iteration, which has to have the sizes that it had before. Where only a run may know, it is checked then."""
    inner = {s.symbol for s in region.sizes}
    alike = before.dtype is after.dtype and before.type.rank == after.type.rank
    differ = [(d, e) for d, e in zip(before.shape, after.shape, strict=False) if d != e]
    if not alike or symbols_of(d for pair in differ for d in pair) & inner:
        raise ctx.unsupported(f"Scan that turns a state of {before.type} into {after.type}")
    for d, e in differ:
        ctx.require_equal(d, e)
    return Build(ctx).reshape(after, before.shape)


def scan_8(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Opset 8: axis 0 of every operand is a batch, axis 1 of the scanned ones is the sequence; two Loops inside each other.

    Behind the length of a sequence, states stay as they are and scan outputs are 0 (ONNX leaves these open).
    """
    lengths, values = optional(ins, 0), required(ctx, node, list(ins[1:]), len(ins) - 1)
    body: GraphProto = ctx.attr(node, "body")
    b, n_in = Build(ctx), int(ctx.attr(node, "num_scan_inputs"))
    n_state = len(values) - n_in
    batch, steps = values[n_state].shape[:2]
    for i, v in enumerate(values):
        ctx.require_equal(v.shape[0], batch)
        if i >= n_state:
            ctx.require_equal(v.shape[1], steps)
    if lengths is not None:
        ctx.require_equal(lengths.type.numel, batch)
    backward = ctx.attr(node, "directions", (0,) * n_in)
    outer, inner = Region(), Region()

    item, going = iteration(ctx.loc)
    rows = [b.emit(O.Gather(0), outer.capture(v, ctx.loc), item) for v in values]
    states, xs = rows[:n_state], rows[n_state:]
    length = None if lengths is None else b.cast(b.emit(O.Gather(0), outer.capture(lengths, ctx.loc), item), DType.I64)

    counter, running = iteration(ctx.loc)
    formals = [formal(v.type, ctx.loc) for v in states]
    last = b.dim(steps - 1, DType.I64)
    elements = [
        b.emit(O.Gather(0), inner.capture(x, ctx.loc), b.sub(last, counter) if reverse else counter)
        for x, reverse in zip(xs, backward, strict=True)
    ]
    outs = ctx.trace(body, [*formals, *elements], inner)
    outs[:n_state] = [_kept(ctx, inner, f, o) for f, o in zip(formals, outs, strict=False)]
    if length is not None:
        within = b.emit(O.Less(), counter, inner.capture(length, ctx.loc))
        before = [*formals, *(b.const(0, o.dtype) for o in outs[n_state:])]
        outs = [b.where(within, o, old) for o, old in zip(outs, before, strict=True)]
    # what the body reads from outside crosses the loop over the batch too; `rows` and `length` are inside it already
    here = {*xs, *(() if length is None else (length,))}
    operands = [v if v in here else outer.capture(v, ctx.loc) for v in inner.captures]
    yes = ctx.const(np.bool_(True))
    graph = inner.graph([running, *outs], (counter, running, *formals), body.name)
    op = O.Loop(graph, n_state, len(outs) - n_state, steps)
    results = ctx.emit(op, b.dim(steps, DType.I64), yes, *states, *operands).outputs
    whole = outer.graph([going, *results], (item, going), f"{body.name}_batch")
    return ctx.emit(O.Loop(whole, 0, len(results), batch), b.dim(batch, DType.I64), yes, *outer.captures).outputs
