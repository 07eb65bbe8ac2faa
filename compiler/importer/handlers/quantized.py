"""Handlers of quantised operators: integers in int32, scales in float32, rounding half to even."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
from onnx import NodeProto

from ....ir import DType, Node, Value
from ....ir import ops as O
from ..compose import Build, optional, required
from ..context import HandlerTable, ImportContext
from .contract import matmul_any
from .windows import conv_geometry


def _per_block(ctx: ImportContext, node: NodeProto, b: Build, x: Value, p: Value) -> Value:
    """A scale or zero point (scalar, per axis, or per block of an axis) shaped to broadcast with x."""
    rank = x.type.rank
    axis = int(ctx.attr(node, "axis", 1))
    axis = axis + rank if axis < 0 else axis
    block = int(ctx.attr(node, "block_size", 0))
    if p.type.rank == 0 or p.shape == (1,):
        return b.reshape(p, ())
    if p.type.rank == 1 and not (block and rank == 1):
        if 0 <= axis < rank:
            ctx.require_equal(p.shape[0], x.shape[axis])
        return b.along(p, axis, rank)
    if block < 1 or p.type.rank != rank:
        raise ctx.unsupported(f"{node.op_type}: scale of rank {p.type.rank} for a tensor of rank {rank}")
    for i, (d, wanted) in enumerate(zip(p.shape, x.shape, strict=True)):
        if i == axis:
            ctx.require_at_most(wanted, d * block)
        else:
            ctx.require_equal(d, wanted)
    wide = b.reshape(p, (*p.shape[: axis + 1], 1, *p.shape[axis + 1 :]))
    wide = b.expand(wide, (*p.shape[: axis + 1], block, *p.shape[axis + 1 :]))
    full = b.reshape(wide, (*p.shape[:axis], p.shape[axis] * block, *p.shape[axis + 1 :]))
    return b.slice(full, axis, 0, x.shape[axis])


def quantize_linear(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """saturate(round(x / scale) + zero point)."""
    x, scale = required(ctx, node, ins, 2)
    b, zero = Build(ctx), optional(ins, 2)
    out = zero.dtype if zero is not None else DType.from_onnx(int(ctx.attr(node, "output_dtype", 0)) or DType.U8.onnx)
    x, scale = b.cast(x, DType.F32), _per_block(ctx, node, b, x, b.cast(scale, DType.F32))
    if out.is_float:
        y = b.div(x, scale)
        if zero is not None:
            y = b.add(y, _per_block(ctx, node, b, x, b.cast(zero, DType.F32)))
        limit = float(ml_dtypes.finfo(out.np).max)
        return [b.cast(b.min(b.max(y, -limit), limit), out)]
    if not out.is_int or out.itemsize > 2:
        raise ctx.unsupported(f"QuantizeLinear to {out.value}")
    return [quantize(b, x, scale, b.const(0, out) if zero is None else _per_block(ctx, node, b, x, zero))]


def dequantize_linear(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """(x − zero point)·scale, the subtraction exact in int32."""
    x, scale = required(ctx, node, ins, 2)
    b, zero = Build(ctx), optional(ins, 2)
    if zero is not None and _all_zero(ctx, zero):
        zero = None
    factor = _per_block(ctx, node, b, x, b.cast(scale, DType.F32))
    offset = None if zero is None else _per_block(ctx, node, b, x, zero)
    if x.dtype.is_int:
        return [b.cast(dequantize(ctx, x, factor, offset), scale.dtype)]
    if x.dtype is DType.F8E4M3FN and offset is None:  # operations also of a constant, as above
        levels = Node.make(O.Cast(DType.F32), (x,), ctx.loc).out
        return [_kept_cast(Node.make(O.Mul(), (levels, factor), ctx.loc).out, scale.dtype, ctx.loc)]
    y = b.cast(x, DType.F32)
    if offset is not None:
        y = b.sub(y, b.cast(offset, DType.F32))
    return [b.cast(b.mul(y, factor), scale.dtype)]


def _kept_cast(v: Value, dtype: DType, loc: tuple[str, ...]) -> Value:
    return v if v.dtype is dtype else Node.make(O.Cast(dtype), (v,), loc).out


def quantize(b: Build, x: Value, scale: Value, zero: Value) -> Value:
    """saturate(round(x / scale) + zero point) in the dtype of the zero point."""
    return b.emit(O.Quantize(zero.dtype), b.cast(x, DType.F32), b.cast(scale, DType.F32), zero)


def dequantize(ctx: ImportContext, x: Value, scale: Value, zero: Value | None = None) -> Value:
    """(x − zero point)·scale. Of a constant too it stays an operation, so that passes see the integers."""
    ins = (x, scale) if zero is None else (x, scale, zero)
    return Node.make(O.Dequantize(), ins, ctx.loc).out


def _all_zero(ctx: ImportContext, v: Value) -> bool:
    known = ctx.known(v)
    return known is not None and not np.any(known.astype(np.float32))


def dynamic_quantize_linear(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    return dynamic_quantize(Build(ctx), *required(ctx, node, ins, 1))


def dynamic_quantize(b: Build, x: Value) -> list[Value]:
    """uint8 over [min(0, min x), max(0, max x)], the scale, and the zero point."""
    axes = range(x.type.rank)
    top, low = b.max(b.reduce("max", x, axes, False), 0.0), b.min(b.reduce("min", x, axes, False), 0.0)
    span = b.div(b.sub(top, low), 255.0)
    # An all-zero x has no span; any scale serves, and 1 avoids 0/0.
    scale = b.where(b.emit(O.Equal(), span, b.const(0, x.dtype)), b.const(1, x.dtype), span)
    zero = b.emit(O.Round(), b.min(b.max(b.div(b.sub(b.const(0, x.dtype), low), scale), 0.0), 255.0))
    offset = b.cast(zero, DType.U8)
    return [quantize(b, x, scale, offset), span, offset]


def zero_of(b: Build, zero: Value | None, dtype: DType) -> Value:
    return b.const(0, dtype) if zero is None else zero


def _lying_along(ctx: ImportContext, v: Value, x: Value, axis: int) -> None:
    """Scales or zero points, if there are several, have the sizes of x along an axis, and of those before."""
    if v.type.numel == 1 or x.type.rank < 2 or v.type.rank > x.type.rank:
        return
    ctx.require_equal(v.shape[axis if v.type.rank > 1 else 0], x.shape[axis])
    for d, wanted in zip(v.shape[:-2], x.shape[x.type.rank - v.type.rank : -2], strict=True):
        ctx.require_equal(d, wanted)


def integer_matmul(b: Build, x: Value, y: Value, x_zero: Value | None, y_zero: Value | None) -> Value:
    """Σ (x − x_zero)·(y − y_zero) in i32, as numpy.matmul; vectors of zero points belong to rows of x, columns of y."""
    for zero, of, axis in ((x_zero, x, -2), (y_zero, y, -1)):
        if zero is not None:
            _lying_along(b.ctx, zero, of, axis)
    x_zero, y_zero = (z if z.type.numel != 1 else b.reshape(z, ()) for z in (zero_of(b, x_zero, x.dtype), zero_of(b, y_zero, y.dtype)))
    if x_zero.type.rank == 1:
        x_zero = b.reshape(x_zero, (x_zero.shape[0], 1))
    return matmul_any(b, x, y, lambda x, y: b.emit(O.IntegerMatMul(), x, y, x_zero, y_zero))


def integer_convolve(ctx: ImportContext, node: NodeProto, x: Value, w: Value, x_zero: Value | None, w_zero: Value | None) -> Value:
    """Σ (x − x_zero)·(w − w_zero) in i32, channels last; attributes from `node`."""
    b = Build(ctx)
    op, x, w = conv_geometry(ctx, node, x, w)
    x_zero, w_zero = (b.reshape(z, ()) if z.type.numel == 1 else z for z in (zero_of(b, x_zero, x.dtype), zero_of(b, w_zero, w.dtype)))
    return b.emit(op.of_kind(O.IntegerConv), x, w, x_zero, w_zero)


def requantize(b: Build, acc: Value, factor: Value, zero: Value) -> Value:
    """saturate(round(acc·factor) + zero point)."""
    return b.emit(O.Quantize(zero.dtype, True), b.cast(acc, DType.F32), factor, zero)


def matmul_integer(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, y = required(ctx, node, ins, 2)
    return [integer_matmul(Build(ctx), x, y, optional(ins, 2), optional(ins, 3))]


def qlinear_matmul(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = required(ctx, node, ins, 8)
    b = Build(ctx)
    acc = integer_matmul(b, x, w, x_zero, w_zero)
    x_scale, w_scale, y_scale = (b.cast(s, DType.F32) for s in (x_scale, w_scale, y_scale))
    _lying_along(ctx, x_scale, x, -2)
    _lying_along(ctx, w_scale, w, -1)
    if x_scale.type.rank == 1 and x_scale.shape != (1,):
        x_scale = b.reshape(x_scale, (x_scale.shape[0], 1))
    return [b.reshape(requantize(b, acc, b.div(b.mul(x_scale, w_scale), y_scale), y_zero), acc.shape)]


def conv_integer(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, w = required(ctx, node, ins, 2)
    return [Build(ctx).channels_first(integer_convolve(ctx, node, x, w, optional(ins, 2), optional(ins, 3)))]


def qlinear_conv(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Integer convolution, then one rescaling per output channel."""
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = required(ctx, node, ins, 8)
    b = Build(ctx)
    acc = integer_convolve(ctx, node, x, w, x_zero, w_zero)
    bias = optional(ins, 8)
    if bias is not None:
        acc = b.add(acc, bias)
    return [b.channels_first(requantize(b, acc, b.div(b.mul(w_scale, x_scale), y_scale), y_zero))]


QUANT_HANDLERS: HandlerTable = {
    ("QuantizeLinear", 10): quantize_linear,
    ("DequantizeLinear", 10): dequantize_linear,
    ("DynamicQuantizeLinear", 11): dynamic_quantize_linear,
    ("MatMulInteger", 10): matmul_integer,
    ("QLinearMatMul", 10): qlinear_matmul,
    ("ConvInteger", 10): conv_integer,
    ("QLinearConv", 10): qlinear_conv,
    ("com.microsoft::QuantizeLinear", 1): quantize_linear,
    ("com.microsoft::DequantizeLinear", 1): dequantize_linear,
}
