"""What sizes broadcast to of which a run may find one to be 1."""

from __future__ import annotations

from .dims import Atom, Dim, atom, factor_of, lower, upper


def dim_stretch(a: Dim, b: Dim) -> Dim:
    """What two dims broadcast to that are equal, or one of them 1: a, or b where a is 1."""
    if a == b or b == 1 or lower(a) >= 2 or _one_alike(a, b):
        return a
    if a == 1 or lower(b) >= 2 or a in _stretched_from(b):
        return b
    if b in _stretched_from(a):
        return a
    return atom("stretch", *sorted((a, b), key=str))


def _stretched_from(d: Dim) -> tuple[Dim, ...]:
    """The dims that `d` is a broadcast of."""
    found: list[Dim] = []
    stack = [d]
    while stack:
        x = stack.pop()
        f = factor_of(x)
        if isinstance(f, Atom) and f.fn == "stretch":
            found += f.args
            stack += f.args
    return tuple(found)


def may_stretch(a: Dim, b: Dim) -> bool:
    """Whether one of two dims may be 1 where the other is not."""
    return a != b and not _one_alike(a, b) and (lower(a) <= 1 <= upper(a) or lower(b) <= 1 <= upper(b))


def _one_alike(a: Dim, b: Dim) -> bool:
    """Whether one is the other, cut at 2 or more: where either is 1, both are."""
    for x, y in ((a, b), (b, a)):
        f = factor_of(x)
        if isinstance(f, Atom) and f.fn == "min" and y in f.args and all(z == y or lower(z) >= 2 for z in f.args):
            return True
    return False
