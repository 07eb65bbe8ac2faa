"""Products of 32 rows by 32 queries in bfloat16, that attention with rounded operands is made of: on tile registers, or on vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I8, I32, Builder, vec
from ..dot.instructions import VectorDot, dot_kind
from ..tiles import BYTES, ROWS, Tiles

_F32 = ir.FloatType()
_LANES, SIDE = 16, 32  # queries of a vector, of a square; rows of a square
_LINE = 4 * SIDE  # bytes of a row of the result, and of a pair of rows of B
_PAIRS = 16  # of a step
_UNROLL = 4  # of these at a time, on vectors
_TALL = (11, 11, 10)  # rows of register tiles of two vectors

Rows = Callable[[Any], tuple[Any, Any, int]]  # step -> the first 16 rows of A, the other 16, bytes from one row to the next
Right = Callable[[Any], Any]  # step -> 16 rows of B, each of 32 pairs


class Squares(Protocol):
    """Σ over steps of 16 pairs: A has 32 rows of pairs, B a row of 32 queries for each pair; the result 32 rows of float32."""

    def begin(self) -> None: ...

    def multiply(self, steps: Any, a: Rows, right: Right, out: Any) -> None: ...

    def end(self) -> None: ...


class OnTiles:
    """Four tile registers of sums, by two of A and two of B."""

    def __init__(self, b: Builder) -> None:
        self.b, self.tiles = b, Tiles(b, DType.BF16)

    def begin(self) -> None:
        self.tiles.configure()

    def multiply(self, steps: Any, a: Rows, right: Right, out: Any) -> None:
        b, t = self.b, self.tiles
        for x in range(4):
            t.zero(x)

        def step(s: Any, _: list[Any]) -> Sequence[Any]:
            upper, lower, stride = a(s)
            rows = right(s)
            t.load(4, upper, b.i64(stride))
            t.load(5, lower, b.i64(stride))
            for y in range(2):
                t.load(6 + y, b.at(rows, b.i64(y * BYTES), I8), b.i64(_LINE))
            for x in range(2):
                for y in range(2):
                    t.multiply(2 * x + y, 4 + x, 6 + y)
            return ()

        b.loop(b.i64(0), steps, b.i64(1), [], step)
        for x in range(2):
            for y in range(2):
                t.store(2 * x + y, b.at(out, b.i64(x * ROWS * _LINE + y * BYTES), I8), b.i64(_LINE))

    def end(self) -> None:
        self.tiles.release()


class OnVectors:
    """Sums of up to 11 rows in registers: a pair of A in all lanes by two vectors of B."""

    def __init__(self, b: Builder) -> None:
        self.b, self.dot = b, VectorDot(dot_kind(DType.BF16, DType.BF16), "dot", _LANES)
        self.sums, self.pairs = vec(_F32, _LANES), vec(I32, _LANES)

    def begin(self) -> None:
        pass

    def multiply(self, steps: Any, a: Rows, right: Right, out: Any) -> None:
        b = self.b
        fourths = b.ir.mul(steps, b.i64(_PAIRS // _UNROLL))
        first = 0
        for tall in _TALL:
            rows = range(first, first + tall)
            zeros = [ir.Constant(self.sums, None)] * (2 * tall)
            done = b.loop(b.i64(0), fourths, b.i64(1), zeros, partial(self._step, rows, a, right))
            for n, x in enumerate(done):
                at = (rows[n // 2]) * _LINE + n % 2 * 4 * _LANES
                b.ir.store(x, b.at(out, b.i64(at), I8), align=64)
            first += tall

    def _step(self, rows: range, a: Rows, right: Right, fourth: Any, sums: list[Any]) -> list[Any]:
        """Four pairs of some rows."""
        acc = list(sums)
        b, i = self.b, self.b.ir
        step, part = i.udiv(fourth, b.i64(_PAIRS // _UNROLL)), i.urem(fourth, b.i64(_PAIRS // _UNROLL))
        upper, lower, stride = a(step)
        upper, lower = (b.at(x, i.mul(part, b.i64(4 * _UNROLL)), I8) for x in (upper, lower))
        line = b.at(right(step), i.mul(part, b.i64(_UNROLL * _LINE)), I8)
        for pair in range(_UNROLL):
            columns = [b.load(self.pairs, b.at(line, b.i64(pair * _LINE + v * 4 * _LANES), I8), 64) for v in range(2)]
            for n, r in enumerate(rows):
                half = upper if r < ROWS else lower
                x = b.splat(b.load(I32, b.at(half, b.i64(r % ROWS * stride + 4 * pair), I8), 4), _LANES)
                for v in range(2):
                    acc[2 * n + v] = self.dot(b, acc[2 * n + v], x, columns[v])
        return acc

    def end(self) -> None:
        pass
