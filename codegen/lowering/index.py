"""Index arithmetic on kernel expressions, simplified while it is built."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import Dim, DType, Shape, is_static, prod
from ..expr import Axis, Call, DimParam, E, Load, Num, Cast, Reduced, Acc


def num(value: Dim) -> E:
    """A dim as an expression."""
    return Num(value) if isinstance(value, int) else DimParam(value)


def _value(x: E) -> Dim | None:
    if isinstance(x, Num) and isinstance(x.value, int):
        return int(x.value)
    return x.dim if isinstance(x, DimParam) else None


def add(a: E, b: E) -> E:
    va, vb = _value(a), _value(b)
    if va is not None and vb is not None:
        return num(va + vb)
    if va == 0:
        return b
    if vb == 0:
        return a
    return Call("add", (a, b))


def sub(a: E, b: E) -> E:
    vb = _value(b)
    return add(a, num(-1 * vb)) if vb is not None else Call("sub", (a, b))


def mul(a: E, b: E) -> E:
    va, vb = _value(a), _value(b)
    if va is not None and vb is not None:
        return num(va * vb)
    if va == 0 or vb == 0:
        return Num(0)
    if va == 1:
        return b
    if vb == 1:
        return a
    return Call("mul", (a, b))


def div(a: E, b: E) -> E:
    va, vb = _value(a), _value(b)
    if va is not None and vb is not None:
        return num(va // vb)
    return a if vb == 1 else Call("div", (a, b))


def rem(a: E, b: E) -> E:
    va, vb = _value(a), _value(b)
    if va is not None and vb is not None:
        return num(va % vb)
    return Num(0) if vb == 1 else Call("mod", (a, b))


def strides(shape: Shape) -> tuple[Dim, ...]:
    """Row-major element strides."""
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def linear(index: Sequence[E], shape: Shape) -> E:
    """Row-major offset of an index; a dim of size 1 contributes nothing."""
    out: E = Num(0)
    for i, s, d in zip(index, strides(shape), shape, strict=True):
        if d != 1:
            out = add(out, mul(i, num(s)))
    return out


def both(a: E | None, b: E) -> E:
    return b if a is None else Call("and_", (a, b), dtype=DType.BOOL)


def inside(index: E, size: Dim) -> E:
    """0 <= index < size."""
    low = Call("ge", (index, Num(0)), dtype=DType.BOOL)
    return both(low, Call("lt", (index, num(size)), dtype=DType.BOOL))


def clamp(index: E, size: Dim) -> E:
    return Call("max", (Call("min", (index, num(size - 1))), Num(0)))
