"""The dims of a module as its manifest has them: expressions in a table, each once, named by their slots.

Minima, quotients … are slots, too: written out, a dim that is made of dims that are made of dims would double with each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce

from ..errors import CodegenError
from ..ir import Dim
from ..ir.dims import Atom, Expr, Sym
from ..runtime.dimexpr import DimExpr
from ..runtime.fields import LIMIT

_LONG = 64  # terms or factors


def dim_expr(dim: Dim, atom: Callable[[Atom], DimExpr] | None = None) -> DimExpr:
    """A dim as JSON; `atom`: how to write its minima, quotients …, by default as expressions like itself."""
    if isinstance(dim, int):
        return int(dim)
    atom = atom or (lambda f: _atom_expr(f, dim_expr))
    terms = []
    for mono, c in dim.terms:
        factors: list[DimExpr] = [["sym", f.name] if isinstance(f, Sym) else atom(f) for f in mono]
        terms.append(_folded("mul", factors if c == 1 and factors else [c, *factors]))
    return _folded("add", terms)


def _folded(fn: str, operands: list[DimExpr]) -> DimExpr:
    """Of long ones the halves first: readers of JSON and of dims bound how deep lists lie in each other."""
    if len(operands) > _LONG:
        half = len(operands) // 2
        return [fn, _folded(fn, operands[:half]), _folded(fn, operands[half:])]
    return reduce(lambda a, b: [fn, a, b], operands)


def _atom_expr(atom: Atom, operand: Callable[[Dim], DimExpr]) -> DimExpr:
    a, b = map(operand, atom.args)
    match atom.fn:
        case "mod":
            return ["add", a, ["mul", -1, ["mul", b, ["floordiv", a, b]]]]
        case "stretch":  # the larger of two dims of which one is 1, or 0 if the other one is
            return ["mul", ["max", a, b], ["min", 1, ["min", a, b]]]
    return [atom.fn, a, b]


class Slots:
    """The table of a manifest's `dims`."""

    def __init__(self) -> None:
        self.exprs: list[DimExpr] = []
        self._slots: dict[Dim | Atom, int] = {}

    def slot(self, dim: Dim) -> int:
        if dim not in self._slots:
            if any(abs(c) > LIMIT for c in ([dim] if isinstance(dim, int) else [c for _, c in dim.terms])):
                raise CodegenError(f"a tensor of {dim} bytes or elements", expected="2^62 at most", remedy="Check the model's shapes.")
            self._add(dim, self.expr(dim))
        return self._slots[dim]

    def expr(self, dim: Dim) -> DimExpr:
        """A dim over symbols and slots."""
        return dim_expr(dim, self._atom)

    def _atom(self, atom: Atom) -> DimExpr:
        if atom not in self._slots:
            self._add(atom, _atom_expr(atom, lambda d: dim_expr(d) if isinstance(d, int) or d.depth == 0 else ["slot", self.slot(d)]))
        return ["slot", self._slots[atom]]

    def _add(self, key: Dim | Atom, expr: DimExpr) -> None:
        self._slots[key] = len(self.exprs)
        self.exprs.append(expr)

    def symbols(self, more: Iterable[Dim]) -> list[Sym]:
        found: dict[str, Sym] = {}
        stack: list[Dim | Atom] = [*self._slots, *more]
        while stack:
            d = stack.pop()
            for f in [f for mono, _ in d.terms for f in mono] if isinstance(d, Expr) else [d]:
                if isinstance(f, Sym):
                    found[f.name] = f
                elif isinstance(f, Atom):
                    stack.extend(f.args)
        return [found[n] for n in sorted(found)]
