"""Many rows by weights of few bits on AMX tiles, about as exact as long float32 sums.

A float is the sum of two bfloat16, x = h + l + ε with |ε| ≤ 2⁻¹⁶|x|, and so is a weight (level − zero)·scale. Three products
of bfloat16 then make one of floats: h·h' + h·l' + l·h', where l·l' is as small as ε; tiles add them up in float32. Rounding
is symmetric, so that what is lost averages out: 4·10⁻⁶ of the norm, what float32 loses in a sum of some thousands. That takes
three passes of an instruction with sixteen times the rate of a vector multiply-add.

A unit splits its rows of A once, and each strip of weights once, by blocks of K that the second-level cache holds; sums of a
block wait in memory for those of the next. Both lie in the order in which tiles read them: blocks of 16 rows (of A, or pairs of
rows of B) by 64 bytes. Rows that hold an infinity, or what rounds to one, cannot be split: the caller then multiplies as for few
rows. Results are written behind the last block of K, so that it still can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I1, I8, I16, I32, I64, PTR, Builder, subroutine, vec
from ..tiles import BYTES, ROWS, Tiles
from .frame import Frame, Results

F32 = ir.FloatType()
_STEP = 32  # elements of K that one tile instruction takes
_BLOCK = ROWS * BYTES  # bytes of a full tile
_LANES = 16
_HALF = 0x8000  # added before the low 16 bits are cut off: rounds to nearest, halves away from zero
_HIGH = 0xFFFF0000
_LARGEST = 0x7F7F8000  # the least magnitude that rounds to infinity


class Split:
    """Floats to their parts: `split` for rows of A, `store_weights` for a strip of weights."""

    def __init__(self, f: Frame) -> None:
        self.f, self.s = f, f.schedule
        self.words, self.floats = vec(I32, _LANES), vec(F32, _LANES)

    def split(self) -> ir.Function:
        """i1 split(rows of A, lda, k, count, out): high parts, then low parts `half` bytes on; false where rows cannot be split."""
        b = subroutine(self.f.module, "split", [PTR, I64, I64, I64, PTR, I64], I1)
        i = b.ir
        a, lda, k, count, out, half = b.fn.args
        steps = tile_steps(b, k)

        def row(r: Any, seen: list[Any]) -> Sequence[Any]:
            line = b.at(a, i.mul(r, lda), F32)
            block = i.mul(i.mul(i.udiv(r, b.i64(ROWS)), steps), b.i64(_BLOCK))
            to = b.at(out, i.add(block, i.mul(i.urem(r, b.i64(ROWS)), b.i64(BYTES))), I8)

            def chunk(masked: bool) -> Callable[[Any, list[Any]], Sequence[Any]]:
                def run(c: Any, seen: list[Any]) -> Sequence[Any]:
                    at = i.mul(c, b.i64(_LANES))
                    source = b.at(line, at, F32)
                    x = (
                        b.load(self.floats, source, 4)
                        if not masked
                        else b.masked_load(self.floats, source, b.below(i.sub(k, at), _LANES), 4)
                    )
                    high, low = self._parts(b, x)
                    place = i.add(i.mul(i.udiv(c, b.i64(2)), b.i64(_BLOCK)), i.mul(i.urem(c, b.i64(2)), b.i64(BYTES // 2)))
                    for part, offset in ((high, b.i64(0)), (low, half)):
                        upper = i.trunc(i.lshr(part, ir.Constant(self.words, 16)), vec(I16, _LANES))
                        i.store(upper, b.at(to, i.add(place, offset), I8), align=32)
                    size = i.and_(i.bitcast(x, self.words), ir.Constant(self.words, 0x7FFFFFFF))
                    return [b.call(f"llvm.umax.v{_LANES}i32", self.words, seen[0], size)]

                return run

            whole = i.udiv(k, b.i64(_LANES))
            seen = b.loop(b.i64(0), whole, b.i64(1), seen, chunk(False))
            return b.loop(whole, i.mul(steps, b.i64(_STEP // _LANES)), b.i64(1), seen, chunk(True))

        (seen,) = b.loop(b.i64(0), count, b.i64(1), [ir.Constant(self.words, None)], row)
        largest = b.call(f"llvm.vector.reduce.umax.v{_LANES}i32", I32, seen)
        i.ret(i.icmp_unsigned("<", largest, ir.Constant(I32, _LARGEST)))
        return b.fn

    def store_weights(self, b: Builder, strip: Any, half: Any, pair: Any, columns: Sequence[tuple[Any, Any]]) -> None:
        """A pair of rows of weights, for each vector of columns, into the scratch of their strip."""
        i, v = b.ir, len(columns)
        step, line = i.udiv(pair, b.i64(ROWS)), i.urem(pair, b.i64(ROWS))
        at = i.add(i.mul(step, b.i64(v * _BLOCK)), i.mul(line, b.i64(BYTES)))
        upper = ir.Constant(self.words, _HIGH)
        for c, rows in enumerate(columns):
            parts = [self._parts(b, x) for x in rows]
            for which, offset in ((0, b.i64(c * _BLOCK)), (1, i.add(half, b.i64(c * _BLOCK)))):
                even, odd = (p[which] for p in parts)
                word = i.or_(i.and_(odd, upper), i.lshr(even, ir.Constant(self.words, 16)))
                i.store(word, b.at(strip, i.add(at, offset), I8), align=64)

    def clear(self, b: Builder, strip: Any, half: Any, first: Any, last: Any) -> None:
        """Zeros for pairs of rows that there are none of."""
        zero = ir.Constant(self.floats, None)

        def pair(at: Any, _: list[Any]) -> Sequence[Any]:
            self.store_weights(b, strip, half, at, [(zero, zero)] * self.s.vectors)
            return ()

        b.loop(first, last, b.i64(1), [], pair)

    def _parts(self, b: Builder, x: Any) -> tuple[Any, Any]:
        """Bits of h and l; only their upper 16 count, and of h the others are zero."""
        i, half = b.ir, ir.Constant(self.words, _HALF)
        high = i.and_(i.add(i.bitcast(x, self.words), half), ir.Constant(self.words, _HIGH))
        low = i.fsub(x, i.bitcast(high, self.floats))
        return high, i.add(i.bitcast(low, self.words), half)


class SplitProduct:
    """void product(bufs, dims, first, count, column, a, a_half, strip, half, k, from, last, sums): `count` rows from `first` on by
    the strip, for a block of `k` elements; `sums` of the strip [count, columns] go on where `from`, and are finished where `last`.

    Sums are in tiles 0 … 3, A in 4 and 5, B in 6 and 7.
    """

    def __init__(self, f: Frame, masked: bool) -> None:
        self.f, self.vectors = f, f.schedule.vectors
        self.floats = vec(F32, _LANES)
        b = self.b = subroutine(f.module, f"amx{'t' if masked else ''}", [PTR, PTR, I64, I64, I64, PTR, I64, PTR, I64, I64, I1, I1, PTR])
        bufs, dims, self.first, self.count, column, self.a, self.a_half, self.strip, self.half, k, *state = b.fn.args
        self.goes_on, self.last, self.sums = state
        p = b.params(dims, f.size)
        self.results = Results(b, f, p, dims, b.operands(bufs, len(f.kernel.operands)), column, masked, hold=True)
        self.steps = tile_steps(b, k)
        self.tiles = Tiles(b, DType.BF16)

    def write(self) -> ir.Function:
        return self.b.whole(self.b.i64(0), self.count, self.b.i64(2 * ROWS), self._rows)

    def _rows(self, at: Any, _: list[Any]) -> Sequence[Any]:
        """Up to 32 rows by the strip."""
        b, i = self.b, self.b.ir
        left = i.sub(self.count, at)
        block = b.at(self.a, i.mul(i.mul(i.udiv(at, b.i64(ROWS)), self.steps), b.i64(_BLOCK)), I8)
        found = b.at(self.sums, i.mul(at, b.i64(self.vectors)), self.floats)
        with i.if_else(i.icmp_signed(">", left, b.i64(ROWS))) as (two, one):
            for high, branch in ((2, two), (1, one)):
                with branch:
                    for v in range(0, self.vectors, 2):
                        self._multiply(high, range(v, min(v + 2, self.vectors)), block, found)

        def finish(r: Any, _: list[Any]) -> Sequence[Any]:
            line = b.at(found, i.mul(r, b.i64(self.vectors)), self.floats)
            acc = [b.load(self.floats, b.at(line, b.i64(v), self.floats), 64) for v in range(self.vectors)]
            self.results.store(i.add(self.first, i.add(at, r)), acc)
            return ()

        with i.if_then(self.last):
            b.loop(b.i64(0), b.smin(left, b.i64(2 * ROWS)), b.i64(1), [], finish)
        return ()

    def _multiply(self, high: int, columns: range, a: Any, sums: Any) -> None:
        """16·high rows by those vectors of columns: the three products of parts, in every step along K."""
        b, i, t = self.b, self.b.ir, self.tiles
        places = [(x, y) for x in range(high) for y in range(len(columns))]

        def each(run: Callable[[int, Any], None]) -> None:
            """run(tile, where its sums are)"""
            for x, y in places:
                run(2 * x + y, b.at(sums, b.i64(x * ROWS * self.vectors + columns[y]), self.floats))

        row = b.i64(self.vectors * BYTES)
        with i.if_else(self.goes_on) as (then, other):
            with then:
                each(lambda tile, at: t.load(tile, at, row))
            with other:
                each(lambda tile, at: t.zero(tile))

        def multiply() -> None:
            for x, y in places:
                t.multiply(2 * x + y, 4 + x, 6 + y)

        def step(at: Any, _: list[Any]) -> Sequence[Any]:
            self._load_a(high, a, at, b.i64(0))
            self._load_b(columns, at, self.half)
            multiply()
            self._load_b(columns, at, b.i64(0))
            multiply()
            self._load_a(high, a, at, self.a_half)
            multiply()
            return ()

        b.loop(b.i64(0), self.steps, b.i64(1), [], step)
        each(lambda tile, at: t.store(tile, at, row))

    def _load_a(self, high: int, a: Any, at: Any, offset: Any) -> None:
        b, i = self.b, self.b.ir
        for x in range(high):
            block = i.mul(i.add(i.mul(self.steps, b.i64(x)), at), b.i64(_BLOCK))
            self.tiles.load(4 + x, b.at(a, i.add(block, offset), I8), b.i64(BYTES))

    def _load_b(self, columns: range, at: Any, offset: Any) -> None:
        b, i = self.b, self.b.ir
        for y, v in enumerate(columns):
            block = i.mul(i.add(i.mul(at, b.i64(self.vectors)), b.i64(v)), b.i64(_BLOCK))
            self.tiles.load(6 + y, b.at(self.strip, i.add(block, offset), I8), b.i64(BYTES))


def tile_steps(b: Builder, k: Any) -> Any:
    """Tile instructions along K."""
    return b.ir.udiv(b.ir.add(k, b.i64(_STEP - 1)), b.i64(_STEP))
