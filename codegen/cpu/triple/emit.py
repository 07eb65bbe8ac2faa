"""float32 products on tile registers: every number is a sum of three bfloat16, exactly, and six of nine products count.

The parts are the upper, middle and lower 8 bits of the significand, so a · b = Σ aᵢ·bⱼ; the three products left out are below
2⁻²⁰ of it, and mean 2⁻²⁴ (a float32 rounds by as much). Products of two parts are exact in the float32 that tiles add up. Parts
lie in pairs (k, k + 16) of each 32, in A and B alike: then a shift and an `and` pack them.

Where a sum is infinite or not a number, the unit is computed again by multiply-adds: parts of an infinity are no numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from ....ir import DType
from ...kernel import ContractKernel, bytes_of
from .. import llvm_ir as ir
from ..build import I8, I32, I64, PTR, Builder, Params, storage, vec
from ..emitted import PLACEHOLDER, Emitted, named
from ..epilogue import Epilogue
from ..float_mode import flush_subnormals
from ..target import CpuTarget
from ..text_cache import TextEmitter
from ..tiles import BYTES, ROWS, Tiles
from .schedule import DEPTH, STRIP, TALL, TripleSchedule

_LANES, _PARTS, _TILE = 16, 3, ROWS * BYTES
_F, _I = vec(ir.FloatType(), _LANES), vec(I32, _LANES)
_STEPS = DEPTH // STRIP
_FETCHED = DEPTH * STRIP * 4 // BYTES  # lines of a strip, which the strip before it asks for
# (part of A, part of B), so that each differs from the one before in one of both; the smallest products come first
_ORDER = ((2, 0), (1, 0), (1, 1), (0, 1), (0, 2), (0, 0))
Sizes = Mapping[str, Any]


class TripleProduct(TextEmitter):
    """Raises CodegenError for epilogues that cannot be emitted."""

    family = "triple"

    def __init__(self, kernel: ContractKernel, schedule: TripleSchedule, target: CpuTarget) -> None:
        self.kernel, self.schedule, self.target = kernel, schedule, target
        k, s = kernel, schedule
        self.params = Params()
        self.size = {
            name: self.params.add(dim)
            for name, dim in {
                "m": k.m, "n": k.n, "k": k.k, "lda": k.lda, "a_batch": k.a_batch, "b_batch": k.b_batch, "ldc": k.ldc,
                "c_batch": k.c_batch, "rows": s.rows, "columns": s.columns, "blocks": s.blocks, "chunks": s.chunks,
                "whole_chunks": s.whole_chunks, "batch": k.batch,
            }.items()
        }  # fmt: skip
        self.epilogue = Epilogue(kernel, self.params, target, _LANES)

    def fingerprint(self) -> Hashable:
        s = self.schedule
        return s.ragged, s.short, s.early, tuple(o.dtype for o in self.kernel.operands), self.epilogue.fingerprint(), self.target

    def described(self, text: str, symbol: str) -> Emitted:
        k, s = self.kernel, self.schedule
        cost = s.rows * s.columns * k.k
        return Emitted(
            text, symbol, tuple(self.params.dims), k.batch * s.blocks * s.chunks, cost, 2 * k.batch * k.m * k.n * k.k, bytes_of(k.operands)
        )

    def text(self) -> tuple[str, str]:
        module = ir.Module()
        self.write(module, PLACEHOLDER)
        return named(str(module))

    def write(self, module: ir.Module, name: str) -> ir.Function:
        """The kernel's function, called `name`, and that of a unit."""
        self.module = module
        unit = self._unit()
        fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR, PTR, I64, I64]), name)
        b = Builder(fn)
        bufs, dims, begin, end = fn.args
        i, p = b.ir, self._sizes(b, dims)
        parts_a = b.alloca(I8, i.mul(p["rows"], b.i64(DEPTH * 2 * _PARTS)))
        parts_b = b.alloca(I8, b.i64(STRIP * DEPTH * 2 * _PARTS))
        sums = b.alloca(ir.FloatType(), i.mul(p["rows"], p["columns"]))
        tiles = Tiles(b, DType.BF16)
        tiles.configure()
        restore = flush_subnormals(b, self.target)

        rows_of = i.mul(p["batch"], p["blocks"])
        everything = i.icmp_signed(">=", i.sub(end, begin), i.mul(rows_of, p["chunks"]))
        chunks = i.select(everything, p["whole_chunks"], p["chunks"])
        end = i.select(everything, i.mul(rows_of, chunks), end)

        def share(size: Any, step: int, parts: Any, at: Any) -> Any:
            """Where part number `at` begins, of equal ones (but for a step)."""
            steps = i.udiv(i.add(size, b.i64(step - 1)), b.i64(step))
            return b.smin(size, i.mul(i.udiv(i.mul(at, steps), parts), b.i64(step)))

        def one(u: Any, _: list[Any]) -> Sequence[Any]:
            block, rest = i.urem(u, p["blocks"]), i.udiv(u, p["blocks"])
            chunk, batch = i.urem(rest, chunks), i.udiv(rest, chunks)
            rows = [share(p["m"], TALL, p["blocks"], i.add(block, b.i64(x))) for x in range(2)]
            columns = [share(p["n"], STRIP, chunks, i.add(chunk, b.i64(x))) for x in range(2)]
            i.call(unit, [bufs, dims, batch, *rows, *columns, parts_a, parts_b, sums])
            return ()

        b.loop(begin, end, b.i64(1), [], one)
        restore()
        tiles.release()
        i.ret_void()
        return fn

    def _sizes(self, b: Builder, dims: Any) -> Sizes:
        return {name: b.param(dims, at) for name, at in self.size.items()}

    def _unit(self) -> ir.Function:
        """void unit(bufs, dims, batch, row, row_end, column, column_end, parts of A, parts of B, sums)."""
        fn = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [PTR, PTR, *[I64] * 5, *[PTR] * 3]), f"{PLACEHOLDER}.unit")
        fn.linkage = "internal"
        fn.attributes.add("noinline")
        b = Builder(fn)
        i = b.ir
        bufs, dims, batch, row, row_end, column, column_end, parts_a, parts_b, sums = fn.args
        p = self._sizes(b, dims)
        pointers = [b.load(PTR, b.at(bufs, b.i64(x), PTR), 8) for x in range(len(self.kernel.operands))]
        f32 = ir.FloatType()
        a = b.at(pointers[0], i.add(i.mul(batch, p["a_batch"]), i.mul(row, p["lda"])), f32)
        packed = b.at(pointers[1], i.mul(batch, p["b_batch"]), f32)
        rows = i.sub(row_end, row)
        whole = i.and_(i.add(rows, b.i64(ROWS - 1)), b.i64(-ROWS))  # the last row again, to fill tiles
        width = i.sub(column_end, column)

        def panel(j: Any) -> Any:
            """Row 0 of the strip at column j of the unit: strips are halves of panels."""
            at = i.add(column, j)
            half = i.and_(at, b.i64(self.kernel.panel - 1))
            return b.at(packed, i.add(i.mul(i.sub(at, half), p["k"]), half), f32)

        def sums_of(j: Any, r: Any) -> Any:
            return b.at(sums, i.add(i.mul(j, whole), i.mul(r, b.i64(STRIP))), f32)

        def deep(k0: Any, _: list[Any]) -> Sequence[Any]:
            live = b.smin(b.i64(DEPTH), i.sub(p["k"], k0))
            steps = i.lshr(i.add(live, b.i64(STRIP - 1)), b.i64(5))
            self._split_rows(b, b.at(a, k0, f32), p["lda"], rows, whole, live, steps, parts_a)

            def strip(j: Any, _: list[Any]) -> Sequence[Any]:
                here = b.at(panel(j), i.mul(k0, b.i64(self.kernel.panel)), f32)
                following = b.at(panel(b.smin(i.add(j, b.i64(STRIP)), i.sub(width, b.i64(1)))), i.mul(k0, b.i64(self.kernel.panel)), f32)
                self._split_strip(b, here, live, steps, parts_b, following)
                share = i.udiv(b.i64(0 if self.schedule.early else _FETCHED), i.mul(i.lshr(i.add(whole, b.i64(ROWS)), b.i64(5)), steps))

                def tile(r: Any, turn: list[Any]) -> Sequence[Any]:
                    here = b.at(parts_a, i.mul(r, i.mul(steps, b.i64(2 * STRIP * _PARTS))), I8)
                    return [self._multiply(b, high, here, parts_b, steps, sums_of(j, r), k0, following, turn[0], share)]

                high = 2
                tall = i.and_(whole, b.i64(-TALL))
                turn = b.loop(b.i64(0), tall, b.i64(TALL), [b.i64(0)], tile)
                high = 1
                b.loop(tall, whole, b.i64(ROWS), turn, tile)
                return ()

            b.loop(b.i64(0), width, b.i64(STRIP), [], strip)
            return ()

        b.loop(b.i64(0), p["k"], b.i64(DEPTH), [], deep)
        with i.if_then(self._any_special(b, sums, i.mul(i.and_(i.add(width, b.i64(STRIP - 1)), b.i64(-STRIP)), whole)), likely=False):
            self._by_multiply_adds(b, p, a, panel, rows, width, sums_of)

        c = b.at(pointers[-1], i.mul(batch, p["c_batch"]), storage(self.kernel.operands[-1].dtype))

        def finish(j: Any, _: list[Any]) -> Sequence[Any]:
            left = i.add(column, j)
            masks = [b.below(i.sub(p["n"], left), _LANES, v * _LANES) if self.schedule.ragged else None for v in range(2)]
            epilogue = self.epilogue.begin(b, dims, pointers, batch, left, masks, hold=True)
            corner = b.at(c, left, storage(self.kernel.operands[-1].dtype))

            def along(r: Any, _: list[Any]) -> Sequence[Any]:
                at, m = sums_of(j, r), i.add(row, r)
                acc = [b.load(_F, b.at(at, b.i64(v * _LANES), f32), BYTES) for v in range(2)]
                epilogue.row(m, acc, b.at(corner, i.mul(m, p["ldc"]), storage(self.kernel.operands[-1].dtype)))
                return ()

            b.loop(b.i64(0), rows, b.i64(1), [], along)
            return ()

        b.loop(b.i64(0), width, b.i64(STRIP), [], finish)
        i.ret_void()
        return fn

    def _split(self, b: Builder, x: Any, y: Any, to: Any) -> None:
        """Three lines, a tile apart, of the parts of x and y side by side."""
        i, high, sixteen = b.ir, ir.Constant(_I, [-65536] * _LANES), ir.Constant(_I, [16] * _LANES)
        for part in range(_PARTS):
            xs, ys = i.bitcast(x, _I), i.bitcast(y, _I)
            upper_x, upper_y = i.and_(xs, high), i.and_(ys, high)
            i.store(i.or_(i.lshr(xs, sixteen), upper_y), b.at(to, b.i64(part * _TILE), I8), align=BYTES)
            if part < _PARTS - 1:
                x, y = i.fsub(x, i.bitcast(upper_x, _F)), i.fsub(y, i.bitcast(upper_y, _F))

    def _split_rows(self, b: Builder, a: Any, lda: Any, rows: Any, whole: Any, live: Any, steps: Any, to: Any) -> None:
        """Rows of A, 32 of k at a time, as [tile of rows][step][part] tiles. Reads no element beyond `live` of a row."""
        i, f32 = b.ir, ir.FloatType()

        def one(r: Any, _: list[Any]) -> Sequence[Any]:
            source = b.at(a, i.mul(b.smin(r, i.sub(rows, b.i64(1))), lda), f32)
            tile = i.mul(i.mul(i.lshr(r, b.i64(4)), steps), b.i64(_PARTS * _TILE))
            out = b.at(to, i.add(tile, i.mul(i.and_(r, b.i64(ROWS - 1)), b.i64(BYTES))), I8)

            def step(s: Any, _: list[Any]) -> Sequence[Any]:
                at = b.at(source, i.mul(s, b.i64(STRIP)), f32)
                halves = [b.at(at, b.i64(h * _LANES), f32) for h in range(2)]
                if self.schedule.short:
                    left = i.sub(live, i.mul(s, b.i64(STRIP)))
                    x, y = (b.masked_load(_F, h, b.below(left, _LANES, v * _LANES), 4) for v, h in enumerate(halves))
                else:
                    x, y = (b.load(_F, h, 4) for h in halves)
                self._split(b, x, y, b.at(out, i.mul(s, b.i64(_PARTS * _TILE)), I8))
                return ()

            b.loop(b.i64(0), steps, b.i64(1), [], step)
            return ()

        b.loop(b.i64(0), whole, b.i64(1), [], one)

    def _split_strip(self, b: Builder, source: Any, live: Any, steps: Any, to: Any, following: Any) -> None:
        """A strip of packed B as [tile of columns][step][part] tiles, zeros behind the last row of k."""
        i, f32, width = b.ir, ir.FloatType(), self.kernel.panel

        def row(at: Any, left: Any, k: Any) -> Any:
            if not self.schedule.short:
                return b.load(_F, b.at(at, i.mul(k, b.i64(width)), f32), 4)
            inside = i.icmp_signed("<", k, left)
            found = b.load(_F, b.at(at, i.mul(i.select(inside, k, b.i64(0)), b.i64(width)), f32), 4)
            return i.select(inside, found, ir.Constant(_F, None))

        def step(s: Any, _: list[Any]) -> Sequence[Any]:
            top = b.at(source, i.mul(s, b.i64(STRIP * width)), f32)
            left = i.sub(live, i.mul(s, b.i64(STRIP)))

            def pair(r: Any, _: list[Any]) -> Sequence[Any]:
                if self.schedule.early:
                    k = i.add(i.mul(s, b.i64(STRIP)), r)
                    for x in range(2):
                        at = i.mul(i.add(k, b.i64(x * ROWS)), b.i64(width))
                        Tiles(b, DType.BF16).prefetch(b.at(following, at, f32))
                        Tiles(b, DType.BF16).prefetch(b.at(following, i.add(at, b.i64(_LANES)), f32))
                for c in range(2):
                    at = b.at(top, b.i64(c * _LANES), f32)
                    tile = i.mul(i.add(i.mul(steps, b.i64(c)), s), b.i64(_PARTS * _TILE))
                    out = b.at(to, i.add(tile, i.mul(r, b.i64(BYTES))), I8)
                    self._split(b, row(at, left, r), row(at, left, i.add(r, b.i64(ROWS))), out)
                return ()

            b.loop(b.i64(0), b.i64(ROWS), b.i64(1), [], pair)
            return ()

        b.loop(b.i64(0), steps, b.i64(1), [], step)

    def _multiply(
        self, b: Builder, high: int, a: Any, strip: Any, steps: Any, sums: Any, k0: Any, following: Any, turn: Any, share: Any
    ) -> Any:
        """16 · `high` rows by 32 columns, added to `sums`. Meanwhile asks memory for `share` lines of the following strip at each of the
        steps; `turn` is the first of them, and what is returned the next."""
        i, t = b.ir, Tiles(b, DType.BF16)
        line = b.i64(BYTES)
        corners = [b.at(sums, b.i64(x * ROWS * STRIP + y * _LANES), ir.FloatType()) for x in range(high) for y in range(2)]
        with i.if_else(i.icmp_signed("==", k0, b.i64(0))) as (fresh, more):
            with fresh:
                for x in range(len(corners)):
                    t.zero(x)
            with more:
                for x, corner in enumerate(corners):
                    t.load(x, corner, b.i64(4 * STRIP))
        tiles = i.mul(steps, b.i64(_PARTS * _TILE))  # from one tile of rows, or of columns, to the next

        def step(s: Any, carried: list[Any]) -> Sequence[Any]:
            first = i.mul(s, b.i64(_PARTS * _TILE))
            rows = [b.at(a, first, I8), b.at(a, i.add(first, tiles), I8)][:high]
            columns = [b.at(strip, first, I8), b.at(strip, i.add(first, tiles), I8)]

            def fetch(f: Any, _: list[Any]) -> Sequence[Any]:
                k, half = i.lshr(f, b.i64(1)), i.and_(f, b.i64(1))
                at = i.add(i.mul(k, b.i64(self.kernel.panel)), i.mul(half, b.i64(_LANES)))
                t.prefetch(b.at(following, at, ir.FloatType()))
                return ()

            after = i.add(carried[0], share)
            b.loop(carried[0], after, b.i64(1), [], fetch)
            before: tuple[int, int] | None = None
            for x, y in _ORDER:
                if before is None or before[0] != x:
                    for r in range(high):
                        t.load(4 + r, b.at(rows[r], b.i64(x * _TILE), I8), line)
                if before is None or before[1] != y:
                    for c in range(2):
                        t.load(6 + c, b.at(columns[c], b.i64(y * _TILE), I8), line)
                for r in range(high):
                    for c in range(2):
                        t.multiply(2 * r + c, 4 + r, 6 + c)
                before = x, y
            return [after]

        turn = b.loop(b.i64(0), steps, b.i64(1), [turn], step)[0]
        for x, corner in enumerate(corners):
            t.store(x, corner, b.i64(4 * STRIP))
        return turn

    def _any_special(self, b: Builder, sums: Any, count: Any) -> Any:
        """Whether one of so many sums, which are a multiple of 64, is infinite or not a number."""
        i = b.ir

        def some(at: Any, most: list[Any]) -> Sequence[Any]:
            return [
                b.smax(kept, self._magnitude(b, b.load(_I, b.at(sums, i.add(at, b.i64(v * _LANES)), I32), BYTES)))
                for v, kept in enumerate(most)
            ]

        return self._special(b, b.loop(b.i64(0), count, b.i64(4 * _LANES), [ir.Constant(_I, None)] * 4, some))

    def _special(self, b: Builder, vectors: Sequence[Any]) -> Any:
        """Whether a lane has the largest exponent."""
        top = functools.reduce(b.smax, [self._magnitude(b, v) for v in vectors])
        return b.any(b.ir.icmp_signed(">=", top, ir.Constant(_I, [0x7F800000] * _LANES)))

    def _magnitude(self, b: Builder, bits: Any) -> Any:
        return b.ir.and_(bits, ir.Constant(_I, [0x7FFFFFFF] * _LANES))

    def _by_multiply_adds(self, b: Builder, p: Sizes, a: Any, panel: Any, rows: Any, width: Any, sums_of: Any) -> None:
        """The sums of a unit that are no finite numbers again, slowly."""
        i, f32 = b.ir, ir.FloatType()

        def strip(j: Any, _: list[Any]) -> Sequence[Any]:
            top = panel(j)

            def row(r: Any, _: list[Any]) -> Sequence[Any]:
                left = b.at(a, i.mul(r, p["lda"]), f32)
                places = [b.at(sums_of(j, r), b.i64(v * _LANES), f32) for v in range(2)]

                def step(k: Any, acc: list[Any]) -> Sequence[Any]:
                    x = b.splat(b.load(f32, b.at(left, k, f32), 4), _LANES)
                    at = b.at(top, i.mul(k, b.i64(self.kernel.panel)), f32)
                    ys = [b.load(_F, b.at(at, b.i64(v * _LANES), f32), 4) for v in range(2)]
                    return [b.call(f"llvm.fma.v{_LANES}f32", _F, x, y, z) for y, z in zip(ys, acc, strict=True)]

                with i.if_then(self._special(b, [b.load(_I, at, BYTES) for at in places])):
                    found = b.loop(b.i64(0), p["k"], b.i64(1), [ir.Constant(_F, None)] * 2, step)
                    for value, at in zip(found, places, strict=True):
                        i.store(value, at, align=BYTES)
                return ()

            b.loop(b.i64(0), rows, b.i64(1), [], row)
            return ()

        b.loop(b.i64(0), width, b.i64(STRIP), [], strip)
