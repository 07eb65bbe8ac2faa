"""Few rows by weights of few bits, as decoders of text have them: dot products of bytes, in several streams from memory.

The elements of a group of a row of A become integers of 23 bits, x = q·2^(e−22) with |x| < 2^e for all of them, and those three
signed bytes, q = d₀ + 2⁸·d₁ + 2¹⁶·d₂. Levels are bytes as they are, so that sums of d·level are exact: what is lost is the rounding
of A to 2⁻²³ of the largest element of a group, about what float32 loses in the sum. That takes half the instructions of turning
levels into floats, which would be as slow as reading them from memory.

Digits lie in the order in which they are multiplied: for each word of levels those of all rows of a register tile. One stream
leaves memory idle, as hardware looks ahead within a page only: several strips are read in turns, group by group.
Rows that hold an infinity, NaN, or a group of nothing but tiny numbers are left to the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ....ir import DType
from ...group_blocks import GroupBlocks
from ...kernel import GroupedKernel
from .. import llvm_ir as ir
from ..build import I1, I8, I32, I64, PTR, Builder, storage, subroutine, vec
from ..dot.instructions import VectorDot, dot_kind
from ..epilogue import Epilogue
from ..target import CpuTarget
from .schedule import GroupedSchedule
from .strip import Strip

F32 = ir.FloatType()
_DIGITS = 3
STREAMS = 4
_AHEAD = 512  # words: a stream is short
_KEPT = 22  # bits of the largest element, without its sign
_ENTRY = 8  # 32-bit numbers of a group: what sums begin with, by digit; the weights of the digits; 2^(e−22)·Σ q
_SLACK = 128  # bytes behind the digits of a row, into which whole vectors may run
_SUMS = 24  # registers of sums
_BIAS = 127


class RowProduct:
    """Functions of one module: `digits` of a register tile of rows, `strips` by all of them, `finish` a strip."""

    def __init__(self, module: ir.Module, kernel: GroupedKernel, blocks: GroupBlocks, schedule: GroupedSchedule, target: CpuTarget,
                 size: dict[str, int], epilogue: Epilogue) -> None:  # fmt: skip
        self.module, self.kernel, self.blocks, self.s, self.target = module, kernel, blocks, schedule, target
        self.size, self.epilogue = size, epilogue
        self.each = 32 // kernel.bits
        self.words, self.floats = vec(I32, schedule.lanes), vec(F32, schedule.lanes)
        zero = kernel.zero
        self.whole_zero = int(zero) if zero is not None and zero == int(zero) and 0 <= zero < 1 << kernel.bits else None

    def run_if_few(self, b: Builder, p: dict[str, Any], args: Sequence[Any]) -> None:
        """Do all of the call, strips [begin, end), where rows are few and have digits; else go on behind."""
        i, heights = b.ir, self.s.integers
        bufs, dims, begin, end = args
        digits = {h: self._digits(h) for h in heights}
        strips = self._strips()
        few = i.icmp_unsigned("<=", i.sub(p["m"], b.i64(1)), b.i64(self.s.few - 1))
        rows = i.select(few, p["m"], b.i64(0))
        planes = b.alloca(I8, i.add(i.mul(rows, self._plane(b, p)), b.i64(_SLACK * max(heights))))
        table = b.alloca(I32, i.mul(i.mul(p["groups"], rows), b.i64(_ENTRY)))
        with i.if_then(few):
            a, fits = b.load(PTR, bufs, 8), ir.Constant(I1, 1)
            for h, first, count in self._tiles(b, rows):

                def tile(n: Any, seen: list[Any], h: int = h, first: Any = first) -> Sequence[Any]:
                    row = i.add(first, i.mul(n, b.i64(h)))
                    x = b.at(a, i.mul(row, p["lda"]), F32)
                    return [i.and_(seen[0], i.call(digits[h], [x, dims, *self._places(b, p, row, planes, table)]))]

                (fits,) = b.loop(b.i64(0), count, b.i64(1), [fits], tile)
            with i.if_then(fits):
                i.call(strips, [bufs, dims, begin, end, planes, table])
                i.ret_void()

    def _tiles(self, b: Builder, rows: Any) -> Iterator[tuple[int, Any, Any]]:
        """(height, first row, number) of register tiles."""
        i, done = b.ir, b.i64(0)
        for h in self.s.integers:
            count = i.udiv(i.sub(rows, done), b.i64(h))
            yield h, done, count
            done = i.add(done, i.mul(count, b.i64(h)))

    def _plane(self, b: Builder, p: dict[str, Any]) -> Any:
        """Bytes of the digits of a row."""
        return b.ir.mul(b.ir.mul(p["groups"], p["group"]), b.i64(self.each * _DIGITS))

    def _places(self, b: Builder, p: dict[str, Any], row: Any, planes: Any, table: Any) -> list[Any]:
        """Where digits and entries of a register tile begin that begins with `row`."""
        i = b.ir
        return [b.at(planes, i.mul(row, self._plane(b, p)), I8), b.at(table, i.mul(i.mul(row, p["groups"]), b.i64(_ENTRY)), I32)]

    def _digits(self, height: int) -> ir.Function:
        """i1 digits(x, dims, planes, table): bytes [words, height, digits, elements of a word], and an entry for each group and row;
        false where a row has none."""
        lanes, each = self.s.lanes, self.each
        b = subroutine(self.module, f"digits{height}", [PTR, PTR, PTR, PTR], I1)
        i = b.ir
        x, dims, planes, table = b.fn.args
        p = b.params(dims, self.size)
        words, floats = self.words, self.floats
        order = [*range(0, 8, 2), *range(1, 8, 2)]  # low halves of the bytes of a word, then high ones
        turned = [lane // 8 * 8 + order[lane % 8] for lane in range(lanes)] if self.kernel.bits == 4 else None
        word_of = ir.IntType(8 * each)

        def rows(r: Any, carried: list[Any]) -> Sequence[Any]:
            line = b.at(x, i.mul(r, p["lda"]), F32)
            own = b.at(planes, i.mul(r, b.i64(_DIGITS * each)), I8)

            def group(g: Any, carried: list[Any]) -> Sequence[Any]:
                start = i.mul(g, p["span"])
                stop = b.smin(i.add(start, p["span"]), p["k"])

                def load(at: Any) -> Any:
                    return b.masked_load(floats, b.at(line, at, F32), b.below(i.sub(stop, at), lanes), 4)

                def size(at: Any, seen: list[Any]) -> Sequence[Any]:
                    bits = i.and_(i.bitcast(load(at), words), ir.Constant(words, 0x7FFFFFFF))
                    return [b.call(f"llvm.umax.v{lanes}i32", words, seen[0], bits)]

                (seen,) = b.loop(start, stop, b.i64(lanes), [ir.Constant(words, None)], size)
                largest = b.call(f"llvm.vector.reduce.umax.v{lanes}i32", I32, seen)
                nothing = i.icmp_signed("==", largest, ir.Constant(I32, 0))
                exponent = i.lshr(largest, ir.Constant(I32, 23))
                least = ir.Constant(I32, _KEPT)
                fits = i.icmp_unsigned("<", i.sub(exponent, least), ir.Constant(I32, 255 - _KEPT))
                exponent = i.select(nothing, least, exponent)

                def power(biased: Any) -> Any:
                    return i.bitcast(i.shl(biased, ir.Constant(I32, 23)), F32)

                # |x| < 2^e with e = exponent − 126, as float32 counts from −127
                up = b.splat(power(i.sub(ir.Constant(I32, _BIAS + _KEPT + 126), exponent)), lanes)
                first = i.mul(g, p["group"])

                def split(at: Any, sums: list[Any]) -> Sequence[Any]:
                    scaled = b.call(f"llvm.rint.v{lanes}f32", floats, i.fmul(load(at), up))
                    rest, out = i.fptosi(scaled, words), []
                    word = i.add(first, i.udiv(i.sub(at, start), b.i64(each)))
                    to = b.at(own, i.mul(word, b.i64(height * _DIGITS * each)), I8)
                    for d in range(_DIGITS):
                        digit = i.trunc(rest, vec(I8, lanes))
                        out.append(i.add(sums[d], i.sext(digit, words)))
                        if turned is not None:
                            digit = i.shuffle_vector(digit, digit, ir.Constant(vec(I32, lanes), turned))
                        pieces = i.bitcast(digit, vec(word_of, lanes // each))
                        for n in range(lanes // each):
                            place = b.at(to, b.i64((n * height * _DIGITS + d) * each), I8)
                            i.store(i.extract_element(pieces, ir.Constant(I32, n)), place, align=1)
                        rest = i.ashr(i.add(rest, ir.Constant(words, 128)), ir.Constant(words, 8))
                    return out

                sums = b.loop(start, stop, b.i64(lanes), [ir.Constant(words, None)] * _DIGITS, split)
                sums = [b.call(f"llvm.vector.reduce.add.v{lanes}i32", I32, v) for v in sums]
                entry = b.at(table, i.mul(i.add(i.mul(g, b.i64(height)), r), b.i64(_ENTRY)), I32)
                total: Any = ir.Constant(F32, 0.0)
                for d, n in enumerate(sums):
                    weight = power(i.add(exponent, ir.Constant(I32, _BIAS - _KEPT - 126 + 8 * d)))
                    i.store(i.mul(n, ir.Constant(I32, -(self.whole_zero or 0))), b.at(entry, b.i64(d), I32), align=4)
                    i.store(weight, b.at(entry, b.i64(_DIGITS + d), I32), align=4)
                    total = i.fadd(total, i.fmul(i.sitofp(n, F32), weight))
                i.store(total, b.at(entry, b.i64(2 * _DIGITS), I32), align=4)
                return [i.and_(carried[0], i.or_(fits, nothing))]

            return b.loop(b.i64(0), p["groups"], b.i64(1), carried, group)

        (fits,) = b.loop(b.i64(0), b.i64(height), b.i64(1), [ir.Constant(I1, 1)], rows)
        i.ret(fits)
        return b.fn

    def _strips(self) -> ir.Function:
        """void strips(bufs, dims, begin, end, planes, table): all rows by strips [begin, end), in streams."""
        s = self.s
        b = subroutine(self.module, "strips", [PTR, PTR, I64, I64, PTR, PTR])
        i = b.ir
        bufs, dims, begin, end, planes, table = b.fn.args
        p = b.params(dims, self.size)
        weights = b.operand(bufs, 1)
        finish = {masked: self._finish(masked) for masked in ((False, True) if s.masked else (False,))}
        columns = b.i64(s.lanes * s.vectors)
        line = i.mul(p["m"], b.i64(s.vectors))
        totals = b.alloca(self.floats, i.mul(line, b.i64(STREAMS)))
        count = i.sub(end, begin)
        rounds = i.udiv(i.add(count, b.i64(STREAMS - 1)), b.i64(STREAMS))
        tiles = list(self._tiles(b, p["m"]))

        def one(r: Any, _: list[Any]) -> Sequence[Any]:
            active = i.udiv(i.sub(i.add(count, i.sub(rounds, b.i64(1))), r), rounds)

            def column_of(t: Any) -> Any:
                return i.mul(i.add(i.add(begin, r), i.mul(t, rounds)), columns)

            def clear(t: Any, _: list[Any]) -> Sequence[Any]:
                i.store(ir.Constant(self.floats, None), b.at(totals, t, self.floats), align=64)
                return ()

            b.loop(b.i64(0), i.mul(active, line), b.i64(1), [], clear)

            def group(g: Any, _: list[Any]) -> Sequence[Any]:
                def stream(t: Any, _: list[Any]) -> Sequence[Any]:
                    strip = Strip(b, self.blocks, s, self.target, p, weights, column_of(t))
                    sums = b.at(totals, i.mul(t, line), self.floats)
                    for h, first, tiles_of in tiles:

                        def tile(n: Any, _: list[Any], h: int = h, first: Any = first) -> Sequence[Any]:
                            row = i.add(first, i.mul(n, b.i64(h)))
                            own = b.at(sums, i.mul(row, b.i64(s.vectors)), self.floats)
                            self._group(b, p, strip, g, h, self._places(b, p, row, planes, table), own)
                            return ()

                        b.loop(b.i64(0), tiles_of, b.i64(1), [], tile)
                    return ()

                b.loop(b.i64(0), active, b.i64(1), [], stream)
                return ()

            b.loop(b.i64(0), p["groups"], b.i64(1), [], group)

            def last(t: Any, _: list[Any]) -> Sequence[Any]:
                column = column_of(t)
                args = [bufs, dims, column, b.at(totals, i.mul(t, line), self.floats)]
                if not s.masked:
                    i.call(finish[False], args)
                    return ()
                with i.if_else(i.icmp_signed(">=", i.sub(p["n"], column), columns)) as (full, partial):
                    with full:
                        i.call(finish[False], args)
                    with partial:
                        i.call(finish[True], args)
                return ()

            b.loop(b.i64(0), active, b.i64(1), [], last)
            return ()

        b.loop(b.i64(0), rounds, b.i64(1), [], one)
        i.ret_void()
        return b.fn

    def _group(self, b: Builder, p: dict[str, Any], strip: Strip, g: Any, height: int, places: Sequence[Any], totals: Any) -> None:
        """totals += group g of `height` rows by the strip's block of it, as many vectors of columns at a time as there are registers."""
        i, s, each = b.ir, self.s, self.each
        dot = VectorDot(dot_kind(DType.U8, DType.I8), "dot", s.lanes)
        block = strip.block(g)
        planes, table = places
        entries = [b.at(table, i.mul(i.add(i.mul(g, b.i64(height)), b.i64(r)), b.i64(_ENTRY)), I32) for r in range(height)]
        low, four = ir.Constant(self.words, 0x0F0F0F0F), ir.Constant(self.words, 4)
        digits = b.at(planes, i.mul(i.mul(g, p["group"]), b.i64(height * _DIGITS * each)), I8)
        wide = max(1, min(s.vectors, _SUMS // (height * _DIGITS)))

        def some(at: int, vectors: int) -> None:
            def word(w: Any, acc: list[Any]) -> Sequence[Any]:
                acc = list(acc)
                if at == 0:
                    strip.prefetch_levels(block, w, _AHEAD)
                here = b.at(digits, i.mul(w, b.i64(height * _DIGITS * each)), I8)
                halves = []
                for v in range(vectors):
                    x = strip.levels(block, w, at + v)
                    halves.append([x] if self.kernel.bits == 8 else [i.and_(x, low), i.and_(i.lshr(x, four), low)])
                for n in range(height * _DIGITS):
                    for h in range(each // 4):
                        bytes_of = b.splat(b.load(I32, b.at(here, b.i64(n * each + 4 * h), I8), 4), s.lanes)
                        for v in range(vectors):
                            acc[n * vectors + v] = dot(b, acc[n * vectors + v], halves[v][h], bytes_of)
                return acc

            begins = []
            for entry in entries:
                for d in range(_DIGITS):
                    begins += [b.splat(b.load(I32, b.at(entry, b.i64(d), I32), 4), s.lanes)] * vectors
            acc = b.loop(b.i64(0), p["group"], b.i64(1), begins, word)
            scales = [strip.scale(block, at + v) for v in range(vectors)]
            zeros = [strip.zero(block, at + v) for v in range(vectors)]
            for r, entry in enumerate(entries):
                factors = [b.splat(b.load(F32, b.at(entry, b.i64(_DIGITS + d), I32), 4), s.lanes) for d in range(_DIGITS)]
                total = b.splat(b.load(F32, b.at(entry, b.i64(2 * _DIGITS), I32), 4), s.lanes)
                for v, (scale, zero) in enumerate(zip(scales, zeros, strict=True)):
                    x: Any = None
                    for d in range(_DIGITS):
                        part = i.sitofp(acc[(r * _DIGITS + d) * vectors + v], self.floats)
                        x = i.fmul(part, factors[d]) if x is None else b.fma(part, factors[d], x)
                    if zero is None and self.whole_zero is None:
                        zero = ir.Constant(self.floats, float(self.kernel.zero or 0.0))
                    if zero is not None:
                        x = i.fsub(x, i.fmul(zero, total))
                    slot = b.at(totals, b.i64(r * s.vectors + at + v), self.floats)
                    i.store(b.fma(x, scale, b.load(self.floats, slot, 64)), slot, align=64)

        for at in range(0, s.vectors, wide):
            some(at, min(wide, s.vectors - at))
        strip.prefetch_scales(block, _AHEAD)

    def _finish(self, masked: bool) -> ir.Function:
        """void finish(bufs, dims, column, totals [rows, vectors])"""
        s, k = self.s, self.kernel
        b = subroutine(self.module, f"finish{'t' if masked else ''}", [PTR, PTR, I64, PTR])
        i = b.ir
        bufs, dims, column, totals = b.fn.args
        p = b.params(dims, self.size)
        pointers = b.operands(bufs, len(k.operands))
        live = i.sub(p["n"], column)
        masks = b.column_masks(live, s.lanes, s.vectors, masked)
        active = self.epilogue.begin(b, dims, pointers, b.i64(0), column, masks)
        element = storage(k.operands[-1].dtype)

        def row(m: Any, _: list[Any]) -> Sequence[Any]:
            own = b.at(totals, i.mul(m, b.i64(s.vectors)), self.floats)
            acc = [b.load(self.floats, b.at(own, b.i64(v), self.floats), 64) for v in range(s.vectors)]
            active.row(m, acc, b.at(pointers[-1], i.add(i.mul(m, p["ldc"]), column), element))
            return ()

        b.loop(b.i64(0), p["m"], b.i64(1), [], row)
        i.ret_void()
        return b.fn
