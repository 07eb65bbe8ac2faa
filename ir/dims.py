"""Symbolic dimensions: `Dim = int | Expr`, integer polynomials over symbols and floor-quotients.

An `Expr` is kept in canonical form (a sum of monomials), so equal expressions are equal values:
`2*B + B == 3*B`. What is not polynomial (floor division, min, max) is an opaque `Atom` whose
arguments are canonical in turn. A constant expression is always a plain `int`.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from ..errors import VerifyError

_MOST_TERMS, _MOST_FACTORS = 4096, 512


@dataclass(frozen=True, order=True)
class Sym:
    """A named unknown, with inclusive bounds. Identity is the name: one name, one unknown."""

    name: str
    lo: int = 0
    hi: int = 2**62

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Atom:
    """fn is "floordiv", "min", "max" or "stretch" (`stretch.py`) of two dims."""

    fn: str
    args: tuple[Dim, Dim]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.fn, self.args))

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:  # terms are sorted by it, again and again
        return f"{self.fn}({self.args[0]}, {self.args[1]})"


Monomial = tuple[Sym | Atom, ...]


@dataclass(frozen=True, eq=True)
class Expr:
    """Sum of coefficient × monomial, sorted; never constant (see `make_sum`)."""

    terms: tuple[tuple[Monomial, int], ...]

    @cached_property
    def symbols(self) -> frozenset[str]:
        found: set[str] = set()
        for mono, _ in self.terms:
            for f in mono:
                found |= {f.name} if isinstance(f, Sym) else symbols_of(f.args)
        return frozenset(found)

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """Lower and upper bound."""
        return _bounds_of(self.terms)

    @cached_property
    def depth(self) -> int:
        """How deep minima, quotients … lie in each other."""
        return max((1 + depth_of(f.args) for mono, _ in self.terms for f in mono if isinstance(f, Atom)), default=0)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.terms)

    def __add__(self, other: Dim) -> Dim:
        terms = dict(self.terms)
        fresh = [t for t in _terms(other) if t[0] not in terms]
        for mono, c in _terms(other):
            terms[mono] = terms.get(mono, 0) + c
        if 2 * len(fresh) >= len(self.terms):
            return make_sum(terms)
        kept = [t for t in terms.items() if t[1] and t not in fresh]
        for t in fresh:  # the others are in order already, and long sums grow by a term at a time
            if t[1]:
                insort(kept, t, key=_order)
        return _sum(kept)

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + other * -1

    def __rsub__(self, other: Dim) -> Dim:
        return self * -1 + other

    def __mul__(self, other: Dim) -> Dim:
        """Raises VerifyError for a product of more terms than any model needs: those of n sums of two are 2ⁿ."""
        if not isinstance(other, Expr):  # terms stay in order
            times = int(other)
            return self if times == 1 else Expr(tuple((m, c * times) for m, c in self.terms)) if times else 0
        ours, theirs = self.terms, other.terms
        if min(len(ours), len(theirs)) > 1 and len(ours) * len(theirs) > _MOST_TERMS:
            raise VerifyError(f"a product of sums of {len(ours)} and {len(theirs)} sizes", expected=f"at most {_MOST_TERMS} terms")
        if len(ours[0][0]) + len(theirs[0][0]) > _MOST_FACTORS:
            raise VerifyError("a product of sizes of too many factors", expected=f"at most {_MOST_FACTORS}")
        out: dict[Monomial, int] = {}
        for m1, c1 in ours:
            for m2, c2 in theirs:
                mono = tuple(sorted(m1 + m2, key=_sort_key))
                out[mono] = out.get(mono, 0) + c1 * c2
        return make_sum(out)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __int__(self) -> int:
        raise VerifyError(f"the size {self}, which only a run knows", expected="a number")

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        parts = []
        for mono, c in self.terms:
            factors = [str(f) for f in mono]
            if c != 1 or not factors:
                factors.insert(0, str(c))
            parts.append("*".join(factors))
        return " + ".join(parts)

    __repr__ = __str__


Dim = int | Expr
Shape = tuple[Dim, ...]


def sym(name: str, lo: int = 0, hi: int = 2**62) -> Expr:
    """The dimension consisting of one symbol."""
    return Expr((((Sym(name, lo, hi),), 1),))


def floordiv(a: Dim, b: Dim) -> Dim:
    """⌊a / b⌋, exact where the polynomial divides. Raises VerifyError for a zero divisor."""
    if b == 0:
        raise VerifyError(f"dimension {a} divided by zero")
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if b == 1 or a == 0:
        return a
    exact = _divide_exact(a, b)
    if exact is not None:
        return exact
    if isinstance(b, int) and isinstance(a, Expr) and b > 0:
        # pull out the multiples of b: ⌊(b·q + r) / b⌋ = q + ⌊r / b⌋
        q: Dim = 0
        r: Dim = 0
        for mono, c in a.terms:
            term = make_sum({mono: 1})
            whole = c // b
            q, r = q + whole * term, r + (c - whole * b) * term
        if q != 0:
            return q + floordiv(r, b)
        # ⌊(⌊x / c⌋ + k) / b⌋ = ⌊(x + c·k) / (c·b)⌋ for positive constants c and b
        shift = next((c for mono, c in a.terms if not mono), 0)
        rest = a - shift
        inner = factor_of(rest)
        if isinstance(inner, Atom) and inner.fn == "floordiv" and isinstance(inner.args[1], int) and inner.args[1] > 0:
            return floordiv(inner.args[0] + inner.args[1] * shift, inner.args[1] * b)
        lo, hi = a.bounds
        if lo // b == hi // b:
            return lo // b
    return atom("floordiv", a, b)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """⌈a / b⌉ for a positive divisor."""
    return floordiv(a + b - 1, b)


def mod(a: Dim, b: Dim) -> Dim:
    """a − b·⌊a / b⌋."""
    return a - b * floordiv(a, b)


def dim_min(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    if a == b or upper(a - b) <= 0:
        return a
    return b if lower(a - b) >= 0 else atom("min", *sorted((a, b), key=str))


def dim_max(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    if a == b or lower(a - b) >= 0:
        return a
    return b if upper(a - b) <= 0 else atom("max", *sorted((a, b), key=str))


def prod(dims: Iterable[Dim]) -> Dim:
    """Number of elements of a shape."""
    size: Dim = 1
    for d in dims:
        size = size * d
    return size


def factor_of(dim: Dim) -> Sym | Atom | None:
    """The symbol or function that a dim is, and nothing else."""
    if isinstance(dim, Expr) and len(dim.terms) == 1:
        mono, c = dim.terms[0]
        return mono[0] if c == 1 and len(mono) == 1 else None
    return None


def is_symbol(dim: Dim) -> bool:
    """Whether it is one symbol, and nothing else."""
    return isinstance(factor_of(dim), Sym)


def symbols_of(dims: Iterable[Dim]) -> set[str]:
    """Names of all symbols in some dims."""
    return {s for d in dims if isinstance(d, Expr) for s in d.symbols}


def depth_of(dims: Iterable[Dim]) -> int:
    """The greatest `Expr.depth`."""
    return max((d.depth for d in dims if isinstance(d, Expr)), default=0)


def is_static(shape: Iterable[Dim]) -> bool:
    return all(isinstance(d, int) for d in shape)


def lower(dim: Dim) -> int:
    """A lower bound (possibly −2⁶²)."""
    return _bounds(dim)[0]


def upper(dim: Dim) -> int:
    """An upper bound (possibly 2⁶²)."""
    return _bounds(dim)[1]


_INF = 2**62


def _clip(x: int) -> int:
    return max(-_INF, min(_INF, x))


def _bounds(dim: Dim) -> tuple[int, int]:
    return (dim, dim) if isinstance(dim, int) else dim.bounds


def _bounds_of(terms: Iterable[tuple[Monomial, int]]) -> tuple[int, int]:
    lo = hi = 0
    for mono, c in terms:
        b = (c, c)
        for f in mono:
            fb = (f.lo, f.hi) if isinstance(f, Sym) else _atom_bounds(f)
            corners = [_clip(x * y) for x in b for y in fb]
            b = (min(corners), max(corners))
        lo, hi = _clip(lo + b[0]), _clip(hi + b[1])
    return lo, hi


def _atom_bounds(atom: Atom) -> tuple[int, int]:
    (alo, ahi), (blo, bhi) = _bounds(atom.args[0]), _bounds(atom.args[1])
    match atom.fn:
        case "min":
            return min(alo, blo), min(ahi, bhi)
        case "max":
            return max(alo, blo), max(ahi, bhi)
        case "stretch":
            return min(alo, blo), max(ahi, bhi)
    if blo <= 0:
        return -_INF, _INF
    corners = [x // y for x in (alo, ahi) for y in (blo, bhi)]
    return min(corners), max(corners)


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    return dim.terms if isinstance(dim, Expr) else (((), int(dim)),)


def _sort_key(f: Sym | Atom) -> tuple[bool, str]:
    return isinstance(f, Atom), str(f)


def _order(term: tuple[Monomial, int]) -> tuple[int, list[tuple[bool, str]]]:
    return -len(term[0]), [_sort_key(f) for f in term[0]]


def make_sum(terms: Mapping[Monomial, int]) -> Dim:
    """A sum of coefficients × monomials, in canonical form."""
    kept = [(m, c) for m, c in terms.items() if c]
    if len(kept) > 1:
        kept.sort(key=_order)
    return _sum(kept)


def _sum(terms: list[tuple[Monomial, int]]) -> Dim:
    """Of terms in order, none of which is 0."""
    if not terms:
        return 0
    return terms[0][1] if len(terms) == 1 and not terms[0][0] else Expr(tuple(terms))


def atom(fn: str, a: Dim, b: Dim) -> Expr:
    """A function of two dims that is nothing simpler."""
    return Expr((((Atom(fn, (a, b)),), 1),))


def _divide_exact(a: Dim, b: Dim) -> Dim | None:
    """a / b where b is a single term dividing every term of a, or long division leaves nothing."""
    bt = _terms(b)
    at = _terms(a)
    if len(bt) == 1:
        bm, bc = bt[0]
        out: dict[Monomial, int] = {}
        for m, c in at:
            rest = list(m)
            for f in bm:
                if f not in rest:
                    return None
                rest.remove(f)
            if c % bc:
                return None
            out[tuple(rest)] = c // bc
        return make_sum(out)
    lead = _leading(bt)
    quotient: Dim = 0
    for _ in range(len(at) * len(bt)):  # what is divisible takes no more steps than the product has terms
        q = _divide_exact(_leading(_terms(a)), lead)
        if q is None:
            return None
        quotient, a = quotient + q, a - q * b
        if a == 0:
            return quotient
    return None


def _leading(terms: tuple[tuple[Monomial, int], ...]) -> Dim:
    """A term of most factors."""
    mono, c = max(terms, key=lambda term: len(term[0]))
    return make_sum({mono: c})
