"""Handlers of operators about shapes and constants: Shape, Constant, Reshape, Expand, Range, …"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, SparseTensorProto

from ....ir import Dim, DType, Value, ceildiv, dim_max, floordiv, lower, prod, upper
from ....ir import ops as O
from ..compose import Build, axis_in, optional, required, vector
from ..context import FOLD_LIMIT, HandlerTable, ImportContext
from ..tensors import TensorReader
from . import runtime_axes

_CONSTANT_ATTRIBUTES = (
    ("value", None), ("value_float", DType.F32), ("value_floats", DType.F32), ("value_int", DType.I64),
    ("value_ints", DType.I64), ("value_string", DType.STRING), ("value_strings", DType.STRING),
)  # fmt: skip


def constant(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    for name, dtype in _CONSTANT_ATTRIBUTES:
        value = ctx.attr(node, name)
        if value is not None:
            return [ctx.const(value, dtype)]
    sparse = ctx.attr(node, "sparse_value")
    if isinstance(sparse, SparseTensorProto):
        return [ctx.const(TensorReader(None).sparse(sparse))]
    raise ctx.unsupported("Constant without a value")


def constant_of_shape(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    shape = ctx.require_sizes(ins[0], "the shape of ConstantOfShape")
    value = ctx.attr(node, "value", np.zeros(1, np.float32))
    return [Build(ctx).expand(ctx.const(np.asarray(value).reshape(())), shape)]


def shape(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    dims = x.shape[ctx.attr(node, "start", 0) : ctx.attr(node, "end", None)]
    return [ctx.dim_vector(dims)]


def size(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    return [Build(ctx).dim(x.type.numel, DType.I64)]


def reshape(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    if ctx.opset() >= 5 and ctx.dims(ins[1]) is None:
        return [Build(ctx).reshape(x, _computed_shape(ctx, node, x, ins[1]))]
    want = list(ctx.attr(node, "shape", ()) if ctx.opset() < 5 else ctx.require_dims(ins[1], "the shape of Reshape"))
    if not ctx.attr(node, "allowzero", 0):
        want = [x.shape[i] if d == 0 and i < x.type.rank else d for i, d in enumerate(want)]
    return [Build(ctx).reshape(x, fill_missing(ctx, x.shape, want))]


def _computed_shape(ctx: ImportContext, node: NodeProto, x: Value, shape: Value | None) -> tuple[Dim, ...]:
    """The dims of a reshape whose shape is data: zeros and −1 are resolved when the model runs."""
    if shape is None or shape.type.rank != 1 or not isinstance(shape.type.numel, int):
        return ctx.require_dims(shape, "the rank of Reshape")
    b, rank = Build(ctx), shape.type.numel
    if not ctx.attr(node, "allowzero", 0):
        have = [*x.shape, *(0,) * rank][:rank]
        zero = b.emit(O.Equal(), shape, b.const(0, DType.I64))
        shape = b.where(zero, b.emit(O.DimTensor(tuple(have), (rank,))), shape)
    missing = b.emit(O.Equal(), shape, b.const(-1, DType.I64))
    rest = b.reduce("prod", b.where(missing, b.const(1, DType.I64), shape), (0,))
    shape = b.where(missing, b.div(b.dim(x.type.numel, DType.I64), b.max(rest, 1)), shape)
    return ctx.require_sizes(shape, "the shape of Reshape")


def fill_missing(ctx: ImportContext, have: Sequence[Dim], want: Sequence[Dim]) -> tuple[Dim, ...]:
    """The dims of a reshape with −1 replaced by what is left."""
    out = list(want)
    if out.count(-1) > 1:
        raise ctx.unsupported(f"reshape to {out} with more than one -1")
    if -1 in out:
        i = out.index(-1)
        numer, denom = list(have), []
        for d in out[:i] + out[i + 1 :]:  # cancel equal dims first: they may be 0
            if d in numer:
                numer.remove(d)
            else:
                denom.append(d)
        rest = prod(tuple(denom))
        out[i] = 0 if rest == 0 else floordiv(prod(tuple(numer)), rest)
    return tuple(out)


def flatten(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    axis = ctx.attr(node, "axis", 1)
    axis = axis + x.type.rank if axis < 0 else axis
    return [Build(ctx).reshape(x, (prod(x.shape[:axis]), prod(x.shape[axis:])))]


def axes_of(ctx: ImportContext, node: NodeProto, ins: Sequence[Value | None], since: int, index: int = 1) -> tuple[int, ...] | None:
    """Axes from the attribute, or from input `index` since an opset; None when not given."""
    if ctx.opset() < since:
        found = ctx.attr(node, "axes")
    else:
        value = optional(ins, index)
        found = None if value is None else ctx.require_dims(value, f"the axes of {node.op_type}")
    return None if found is None else tuple(int(a) for a in found)


def squeeze(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    if ctx.opset() >= 13 and (given := optional(ins, 1)) is not None and ctx.dims(given) is None:
        return [runtime_axes.squeeze(ctx, x, given)]
    axes = axes_of(ctx, node, ins, 13)
    if axes is None:
        picked = {i for i, d in enumerate(x.shape) if ctx.is_one(d)}
    else:
        picked = {axis_in(ctx, node, a, x.type.rank) for a in axes}
        for a in picked:
            if isinstance(x.shape[a], int) and x.shape[a] != 1:
                raise ctx.unsupported(f"Squeeze of axis {a} of size {x.shape[a]}")
    for a in picked:
        ctx.require_equal(x.shape[a], 1)
    return [Build(ctx).reshape(x, [d for i, d in enumerate(x.shape) if i not in picked])]


def unsqueeze(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    if ctx.opset() >= 13 and (given := optional(ins, 1)) is not None and ctx.dims(given) is None:
        return [runtime_axes.unsqueeze(ctx, x, given)]
    axes = axes_of(ctx, node, ins, 13) or ()
    rank = x.type.rank + len(axes)
    picked = {a % rank for a in axes}
    if len(picked) != len(axes) or any(not -rank <= a < rank for a in axes):
        raise ctx.unsupported(f"Unsqueeze by axes {list(axes)} to rank {rank}")
    rest = iter(x.shape)
    return [Build(ctx).reshape(x, [1 if i in picked else next(rest) for i in range(rank)])]


def expand(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    want = ctx.require_sizes(ins[1], "the shape of Expand")
    return [Build(ctx).expand(x, ctx.broadcast(want, x.shape))]


def tile(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """[a, b] tiled (r, s): reshape [1, a, 1, b], expand [r, a, s, b], reshape [r·a, s·b]."""
    x, counts = required(ctx, node, ins, 2)
    if not isinstance(counts.type.numel, int):
        counts = vector(ctx, counts, x.type.rank)
    repeats = ctx.require_sizes(counts, "the repeats of Tile")
    b = Build(ctx)
    if len(repeats) != x.type.rank:
        raise ctx.unsupported(f"Tile of rank {x.type.rank} by {len(repeats)} repeats")
    split: list[Dim] = []
    wide: list[Dim] = []
    for d, r in zip(x.shape, repeats, strict=True):
        if r != 1:
            split.append(1)
            wide.append(r)
        split.append(d)
        wide.append(d)
    shape = [d * r for d, r in zip(x.shape, repeats, strict=True)]
    return [b.reshape(b.expand(b.reshape(x, split), wide), shape)]


def range_(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    start, limit, delta = required(ctx, node, ins, 3)
    b, dtype = Build(ctx), start.dtype
    known = [data.ravel()[0] for v in (start, limit, delta) if (data := ctx.known(v)) is not None]
    if len(known) == 3:
        s, e, d = known
        if d == 0:
            raise ctx.unsupported("Range with a step of 0")
        length = max(
            0,
            int(np.ceil((np.float64(e) - np.float64(s)) / np.float64(d))) if dtype.is_float else -((int(s) - int(e)) // int(d)),
        )
        if length <= FOLD_LIMIT:
            return [ctx.const((s + np.arange(length) * d).astype(dtype.np))]
        count: Dim = length
    elif any(ctx.dims(v) is None for v in (start, limit, delta)):
        count = _computed_length(ctx, start, limit, delta)
    else:
        dims = [ctx.require_dims(v, "the length of Range")[0] for v in (start, limit, delta)]
        found = _length(ctx, *dims)
        count = _computed_length(ctx, start, limit, delta) if found is None else found
    counting = dtype if dtype.is_int or dtype in (DType.F32, DType.F64) else DType.F32
    x = b.iota(count, counting)
    step_known = ctx.known(delta)
    if step_known is None or step_known.ravel()[0] != 1:
        x = b.mul(x, b.cast(b.reshape(delta, ()), counting))
    start_known = ctx.known(start)
    if start_known is None or start_known.ravel()[0] != 0:
        x = b.add(x, b.cast(b.reshape(start, ()), counting))
    return [b.cast(x, dtype)]


def _length(ctx: ImportContext, start: Dim, limit: Dim, step: Dim) -> Dim | None:
    """max(⌈(limit − start) / step⌉, 0), or None where the step may have any sign."""
    if step == 0:
        raise ctx.unsupported("Range with a step of 0")
    gap, step = (start - limit, step * -1) if upper(step) < 0 else (limit - start, step)
    if lower(step) < 0 or not ctx.require_within(step, 1, 2**62):
        return None
    count = floordiv(gap, step)
    count = count if count * step == gap else ceildiv(gap, step)
    return count if ctx.natural(count) else dim_max(count, 0)


def _computed_length(ctx: ImportContext, start: Value, limit: Value, delta: Value) -> Dim:
    """max(⌈(limit − start) / delta⌉, 0) of scalars known when the model runs."""
    b = Build(ctx)
    s, e, d = (b.reshape(v, ()) for v in (start, limit, delta))
    if s.dtype.is_int:
        s, e, d = (b.cast(v, DType.I64) for v in (s, e, d))
        down = b.emit(O.Less(), d, b.const(0, DType.I64))
        step, gap = b.emit(O.Abs(), d), b.where(down, b.sub(s, e), b.sub(e, s))
        length = b.div(b.max(b.sub(b.add(gap, step), 1), 0), step)
    else:
        s, e, d = (b.cast(v, DType.F64) for v in (s, e, d))
        length = b.cast(b.max(b.emit(O.Ceil(), b.div(b.sub(e, s), d)), 0.0), DType.I64)
    return ctx.size(length)


def trilu(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Elements with column − row ≥ k (upper) or ≤ k (lower); the others become 0."""
    (x,) = required(ctx, node, ins, 1)
    b, k = Build(ctx), optional(ins, 1)
    rows, columns = x.shape[-2:]
    row = b.reshape(b.iota(rows), (rows, 1))
    if k is not None:
        row = b.add(row, b.reshape(k, (1, 1)))
    op = O.GreaterEqual() if ctx.attr(node, "upper", 1) else O.LessEqual()
    keep = b.emit(op, b.reshape(b.iota(columns), (1, columns)), row)
    return [b.where(keep, x, b.const(0, x.dtype))]


def eye_like(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    b, (rows, cols) = Build(ctx), x.shape
    number = ctx.attr(node, "dtype", None)
    i = b.add(b.reshape(b.iota(rows), (rows, 1)), b.const(int(ctx.attr(node, "k", 0)), DType.I64))
    same = b.emit(O.Equal(), i, b.reshape(b.iota(cols), (1, cols)))
    return [b.cast(same, x.dtype if number is None else DType.from_onnx(int(number)))]


SHAPE_HANDLERS: HandlerTable = {
    ("EyeLike", 9): eye_like,
    ("Constant", 1): constant,
    ("ConstantOfShape", 9): constant_of_shape,
    ("Expand", 8): expand,
    ("Flatten", 1): flatten,
    ("Range", 11): range_,
    ("Reshape", 5): reshape,
    ("Shape", 1): shape,
    ("Size", 1): size,
    ("Squeeze", 1): squeeze,
    ("Tile", 6): tile,
    ("Trilu", 14): trilu,
    ("Unsqueeze", 1): unsqueeze,
}
