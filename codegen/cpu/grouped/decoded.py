"""Few rows by weights of few bits: levels become floats in registers, right where they are multiplied.

A word of levels holds neighbouring elements of K, so that one load serves several steps. Sums of a group are scaled when it
is over: Σ x·(q − z)·s = s·(Σ x·q − z·Σ x).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import llvm_ir as ir
from ..build import I32, I64, PTR, subroutine, vec
from ..shelf import Shelf
from .frame import Frame, Results
from .strip import Strip

F32 = ir.FloatType()
_AHEAD = 2048  # 32-bit words of levels: hardware does not look beyond a page of 4 KiB


class DecodedTile:
    """void tile(bufs, dims, row, row_end, column): whole tiles of rows by one strip."""

    def __init__(self, f: Frame, height: int, masked: bool) -> None:
        self.f, self.s, self.height, self.levels, self.each = f, f.schedule, height, f.levels, f.each
        self.vector = vec(F32, self.s.lanes)
        b = self.b = subroutine(f.module, f"{height}{'t' if masked else ''}", [PTR, PTR, I64, I64, I64])
        bufs, dims, self.row, self.row_end, column = b.fn.args
        self.p = b.params(dims, f.size)
        operands = b.operands(bufs, len(f.kernel.operands))
        self.a = operands[0]
        self.strip = Strip(b, f, self.p, operands[1], column)
        self.results = Results(b, f, self.p, dims, operands, column, masked)
        count = height * self.s.vectors
        self.shelf = Shelf(b, self.vector, height, self.s.vectors)
        self.totals = [b.at(self.shelf.memory, b.i64(x), self.vector) for x in range(count)]

    def write(self) -> ir.Function:
        return self.b.whole(self.row, self.row_end, self.b.i64(self.height), self._tile)

    def _tile(self, at: Any, _: list[Any]) -> Sequence[Any]:
        b, i = self.b, self.b.ir
        self.starts = [b.at(self.a, i.mul(i.add(at, b.i64(r)), self.p["lda"]), F32) for r in range(self.height)]
        for total in self.totals:
            i.store(ir.Constant(self.vector, None), total, align=64)
        b.loop(b.i64(0), self.p["groups"], b.i64(1), [], self._group)
        self.results.store_rows(at, self.height, self.shelf)
        return ()

    def _group(self, g: Any, _: list[Any]) -> Sequence[Any]:
        """totals += scale · (Σ x·q − zero · Σ x) of group g."""
        b, i, p, s = self.b, self.b.ir, self.p, self.s
        first = i.mul(g, p["group"])
        stop = b.smin(i.add(first, p["group"]), p["words"])
        block = self.strip.block(g)
        acc, sums = self._sums(block, first, stop)
        self.strip.prefetch_scales(block, _AHEAD)
        for v in range(s.vectors):
            scale, zero = self.strip.scale(block, v), self.strip.zero(block, v)
            if zero is None and self.levels.needs_sums:
                zero = ir.Constant(self.vector, float(self.levels.common_zero))
            for r in range(self.height):
                x = acc[r * s.vectors + v]
                if zero is not None:
                    x = i.fsub(x, i.fmul(zero, b.splat(sums[r], s.lanes)))
                total = self.totals[r * s.vectors + v]
                i.store(b.fma(x, scale, b.load(self.vector, total, 64), self.f.target.fma), total, align=64)
        return ()

    def _sums(self, block: Any, first: Any, stop: Any) -> tuple[list[Any], list[Any]]:
        """Σ x·q by row and vector, and Σ x by row where needed, of the elements of words [first, stop); `block` begins with the first."""
        b, i, p = self.b, self.b.ir, self.p
        end = b.smin(stop, p["whole"])
        partial = i.icmp_signed(">", stop, p["whole"])
        count = self.height * self.s.vectors
        sums_of = vec(F32, self.each)
        zeros = [ir.Constant(sums_of, None)] * self.height if self.levels.needs_sums else []

        def word(at: Any, carried: list[Any]) -> Sequence[Any]:
            acc, totals = carried[:count], carried[count:]
            k = i.mul(at, b.i64(self.each))
            packed = self._words(block, i.sub(at, first))
            for j in range(self.each):
                acc = self._multiply(acc, packed, ir.Constant(I32, j * self.levels.bits), i.add(k, b.i64(j)))
            if self.levels.needs_sums:
                totals = [i.fadd(t, b.load(sums_of, b.at(x, k, F32), 4)) for t, x in zip(totals, self.starts, strict=True)]
            return [*acc, *totals]

        out = b.loop(first, end, b.i64(1), [*[ir.Constant(self.vector, None)] * count, *zeros], word)
        acc, totals = out[:count], out[count:]
        sums = [b.call(f"llvm.vector.reduce.fadd.v{self.each}f32", F32, ir.Constant(F32, 0.0), t) for t in totals]
        return self._tail(block, first, partial, acc, sums) if self.s.tail else (acc, sums)

    def _tail(self, block: Any, first: Any, partial: Any, acc: list[Any], sums: list[Any]) -> tuple[list[Any], list[Any]]:
        """The same with the elements behind the last whole word, where the group has such a `partial` one."""
        b, i, last = self.b, self.b.ir, self.p["whole"]

        def single(j: Any, carried: list[Any]) -> Sequence[Any]:
            acc, sums = carried[: self.height * self.s.vectors], carried[self.height * self.s.vectors :]
            shift = i.trunc(i.mul(j, b.i64(self.levels.bits)), I32)
            k = i.add(i.mul(last, b.i64(self.each)), j)
            acc = self._multiply(acc, self._words(block, i.sub(last, first)), shift, k)
            return [*acc, *(i.fadd(t, b.load(F32, b.at(x, k, F32), 4)) for t, x in zip(sums, self.starts, strict=False))]

        count = i.select(partial, b.i64(self.s.tail), b.i64(0))
        out = b.loop(b.i64(0), count, b.i64(1), [*acc, *sums], single)
        return out[: len(acc)], out[len(acc) :]

    def _words(self, block: Any, word: Any) -> list[Any]:
        self.strip.prefetch_levels(block, word, _AHEAD)
        return [self.strip.levels(block, word, v) for v in range(self.s.vectors)]

    def _multiply(self, acc: list[Any], packed: list[Any], shift: Any, k: Any) -> list[Any]:
        """acc + x[k] · (the levels `shift` bits up in the words)."""
        b, s = self.b, self.s
        x = [b.splat(b.load(F32, b.at(start, k, F32), 4), s.lanes) for start in self.starts]
        out = list(acc)
        for v, word in enumerate(packed):
            level = self.levels.floats(b, b.ir.lshr(word, b.splat(shift, s.lanes)))
            for r in range(self.height):
                out[r * s.vectors + v] = b.fma(x[r], level, out[r * s.vectors + v], self.f.target.fma)
        return out
