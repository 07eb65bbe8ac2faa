"""Index arithmetic in normal form: constant + Σ coefficient · atom.

Lowering composes index functions (transpose of reshape of slice …). Kept as sums of atoms with symbolic coefficients,
x mod d written as x − d·⌊x/d⌋, a merge of axes after a split cancels by itself, so addresses stay affine where they can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..ir import Dim, DType, Shape, floordiv, lower, upper
from .expr import Axis, Call, DimParam, E, Num


class Atom:
    """What an index depends on: a loop variable ("axis"), a floor quotient ("div"), "min", "max", or an I64 expression ("e").

    `lo`/`hi` are inclusive bounds (None: unknown). Atoms with equal keys are equal.
    """

    __slots__ = ("_hash", "args", "hi", "key", "kind", "lo")

    def __init__(self, kind: str, args: tuple[Any, ...], lo: Dim | None, hi: Dim | None) -> None:
        self.kind, self.args, self.lo, self.hi = kind, args, lo, hi
        self.key = (kind, id(args[0])) if kind == "e" else (kind, *args)
        self._hash = hash(self.key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Atom) and self._hash == other._hash and self.key == other.key)


class Affine:
    """const + Σ terms[atom] · atom; immutable, hashable, equal when the normal forms are."""

    __slots__ = ("_hash", "const", "terms")

    def __init__(self, terms: Mapping[Atom, Dim], const: Dim = 0) -> None:
        self.terms = {a: c for a, c in terms.items() if c != 0}
        self.const = const
        self._hash = hash((frozenset(self.terms.items()), const))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Affine) and self._hash == other._hash and self.const == other.const and self.terms == other.terms
        )

    def __add__(self, other: Affine | Dim) -> Affine:
        other = as_affine(other)
        terms = dict(self.terms)
        for a, c in other.terms.items():
            terms[a] = terms.get(a, 0) + c
        return Affine(terms, self.const + other.const)

    def __sub__(self, other: Affine | Dim) -> Affine:
        return self + as_affine(other) * -1

    def __mul__(self, k: Dim) -> Affine:
        return Affine({a: c * k for a, c in self.terms.items()}, self.const * k)

    @property
    def is_const(self) -> bool:
        return not self.terms

    def bounds(self) -> tuple[Dim | None, Dim | None]:
        """Inclusive range, None where unknown."""
        lo: Dim | None = self.const
        hi: Dim | None = self.const
        for a, c in self.terms.items():
            if lower(c) >= 0:
                alo, ahi = a.lo, a.hi
            elif upper(c) <= 0:
                alo, ahi = a.hi, a.lo
            else:
                return None, None
            lo = None if lo is None or alo is None else lo + c * alo
            hi = None if hi is None or ahi is None else hi + c * ahi
        return lo, hi

    def coefficients(self, axes: int) -> tuple[Dim, ...] | None:
        """Coefficients of loop variables 0 … axes−1, or None when anything else takes part."""
        out: list[Dim] = [0] * axes
        for a, c in self.terms.items():
            if a.kind != "axis":
                return None
            out[a.args[0]] = c
        return tuple(out)


def as_affine(x: Affine | Dim) -> Affine:
    return x if isinstance(x, Affine) else Affine({}, x)


def axis(index: int, extent: Dim) -> Affine:
    """Loop variable `index`, in [0, extent)."""
    return Affine({Atom("axis", (index,), 0, extent - 1): 1})


def opaque(e: E, lo: Dim | None = None, hi: Dim | None = None) -> Affine:
    """An index that is computed, such as one read from a tensor."""
    return Affine({Atom("e", (e,), lo, hi): 1})


def below(x: Affine, d: Dim) -> bool:
    """Whether 0 ≤ x < d is certain."""
    lo, hi = x.bounds()
    return lo is not None and hi is not None and lower(lo) >= 0 and upper(hi - d) < 0


def div(x: Affine, d: Dim) -> Affine:
    """⌊x / d⌋ for d > 0."""
    if d == 1:
        return x
    if d == 0 or below(x, d):
        return Affine({})  # a dim of 0: nothing is ever indexed
    whole: dict[Atom, Dim] = {}
    rest: dict[Atom, Dim] = {}
    for a, c in x.terms.items():
        q = floordiv(c, d)
        if q * d == c:
            whole[a] = q
        else:
            rest[a] = c
    q = floordiv(x.const, d)
    const = x.const - q * d if (isinstance(d, int) and isinstance(x.const, int)) or q * d == x.const else x.const
    out = Affine(whole, q if const is not x.const or const == 0 else 0)
    r = Affine(rest, const)
    if below(r, d):
        return out
    for g in dict.fromkeys(rest.values()):  # ⌊g·t / (g·e)⌋ = ⌊t / e⌋
        e = floordiv(d, g) if g != 1 and lower(g) > 0 else 0
        if e != 0 and e * g == d and all(floordiv(c, g) * g == c for c in rest.values()):
            k = floordiv(const, g)
            if isinstance(k, int) or k * g == const:
                return out + div(Affine({a: floordiv(c, g) for a, c in rest.items()}, k), e)
    if len(rest) == 1 and const == 0:
        ((a, c),) = rest.items()
        if c == 1 and a.kind == "div":
            return out + div(a.args[0], a.args[1] * d)
    if not rest:
        return out + floordiv(const, d)
    lo, hi = r.bounds()
    return out + Affine({Atom("div", (r, d), None if lo is None else floordiv(lo, d), None if hi is None else floordiv(hi, d)): 1})


def mod(x: Affine, d: Dim) -> Affine:
    """x − d·⌊x / d⌋."""
    return x - div(x, d) * d


def clamp(x: Affine, lo: Dim, hi: Dim) -> Affine:
    """max(lo, min(x, hi)), dropping what cannot matter."""
    xlo, xhi = x.bounds()
    if xhi is not None and upper(xhi - lo) <= 0:
        return as_affine(lo)
    if xlo is not None and lower(xlo - hi) >= 0:
        return as_affine(hi)
    low_ok = xlo is not None and lower(xlo - lo) >= 0
    if xhi is None or upper(xhi - hi) > 0:
        x = Affine({Atom("min", (x, hi), lo if low_ok else None, hi): 1})
    return x if low_ok else Affine({Atom("max", (x, lo), lo, hi): 1})


def ravel(index: Iterable[Affine], shape: Shape) -> Affine:
    """Row-major element number."""
    out = Affine({})
    stride: Dim = 1
    for i, d in zip(reversed(tuple(index)), reversed(shape), strict=True):
        out = out + i * stride
        stride = stride * d
    return out


def unravel(x: Affine, shape: Shape) -> tuple[Affine, ...]:
    """Index of row-major element x."""
    out: list[Affine] = []
    for i, d in enumerate(reversed(shape)):
        if d == 1:
            out.append(Affine({}))
            continue
        last = all(e == 1 for e in shape[: len(shape) - 1 - i])
        out.append(x if last else mod(x, d))
        x = Affine({}) if last else div(x, d)
    return tuple(reversed(out))


def strides_of(shape: Shape) -> Shape:
    """Row-major element strides."""
    out: list[Dim] = []
    stride: Dim = 1
    for d in reversed(shape):
        out.append(stride)
        stride = stride * d
    return tuple(reversed(out))


def number(d: Dim) -> E:
    return Num(d, dtype=DType.I64) if isinstance(d, int) else DimParam(d, dtype=DType.I64)


def call(fn: str, *args: E) -> E:
    return Call(fn, args, dtype=DType.I64)


def to_expr(x: Affine, leaf: Callable[[Atom], E], memo: dict[Affine, E]) -> E:
    """The I64 expression of x; `leaf` gives that of "axis" and "e" atoms. Nesting of atoms is bounded by lowering."""
    if x in memo:
        return memo[x]
    total: E | None = None
    for a, c in x.terms.items():
        match a.kind:
            case "div":
                inner, d = a.args
                e = to_expr(inner, leaf, memo)
                lo = inner.bounds()[0]
                if lo is None or lower(lo) < 0:  # `div` truncates: make it exact first
                    e = call("sub", e, call("mod", e, number(d)))
                t = call("div", e, number(d))
            case "min" | "max":
                t = call(a.kind, to_expr(a.args[0], leaf, memo), number(a.args[1]))
            case _:
                t = leaf(a)
        t = t if c == 1 else call("mul", t, number(c))
        total = t if total is None else call("add", total, t)
    if total is None:
        total = number(x.const)
    elif x.const != 0:
        total = call("add", total, number(x.const))
    memo[x] = total
    return total


def axis_expr(index: int) -> E:
    return Axis(index, dtype=DType.I64)


def nested(x: Affine) -> list[Affine]:
    """x and the affine expressions inside its atoms."""
    out = [x]
    for y in out:
        out.extend(a.args[0] for a in y.terms if a.kind in ("div", "min", "max"))
    return out


def substitute_axes(
    x: Affine, new: Mapping[int, Affine], leaf: Callable[[Atom], Atom], memo: dict[Affine, Affine], *, apart: bool = False
) -> Affine:
    """Replace loop variables by affine expressions, in nested atoms too. `apart`: they became sums, whose quotients may be simpler."""
    if x in memo:
        return memo[x]
    out = Affine({}, x.const)
    for a, c in x.terms.items():
        match a.kind:
            case "axis":
                out = out + new[a.args[0]] * c
            case "div" | "min" | "max":
                inner = substitute_axes(a.args[0], new, leaf, memo, apart=apart)
                if apart and a.kind == "div":
                    out = out + div(inner, a.args[1]) * c
                else:
                    out = out + Affine({Atom(a.kind, (inner, a.args[1]), a.lo, a.hi): c})
            case _:
                out = out + Affine({leaf(a): c})
    memo[x] = out
    return out
