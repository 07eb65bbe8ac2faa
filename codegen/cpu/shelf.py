"""Results that wait on the stack for their epilogue: a long one is written once, in a loop over rows, not once a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .build import Builder

_ALIGN = 16  # bytes that all vectors are multiples of


class Shelf:
    """Room for `rows` of `vectors` vectors each."""

    def __init__(self, b: Builder, vector: Any, rows: int, vectors: int) -> None:
        self.b, self.vector, self.vectors = b, vector, vectors
        self.memory = b.alloca(vector, b.i64(rows * vectors))

    def put(self, at: Any, value: Any) -> None:
        """`value` is vector number `at` of all."""
        self.b.ir.store(value, self.b.at(self.memory, at, self.vector), align=_ALIGN)

    def row(self, r: Any) -> list[Any]:
        """The vectors of row r."""
        b = self.b
        at = b.at(self.memory, b.ir.mul(r, b.i64(self.vectors)), self.vector)
        return [b.load(self.vector, b.at(at, b.i64(v), self.vector), _ALIGN) for v in range(self.vectors)]

    def each(self, count: Any, finish: Callable[[Any, Sequence[Any]], object]) -> None:
        """`finish` of each of the first `count` rows: its number and its vectors."""

        def one(r: Any, _: list[Any]) -> Sequence[Any]:
            finish(r, self.row(r))
            return ()

        self.b.loop(self.b.i64(0), count, self.b.i64(1), [], one)
