"""Arithmetic of elements that are known at compile time: numbers, dims, and what floating point makes of dims on their way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ...errors import VerifyError
from ...ir import Dim, Expr, ceildiv, dim_max, dim_min, floordiv, lower, upper
from ...ir.dims import Atom, factor_of
from .contents import whole


class UnknownError(Exception):
    """The result is not expressible as dims."""


@dataclass(frozen=True)
class Ratio:
    """num / den, num symbolic, den > 1: a dim in floating point on its way through a division."""

    num: Expr
    den: int


Element = Any  # int | Expr | bool | Fraction | Ratio

# Floating-point constants with larger denominators stand for numbers like 0.7, whose products are rounded.
_MAX_DENOMINATOR = 4096


def _split(x: Element) -> tuple[Dim, int]:
    if isinstance(x, Ratio):
        return x.num, x.den
    if isinstance(x, Fraction):
        if x.denominator > _MAX_DENOMINATOR:
            raise UnknownError
        return x.numerator, x.denominator
    return (int(x) if isinstance(x, bool) else x), 1


def _join(num: Dim, den: int) -> Element:
    if isinstance(num, int):
        return whole(Fraction(num, den))
    g = math.gcd(den, *(c for _, c in num.terms))
    num, den = floordiv(num, g), den // g
    return num if den == 1 or isinstance(num, int) else Ratio(num, den)


def _add(a: Element, b: Element) -> Element:
    (an, ad), (bn, bd) = _split(a), _split(b)
    return _join(an * bd + bn * ad, ad * bd)


def _mul(a: Element, b: Element) -> Element:
    (an, ad), (bn, bd) = _split(a), _split(b)
    try:
        return _join(an * bn, ad * bd)
    except VerifyError:  # of too many terms
        raise UnknownError from None


def _neg(a: Element) -> Element:
    n, d = _split(a)
    return _join(n * -1, d)


def int_div(a: Element, b: Element) -> Element:
    """Integer division truncates; it is a floor where neither side can be negative."""
    if isinstance(a, int) and isinstance(b, int):
        return 0 if b == 0 else math.trunc(Fraction(a, b))
    if isinstance(b, int) and b < 0:
        a, b = _neg(a), -b
    if b == 0 or lower(b) < 0:
        raise UnknownError
    if lower(a) >= 0:
        return floordiv(a, b)
    return _exact(a, b) if isinstance(b, Expr) else _towards_zero(a, b)


def _towards_zero(a: Dim, b: int) -> Dim:
    """a / b for b > 0: the floor where that is positive, the ceiling where that is negative."""
    return dim_max(0, floordiv(a, b)) + dim_min(0, ceildiv(a, b))


def _exact(a: Dim, b: Dim) -> Dim:
    q = floordiv(a, b)
    if q * b != a:
        raise UnknownError
    return q


def true_div(a: Element, b: Element) -> Element:
    (an, ad), (bn, bd) = _split(a), _split(b)
    if bn == 0:
        raise UnknownError
    if isinstance(bn, int):
        return _join(an * bd * (1 if bn > 0 else -1), ad * abs(bn))
    return _join(_exact(an * bd, bn), ad)


def _mod(a: Element, b: Element) -> Element:
    """What floors leave, with the divisor's sign."""
    if not isinstance(b, int) or b <= 0:
        raise UnknownError
    return a - b * floordiv(a, b)


def fmod(a: Element, b: Element) -> Element:
    """What truncated division leaves, with the dividend's sign."""
    if not isinstance(b, int) or b <= 0:
        raise UnknownError
    return a - b * int_div(a, b)


def _floor(a: Element) -> Element:
    n, d = _split(a)
    return floordiv(n, d)


def _ceil(a: Element) -> Element:
    n, d = _split(a)
    return ceildiv(n, d)


def trunc(a: Element) -> Element:
    n, d = _split(a)
    if d == 1:
        return n
    return math.trunc(Fraction(n, d)) if isinstance(n, int) else _towards_zero(n, d)


def _gap(a: Element, b: Element) -> Dim:
    """A dim with the sign of a − b."""
    (an, ad), (bn, bd) = _split(a), _split(b)
    return an * bd - bn * ad


def _truth(x: Dim) -> Element:
    return bool(x) if isinstance(x, int) else x


def equal(a: Element, b: Element) -> Element:
    gap = _gap(a, b)
    if gap == 0:
        return True
    if lower(gap) > 0 or upper(gap) < 0:
        return False
    return 1 - dim_min(1, dim_max(0, dim_max(gap, gap * -1)))


def equality_of(truth: Dim) -> tuple[Dim, Dim] | None:
    """The two dims whose equality a truth value made by `equal` states."""
    if not isinstance(truth, Expr):
        return None
    for mono, c in truth.terms:
        if len(mono) == 1 and c == -1 and isinstance(mono[0], Atom) and mono[0].fn == "min":
            inner = next((x for x in mono[0].args if isinstance(x, Expr)), None)
            for _ in range(2):  # max(0, max(gap, −gap)), the arguments in either order
                found = None if inner is None else factor_of(inner)
                if not isinstance(found, Atom) or found.fn != "max":
                    return None
                gap, inner = found.args[0], next((x for x in found.args if isinstance(x, Expr)), None)
            if isinstance(gap, Expr) and truth == equal(gap, 0):
                constant = next((k for m, k in gap.terms if not m), 0)
                return (gap - constant, -constant) if constant <= 0 else (gap * -1 + constant, constant)
    return None


def _less(a: Element, b: Element) -> Element:
    gap = _gap(a, b)
    if upper(gap) < 0:
        return True
    if lower(gap) >= 0:
        return False
    return dim_min(1, dim_max(0, gap * -1))


def not_(a: Element) -> Element:
    return _truth(1 - _split(a)[0])


def _and(a: Element, b: Element) -> Element:
    return _truth(_split(a)[0] * _split(b)[0])


def _xor(a: Element, b: Element) -> Element:
    return _truth(_gap(a, b) * _gap(a, b))


def select(c: Element, a: Element, b: Element) -> Element:
    if isinstance(c, bool):
        return a if c else b
    return _add(_mul(c, a), _mul(1 - c, b))


def _dims(fn: Callable[[Dim, Dim], Dim]) -> Callable[[Element, Element], Element]:
    def pick(a: Element, b: Element) -> Element:
        (an, ad), (bn, bd) = _split(a), _split(b)
        if ad != 1 or bd != 1:
            raise UnknownError
        return fn(an, bn)

    return pick


def _abs(a: Element) -> Element:
    n, d = _split(a)
    return a if lower(n) >= 0 else _join(dim_max(n, n * -1), d)


UNARY: dict[str, Callable[[Element], Element]] = {
    "Neg": _neg, "Abs": _abs, "Floor": _floor, "Ceil": _ceil, "Not": not_,
}  # fmt: skip
BINARY: dict[str, Callable[[Element, Element], Element]] = {
    "Add": _add, "Sub": lambda a, b: _add(a, _neg(b)), "Mul": _mul, "Mod": _mod, "Sum": _add,
    "Min": _dims(dim_min), "Max": _dims(dim_max), "Equal": equal, "Less": _less, "Greater": lambda a, b: _less(b, a),
    "LessOrEqual": lambda a, b: not_(_less(b, a)), "GreaterOrEqual": lambda a, b: not_(_less(a, b)),
    "And": _and, "Or": lambda a, b: not_(_and(not_(a), not_(b))), "Xor": _xor,
}  # fmt: skip
REDUCE: dict[str, Callable[[Element, Element], Element]] = {
    "ReduceSum": _add, "ReduceProd": _mul, "ReduceMin": _dims(dim_min), "ReduceMax": _dims(dim_max),
}  # fmt: skip
COMPARISONS = frozenset({"Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Not", "And", "Or", "Xor"})


def power(a: Element, n: int) -> Element:
    out: Element = 1
    for _ in range(n):
        out = _mul(out, a)
    return out
