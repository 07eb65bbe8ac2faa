"""Handlers of quantised operators: integers in int32, scales in float32, rounding half to even."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
from onnx import NodeProto

from ...ir import DType, Value
from ...ir import ops as O
from .compose import Build, optional, required
from .context import HandlerTable, ImportContext
from .contract_handlers import matmul_any
from .window_handlers import convolve

_RANGES = {
    DType.U8: (0, 255), DType.I8: (-128, 127), DType.U16: (0, 65535), DType.I16: (-32768, 32767), DType.U4: (0, 15),
    DType.I4: (-8, 7), DType.U2: (0, 3), DType.I2: (-2, 1),
}  # fmt: skip


def _per_block(ctx: ImportContext, node: NodeProto, b: Build, x: Value, p: Value) -> Value:
    """A scale or zero point (scalar, per axis, or per block of an axis) shaped to broadcast with x."""
    rank = x.type.rank
    axis = int(ctx.attr(node, "axis", 1))
    axis = axis + rank if axis < 0 else axis
    if p.type.rank == 0 or p.shape == (1,):
        return b.reshape(p, ())
    if p.type.rank == 1:
        return b.along(p, axis, rank)
    block = int(ctx.attr(node, "block_size", 0))
    if not block or p.type.rank != rank:
        raise ctx.unsupported(f"{node.op_type}: scale of rank {p.type.rank} for a tensor of rank {rank}")
    wide = b.reshape(p, (*p.shape[: axis + 1], 1, *p.shape[axis + 1 :]))
    wide = b.expand(wide, (*p.shape[: axis + 1], block, *p.shape[axis + 1 :]))
    full = b.reshape(wide, (*p.shape[:axis], p.shape[axis] * block, *p.shape[axis + 1 :]))
    return b.slice(full, axis, 0, x.shape[axis])


def quantize_linear(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """saturate(round(x / scale) + zero point)."""
    x, scale = required(ctx, node, ins, 2)
    b, zero = Build(ctx), optional(ins, 2)
    out = zero.dtype if zero is not None else DType.from_onnx(int(ctx.attr(node, "output_dtype", 0)) or DType.U8.onnx)
    y = b.div(b.cast(x, DType.F32), _per_block(ctx, node, b, x, b.cast(scale, DType.F32)))
    if out.is_float:
        if zero is not None:
            y = b.add(y, _per_block(ctx, node, b, x, b.cast(zero, DType.F32)))
        limit = float(ml_dtypes.finfo(out.np).max)
        return [b.cast(b.min(b.max(y, -limit), limit), out)]
    if out not in _RANGES:
        raise ctx.unsupported(f"QuantizeLinear to {out.value}")
    y = b.emit(O.Round(), y)
    if zero is not None:
        y = b.add(y, _per_block(ctx, node, b, x, b.cast(zero, DType.F32)))
    return [saturate(b, y, out)]


def dequantize_linear(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """(x − zero point)·scale, the subtraction exact in int32."""
    x, scale = required(ctx, node, ins, 2)
    b, zero = Build(ctx), optional(ins, 2)
    y = x
    if zero is not None and not _all_zero(ctx, zero):
        exact = DType.F32 if x.dtype.is_float else DType.I32
        y = b.sub(b.cast(x, exact), _per_block(ctx, node, b, x, b.cast(zero, exact)))
    return [b.cast(b.mul(b.cast(y, DType.F32), _per_block(ctx, node, b, x, b.cast(scale, DType.F32))), scale.dtype)]


def _all_zero(ctx: ImportContext, v: Value) -> bool:
    known = ctx.known(v)
    return known is not None and not np.any(known.astype(np.float32))


def dynamic_quantize_linear(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """uint8 over [min(0, min x), max(0, max x)]."""
    (x,) = required(ctx, node, ins, 1)
    b = Build(ctx)
    axes = range(x.type.rank)
    top, low = b.max(b.reduce("max", x, axes, False), 0.0), b.min(b.reduce("min", x, axes, False), 0.0)
    span = b.div(b.sub(top, low), 255.0)
    # An all-zero x has no span; any scale serves, and 1 avoids 0/0.
    scale = b.where(b.emit(O.Equal(), span, b.const(0, x.dtype)), b.const(1, x.dtype), span)
    zero = b.emit(O.Round(), b.min(b.max(b.div(b.sub(b.const(0, x.dtype), low), scale), 0.0), 255.0))
    y = saturate(b, b.add(b.emit(O.Round(), b.div(x, scale)), zero), DType.U8)
    return [y, span, b.cast(zero, DType.U8)]


def _centred(ctx: ImportContext, b: Build, x: Value, zero: Value | None, axis_from_end: int) -> Value:
    """x − zero point in int32; a vector of zero points belongs to rows (−2) or columns (−1)."""
    y = b.cast(x, DType.I32)
    if zero is None or _all_zero(ctx, zero):
        return y
    z = b.cast(zero, DType.I32)
    if z.type.rank == 1 and axis_from_end == -2 and z.shape != (1,):
        z = b.reshape(z, (z.shape[0], 1))
    return b.sub(y, z)


def matmul_integer(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, y = required(ctx, node, ins, 2)
    b = Build(ctx)
    return [matmul_any(b, _centred(ctx, b, x, optional(ins, 2), -2), _centred(ctx, b, y, optional(ins, 3), -1))]


def qlinear_matmul(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = required(ctx, node, ins, 8)
    b = Build(ctx)
    acc = matmul_any(b, _centred(ctx, b, x, x_zero, -2), _centred(ctx, b, w, w_zero, -1))
    x_scale, w_scale, y_scale = (b.cast(s, DType.F32) for s in (x_scale, w_scale, y_scale))
    if x_scale.type.rank == 1 and x_scale.shape != (1,):
        x_scale = b.reshape(x_scale, (x_scale.shape[0], 1))
    ratio = b.div(b.mul(x_scale, w_scale), y_scale)
    scaled = b.emit(O.Round(), b.mul(b.cast(acc, DType.F32), ratio))
    return [b.reshape(saturate(b, b.add(scaled, b.cast(y_zero, DType.F32)), y_zero.dtype), acc.shape)]


def conv_integer(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, w = required(ctx, node, ins, 2)
    b = Build(ctx)
    x32, w32 = b.cast(x, DType.I32), b.cast(w, DType.I32)
    x_zero, w_zero = optional(ins, 2), optional(ins, 3)
    if x_zero is not None:
        x32 = b.sub(x32, b.cast(x_zero, DType.I32))
    if w_zero is not None:
        w32 = b.sub(w32, b.along(b.cast(w_zero, DType.I32), 0, w.type.rank))
    return [convolve(ctx, node, x32, w32, None)]


def qlinear_conv(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Integer convolution, then one rescaling per output channel."""
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = required(ctx, node, ins, 8)
    b = Build(ctx)
    x32 = b.sub(b.cast(x, DType.I32), b.cast(x_zero, DType.I32))
    w32 = b.sub(b.cast(w, DType.I32), b.along(b.cast(w_zero, DType.I32), 0, w.type.rank))
    acc = convolve(ctx, node, x32, w32, None)
    bias = optional(ins, 8)
    if bias is not None:
        acc = b.add(acc, b.along(bias, 1, acc.type.rank))
    ratio = b.div(b.mul(w_scale, x_scale), y_scale)
    scaled = b.emit(O.Round(), b.mul(b.cast(acc, DType.F32), b.along(ratio, 1, acc.type.rank)))
    return [saturate(b, b.add(scaled, b.cast(y_zero, DType.F32)), y_zero.dtype)]


def saturate(b: Build, x: Value, dtype: DType) -> Value:
    """A rounded float clamped into an integer type."""
    lo, hi = _RANGES[dtype]
    return b.cast(b.min(b.max(x, lo), hi), dtype)


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
