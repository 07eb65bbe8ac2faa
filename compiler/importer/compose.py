"""Short names for the nodes that handlers compose their operators from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from ...errors import OnnxImportError
from ...ir import Dim, DType, Op, Value
from ...ir import ops as O
from .context import ImportContext


class Build:
    """Emits nodes into one import: `b.add(x, y)`. Numbers become constants of the neighbour's dtype."""

    def __init__(self, ctx: ImportContext) -> None:
        self.ctx = ctx

    def emit(self, op: Op, *inputs: Value) -> Value:
        return self.ctx.emit(op, *inputs).out

    def const(self, value: object, dtype: DType) -> Value:
        return self.ctx.const(np.asarray(value).astype(dtype.np))

    def _binary(self, op: Op, x: Value, y: Value | float) -> Value:
        return self.emit(op, x, y if isinstance(y, Value) else self.const(y, x.dtype))

    def add(self, x: Value, y: Value | float) -> Value:
        return self._binary(O.Add(), x, y)

    def sub(self, x: Value, y: Value | float) -> Value:
        return self._binary(O.Sub(), x, y)

    def mul(self, x: Value, y: Value | float) -> Value:
        return self._binary(O.Mul(), x, y)

    def div(self, x: Value, y: Value | float) -> Value:
        return self._binary(O.Div(), x, y)

    def max(self, x: Value, y: Value | float) -> Value:
        return self._binary(O.Max(), x, y)

    def min(self, x: Value, y: Value | float) -> Value:
        return self._binary(O.Min(), x, y)

    def sqrt(self, x: Value) -> Value:
        return self.emit(O.Sqrt(), x)

    def cast(self, x: Value, dtype: DType) -> Value:
        return x if x.dtype is dtype else self.emit(O.Cast(dtype), x)

    def matmul(self, a: Value, b: Value) -> Value:
        return self.emit(O.MatMul(), a, b)

    def where(self, c: Value, a: Value, b: Value) -> Value:
        return self.emit(O.Where(), c, a, b)

    def reshape(self, x: Value, shape: Sequence[Dim]) -> Value:
        return x if tuple(shape) == x.shape else self.emit(O.Reshape(tuple(shape)), x)

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        return x if tuple(perm) == tuple(range(x.type.rank)) else self.emit(O.Transpose(tuple(perm)), x)

    def swap_last(self, x: Value) -> Value:
        """Transpose of the last two axes."""
        r = x.type.rank
        return self.transpose(x, (*range(r - 2), r - 1, r - 2))

    def concat(self, axis: int, *xs: Value) -> Value:
        return xs[0] if len(xs) == 1 else self.emit(O.Concat(axis), *xs)

    def slice(self, x: Value, axis: int, start: Dim, size: Dim, step: int = 1) -> Value:
        """`size` elements of one axis from `start` by `step`."""
        if start == 0 and step == 1 and size == x.shape[axis]:
            return x
        starts = tuple(start if i == axis else 0 for i in range(x.type.rank))
        sizes = tuple(size if i == axis else d for i, d in enumerate(x.shape))
        steps = tuple(step if i == axis else 1 for i in range(x.type.rank))
        return self.emit(O.Slice(starts, sizes, steps), x)

    def expand(self, x: Value, shape: Sequence[Dim]) -> Value:
        x = self.ctx.stretched(x, shape)
        return x if tuple(shape) == x.shape else self.emit(O.Expand(tuple(shape)), x)

    def reduce(self, kind: str, x: Value, axes: Sequence[int], keepdims: bool = True) -> Value:
        return self.emit(O.Reduce(kind, tuple(axes), keepdims), x) if axes else x

    def iota(self, size: Dim, dtype: DType = DType.I64) -> Value:
        return self.emit(O.Iota(size, dtype))

    def dim(self, value: Dim, dtype: DType) -> Value:
        """A dimension as a scalar tensor."""
        return self.const(value, dtype) if isinstance(value, int) else self.emit(O.DimTensor((value,), (), dtype))

    def along(self, v: Value, axis: int, rank: int) -> Value:
        """A vector (or scalar) shaped to broadcast along one axis of a tensor of `rank`."""
        if v.type.rank == 0:
            return v
        return self.reshape(v, [v.shape[0] if i == axis else 1 for i in range(rank)])

    def channels_last(self, x: Value) -> Value:
        """[N, C, *S] -> [N, *S, C]."""
        return self.transpose(x, (0, *range(2, x.type.rank), 1))

    def channels_first(self, x: Value) -> Value:
        """[N, *S, C] -> [N, C, *S]."""
        r = x.type.rank
        return self.transpose(x, (0, r - 1, *range(1, r - 1)))


def required(ctx: ImportContext, node: NodeProto, ins: Sequence[Value | None], count: int) -> list[Value]:
    """The first `count` inputs, which must be present."""
    got = [v for v in ins[:count] if v is not None]
    if len(got) < count:
        raise OnnxImportError(f"{node.op_type} lacks a required input", expected=f"{count} leading inputs", loc=", ".join(ctx.loc))
    return got


def axis_in(ctx: ImportContext, node: NodeProto, axis: int, rank: int) -> int:
    """An axis counted from the front. Raises UnsupportedError when there is none; a scalar has axis 0, as ONNX has it."""
    if not -rank <= axis < max(rank, 1):
        raise ctx.unsupported(f"{node.op_type} along axis {axis} of rank {rank}")
    return axis % max(rank, 1)


def axis_of(ctx: ImportContext, node: NodeProto, rank: int, default: int = 0) -> int:
    """The `axis` attribute, counted from the front. Raises UnsupportedError."""
    return axis_in(ctx, node, int(ctx.attr(node, "axis", default)), rank)


def optional(ins: Sequence[Value | None], index: int) -> Value | None:
    """Input `index`, or None when absent."""
    return ins[index] if index < len(ins) else None


def wanted(node: NodeProto, index: int) -> bool:
    """Whether output `index` has a name, that is, may be used."""
    return index < len(node.output) and bool(node.output[index])


def one_size(ctx: ImportContext, *dims: Dim) -> Dim:
    """What sizes are that have to be equal: a number if one is."""
    found = next((d for d in dims if isinstance(d, int)), dims[0])
    for d in dims:
        ctx.require_equal(found, d)
    return found


def sized(ctx: ImportContext, v: Value, shape: Sequence[Dim]) -> Value:
    """v, whose sizes have to be these."""
    if v.type.rank != len(shape):
        raise OnnxImportError(f"{v.type}", expected=f"[{', '.join(map(str, shape))}]", loc=", ".join(ctx.loc))
    for d, wanted in zip(v.shape, shape, strict=True):
        ctx.require_equal(d, wanted)
    return Build(ctx).reshape(v, shape)


def vector(ctx: ImportContext, v: Value, count: int) -> Value:
    """v as a vector, whose length, if it is unknown, has to be this."""
    ctx.require_equal(v.type.numel, count)
    return Build(ctx).reshape(v, (count,))
