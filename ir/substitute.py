"""Dims in which symbols are numbers, or other dims."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..errors import VerifyError
from .dims import Dim, Sym, dim_max, dim_min, floordiv, make_sum
from .stretch import dim_stretch

_NUMBERS: dict[str, Callable[[int, int], int]] = {
    "floordiv": lambda a, b: a // b,
    "min": min,
    "max": max,
    "stretch": lambda a, b: b if a == 1 else a,
}
FUNCTIONS: dict[str, Callable[[Dim, Dim], Dim]] = {"floordiv": floordiv, "min": dim_min, "max": dim_max, "stretch": dim_stretch}


def evaluate(dim: Dim, bindings: Mapping[str, int]) -> int:
    """The value of a dim under symbol bindings. Raises VerifyError for an unbound symbol."""
    if isinstance(dim, int):
        return dim
    total = 0
    for mono, c in dim.terms:
        for f in mono:
            if isinstance(f, Sym):
                if f.name not in bindings:
                    raise VerifyError(f"symbolic dimension {f.name} is not bound")
                c *= bindings[f.name]
            else:
                c *= _NUMBERS[f.fn](evaluate(f.args[0], bindings), evaluate(f.args[1], bindings))
        total += c
    return total


def substitute(dim: Dim, bindings: Mapping[str, Dim]) -> Dim:
    """Replace symbols by dims, re-canonicalised."""
    if isinstance(dim, int) or not (dim.symbols & bindings.keys()):
        return dim
    total: Dim = 0
    for mono, c in dim.terms:
        term: Dim = c
        for f in mono:
            if isinstance(f, Sym):
                term = term * bindings.get(f.name, make_sum({(f,): 1}))
            else:
                a, b = (substitute(x, bindings) for x in f.args)
                term = term * FUNCTIONS[f.fn](a, b)
        total = total + term
    return total
