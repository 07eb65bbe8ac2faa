"""Digits of rows by levels as bytes, strip by strip.

One stream leaves memory idle where hardware looks ahead within a page only: several strips are read in turns, group by group. Elsewhere it
is what hardware reads fastest. Many rows take longer than reading does, and their totals fill caches: one strip at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I8, I32, I64, PTR, Builder, subroutine, vec
from ..dot.instructions import VectorDot, dot_kind
from .digits import ENTRY, places, register_tiles, whole_zero
from .frame import Frame, Results
from .strip import Strip

F32 = ir.FloatType()
STREAMED = 20  # rows up to which weights come from memory in several streams
_SUMS = 24  # registers of sums


class Streams:
    """void strips(bufs, dims, begin, end, planes, table, first, rows): rows from `first` on by strips [begin, end), in streams."""

    def __init__(self, f: Frame) -> None:
        self.f, self.s = f, f.schedule
        self.floats = vec(F32, self.s.lanes)
        b = self.b = subroutine(f.module, "strips", [PTR, PTR, I64, I64, PTR, PTR, I64, I64])
        i = b.ir
        self.bufs, self.dims, self.begin, end, self.planes, self.table, self.first, self.rows = b.fn.args
        self.p = b.params(self.dims, f.size)
        self.weights = b.operand(self.bufs, 1)
        self.finish = {masked: _finish_function(f, masked) for masked in ((False, True) if self.s.masked else (False,))}
        self.columns = b.i64(f.columns)
        self.line = i.mul(self.rows, b.i64(self.s.vectors))  # vectors of the totals of a strip
        streams = i.select(i.icmp_unsigned("<=", self.rows, b.i64(STREAMED)), b.i64(self.s.reading.streams), b.i64(1))
        self.totals = b.alloca(self.floats, i.mul(self.line, streams))
        self.count = i.sub(end, self.begin)
        self.rounds = i.udiv(i.add(self.count, i.sub(streams, b.i64(1))), streams)
        self.tiles = list(register_tiles(b, f, self.rows))

    def write(self) -> ir.Function:
        return self.b.whole(self.b.i64(0), self.rounds, self.b.i64(1), self._round)

    def _round(self, r: Any, _: list[Any]) -> Sequence[Any]:
        """Strips r, r + rounds, …, each a stream."""
        b, i = self.b, self.b.ir
        active = i.udiv(i.sub(i.add(self.count, i.sub(self.rounds, b.i64(1))), r), self.rounds)

        def clear(t: Any, _: list[Any]) -> Sequence[Any]:
            i.store(ir.Constant(self.floats, None), b.at(self.totals, t, self.floats), align=64)
            return ()

        def group(g: Any, _: list[Any]) -> Sequence[Any]:
            b.loop(b.i64(0), active, b.i64(1), [], lambda t, _: self._group(r, t, g))
            return ()

        b.loop(b.i64(0), i.mul(active, self.line), b.i64(1), [], clear)
        b.loop(b.i64(0), self.p["groups"], b.i64(1), [], group)
        b.loop(b.i64(0), active, b.i64(1), [], lambda t, _: self._finish(r, t))
        return ()

    def _column(self, r: Any, t: Any) -> Any:
        """The first column of stream t."""
        i = self.b.ir
        return i.mul(i.add(i.add(self.begin, r), i.mul(t, self.rounds)), self.columns)

    def _group(self, r: Any, t: Any, g: Any) -> Sequence[Any]:
        """Group g of all rows by the strip of stream t."""
        b, i, p = self.b, self.b.ir, self.p
        strip = Strip(b, self.f, p, self.weights, self._column(r, t))
        totals = b.at(self.totals, i.mul(t, self.line), self.floats)
        for h, first, count in self.tiles:

            def tile(n: Any, _: list[Any], h: int = h, first: Any = first) -> Sequence[Any]:
                row = i.add(first, i.mul(n, b.i64(h)))
                own = b.at(totals, i.mul(row, b.i64(self.s.vectors)), self.floats)
                digits, entries = places(b, self.f, p, row, self.planes, self.table)
                _GroupProduct(b, self.f, p, strip, g, h).add(digits, entries, own)
                return ()

            b.loop(b.i64(0), count, b.i64(1), [], tile)
        return ()

    def _finish(self, r: Any, t: Any) -> Sequence[Any]:
        b, i = self.b, self.b.ir
        column = self._column(r, t)
        args = [self.bufs, self.dims, column, b.at(self.totals, i.mul(t, self.line), self.floats), self.first, self.rows]
        if not self.s.masked:
            i.call(self.finish[False], args)
            return ()
        with i.if_else(i.icmp_signed(">=", i.sub(self.p["n"], column), self.columns)) as (full, partial):
            with full:
                i.call(self.finish[False], args)
            with partial:
                i.call(self.finish[True], args)
        return ()


class _GroupProduct:
    """Group g of `height` rows by a strip's block of it."""

    def __init__(self, b: Builder, f: Frame, p: dict[str, Any], strip: Strip, g: Any, height: int) -> None:
        self.b, self.f, self.p, self.s, self.strip, self.g, self.height = b, f, p, f.schedule, strip, g, height
        self.digits = f.schedule.digits
        self.asks = height * self.digits >= self.s.reading.busy
        self.words, self.floats = vec(I32, f.schedule.lanes), vec(F32, f.schedule.lanes)
        self.dot = VectorDot(dot_kind(DType.U8, DType.I8), "dot", f.schedule.lanes)
        self.block = strip.block(g)

    def add(self, planes: Any, table: Any, totals: Any) -> None:
        """totals += the product, as many vectors of columns at a time as there are registers."""
        b, i, g, height = self.b, self.b.ir, self.g, self.height
        entries = [b.at(table, i.mul(i.add(i.mul(g, b.i64(height)), b.i64(r)), b.i64(ENTRY)), I32) for r in range(height)]
        digits = b.at(planes, i.mul(i.mul(g, self.p["group"]), b.i64(height * self.digits * self.f.each)), I8)
        wide = max(1, min(self.s.vectors, _SUMS // (height * self.digits)))
        for at in range(0, self.s.vectors, wide):
            vectors = range(at, min(at + wide, self.s.vectors))
            self._scaled(vectors, entries, self._sums(vectors, entries, digits), totals)
        if self.asks:
            self.strip.prefetch_scales(self.block, self.s.reading.ahead)

    def _sums(self, vectors: range, entries: Sequence[Any], digits: Any) -> list[Any]:
        """Σ digit · level, [rows, digits, vectors]."""
        b, each, lanes, count = self.b, self.f.each, self.s.lanes, len(vectors)

        def word(w: Any, acc: list[Any]) -> Sequence[Any]:
            acc = list(acc)
            if vectors[0] == 0 and self.asks:
                self.strip.prefetch_levels(self.block, w, self.s.reading.ahead)
            here = b.at(digits, b.ir.mul(w, b.i64(self.height * self.digits * each)), I8)
            levels = [self._levels(w, v) for v in vectors]
            for n in range(self.height * self.digits):
                for h in range(each // 4):
                    bytes_of = b.splat(b.load(I32, b.at(here, b.i64(n * each + 4 * h), I8), 4), lanes)
                    for v in range(count):
                        acc[n * count + v] = self.dot(b, acc[n * count + v], levels[v][h], bytes_of)
            return acc

        begins = []
        for entry in entries:
            for d in range(self.digits):
                begins += [b.splat(b.load(I32, b.at(entry, b.i64(d), I32), 4), lanes)] * count
        return b.loop(b.i64(0), self.p["group"], b.i64(1), begins, word)

    def _levels(self, w: Any, v: int) -> list[Any]:
        """Levels of word w of the group as bytes: as they are, or the low halves and the high ones."""
        i = self.b.ir
        x = self.strip.levels(self.block, w, v)
        if self.f.kernel.bits == 8:
            return [x]
        low, four = ir.Constant(self.words, 0x0F0F0F0F), ir.Constant(self.words, 4)
        return [i.and_(x, low), i.and_(i.lshr(x, four), low)]

    def _scaled(self, vectors: range, entries: Sequence[Any], sums: Sequence[Any], totals: Any) -> None:
        """totals += scale · (Σ weight of the digit · sum − zero · Σ x)"""
        b, i, lanes, kernel = self.b, self.b.ir, self.s.lanes, self.f.kernel
        scales = [self.strip.scale(self.block, v) for v in vectors]
        zeros = [self.strip.zero(self.block, v) for v in vectors]
        for r, entry in enumerate(entries):
            weights = [b.splat(b.load(F32, b.at(entry, b.i64(self.digits + d), I32), 4), lanes) for d in range(self.digits)]
            total = b.splat(b.load(F32, b.at(entry, b.i64(2 * self.digits), I32), 4), lanes)
            for at, (v, scale, zero) in enumerate(zip(vectors, scales, zeros, strict=True)):
                x: Any = None
                for d in range(self.digits):
                    part = i.sitofp(sums[(r * self.digits + d) * len(vectors) + at], self.floats)
                    x = i.fmul(part, weights[d]) if x is None else b.fma(part, weights[d], x)
                if zero is None and whole_zero(kernel) is None:
                    zero = ir.Constant(self.floats, float(kernel.zero or 0.0))
                if zero is not None:
                    x = i.fsub(x, i.fmul(zero, total))
                slot = b.at(totals, b.i64(r * self.s.vectors + v), self.floats)
                i.store(b.fma(x, scale, b.load(self.floats, slot, 64)), slot, align=64)


def _finish_function(f: Frame, masked: bool) -> ir.Function:
    """void finish(bufs, dims, column, totals [rows, vectors], first, rows)"""
    s, floats = f.schedule, vec(F32, f.schedule.lanes)
    b = subroutine(f.module, f"finish{'t' if masked else ''}", [PTR, PTR, I64, PTR, I64, I64])
    i = b.ir
    bufs, dims, column, totals, first, rows = b.fn.args
    p = b.params(dims, f.size)
    results = Results(b, f, p, dims, b.operands(bufs, len(f.kernel.operands)), column, masked)

    def row(m: Any, _: list[Any]) -> Sequence[Any]:
        own = b.at(totals, i.mul(m, b.i64(s.vectors)), floats)
        results.store(i.add(first, m), [b.load(floats, b.at(own, b.i64(v), floats), 64) for v in range(s.vectors)])
        return ()

    b.loop(b.i64(0), rows, b.i64(1), [], row)
    i.ret_void()
    return b.fn
