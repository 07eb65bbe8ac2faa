"""Integer products in the form that dot instructions take: u8 by i8, zero points outside.

Σ (a − az)(b − bz) = Σ a·b − az·Σ b − bz·Σ a + K·az·bz. Of a constant b the sums are constants too, and become part of
the epilogue; those of a are read once more, which is only needed where bz ≠ 0. i8 becomes u8, and u8 i8, by flipping the
top bit, which moves the zero point by 128.
"""

from __future__ import annotations

import numpy as np

from ...ir import Const, Dim, DType, Node, Op, Value, const, prod
from ...ir.ops import Add, BitXor, Cast, DimTensor, DotConv, DotMatMul, Expand, IntegerConv, Mul, Reduce, Reshape, Sub

Loc = tuple[str, ...]


def integer_matmul(ins: tuple[Value, ...], loc: Loc) -> Value:
    """IntegerMatMul by a DotMatMul and corrections."""
    a, a_zero = _unsigned(ins[0], ins[2], loc)
    b, b_zero = _signed(ins[1], ins[3], loc)
    b_zero = _row(b_zero, b, loc)
    acc = Node.make(DotMatMul(), (a, b), loc).out
    k = a.shape[-1]
    if not _none(a_zero):  # acc − az·(Σ b − K·bz)
        columns = _sum(b, -2, loc)
        if not _none(b_zero):
            columns = _do(Sub(), loc, columns, _do(Mul(), loc, b_zero, _size(k, loc)))
        acc = _do(Sub(), loc, acc, _do(Mul(), loc, a_zero, columns))
    if not _none(b_zero):
        rows = _do(Reduce("sum", (len(a.shape) - 1,), True), loc, _do(Cast(DType.I32), loc, a))
        acc = _do(Sub(), loc, acc, _do(Mul(), loc, rows, b_zero))
    return acc


def integer_conv(op: IntegerConv, ins: tuple[Value, ...], loc: Loc) -> Value:
    """IntegerConv by a DotConv and corrections; what lies outside of the image is the zero point, so sums are the same everywhere."""
    x, x_zero = _unsigned(ins[0], ins[2], loc)
    w, w_zero = _signed(ins[1], ins[3], loc)
    x_zero = _do(Reshape((1,)), loc, x_zero)
    border = _do(Cast(DType.U8), loc, x_zero)
    product = op.of_kind(DotConv)
    acc = Node.make(product, (x, w, border), loc).out
    taps = prod(w.shape[:-1])
    if not _none(x_zero):
        columns = _sum(_do(Reshape((taps, w.shape[-1])), loc, w), 0, loc)
        columns = _do(Reshape((w.shape[-1],)), loc, columns)
        if not _none(w_zero):
            columns = _do(Sub(), loc, columns, _do(Mul(), loc, w_zero, _size(taps, loc)))
        acc = _do(Sub(), loc, acc, _do(Mul(), loc, x_zero, columns))
    if not _none(w_zero):  # Σ of the window, once a group: a product with ones
        ones = const(np.ones((*(int(d) for d in w.shape[:-1]), op.groups), np.int8), loc=loc)
        window = Node.make(product, (x, ones, border), loc).out
        each = w.shape[-1] // op.groups
        if op.groups > 1:
            wide = (*window.shape, each)
            window = _do(Expand(wide), loc, _do(Reshape((*window.shape, 1)), loc, window))
            window = _do(Reshape((*wide[:-2], w.shape[-1])), loc, window)
        acc = _do(Sub(), loc, acc, _do(Mul(), loc, window, w_zero))
    return acc


def _unsigned(x: Value, zero: Value, loc: Loc) -> tuple[Value, Value]:
    """The same differences with u8, and the zero point in i32."""
    wide = _do(Cast(DType.I32), loc, zero)
    if x.dtype is DType.U8:
        return x, wide
    flipped = _do(BitXor(), loc, _do(Cast(DType.U8), loc, x), const(128, DType.U8, loc))
    return flipped, _do(Add(), loc, wide, const(128, DType.I32, loc))


def _signed(w: Value, zero: Value, loc: Loc) -> tuple[Value, Value]:
    wide = _do(Cast(DType.I32), loc, zero)
    if w.dtype is DType.I8:
        return w, wide
    flipped = _do(Cast(DType.I8), loc, _do(BitXor(), loc, w, const(128, DType.U8, loc)))
    return flipped, _do(Sub(), loc, wide, const(128, DType.I32, loc))


def _row(zero: Value, b: Value, loc: Loc) -> Value:
    """A zero point a column, shaped to broadcast with the product."""
    return zero if zero.type.rank != 1 or zero.type.numel == 1 else _do(Reshape((1, b.shape[-1])), loc, zero)


def _sum(x: Value, axis: int, loc: Loc) -> Value:
    """Σ along an axis in i32, the axis kept."""
    axis %= len(x.shape)
    return _do(Reduce("sum", (axis,), True), loc, _do(Cast(DType.I32), loc, x))


def _size(d: Dim, loc: Loc) -> Value:
    return const(d, DType.I32, loc) if isinstance(d, int) else _do(DimTensor((d,), (), DType.I32), loc)


def _do(op: Op, loc: Loc, *ins: Value) -> Value:
    """The op's result; computed at once when every operand is constant."""
    if ins and all(isinstance(v.node.op, Const) for v in ins):
        (data,) = op.reference(*(v.data for v in ins))
        return const(data, loc=loc)
    return Node.make(op, ins, loc).out


def _none(zero: Value) -> bool:
    return isinstance(zero.node.op, Const) and not zero.node.op.data.any()
