"""Intervals of index expressions: which fit 32 bits, where divisions are plain, and which offsets are aligned."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...ir import Dim, DType, lower, upper
from ..expr import Axis, Call, Cast, DimParam, E, Num, children, postorder

Interval = tuple[int, int]  # inclusive
_FAR = 2**62
UNKNOWN: Interval = (-_FAR, _FAR)
INT32: Interval = (-(2**31), 2**31 - 1)


def fits(r: Interval) -> bool:
    """Whether 32-bit arithmetic holds it."""
    return INT32[0] <= r[0] and r[1] <= INT32[1]


def intervals(roots: Sequence[E], axes: Sequence[Dim]) -> dict[int, Interval]:
    """id(node) -> bounds of its value, for nodes of I64; `axes` are the sizes of the loop variables."""
    found: dict[int, Interval] = {}
    for e in postorder(roots):
        if e.dtype is not DType.I64:
            continue
        out = UNKNOWN
        match e:
            case Axis(index=i):
                out = (0, max(0, upper(axes[i]) - 1))
            case Num(value=v):
                out = (int(v), int(v))
            case DimParam(dim=d):
                out = (lower(d), upper(d))
            case Call(fn=fn, args=args) if all(id(a) in found or a.dtype is DType.BOOL for a in args):
                out = _combine(fn, [found[id(a)] for a in args if a.dtype is not DType.BOOL])
            case Cast(arg=a) if a.dtype in _NARROW:
                out = _NARROW[a.dtype]
        found[id(e)] = (max(out[0], -_FAR), min(out[1], _FAR))
    return found


_NARROW: dict[DType, Interval] = {
    DType.I8: (-128, 127), DType.U8: (0, 255), DType.I16: (-(2**15), 2**15 - 1), DType.U16: (0, 2**16 - 1),
    DType.I32: INT32, DType.U32: (0, 2**32 - 1), DType.BOOL: (0, 1),
}  # fmt: skip


def _combine(fn: str, r: list[Interval]) -> Interval:
    match fn, r:
        case "add", [(a, b), (c, d)]:
            return a + c, b + d
        case "sub", [(a, b), (c, d)]:
            return a - d, b - c
        case "mul", [(a, b), (c, d)]:
            ends = (a * c, a * d, b * c, b * d)
            return min(ends), max(ends)
        case "min", [(a, b), (c, d)]:
            return min(a, c), min(b, d)
        case "max", [(a, b), (c, d)]:
            return max(a, c), max(b, d)
        case "select", [(a, b), (c, d)]:
            return min(a, c), max(b, d)
        case "div", [(a, b), (c, d)] if c > 0:
            ends = (_div(a, c), _div(a, d), _div(b, c), _div(b, d))
            return min(ends), max(ends)
        case "mod", [(a, b), (c, d)] if c > 0:
            return (0, min(b, d - 1)) if a >= 0 else (0, d - 1)
        case "neg", [(a, b)]:
            return -b, -a
    return UNKNOWN


def _div(a: int, b: int) -> int:
    return a // b if a >= 0 else -(-a // b)


def multiple(root: E, of: int, vector_axis: int) -> bool:
    """Whether root is certainly a multiple of `of` (a power of two) where the vector axis is one."""
    known: dict[int, bool] = {}
    for e in postorder([root]):
        args = [known[id(c)] for c in children(e)]
        out = False
        match e:
            case Axis(index=i):
                out = i == vector_axis
            case Num(value=v):
                out = isinstance(v, int) and v % of == 0
            case DimParam(dim=d):
                out = divisible(d, of)
            case Call(fn="add" | "sub" | "min" | "max"):
                out = all(args)
            case Call(fn="mul"):
                out = any(args)
            case Call(fn="select"):
                out = args[1] and args[2]
        known[id(e)] = out
    return known[id(root)]


def divisible(d: Dim, by: int) -> bool:
    """Whether a dim is a multiple of `by` for all values of its symbols."""
    return d % by == 0 if isinstance(d, int) else all(c % by == 0 for _, c in d.terms)


def least_nonzero(d: Dim) -> int:
    """What a size is at least, unless it is 0."""
    return max(1, d) if isinstance(d, int) else max(1, lower(d), math.gcd(*(c for _, c in d.terms)))
