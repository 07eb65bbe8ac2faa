"""Handlers of elementwise operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto

from ....ir import Const, DType, Op, Value
from ....ir import ops as O
from ..compose import Build, optional, required
from ..context import Handler, HandlerTable, ImportContext
from .strings import cast_string


def plain(op: Op, arity: int) -> Handler:
    """The operator is one op of `arity` operands, without attributes."""

    def handler(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
        return ctx.emit(op, *required(ctx, node, ins, arity)).outputs

    return handler


def chained(op: Op) -> Handler:
    """x0 op x1 op x2 …"""

    def handler(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
        first, *rest = required(ctx, node, ins, len(ins))
        for v in rest:
            first = ctx.emit(op, first, v).out
        return [first]

    return handler


def with_floats(make: Callable[..., Op], **defaults: float) -> Handler:
    """A unary op whose fields are float attributes."""

    def handler(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
        fields = {name: float(ctx.attr(node, name, default)) for name, default in defaults.items()}
        return ctx.emit(make(**fields), *required(ctx, node, ins, 1)).outputs

    return handler


def mean(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (total,) = chained(O.Add())(ctx, node, ins)
    return [Build(ctx).div(total, len(ins))]


def mod(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    a, b = required(ctx, node, ins, 2)
    return ctx.emit(O.Fmod() if ctx.attr(node, "fmod", 0) else O.Mod(), a, b).outputs


def power(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Squares and cubes of integers are products, which wrap; so they are in onnxruntime."""
    base, exponent = required(ctx, node, ins, 2)
    constant = exponent.node.op
    if base.dtype.is_int and isinstance(constant, Const) and exponent.type.numel == 1 and exponent.type.rank <= base.type.rank:
        times = constant.data.item()
        if times in (2, 3):
            square = ctx.emit(O.Mul(), base, base).out
            return [square if times == 2 else ctx.emit(O.Mul(), square, base).out]
    return ctx.emit(O.Pow(), base, exponent).outputs


def bit_shift(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    a, b = required(ctx, node, ins, 2)
    return ctx.emit(O.ShiftLeft() if ctx.attr(node, "direction") == "LEFT" else O.ShiftRight(), a, b).outputs


def is_inf(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    op = O.IsInf(bool(ctx.attr(node, "detect_negative", 1)), bool(ctx.attr(node, "detect_positive", 1)))
    return ctx.emit(op, *required(ctx, node, ins, 1)).outputs


def gelu(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    return ctx.emit(O.Gelu(ctx.attr(node, "approximate", "none") == "tanh"), *required(ctx, node, ins, 1)).outputs


def swish(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    b, alpha = Build(ctx), float(ctx.attr(node, "alpha", 1.0))
    return [b.emit(O.Silu(), x) if alpha == 1 else b.mul(x, b.emit(O.Sigmoid(), b.mul(x, alpha)))]


def shrink(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """x < −λ: x + bias; x > λ: x − bias; else 0."""
    (x,) = required(ctx, node, ins, 1)
    b, bias, lambd = Build(ctx), float(ctx.attr(node, "bias", 0.0)), float(ctx.attr(node, "lambd", 0.5))
    low = b.emit(O.Less(), x, b.const(-lambd, x.dtype))
    high = b.emit(O.Greater(), x, b.const(lambd, x.dtype))
    return [b.where(low, b.add(x, bias), b.where(high, b.sub(x, bias), b.const(0, x.dtype)))]


def _cast(ctx: ImportContext, node: NodeProto, x: Value, dtype: DType) -> Value:
    saturate = bool(ctx.attr(node, "saturate", 1))
    if x.dtype is dtype:
        return x
    if dtype is DType.F8E8M0:
        return _to_power_of_two(ctx, x, str(ctx.attr(node, "round_mode", "up")), saturate)
    if dtype.value.startswith("f8") and saturate and x.dtype.is_float:
        b, top = Build(ctx), _largest(dtype)
        wide = b.cast(x, DType.F32) if x.dtype.itemsize < 4 else x
        limited = b.max(b.min(wide, top), -top)
        nan = b.emit(O.IsNaN(), wide)
        x = b.where(nan, wide, limited)
    return ctx.emit(O.Cast(dtype), x).out


def _to_power_of_two(ctx: ImportContext, x: Value, round_mode: str, saturate: bool) -> Value:
    """The exponent of |x|, rounded, as ONNX defines a cast to FLOAT8E8M0."""
    if round_mode not in ("up", "down", "nearest"):
        raise ctx.unsupported(f"Cast with round_mode {round_mode!r}")
    b = Build(ctx)
    bits = b.emit(O.BitCast(DType.F32, DType.I32), b.emit(O.Abs(), b.cast(x, DType.F32)))
    exponent = b.emit(O.ShiftRight(), bits, b.const(23, DType.I32))
    fraction = b.emit(O.BitAnd(), bits, b.const(0x7FFFFF, DType.I32))
    if round_mode == "up":
        more = b.emit(O.Greater(), fraction, b.const(0, DType.I32))
    else:  # a tie goes up, but for the least number
        half = b.where(b.emit(O.Greater(), exponent, b.const(0, DType.I32)), b.const(0x3FFFFF, DType.I32), b.const(0x400000, DType.I32))
        more = b.emit(O.Greater(), fraction, half)
    code = exponent if round_mode == "down" else b.add(exponent, b.cast(more, DType.I32))
    code = b.min(code, 0xFE if saturate else 0xFF)
    code = b.where(b.emit(O.IsNaN(), x), b.const(0xFF, DType.I32), code)
    return b.emit(O.BitCast(DType.U8, DType.F8E8M0), b.cast(code, DType.U8))


def _largest(dtype: DType) -> float:
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype.np).max)


def cast(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    dtype = DType.from_onnx(ctx.attr(node, "to"))
    known = ctx.known(x)
    if known is not None and DType.STRING in (dtype, x.dtype) and dtype is not x.dtype:
        return [ctx.const(_cast_strings(known, dtype))]
    if DType.STRING in (dtype, x.dtype) and dtype is not x.dtype:
        return [cast_string(ctx, x, dtype)]
    return [_cast(ctx, node, x, dtype)]


def _cast_strings(data: np.ndarray, dtype: DType) -> np.ndarray:
    if dtype is DType.STRING:
        out = np.empty(data.size, object)
        out[:] = [np.format_float_positional(v, trim="-") if data.dtype.kind == "f" else str(v) for v in data.ravel()]
        return out.reshape(data.shape)
    values: list[Any] = [int(s) if dtype.is_int else float(s) for s in data.ravel()]
    return np.array(values).astype(dtype.np).reshape(data.shape)


def cast_like(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, like = required(ctx, node, ins, 2)
    if DType.STRING in (like.dtype, x.dtype) and like.dtype is not x.dtype:
        return [cast_string(ctx, x, like.dtype)]
    return [_cast(ctx, node, x, like.dtype)]


def clip(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """max(x, low) then min(·, high); bounds are attributes before opset 11, optional inputs since."""
    (x,) = required(ctx, node, ins, 1)
    b = Build(ctx)
    if ctx.opset() < 11:
        low, high = ctx.attr(node, "min"), ctx.attr(node, "max")
        bounds = [None if v is None else b.const(v, x.dtype) for v in (low, high)]
    else:
        bounds = [optional(ins, 1), optional(ins, 2)]
    for op, bound in zip((O.Max(), O.Min()), bounds, strict=True):
        if bound is not None:
            x = b.emit(op, x, b.reshape(bound, ()))
    return [x]


def prelu(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    return ctx.emit(O.PRelu(), *required(ctx, node, ins, 2)).outputs


def identity(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    return required(ctx, node, ins, 1)


def bit_cast(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    dtype = DType.from_onnx(ctx.attr(node, "to"))
    return [x] if x.dtype is dtype else ctx.emit(O.BitCast(x.dtype, dtype), x).outputs


ELEMENTWISE_HANDLERS: HandlerTable = {
    ("Abs", 6): plain(O.Abs(), 1),
    ("Acos", 7): plain(O.Acos(), 1),
    ("Acosh", 9): plain(O.Acosh(), 1),
    ("Add", 7): plain(O.Add(), 2),
    ("And", 7): plain(O.And(), 2),
    ("Asin", 7): plain(O.Asin(), 1),
    ("Asinh", 9): plain(O.Asinh(), 1),
    ("Atan", 7): plain(O.Atan(), 1),
    ("Atanh", 9): plain(O.Atanh(), 1),
    ("BitCast", 26): bit_cast,
    ("BitShift", 11): bit_shift,
    ("BitwiseAnd", 18): plain(O.BitAnd(), 2),
    ("BitwiseNot", 18): plain(O.BitNot(), 1),
    ("BitwiseOr", 18): plain(O.BitOr(), 2),
    ("BitwiseXor", 18): plain(O.BitXor(), 2),
    ("Cast", 6): cast,
    ("CastLike", 15): cast_like,
    ("Ceil", 6): plain(O.Ceil(), 1),
    ("Celu", 12): with_floats(O.Celu, alpha=1.0),
    ("Clip", 6): clip,
    ("Cos", 7): plain(O.Cos(), 1),
    ("Cosh", 9): plain(O.Cosh(), 1),
    ("Div", 7): plain(O.Div(), 2),
    ("Elu", 6): with_floats(O.Elu, alpha=1.0),
    ("Equal", 7): plain(O.Equal(), 2),
    ("Erf", 9): plain(O.Erf(), 1),
    ("Exp", 6): plain(O.Exp(), 1),
    ("Floor", 6): plain(O.Floor(), 1),
    ("Gelu", 20): gelu,
    ("Greater", 7): plain(O.Greater(), 2),
    ("GreaterOrEqual", 12): plain(O.GreaterEqual(), 2),
    ("HardSigmoid", 6): with_floats(O.HardSigmoid, alpha=0.2, beta=0.5),
    ("HardSwish", 14): plain(O.HardSwish(), 1),
    ("Identity", 1): identity,
    ("IsInf", 10): is_inf,
    ("IsNaN", 9): plain(O.IsNaN(), 1),
    ("LeakyRelu", 6): with_floats(O.LeakyRelu, alpha=0.01),
    ("Less", 7): plain(O.Less(), 2),
    ("LessOrEqual", 12): plain(O.LessEqual(), 2),
    ("Log", 6): plain(O.Log(), 1),
    ("Max", 6): chained(O.Max()),
    ("Mean", 6): mean,
    ("Min", 6): chained(O.Min()),
    ("Mish", 18): plain(O.Mish(), 1),
    ("Mod", 10): mod,
    ("Mul", 7): plain(O.Mul(), 2),
    ("Neg", 6): plain(O.Neg(), 1),
    ("Not", 1): plain(O.Not(), 1),
    ("Or", 7): plain(O.Or(), 2),
    ("PRelu", 7): prelu,
    ("Pow", 7): power,
    ("Reciprocal", 6): plain(O.Reciprocal(), 1),
    ("Relu", 6): plain(O.Relu(), 1),
    ("Round", 11): plain(O.Round(), 1),
    ("Selu", 6): with_floats(O.Selu, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    ("Shrink", 9): shrink,
    ("Sigmoid", 6): plain(O.Sigmoid(), 1),
    ("Sign", 9): plain(O.Sign(), 1),
    ("Sin", 7): plain(O.Sin(), 1),
    ("Sinh", 9): plain(O.Sinh(), 1),
    ("Softplus", 1): plain(O.Softplus(), 1),
    ("Softsign", 1): plain(O.Softsign(), 1),
    ("Sqrt", 6): plain(O.Sqrt(), 1),
    ("Sub", 7): plain(O.Sub(), 2),
    ("Sum", 6): chained(O.Add()),
    ("Swish", 24): swish,
    ("Tan", 7): plain(O.Tan(), 1),
    ("Tanh", 6): plain(O.Tanh(), 1),
    ("ThresholdedRelu", 10): with_floats(O.ThresholdedRelu, alpha=1.0),
    ("Where", 9): plain(O.Where(), 3),
    ("Xor", 7): plain(O.Xor(), 2),
}
