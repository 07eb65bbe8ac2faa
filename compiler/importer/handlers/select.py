"""Handlers of operators that decide at run time how much they give: NonZero, Compress, Unique, NonMaxSuppression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from ....ir import Dim, DType, Value, dim_min, prod
from ....ir import ops as O
from ..compose import Build, axis_in, axis_of, optional, required
from ..context import HandlerTable, ImportContext
from ..held import Element


def found(ctx: ImportContext, mask: Value) -> Value:
    """Positions of true elements of a BOOL vector, I64 [how many there are]. Where they are known, so is every size behind them."""
    if (known := ctx.known(mask)) is not None:
        return ctx.const(np.flatnonzero(known), DType.I64)
    positions, count = ctx.emit(O.Positions(), mask).outputs
    return Build(ctx).slice(positions, 0, 0, ctx.size(count, hi=2**62))


def unravel(b: Build, flat: Value, shape: Sequence[Dim]) -> list[Value]:
    """Indices along each axis of row-major element numbers."""
    out = []
    for i, d in enumerate(shape):
        at = b.div(flat, b.dim(prod(shape[i + 1 :]), DType.I64)) if i + 1 < len(shape) else flat
        out.append(b.sub(at, b.mul(b.div(at, b.dim(d, DType.I64)), b.dim(d, DType.I64))) if i else at)
    return out


def non_zero(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    b = Build(ctx)
    flat = b.reshape(x, (x.type.numel,))
    same = ctx.known(x.node.inputs[0]) if isinstance(x.node.op, O.Expand) else None
    if same is not None and same.size == 1 and same.item():  # exporters list the places of a dim so
        at = b.iota(x.type.numel)
    else:
        at = found(ctx, flat if x.dtype is DType.BOOL else b.emit(O.Not(), b.emit(O.Equal(), flat, b.const(0, x.dtype))))
    if x.type.rank == 0:  # as NumPy: a scalar is a vector of one element
        return [b.reshape(at, (1, *at.shape))] if ctx.opset() < 9 else [b.expand(b.reshape(b.iota(0), (0, 1)), (0, at.shape[0]))]
    rows = [b.reshape(v, (1, *at.shape)) for v in unravel(b, at, x.shape)]
    return [b.concat(0, *rows)]


def compress(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Slices of an axis (by default of the flattened tensor) where a condition, possibly shorter than it, is true."""
    x, condition = required(ctx, node, ins, 2)
    b, axis = Build(ctx), ctx.attr(node, "axis")
    condition = b.reshape(condition, (condition.type.numel,))  # onnxruntime reads one of any rank, and paddle2onnx writes x[x > 0] so
    if axis is None:
        x, axis = b.reshape(x, (x.type.numel,)), 0
    axis = axis_in(ctx, node, axis, x.type.rank)
    length = dim_min(condition.shape[0], x.shape[axis])  # what a longer one says of places beyond counts for nothing
    return [b.emit(O.Gather(axis), x, found(ctx, b.slice(condition, 0, 0, length)))]


def unique(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Sort, mark the first of each run of equal elements, number the runs.

    Outputs: the distinct elements (or slices of an axis), where each first occurs, to which of them each element is equal,
    and how often each occurs.
    """
    (x,) = required(ctx, node, ins, 1)
    b, axis = Build(ctx), None if ctx.attr(node, "axis") is None else axis_of(ctx, node, x.type.rank)
    width = 1 if axis is None else prod(d for i, d in enumerate(x.shape) if i != axis)
    if x.dtype is DType.STRING or not isinstance(width, int) or width > _MAX_WIDTH:
        return _unique_host(ctx, node, x, axis)
    rows = b.reshape(x, (x.type.numel, 1))
    if axis is not None:
        perm = (axis, *(a for a in range(x.type.rank) if a != axis))
        moved = b.transpose(x, perm)
        rows = b.reshape(moved, (x.shape[axis], prod(moved.shape[1:])))
    n = rows.shape[0]
    order = _sorted_rows(b, rows)
    ordered = b.emit(O.Gather(0), rows, order)
    before = b.emit(O.Gather(0), ordered, b.max(b.sub(b.iota(n), 1), 0))
    differs = b.cast(b.emit(O.Not(), b.emit(O.Equal(), ordered, before)), DType.I64)
    new = b.emit(O.Greater(), b.reduce("max", differs, (1,), False), b.const(0, DType.I64)) if width else b.const([], DType.BOOL)
    new = b.emit(O.Or(), new, b.emit(O.Equal(), b.iota(n), b.const(0, DType.I64)))
    starts = found(ctx, new)  # of runs, in sorted order
    runs = starts.shape[0]
    number = b.sub(b.emit(O.CumSum(0), b.cast(new, DType.I64)), 1)  # of the run of each sorted element
    inverse = b.emit(O.ScatterElements(0), b.expand(b.const(0, DType.I64), (n,)), order, number)
    first = b.emit(O.Gather(0), order, starts)  # sorting is stable: the first of a run is where it first occurs
    ends = b.concat(0, b.slice(starts, 0, 1, runs - 1), b.reshape(b.dim(n, DType.I64), (1,))) if runs != 0 else starts
    counts = b.sub(ends, starts)
    if not ctx.attr(node, "sorted", 1):
        by_place = b.emit(O.Sort(), first)
        first, counts = (b.emit(O.Gather(0), v, by_place) for v in (first, counts))
        rank = b.emit(O.ScatterElements(0), b.expand(b.const(0, DType.I64), (runs,)), by_place, b.iota(runs))
        inverse = b.emit(O.Gather(0), rank, inverse)
    values = b.emit(O.Gather(0), b.reshape(x, (x.type.numel,)), first) if axis is None else b.emit(O.Gather(axis), x, first)
    return [values, first, inverse, counts]


def _unique_host(ctx: ImportContext, node: NodeProto, x: Value, axis: int | None) -> Sequence[Value]:
    """Strings, and slices too wide to be sorted by one column after another."""
    values = Element(x.dtype, (None,) if axis is None else tuple(None if i == axis else d for i, d in enumerate(x.shape)))
    along = -1 if axis is None else axis
    in_order = bool(ctx.attr(node, "sorted", 1))
    places = [Element(DType.I64, (None,))] * 3
    return ctx.run_host(lambda results: O.UniqueRows(results, along, in_order), (x,), values, *places)


_MAX_WIDTH = 64  # columns that rows are sorted by, one sort each


def _sorted_rows(b: Build, rows: Value) -> Value:
    """The order of rows by their first element, then their second …: stable sorts, the last column first."""
    dtype = rows.dtype
    keys = b.cast(rows, DType.F32 if dtype.is_float else DType.U8) if dtype not in O.SORTABLE else rows
    order = b.iota(rows.shape[0])
    for column in reversed(range(int(rows.shape[1]))):
        key = b.reshape(b.slice(keys, 1, column, 1), (rows.shape[0],))
        order = b.emit(O.Gather(0), order, b.emit(O.Sort(), b.emit(O.Gather(0), key, order)))
    return order


def non_max_suppression(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    boxes, scores = required(ctx, node, ins, 2)
    b = Build(ctx)
    given = [optional(ins, i) for i in (2, 3, 4)]
    absent = (b.const(0, DType.I64), b.const(0.0, DType.F32), b.const(float("-inf"), DType.F32))
    limits = [d if v is None else b.reshape(v, ()) for v, d in zip(given, absent, strict=True)]
    if boxes.type.rank != 3 or scores.type.rank != 3:
        raise ctx.unsupported(f"NonMaxSuppression of {boxes.type} by {scores.type}")
    for have, want in ((boxes.shape[2], 4), (boxes.shape[0], scores.shape[0]), (boxes.shape[1], scores.shape[2])):
        ctx.require_equal(have, want)
    boxes = b.reshape(boxes, (scores.shape[0], scores.shape[2], 4))
    op = O.Suppress(bool(ctx.attr(node, "center_point_box", 0)))
    taken, count = ctx.emit(op, boxes, scores, *limits).outputs
    n = scores.shape[2]
    kept = b.emit(O.Less(), b.iota(n), b.reshape(count, (*count.shape, 1)))
    at = found(ctx, b.reshape(kept, (kept.type.numel,)))
    batch, cls, _ = unravel(b, at, scores.shape)
    box = b.emit(O.Gather(0), b.reshape(taken, (taken.type.numel,)), at)
    return [b.concat(1, *(b.reshape(v, (*at.shape, 1)) for v in (batch, cls, box)))]


SELECT_HANDLERS: HandlerTable = {
    ("Compress", 9): compress,
    ("NonMaxSuppression", 10): non_max_suppression,
    ("NonZero", 9): non_zero,
    ("Unique", 11): unique,
}
