"""Dim expressions of a manifest: `int | ["sym", name] | ["slot", i] | [fn, a, b]`, fn one of add, mul, floordiv, min, max.

A slot is the i-th expression of the same list, which comes before the one that names it.

A `DimTable` holds many of them as one straight-line program without repeated work, because a module with symbolic dims
evaluates the whole table whenever it meets new sizes (`words.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import ArtifactError
from .fields import LIMIT, brief

DimExpr = int | list[Any]

_MAX_DEPTH = 500
_MOST_SHOWN = 100  # parts of an expression


FNS = {"add": 1, "mul": 2, "floordiv": 3, "min": 4, "max": 5}  # as native code numbers them; a floordiv by 0 is 0

Code = tuple[int, int, int, int]


class DimTable(NamedTuple):
    """Dims as straight-line code over a list of values: constants, symbols, run-time symbols, results.

    Stage 0 needs the symbols alone; stage k what is known once the k-th `Bind` of the program has read its sizes.
    Slot i is values[slots[i]] from stage `slot_stages[i]` on.
    """

    constants: tuple[int, ...]
    symbols: tuple[str, ...]
    places: Mapping[str, int]  # of run-time symbols among the values
    n_values: int
    code: tuple[tuple[Code, ...], ...]  # by stage: (one of FNS, operand, operand, result)
    slots: tuple[int, ...]
    slot_stages: tuple[int, ...]

    @staticmethod
    def build(exprs: Sequence[DimExpr], symbols: Sequence[str], stages: Mapping[str, int] | None = None) -> DimTable:
        """`stages`: run-time symbols, and the stage from 1 at which each is known.

        Raises ArtifactError for anything that is not a dim expression over these symbols.
        """
        return _Builder(symbols, stages or {}).table(exprs)


class _Builder:
    def __init__(self, symbols: Sequence[str], stages: Mapping[str, int]) -> None:
        self.symbols = tuple(symbols)
        self.stages = stages
        self.known = frozenset(symbols) | frozenset(stages)
        self.roots: list[int] = []
        self.ids: dict[Any, int] = {}  # key of a node: int constant, symbol name, or (fn, id, id)

    def table(self, exprs: Sequence[DimExpr]) -> DimTable:
        roots = self.roots
        for e in exprs:
            roots.append(self._visit(e))
        # Constants and symbols first, then operations in the order met, which is operands before users.
        keys = list(self.ids)
        constants = [k for k in keys if isinstance(k, int)]
        order = {k: i for i, k in enumerate([*constants, *self.symbols, *self.stages])}
        place = {self.ids[k]: order[k] for k in keys if not isinstance(k, tuple)}
        stage = {self.ids[k]: self.stages.get(k, 0) if isinstance(k, str) else 0 for k in keys if not isinstance(k, tuple)}
        code: list[list[Code]] = [[] for _ in range(1 + max(self.stages.values(), default=0))]
        count = len(order)
        for k in keys:
            if isinstance(k, tuple):
                fn, a, b = k
                place[self.ids[k]], stage[self.ids[k]] = count, max(stage[a], stage[b])
                code[stage[self.ids[k]]].append((FNS[fn], place[a], place[b], count))
                count += 1
        return DimTable(
            tuple(constants), self.symbols, {s: order[s] for s in self.stages}, count, tuple(map(tuple, code)),
            tuple(place[r] for r in roots), tuple(stage[r] for r in roots),
        )  # fmt: skip

    def _visit(self, expr: Any) -> int:
        stack: list[tuple[Any, int, bool]] = [(expr, 0, False)]
        done: list[int] = []
        while stack:
            e, depth, ready = stack.pop()
            if ready:
                b, a = done.pop(), done.pop()
                done.append(self._id((e[0], a, b)))
            elif type(e) is int and -LIMIT <= e <= LIMIT:
                done.append(self._id(e))
            elif not isinstance(e, list) or depth > _MAX_DEPTH:
                raise ArtifactError(f"bad dim expression {brief(e)}")
            elif len(e) == 2 and e[0] == "sym" and isinstance(e[1], str) and e[1] in self.known:
                done.append(self._id(e[1]))
            elif len(e) == 2 and e[0] == "slot" and type(e[1]) is int and 0 <= e[1] < len(self.roots):
                done.append(self.roots[e[1]])
            elif len(e) == 3 and isinstance(e[0], str) and e[0] in FNS:
                stack += [(e, depth, True), (e[2], depth + 1, False), (e[1], depth + 1, False)]
            else:
                raise ArtifactError(f"bad dim expression {brief(e)}")
        return done[0]

    def _id(self, key: Any) -> int:
        return self.ids.setdefault(key, len(self.ids))


def show(expr: DimExpr, exprs: Sequence[DimExpr] = ()) -> int | str:
    """An expression as users read it: 3, "B", "2*B + 1". `exprs`: what slots name."""
    return expr if isinstance(expr, int) else _show(expr, exprs, [_MOST_SHOWN])


def _show(expr: Any, exprs: Sequence[DimExpr], left: list[int]) -> str:
    if not isinstance(expr, list):
        return str(expr)
    left[0] -= 1
    if left[0] < 0:
        return "…"
    if expr[0] == "sym":
        return str(expr[1])
    if expr[0] == "slot":
        return _show(exprs[expr[1]], exprs, left)
    a, b = (_show(x, exprs, left) for x in expr[1:])
    match expr[0]:
        case "add":
            return f"{a} + {b}"
        case "mul":
            return "*".join(f"({t})" if " + " in t and t[:1] != "(" else t for t in (a, b))
        case _:
            return f"{expr[0]}({a}, {b})"
