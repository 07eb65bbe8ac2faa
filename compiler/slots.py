"""The dims of a module as its manifest has them: expressions in a table, each once, named by their slots."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import CodegenError
from ..ir import Dim
from ..ir.dims import Expr, Sym
from ..runtime.dimexpr import LIMIT, DimExpr


def dim_expr(dim: Dim) -> DimExpr:
    """A dim as JSON."""
    if isinstance(dim, int):
        return int(dim)
    total: DimExpr = 0
    for mono, c in dim.terms:
        term: DimExpr = c
        for factor in mono:
            if isinstance(factor, Sym):
                f: DimExpr = ["sym", factor.name]
            elif factor.fn == "mod":
                a, b = (dim_expr(x) for x in factor.args)
                f = ["add", a, ["mul", -1, ["mul", b, ["floordiv", a, b]]]]
            elif factor.fn == "stretch":  # the larger of two dims of which one is 1, or 0 if the other one is
                a, b = (dim_expr(x) for x in factor.args)
                f = ["mul", ["max", a, b], ["min", 1, ["min", a, b]]]
            else:
                f = [factor.fn, *(dim_expr(x) for x in factor.args)]
            term = f if term == 1 else ["mul", term, f]
        total = term if total == 0 else ["add", total, term]
    return total


class Slots:
    """The table of a manifest's `dims`."""

    def __init__(self) -> None:
        self.exprs: list[DimExpr] = []
        self._slots: dict[Dim, int] = {}

    def slot(self, dim: Dim) -> int:
        if dim not in self._slots:
            if any(abs(c) > LIMIT for c in ([dim] if isinstance(dim, int) else [c for _, c in dim.terms])):
                raise CodegenError(f"a tensor of {dim} bytes or elements", expected="2^62 at most", remedy="Check the model's shapes.")
            self._slots[dim] = len(self.exprs)
            self.exprs.append(dim_expr(dim))
        return self._slots[dim]

    def symbols(self, more: Iterable[Dim]) -> list[Sym]:
        found: dict[str, Sym] = {}
        stack: list[Dim] = [*self._slots, *more]
        while stack:
            d = stack.pop()
            for mono, _ in d.terms if isinstance(d, Expr) else ():
                for f in mono:
                    if isinstance(f, Sym):
                        found[f.name] = f
                    else:
                        stack.extend(f.args)
        return [found[n] for n in sorted(found)]
