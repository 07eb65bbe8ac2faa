"""Algebraic simplification: rules that never cost anything and change no rounding (beyond the sign of zero)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..ir import DType, Graph, Value, const
from ..ir.ops import (
    Add,
    Cast,
    Concat,
    Conv,
    Div,
    Equal,
    Expand,
    MatMul,
    Max,
    Min,
    Mul,
    Neg,
    Not,
    Pad,
    Pow,
    Reciprocal,
    Reduce,
    Relu,
    Reshape,
    Sqrt,
    Sub,
    Transpose,
    Where,
)  # fmt: skip
from .base import Pass, PassContext, apply, close, const_of, is_float, like, reshape, scalar_of, splat_of, transpose
from .rewrite import C, Num, P, Rule, X, rewrite
from .simplify_moves import MOVE_RULES, drop_expands


@dataclass(frozen=True)
class Simplify(Pass):
    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        return rewrite(drop_expands(graph), RULES)


def _keep(x: Value, root: Value) -> Value | None:
    """x in the place of root, unless the other operand broadcast it."""
    if x.type == root.type:
        return x
    return reshape(x, root.shape) if x.type.static and x.type.numel == root.type.numel else None


def neutral(x: Value, root: Value) -> Value | None:
    """x + 0, x − 0, x · 1, x / 1, x ** 1."""
    return _keep(x, root)


def double_negation(x: Value, root: Value) -> Value | None:
    return _keep(x, root)


def subtract_constant(x: Value, c: Value) -> Value | None:
    """x − c → x + (−c): exact, and sums of constants then merge."""
    return apply(Add(), x, const(-c.data)) if is_float(x) else None


def negated_operand(x: Value, y: Value) -> Value:
    """x + (−y) → x − y."""
    return apply(Sub(), x, y)


def divide_by_power_of_two(x: Value, c: Value) -> Value | None:
    data = const_of(c)
    if data is None or not is_float(x) or data.size > 4096 or x.dtype in (DType.F16, DType.BF16):
        return None
    mantissa, exponent = np.frexp(data.astype(np.float64))
    if not ((np.abs(mantissa) == 0.5) & (np.abs(exponent) < 100)).all():
        return None
    return apply(Mul(), x, const((1 / data.astype(np.float64)).astype(data.dtype)))


def multiply_by_reciprocal(x: Value, y: Value) -> Value:
    """x · (1 / y) → x / y: one rounding instead of two."""
    return apply(Div(), x, y)


def outer_product(x: Value, y: Value) -> Value | None:
    """x[…, m, 1] · y[…, 1, n]: there is nothing to sum, and what elements do is one kernel with its neighbours."""
    return apply(Mul(), x, y) if x.shape[-1] == y.shape[-2] == 1 else None


def one_over(x: Value, root: Value) -> Value | None:
    return apply(Reciprocal(), x) if x.type == root.type and is_float(x) else None


def power(x: Value, c: Value, root: Value) -> Value | None:
    if not is_float(x) or x.type != root.type:
        return None
    match scalar_of(c):
        case 1.0:
            return x
        case 2.0:
            return apply(Mul(), x, x)
        case 3.0:
            return apply(Mul(), apply(Mul(), x, x), x)
        case 0.5:
            return apply(Sqrt(), x)
        case -1.0:
            return apply(Reciprocal(), x)
        case -0.5:
            return apply(Reciprocal(), apply(Sqrt(), x))
    return None


def relu_twice(x: Value) -> Value:
    return x


def clip_merge(x: Value, a: Value, b: Value, root: Value) -> Value | None:
    """max(max(x, a), b) → max(x, max(a, b)), and so for min."""
    if a.type.numel != 1 and b.type.numel != 1:
        return None
    pick = np.maximum if isinstance(root.node.op, Max) else np.minimum
    data = pick(a.data, b.data)
    return apply(root.node.op, x, const(data)) if data.ndim <= len(root.shape) else None


def max_with_zero(x: Value, root: Value) -> Value | None:
    return apply(Relu(), x) if x.type == root.type and is_float(x) else None


def relu_then_max(x: Value, c: Value, root: Value) -> Value | None:
    """max(relu(x), c) with c ≤ 0 is relu(x)."""
    got = scalar_of(c)
    return x if got is not None and got <= 0 and x.type == root.type else None


def where_constant(c: Value, a: Value, b: Value, root: Value) -> Value | None:
    got = splat_of(c)
    if got is None:
        return None
    chosen = a if bool(got) else b
    return chosen if chosen.type == root.type else apply(Expand(root.shape), chosen)


def where_same(c: Value, a: Value, root: Value) -> Value | None:
    return _keep(a, root)


def cast_to_same(x: Value, root: Value) -> Value | None:
    return x if x.dtype is root.dtype else None


_LOSSLESS = {DType.BOOL, DType.U8, DType.I8, DType.U16, DType.I16, DType.I32, DType.I64, DType.U32, DType.F16, DType.F32, DType.F64}


def _holds(wide: DType, narrow: DType) -> bool:
    """Whether `wide` has every number of `narrow`. NumPy calls float64 safe for int64, and it is not from 2⁵³ on."""
    safe = {wide, narrow} <= _LOSSLESS and np.can_cast(narrow.np, wide.np, "safe")
    return bool(safe) and (wide, narrow) != (DType.F64, DType.I64)


def cast_of_cast(x: Value, mid: Value, root: Value) -> Value | None:
    """Drop the inner cast where it loses nothing."""
    if x.dtype is root.dtype is DType.BF16 and mid.dtype in (DType.F32, DType.F64):
        return x
    if not _holds(mid.dtype, x.dtype):
        return None
    return x if x.dtype is root.dtype else apply(Cast(root.dtype), x)


def not_of_not(x: Value) -> Value:
    return x


def is_not_false(x: Value, root: Value) -> Value | None:
    return apply(Not(), x) if x.dtype is DType.BOOL and x.type == root.type else None


def reduce_nothing(x: Value, root: Value) -> Value | None:
    """A sum, mean, product or extreme over axes of size 1."""
    op = root.node.op
    assert isinstance(op, Reduce)
    return reshape(x, root.shape) if all(x.shape[a] == 1 for a in op.axes) else None


def scale_of_scale(x: Value, a: Value, b: Value, root: Value) -> Value | None:
    """(x · a) · b → x · (a · b) for one-element constants, one of which is a power of two, where their product does not round."""
    p, q = scalar_of(a), scalar_of(b)
    if p is None or q is None or not is_float(x) or x.type != root.type:
        return None
    if not any(abs(math.frexp(v)[0]) == 0.5 for v in (p, q)):
        return None
    with np.errstate(over="ignore", under="ignore"):
        both = like(x, p * q)
    return apply(Mul(), x, both) if scalar_of(both) == p * q else None


def pad_into_conv(x: Value, w: Value, pad: Value, conv: Value) -> Value | None:
    """A zero Pad of spatial axes becomes the Conv's own padding."""
    op, own = pad.node.op, conv.node.op
    assert isinstance(op, Pad) and isinstance(own, Conv)
    ends = (op.lo[0], op.hi[0], op.lo[-1], op.hi[-1])
    sizes = (*op.lo, *op.hi)
    if op.mode != "constant" or any(e != 0 for e in ends) or any(not isinstance(p, int) or p < 0 for p in sizes):
        return None
    if not close(scalar_of(pad.node.inputs[1]), 0.0) or any(not isinstance(p, int) or p < 0 for p in own.pads_lo + own.pads_hi):
        return None
    lo = tuple(a + b for a, b in zip(op.lo[1:-1], own.pads_lo, strict=True))
    hi = tuple(a + b for a, b in zip(op.hi[1:-1], own.pads_hi, strict=True))
    return apply(replace(own, pads_lo=lo, pads_hi=hi), x, w)


def concat_few(root: Value) -> Value | None:
    """Drop empty operands of a Concat; one operand is no Concat."""
    op = root.node.op
    assert isinstance(op, Concat)
    kept = [v for v in root.node.inputs if v.shape[op.axis] != 0]
    if len(kept) == 1 and kept[0].type == root.type:
        return kept[0]
    if not 1 < len(kept) < len(root.node.inputs):
        return None
    fewer = apply(op, *kept)
    return fewer if fewer.type == root.type else None  # the empty operand may be the one whose other sizes are known


def transpose_in_place(x: Value, root: Value) -> Value | None:
    op = root.node.op
    assert isinstance(op, Transpose)
    got = transpose(x, op.perm)
    return None if got.node.op == op and got.node.inputs == (x,) else got


def reshape_in_place(x: Value, root: Value) -> Value | None:
    if x.shape == root.shape:
        return x
    return reshape(x.node.inputs[0], root.shape) if isinstance(x.node.op, Reshape) else None


_x, _c, _a, _b = X("x"), C("c"), C("a"), C("b")
RULES: tuple[Rule, ...] = (
    *(Rule(P(cls, _x, Num(0), name="root"), neutral) for cls in (Add, Sub)),
    *(Rule(P(cls, _x, Num(1), name="root"), neutral) for cls in (Mul, Div)),
    Rule(P(Neg, P(Neg, _x, shared=True), name="root"), double_negation),
    Rule(P(Sub, _x, _c), subtract_constant),
    Rule(P(Add, _x, P(Neg, X("y"))), negated_operand),
    Rule(P(Div, _x, _c), divide_by_power_of_two),
    Rule(P(Div, Num(1), _x, name="root"), one_over),
    Rule(P(Mul, _x, P(Reciprocal, X("y"))), multiply_by_reciprocal),
    Rule(P(MatMul, _x, X("y")), outer_product),
    Rule(P(Mul, P(Mul, _x, _a), _b, name="root"), scale_of_scale),
    Rule(P(Pow, _x, _c, name="root"), power),
    Rule(P(Relu, X("x", lambda v: isinstance(v.node.op, Relu))), relu_twice),
    *(Rule(P(cls, P(cls, _x, _a), _b, name="root"), clip_merge) for cls in (Max, Min)),
    Rule(P(Max, _x, Num(0), name="root"), max_with_zero),
    Rule(P(Max, X("x", lambda v: isinstance(v.node.op, Relu)), _c, name="root"), relu_then_max),
    Rule(P(Where, _c, X("a"), X("b"), name="root"), where_constant),
    Rule(P(Where, X("c"), X("a"), X("a"), name="root"), where_same),
    Rule(P(Cast, _x, name="root"), cast_to_same),
    Rule(P(Cast, P(Cast, _x, name="mid", shared=True), name="root"), cast_of_cast),
    Rule(P(Not, P(Not, _x, shared=True)), not_of_not),
    Rule(P(Equal, _x, Num(0), name="root"), is_not_false),
    Rule(P(Reduce, _x, name="root"), reduce_nothing),
    Rule(P(Conv, P(Pad, _x, X(""), name="pad"), X("w"), name="conv"), pad_into_conv),
    Rule(P(Concat, name="root"), concat_few),
    Rule(P(Transpose, _x, name="root"), transpose_in_place),
    Rule(P(Reshape, _x, name="root"), reshape_in_place),
    *MOVE_RULES,
)
