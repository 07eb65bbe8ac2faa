"""Handlers of onnxruntime's quantized operators (com.microsoft): the float operator between a dequantizer and a quantizer,
products in integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx import NodeProto

from .....ir import DType, Value
from .....ir import ops as O
from ...compose import Build, optional, required, wanted
from ...context import HandlerTable, ImportContext
from ..quantized import dequantize, dynamic_quantize, integer_convolve, integer_matmul, quantize, requantize, zero_of
from ..windows import average_pool
from .attention import attend_packed
from .quantized_lstm import dynamic_quantize_lstm


def _scaled(b: Build, acc: Value, *scales: Value) -> Value:
    """f32(acc)·Π scales; a vector of scales belongs to columns."""
    factor = scales[0]
    for s in scales[1:]:
        factor = b.mul(factor, s)
    return b.mul(b.cast(acc, DType.F32), factor if factor.type.numel != 1 else b.reshape(factor, ()))


def matmul_integer_to_float(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """(a − a_zero)·(b − b_zero)·a_scale·b_scale + bias."""
    x, w, x_scale, w_scale = required(ctx, node, ins, 4)
    b, bias = Build(ctx), optional(ins, 6)
    y = _scaled(b, integer_matmul(b, x, w, optional(ins, 4), optional(ins, 5)), x_scale, w_scale)
    return [y if bias is None else b.add(y, bias)]


def dynamic_quantize_matmul(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """The left operand quantized by its own range, then as MatMulIntegerToFloat."""
    x, w, w_scale = required(ctx, node, ins, 3)
    b, bias = Build(ctx), optional(ins, 4)
    q, scale, zero = dynamic_quantize(b, x)
    y = _scaled(b, integer_matmul(b, q, w, zero, optional(ins, 3)), scale, w_scale)
    return [y if bias is None else b.add(y, bias)]


def qgemm(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """alpha·A'·B' + C in integers; C has the scale alpha·a_scale·b_scale. Float without an output scale."""
    x, x_scale, x_zero, w, w_scale, w_zero = required(ctx, node, ins, 6)
    b, c, y_scale, y_zero = Build(ctx), optional(ins, 6), optional(ins, 7), optional(ins, 8)
    x = b.swap_last(x) if ctx.attr(node, "transA", 0) else x
    w = b.swap_last(w) if ctx.attr(node, "transB", 0) else w
    acc = integer_matmul(b, x, w, x_zero, w_zero)
    acc = acc if c is None else b.add(acc, c)
    factor = b.mul(b.mul(x_scale, w_scale), float(ctx.attr(node, "alpha", 1.0)))
    factor = b.reshape(factor, ()) if factor.type.numel == 1 else factor
    if y_scale is None:
        return [_scaled(b, acc, factor)]
    return [requantize(b, acc, b.div(factor, b.reshape(y_scale, ())), b.const(0, x.dtype) if y_zero is None else b.reshape(y_zero, ()))]


def _number(b: Build, v: Value) -> Value:
    return b.reshape(v, ()) if v.type.numel == 1 else v


def _floats(ctx: ImportContext, x: Value, scale: Value, zero: Value | None) -> Value:
    b = Build(ctx)
    return dequantize(ctx, x, _number(b, scale), None if zero is None else _number(b, zero))


def _back(ctx: ImportContext, y: Value, scale: Value, zero: Value | None, dtype: DType) -> Value:
    b = Build(ctx)
    return quantize(b, y, _number(b, scale), _number(b, zero_of(b, zero, dtype)))


def qlinear_add(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """round(a·(a_scale / scale) + b·(b_scale / scale) + offset), saturated; the zero points make the offset, as in onnxruntime."""
    b, (x, x_scale, x_zero), (y, y_scale, y_zero), scale, zero = _operands(ctx, node, ins)
    x_ratio, y_ratio = b.div(x_scale, scale), b.div(y_scale, scale)
    offset = b.sub(zero, b.add(b.mul(x_ratio, x_zero), b.mul(y_ratio, y_zero)))
    total = b.add(b.add(b.mul(b.cast(x, DType.F32), x_ratio), offset), b.mul(b.cast(y, DType.F32), y_ratio))
    return [_saturated(b, total, x.dtype)]


def qlinear_mul(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """round((a − a_zero)·(b − b_zero)·(a_scale·b_scale / scale) + zero), saturated; the product of integers is exact."""
    b, (x, x_scale, x_zero), (y, y_scale, y_zero), scale, zero = _operands(ctx, node, ins)
    product = b.mul(b.sub(b.cast(x, DType.F32), x_zero), b.sub(b.cast(y, DType.F32), y_zero))
    return [_saturated(b, b.add(b.mul(product, b.div(b.mul(x_scale, y_scale), scale)), zero), x.dtype)]


Operand = tuple[Value, Value, Value]


def _operands(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> tuple[Build, Operand, Operand, Value, Value]:
    """Two tensors of integers, each with its scale and zero point, and the scale and zero point of the result, as float32 numbers."""
    b = Build(ctx)
    dtype = _need(ctx, node, ins, 0).dtype
    scales = [_number(b, _need(ctx, node, ins, i)) for i in (1, 4, 6)]
    zeros = [b.cast(_number(b, zero_of(b, optional(ins, i), dtype)), DType.F32) for i in (2, 5, 7)]
    x, y = _need(ctx, node, ins, 0), _need(ctx, node, ins, 3)
    return b, (x, scales[0], zeros[0]), (y, scales[1], zeros[1]), scales[2], zeros[2]


def _saturated(b: Build, x: Value, dtype: DType) -> Value:
    return b.emit(O.Quantize(dtype, inverse=True), x, b.const(1, DType.F32), b.const(0, dtype))


def _need(ctx: ImportContext, node: NodeProto, ins: list[Value | None], index: int) -> Value:
    found = optional(ins, index)
    if found is None:
        raise ctx.unsupported(f"{node.op_type} without its input {index}")
    return found


Body = Callable[[ImportContext, NodeProto, Value], Value]


def _unary(body: Body) -> Callable[[ImportContext, NodeProto, list[Value | None]], Sequence[Value]]:
    """Operands x, its scale and zero point, the result's scale and zero point."""

    def handler(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
        x, scale, y_scale = (_need(ctx, node, ins, i) for i in (0, 1, 3))
        y = body(ctx, node, _floats(ctx, x, scale, optional(ins, 2)))
        return [_back(ctx, y, y_scale, optional(ins, 4), x.dtype)]

    return handler


def _leaky_relu(ctx: ImportContext, node: NodeProto, x: Value) -> Value:
    return Build(ctx).emit(O.LeakyRelu(float(ctx.attr(node, "alpha", 0.01))), x)


def _sigmoid(ctx: ImportContext, node: NodeProto, x: Value) -> Value:
    return Build(ctx).emit(O.Sigmoid(), x)


def _softmax(ctx: ImportContext, node: NodeProto, x: Value) -> Value:
    """Before opset 13, over all axes from `axis` on."""
    b, rank = Build(ctx), x.type.rank
    axis = int(ctx.attr(node, "axis", -1)) % max(rank, 1)
    if int(ctx.attr(node, "opset", 13)) >= 13:
        return b.emit(O.Softmax(axis), x)
    lead = 1
    for d in x.shape[:axis]:
        lead = lead * d
    rest = 1
    for d in x.shape[axis:]:
        rest = rest * d
    return b.reshape(b.emit(O.Softmax(1), b.reshape(x, (lead, rest))), x.shape)


def _around(ctx: ImportContext, node: NodeProto, x: Value, body: Callable[[Value], Value]) -> Value:
    """A channels-first body, for an operator that may be told that its channels are last."""
    b = Build(ctx)
    return b.channels_last(body(b.channels_first(x))) if ctx.attr(node, "channels_last", 0) else body(x)


def _global_average(ctx: ImportContext, node: NodeProto, x: Value) -> Value:
    b = Build(ctx)
    return _around(ctx, node, x, lambda v: b.reduce("mean", v, range(2, v.type.rank)))


def _average(ctx: ImportContext, node: NodeProto, x: Value) -> Value:
    return _around(ctx, node, x, lambda v: average_pool(ctx, node, [v])[0])


def _reduce_mean(ctx: ImportContext, node: NodeProto, x: Value) -> Value:
    axes = ctx.attr(node, "axes", None) or range(x.type.rank)
    return Build(ctx).reduce("mean", x, [int(a) % x.type.rank for a in axes], bool(ctx.attr(node, "keepdims", 1)))


def qlinear_concat(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Y_scale, Y_zero_point, then triples of tensor, scale and zero point."""
    scale, zero = required(ctx, node, ins, 2)
    parts = []
    for i in range(2, len(ins), 3):
        parts.append(_floats(ctx, _need(ctx, node, ins, i), _need(ctx, node, ins, i + 1), optional(ins, i + 2)))
    if not parts:
        raise ctx.unsupported("QLinearConcat of nothing")
    axis = int(ctx.attr(node, "axis")) % parts[0].type.rank
    return [_back(ctx, Build(ctx).concat(axis, *parts), scale, zero, zero.dtype)]


def qlinear_where(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    condition, x, x_scale, x_zero, y, y_scale, y_zero, z_scale, z_zero = required(ctx, node, ins, 9)
    chosen = Build(ctx).where(condition, _floats(ctx, x, x_scale, x_zero), _floats(ctx, y, y_scale, y_zero))
    return [_back(ctx, chosen, z_scale, z_zero, x.dtype)]


def qlinear_conv_ms(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """QLinearConv that may have its channels last."""
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = required(ctx, node, ins, 8)
    b, last = Build(ctx), bool(ctx.attr(node, "channels_last", 0))
    acc = integer_convolve(ctx, node, b.channels_first(x) if last else x, w, x_zero, w_zero)
    bias = optional(ins, 8)
    acc = acc if bias is None else b.add(acc, bias)
    y = requantize(b, acc, b.div(b.mul(w_scale, x_scale), y_scale), y_zero)
    return [y if last else b.channels_first(y)]


def mul_integer(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, y, b = _need(ctx, node, ins, 0), _need(ctx, node, ins, 2), Build(ctx)
    sides = []
    for v, zero in ((x, optional(ins, 1)), (y, optional(ins, 3))):
        wide = b.cast(v, DType.I32)
        sides.append(wide if zero is None else b.sub(wide, b.cast(zero, DType.I32)))
    return [b.mul(*sides)]


def reduce_sum_integer(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    b = Build(ctx)
    axes = [int(a) % x.type.rank for a in ctx.attr(node, "axes")]
    return [b.reduce("sum", b.cast(x, DType.I32 if x.dtype.is_signed else DType.U32), axes, bool(ctx.attr(node, "keepdims", 1)))]


def qattention(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """com.microsoft Attention with an integer projection."""
    x, w, bias, x_scale, w_scale = required(ctx, node, ins, 5)
    b = Build(ctx)
    acc = integer_matmul(b, x, w, optional(ins, 6), optional(ins, 7))
    qkv = b.add(_scaled(b, acc, x_scale, w_scale), bias)
    return attend_packed(ctx, node, qkv, optional(ins, 5), optional(ins, 8), None, wanted(node, 1))


QUANT_MS_HANDLERS: HandlerTable = {
    (f"com.microsoft::{name}", 1): handler
    for name, handler in {
        "MatMulIntegerToFloat": matmul_integer_to_float,
        "DynamicQuantizeMatMul": dynamic_quantize_matmul,
        "DynamicQuantizeLSTM": dynamic_quantize_lstm,
        "QGemm": qgemm,
        "QAttention": qattention,
        "QLinearAdd": qlinear_add,
        "QLinearMul": qlinear_mul,
        "QLinearConcat": qlinear_concat,
        "QLinearConv": qlinear_conv_ms,
        "QLinearWhere": qlinear_where,
        "QLinearSigmoid": _unary(_sigmoid),
        "QLinearLeakyRelu": _unary(_leaky_relu),
        "QLinearSoftmax": _unary(_softmax),
        "QLinearGlobalAveragePool": _unary(_global_average),
        "QLinearAveragePool": _unary(_average),
        "QLinearReduceMean": _unary(_reduce_mean),
        "MulInteger": mul_integer,
        "ReduceSumInteger": reduce_sum_integer,
    }.items()
}
