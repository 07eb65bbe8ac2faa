"""GroupedKernel → LLVM IR: weights of few bits become floats in registers, right where they are multiplied.

A word of levels holds neighbouring elements of K, so that one load serves several steps. Sums of a group are scaled when it
is over: Σ x·(q − z)·s = s·(Σ x·q − z·Σ x). Reading the levels is the floor for few rows of A; for many, a strip of weights
becomes floats once a unit (`expanded.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ....errors import CodegenError
from ....ir import Dim, DType, dim_max, dim_min
from ...kernel import GroupedKernel, bytes_of
from .. import llvm_ir as ir
from ..build import I32, I64, PTR, Builder, Params, kernel_function, storage, subroutine, vec
from ..emitted import Emitted, named
from ..epilogue import Epilogue
from ..math.minifloat import decode
from ..row_tiles import cut_rows
from ..target import CpuTarget
from ..text_cache import TextEmitter
from ..tiles import Tiles
from .expanded import Expanded
from .row import STREAMS, RowProduct
from .schedule import NO_HINTS, GroupedHints, GroupedSchedule, schedule_grouped
from .strip import Strip
from .tiles import TileProduct

F32 = ir.FloatType()
_CALL_BYTES = 160 << 10  # of weights that a call with one row reads at least: some 8 µs
_AHEAD = 2048  # 32-bit words of levels: hardware does not look beyond a page of 4 KiB


def emit_grouped(kernel: GroupedKernel, target: CpuTarget, hints: GroupedHints = NO_HINTS) -> Emitted:
    """Raises CodegenError for groups, epilogues or types of A that cannot be emitted, ScheduleError for hints that do not suit."""
    if kernel.operands[0].dtype is not DType.F32:
        raise CodegenError(f"{kernel.operands[0].dtype.value} by weights of few bits on the CPU", expected="float32")
    return _Emitter(kernel, schedule_grouped(kernel, target, hints), target).emit()


@dataclass(frozen=True)
class _Blocks:
    """Memory of a unit on AMX tiles. split: rows of A by a block of K, low parts `low` bytes on. sums: [strips, rows, columns].
    kept: the first of the rows that are split now, or −1."""

    split: Any
    low: Any
    sums: Any
    rows: Any
    kept: Any

    @classmethod
    def allocate(cls, b: Builder, p: dict[str, Any], s: GroupedSchedule) -> _Blocks:
        i = b.ir
        rows = i.and_(i.add(p["rows"], b.i64(31)), b.i64(-32))
        size = i.mul(p["depth"], rows)
        sums = b.alloca(F32, i.mul(i.mul(rows, p["chunk"]), b.i64(s.lanes * s.vectors)))
        kept = b.alloca(I64, b.i64(1))
        i.store(b.i64(-1), kept, align=8)
        return cls(b.alloca(F32, size), i.mul(size, b.i64(2)), sums, rows, kept)


_TileFunctions = dict[tuple[int, bool], ir.Function]  # by rows, and whether columns are masked


@dataclass(frozen=True)
class _Wide:
    """Functions for many rows: `expand` a strip of weights, then multiply by `tiles`, or `split` rows of A and use `products`."""

    expand: ir.Function
    tiles: _TileFunctions = field(default_factory=dict)
    split: ir.Function | None = None
    products: dict[bool, ir.Function] = field(default_factory=dict)


class _Emitter(TextEmitter):
    family = "grouped"

    def __init__(self, kernel: GroupedKernel, schedule: GroupedSchedule, target: CpuTarget) -> None:
        self.kernel, self.schedule, self.target = kernel, schedule, target
        self.each = 32 // kernel.bits
        self.vector, self.words = vec(F32, schedule.lanes), vec(I32, schedule.lanes)
        self.params = Params()
        words, blocks = -(-kernel.k // self.each), kernel.blocks
        if blocks is None:
            raise CodegenError("weights of few bits whose scales lie apart", expected="blocks of levels and scales")
        self.blocks = blocks
        sizes = {"m": kernel.m, "n": kernel.n, "lda": kernel.lda, "ldc": kernel.ldc, "rows": schedule.rows, "blocks": schedule.blocks,
                 "chunk": schedule.chunk, "strips": schedule.strips,
                 "whole": kernel.k // self.each, "words": words, "group": blocks.words, "groups": blocks.groups,
                 "k": kernel.k, "block": blocks.block, "scales": blocks.scales_at, "zeros": blocks.zeros_at,
                 "span": min(kernel.group, kernel.k), "depth": schedule.depth}  # fmt: skip
        self.size = {name: self.params.add(dim) for name, dim in sizes.items()}
        # a zero that all columns share comes off each level, where it is a whole number; others at the end of a group
        level = not (schedule.table or kernel.values or kernel.zero is None or kernel.zero != int(kernel.zero))
        self.level_zero = int(kernel.zero or 0) if level else 0
        self.needs_sums = kernel.zero is None or not (schedule.table or kernel.zero == self.level_zero)
        self.epilogue = Epilogue(kernel, self.params, target, schedule.lanes)

    def fingerprint(self) -> Hashable:
        """Everything that the text depends on: no sizes."""
        k = self.kernel
        fixed = replace(self.schedule, rows=0, blocks=0, strips=0, chunk=0, chunks=0, depth=0)
        types = self.blocks.scale, self.blocks.zero, *(o.dtype for o in k.operands)
        return fixed, k.bits, k.values, k.zero, k.panel, types, self.epilogue.fingerprint(), self.target

    def described(self, text: str, symbol: str) -> Emitted:
        k, s = self.kernel, self.schedule
        cost = s.rows * s.lanes * s.vectors * s.chunk * k.k * 2
        return Emitted(text, symbol, tuple(self.params.dims), s.blocks * s.chunks, cost, 2 * k.m * k.n * k.k, bytes_of(k.operands),
                       least=self._least())  # fmt: skip

    def _least(self) -> Dim:
        """Strips of a call with few rows: enough for all streams, unless a strip alone is worth a call."""
        few = self.schedule.few
        if not few:
            return 1
        strip = 4 * self.blocks.block * self.blocks.groups * self.schedule.lanes * self.schedule.vectors // self.blocks.panel
        more = max(1, min(STREAMS, _CALL_BYTES // strip)) - 1
        return 1 + more * dim_max(0, dim_min(1, few + 1 - self.kernel.m))

    def text(self) -> tuple[str, str]:
        self.module = ir.Module()
        masks = (False, True) if self.schedule.masked else (False,)
        tiles = {(h, masked): self._tile_function(h, masked) for h in self.schedule.heights for masked in masks}
        self._entry(tiles, self._expanded(masks) if self.schedule.expand else None)
        return named(str(self.module))

    def _expanded(self, masks: tuple[bool, ...]) -> _Wide:
        k, s = self.kernel, self.schedule
        on_tiles = TileProduct(self.module, s, self.target, self.size) if s.tiles else None
        wide = Expanded(self.module, s, self.target, self.size, k, self.blocks, not self.needs_sums, on_tiles)
        out, count = k.operands[-1].dtype, len(k.operands)
        if on_tiles is not None:
            products = {masked: on_tiles.product(masked, self.epilogue, count, out) for masked in masks}
            return _Wide(wide.expand(self.level), split=on_tiles.split(), products=products)
        tiles = {(h, masked): wide.tile(h, masked, self.epilogue, count, out) for h in s.wide for masked in masks}
        return _Wide(wide.expand(self.level), tiles)

    def level(self, b: Builder, shifted: Any) -> Any:
        """The lowest level of words as floats, without the zero that all share where that costs nothing."""
        known = self.kernel.values
        if self.kernel.bits == 16:
            half = b.ir.trunc(shifted, vec(storage(DType.U16), self.schedule.lanes))
            half = b.ir.bitcast(half, vec(storage(DType.F16), self.schedule.lanes))
            return b.ir.fpext(half, self.vector) if self.target.half else decode(b, half, DType.F16)
        if self.schedule.table:
            zero = self.kernel.zero or 0.0
            values = ir.Constant(self.vector, [float(v - zero) for v in known or range(16)])
            return b.call("llvm.x86.avx512.permvar.sf.512", self.vector, values, shifted)
        level = b.ir.and_(shifted, ir.Constant(self.words, (1 << self.kernel.bits) - 1))
        if known:
            return self._looked_up(b, level)
        if self.level_zero:
            level = b.ir.sub(level, ir.Constant(self.words, self.level_zero))
        return b.ir.sitofp(level, self.vector)

    def _looked_up(self, b: Builder, level: Any) -> Any:
        """values[level] of each lane."""
        lanes, t = self.schedule.lanes, ir.ArrayType(F32, 16)
        table = self.module.globals.get("values")
        if table is None:
            table = ir.GlobalVariable(self.module, "values", ir.Constant(t, [float(v) for v in self.kernel.values]), align=64)
        pointers = b.at(table, level, F32)
        name = f"llvm.masked.gather.v{lanes}f32.v{lanes}p0"
        every = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [1] * lanes)
        return b.call(name, self.vector, pointers, ir.Constant(I32, 4), every, ir.Constant(self.vector, None))

    def _entry(self, tiles: _TileFunctions, wide: _Wide | None) -> None:
        """void kernel(bufs, dims, begin, end): row blocks fastest, so that a strip's levels stay in cache."""
        s = self.schedule
        b = kernel_function(self.module)
        i = b.ir
        bufs, dims, begin, end = b.fn.args
        p = b.params(dims, self.size)
        strip = b.i64(s.lanes * s.vectors)
        scratch = b.alloca(F32, i.mul(p["depth"], strip)) if wide else None
        blocks = _Blocks.allocate(b, p, s) if wide and wide.split else None
        chunks = i.udiv(i.add(p["strips"], i.sub(p["chunk"], b.i64(1))), p["chunk"])
        if s.few:
            RowProduct(self.module, self.kernel, self.blocks, s, self.target, self.size, self.epilogue).run_if_few(b, p, b.fn.args)

        def unit(u: Any, _: list[Any]) -> Sequence[Any]:
            tiled = blocks is not None  # then chunks are fastest: their rows are split already
            first = i.mul(i.udiv(u, chunks) if tiled else i.urem(u, p["blocks"]), p["rows"])
            stop = b.smin(i.add(first, p["rows"]), p["m"])
            count = i.sub(stop, first)
            begins = i.mul(i.urem(u, chunks) if tiled else i.udiv(u, p["blocks"]), p["chunk"])
            ends = b.smin(i.add(begins, p["chunk"]), p["strips"])

            def strips(run: Callable[[Any, bool], None]) -> None:
                def one(at: Any, _: list[Any]) -> Sequence[Any]:
                    column = i.mul(at, strip)
                    if not s.masked:
                        run(column, False)
                        return ()
                    with i.if_else(i.icmp_signed(">=", i.sub(p["n"], column), strip)) as (full, partial):
                        with full:
                            run(column, False)
                        with partial:
                            run(column, True)
                    return ()

                b.loop(begins, ends, b.i64(1), [], one)

            def few(column: Any, masked: bool) -> None:
                done = first
                for h in s.heights:
                    to = i.add(done, i.mul(i.udiv(i.sub(stop, done), b.i64(h)), b.i64(h)))
                    i.call(tiles[h, masked], [bufs, dims, done, to, column])
                    done = to

            if wide is None:
                strips(few)
                return ()
            many = i.icmp_signed(">=", count, b.i64(s.expand))
            half = i.mul(i.mul(p["depth"], strip), b.i64(2))
            if wide.split is None or blocks is None:

                def expanded(column: Any, masked: bool) -> None:
                    i.call(wide.expand, [bufs, dims, column, scratch, half, b.i64(0), p["words"]])
                    cut_rows(b, s.wide, count, lambda h, lo, hi: i.call(
                        wide.tiles[h, masked], [bufs, dims, i.add(first, lo), i.add(first, hi), column, scratch]))  # fmt: skip

                with i.if_else(many) as (then, other):
                    with then:
                        strips(expanded)
                    with other:
                        strips(few)
                return ()

            def deep(at: Any, seen: list[Any]) -> Sequence[Any]:
                """A block of K: rows are split, and every strip of the unit is multiplied."""
                size = b.smin(i.sub(p["k"], at), p["depth"])
                goes_on, last = i.icmp_signed(">", at, b.i64(0)), i.icmp_signed("==", i.add(at, size), p["k"])
                a = b.at(b.at(b.operand(bufs, 0), i.mul(first, p["lda"]), F32), at, F32)
                known = i.and_(i.icmp_signed("==", first, b.load(I64, blocks.kept, 8)), i.icmp_signed(">=", p["depth"], p["k"]))
                rows = i.select(known, b.i64(0), count)
                fits = i.and_(seen[0], i.call(wide.split, [a, p["lda"], size, rows, blocks.split, blocks.low]))
                i.store(i.select(fits, first, b.i64(-1)), blocks.kept, align=8)

                def on_tiles(column: Any, masked: bool) -> None:
                    word = i.udiv(at, b.i64(self.each))
                    stop = i.add(word, i.udiv(i.add(size, b.i64(self.each - 1)), b.i64(self.each)))
                    i.call(wide.expand, [bufs, dims, column, scratch, half, word, stop])
                    sums = b.at(blocks.sums, i.mul(i.sub(column, i.mul(begins, strip)), blocks.rows), F32)
                    i.call(wide.products[masked], [bufs, dims, first, count, column, blocks.split, blocks.low, scratch, half, size,
                                                   goes_on, last, sums])  # fmt: skip

                with i.if_then(fits):
                    Tiles(b, DType.BF16).configure()
                    strips(on_tiles)
                    Tiles(b, DType.BF16).release()
                return [fits]

            (can,) = b.loop(b.i64(0), i.select(many, p["k"], b.i64(0)), p["depth"], [many], deep)
            with i.if_then(i.not_(can)):
                strips(few)
            return ()

        b.loop(begin, end, b.i64(1), [], unit)
        i.ret_void()

    def _tile_function(self, height: int, masked: bool) -> ir.Function:
        """void tile(bufs, dims, row, row_end, column): whole tiles of rows by one strip."""
        s, k = self.schedule, self.kernel
        b = subroutine(self.module, f"{height}{'t' if masked else ''}", [PTR, PTR, I64, I64, I64])
        i = b.ir
        bufs, dims, row, row_end, column = b.fn.args
        p = b.params(dims, self.size)
        pointers = b.operands(bufs, len(k.operands))
        strip = Strip(b, self.blocks, s, self.target, p, pointers[1], column)
        element = storage(k.operands[-1].dtype)
        live = i.sub(p["n"], column)
        masks = b.column_masks(live, s.lanes, s.vectors, masked)
        epilogue = self.epilogue.begin(b, dims, pointers, b.i64(0), column, masks)
        totals = b.alloca(self.vector, b.i64(height * s.vectors))
        slots = [b.at(totals, b.i64(x), self.vector) for x in range(height * s.vectors)]

        def tile(at: Any, _: list[Any]) -> Sequence[Any]:
            starts = [b.at(pointers[0], i.mul(i.add(at, b.i64(r)), p["lda"]), F32) for r in range(height)]
            for slot in slots:
                i.store(ir.Constant(self.vector, None), slot, align=64)
            decode = _Decoder(b, self, strip, starts)

            def group(g: Any, _: list[Any]) -> Sequence[Any]:
                first = i.mul(g, p["group"])
                stop = b.smin(i.add(first, p["group"]), p["words"])
                block = strip.block(g)
                acc, sums = decode.sums(block, first, b.smin(stop, p["whole"]), i.icmp_signed(">", stop, p["whole"]), p["whole"])
                strip.prefetch_scales(block, _AHEAD)
                for v in range(s.vectors):
                    scale, zero = strip.scale(block, v), strip.zero(block, v)
                    if zero is None and self.needs_sums:
                        zero = ir.Constant(self.vector, float(k.zero or 0.0))
                    for r in range(height):
                        x = acc[r * s.vectors + v]
                        if zero is not None:
                            x = i.fsub(x, i.fmul(zero, b.splat(sums[r], s.lanes)))
                        slot = slots[r * s.vectors + v]
                        i.store(b.fma(x, scale, b.load(self.vector, slot, 64), self.target.fma), slot, align=64)
                return ()

            b.loop(b.i64(0), p["groups"], b.i64(1), [], group)
            for r in range(height):
                m = i.add(at, b.i64(r))
                acc = [b.load(self.vector, slots[r * s.vectors + v], 64) for v in range(s.vectors)]
                epilogue.row(m, acc, b.at(pointers[-1], i.add(i.mul(m, p["ldc"]), column), element))
            return ()

        b.loop(row, row_end, b.i64(height), [], tile)
        i.ret_void()
        return b.fn


class _Decoder:
    """Levels of a strip as floats, multiplied by rows of A."""

    def __init__(self, b: Builder, e: _Emitter, strip: Strip, starts: Sequence[Any]) -> None:
        self.b, self.e, self.strip, self.starts = b, e, strip, starts
        self.s = e.schedule
        self.needs_sums = e.needs_sums

    def sums(self, block: Any, first: Any, whole: Any, tail: Any, last: Any) -> tuple[list[Any], list[Any]]:
        """Σ x·q of words [first, whole), and of the elements behind word `last` where `tail`; and Σ x of the same, by row.
        `block` begins with word `first`."""
        b, i, e, s = self.b, self.b.ir, self.e, self.s
        rows = len(self.starts)
        acc = [ir.Constant(e.vector, None)] * (rows * s.vectors)
        totals = [ir.Constant(vec(F32, e.each), None)] * rows if self.needs_sums else []

        def step(word: Any, carried: list[Any]) -> Sequence[Any]:
            acc, totals = carried[: len(acc0)], carried[len(acc0) :]
            at = i.mul(word, b.i64(e.each))
            packed = self._words(block, i.sub(word, first))
            for j in range(e.each):
                acc = self._multiply(acc, packed, ir.Constant(I32, j * e.kernel.bits), i.add(at, b.i64(j)))
            if self.needs_sums:
                totals = [i.fadd(t, b.load(vec(F32, e.each), b.at(x, at, F32), 4)) for t, x in zip(totals, self.starts, strict=True)]
            return [*acc, *totals]

        acc0 = acc
        out = b.loop(first, whole, b.i64(1), [*acc, *totals], step)
        acc, totals = out[: len(acc)], out[len(acc) :]
        found = [b.call(f"llvm.vector.reduce.fadd.v{e.each}f32", F32, ir.Constant(F32, 0.0), t) for t in totals]
        if not s.tail:
            return acc, found

        def single(j: Any, carried: list[Any]) -> Sequence[Any]:
            acc, found = carried[: len(acc0)], carried[len(acc0) :]
            shift = i.trunc(i.mul(j, b.i64(e.kernel.bits)), I32)
            at = i.add(i.mul(last, b.i64(e.each)), j)
            acc = self._multiply(acc, self._words(block, i.sub(last, first)), shift, at)
            return [*acc, *(i.fadd(t, b.load(F32, b.at(x, at, F32), 4)) for t, x in zip(found, self.starts, strict=False))]

        count = i.select(tail, b.i64(s.tail), b.i64(0))
        out = b.loop(b.i64(0), count, b.i64(1), [*acc, *found], single)
        return out[: len(acc)], out[len(acc) :]

    def _words(self, block: Any, word: Any) -> list[Any]:
        self.strip.prefetch_levels(block, word, _AHEAD)
        return [self.strip.levels(block, word, v) for v in range(self.s.vectors)]

    def _multiply(self, acc: list[Any], packed: list[Any], shift: Any, at: Any) -> list[Any]:
        """acc + x[at] · (the levels `shift` bits up in the words)."""
        b, s = self.b, self.s
        x = [b.splat(b.load(F32, b.at(start, at, F32), 4), s.lanes) for start in self.starts]
        out = list(acc)
        for v, word in enumerate(packed):
            level = self.e.level(b, b.ir.lshr(word, b.splat(shift, s.lanes)))
            for r in range(len(self.starts)):
                out[r * s.vectors + v] = b.fma(x[r], level, out[r * s.vectors + v], self.e.target.fma)
        return out
