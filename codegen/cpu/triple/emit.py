"""float32 products on tile registers: every number is a sum of three bfloat16, exactly, and six of nine products count.

The parts are the upper, middle and lower 8 bits of the significand, so a · b = Σ aᵢ·bⱼ; the three products left out are below
2⁻²⁰ of it, and mean 2⁻²⁴ (a float32 rounds by as much). Products of two parts are exact in the float32 that tiles add up.

One operand is split first and stays, the other passes in tiles of 32 rows, or columns: while tile registers multiply one of these,
vectors split the next, which takes no further time. Where a sum is infinite or not a number, its row of the tile is computed again
by multiply-adds: parts of an infinity are no numbers.
"""

from __future__ import annotations

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
from .schedule import STRIP, TALL, TripleSchedule
from .split import LANES, PARTS, PIECES, STEP, TILE, TYPES, Splitter, Whole, tile_bytes

_F, _I = vec(ir.FloatType(), LANES), vec(I32, LANES)
_TABLES = 4  # of rows that pass: of a tile that is finished, that is multiplied, that is split, and none
_SUMS = TALL * STRIP  # of a tile: corners of 16 x 16 one after the other
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
                "c_batch": k.c_batch, "blocks": s.blocks, "chunks": s.chunks, "depth": s.depth, "kept": s.kept, "passing": s.passing,
                "sums": s.sums,
            }.items()
        }  # fmt: skip
        self.epilogue = Epilogue(kernel, self.params, target, LANES)
        self.of_rows, self.of_strips = (Splitter(rows, kernel.panel, s.short) for rows in (True, False))
        self.keeps, self.passes = (self.of_strips, self.of_rows) if s.rows_pass else (self.of_rows, self.of_strips)

    def fingerprint(self) -> Hashable:
        s = self.schedule
        return s.ragged, s.short, s.rows_pass, tuple(o.dtype for o in self.kernel.operands), self.epilogue.fingerprint(), self.target

    def described(self, text: str, symbol: str) -> Emitted:
        k, s = self.kernel, self.schedule
        units, flops = k.batch * s.blocks * s.chunks, 2 * k.batch * k.m * k.n * k.k
        return Emitted(text, symbol, tuple(self.params.dims), units, s.unit_cost, flops, bytes_of(k.operands), shared=True)

    def text(self) -> tuple[str, str]:
        module = ir.Module()
        self.write(module, PLACEHOLDER)
        return named(str(module))

    def write(self, module: ir.Module, name: str) -> ir.Function:
        """The kernel's function, called `name`, and those that it calls."""
        self.module = module
        self.multiply = {high: self._multiply(high) for high in (1, 2)}
        self.again = self._by_multiply_adds()
        self.finish = self._finish()
        run = self._run()
        fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR, PTR, I64, I64]), name)
        b = Builder(fn)
        bufs, dims, begin, end = fn.args
        i, p = b.ir, self._sizes(b, dims)
        parts = [b.alloca(I8, i.mul(i.mul(p["depth"], x), b.i64(2 * PARTS))) for x in (p["kept"], b.i64(2 * STRIP))]
        sums = b.alloca(ir.FloatType(), p["sums"])
        tables = b.alloca(I64, b.i64(_TABLES * TALL) if self.schedule.rows_pass else p["kept"])
        tiles = Tiles(b, DType.BF16)
        tiles.configure()
        restore = flush_subnormals(b, self.target)
        outer, inner = ("chunks", "blocks") if self.schedule.rows_pass else ("blocks", "chunks")

        def share(size: Any, step: int, parts: Any, at: Any) -> Any:
            """Where part number `at` begins, of equal ones (but for a step)."""
            steps = i.udiv(i.add(size, b.i64(step - 1)), b.i64(step))
            return b.smin(size, i.mul(i.udiv(i.mul(at, steps), parts), b.i64(step)))

        def units(u: Any) -> Any:
            """Those that have what stays in common, as one."""
            first, rest = i.urem(u, p[inner]), i.udiv(u, p[inner])
            kept, batch = i.urem(rest, p[outer]), i.udiv(rest, p[outer])
            count = b.smin(b.smin(i.sub(end, u), i.sub(p[inner], first)), p["passing"])
            edges = {outer: [kept, i.add(kept, b.i64(1))], inner: [first, i.add(first, count)]}
            rows = [share(p["m"], TALL, p["blocks"], at) for at in edges["blocks"]]
            columns = [share(p["n"], STRIP, p["chunks"], at) for at in edges["chunks"]]
            i.call(run, [bufs, dims, batch, *rows, *columns, *parts, sums, tables])
            return i.add(u, count)

        b.walk(begin, end, units)
        restore()
        tiles.release()
        i.ret_void()
        return fn

    def _sizes(self, b: Builder, dims: Any) -> Sizes:
        return {name: b.param(dims, at) for name, at in self.size.items()}

    def _function(self, name: str, result: Any, args: Sequence[Any]) -> ir.Function:
        fn = ir.Function(self.module, ir.FunctionType(result, args), f"{PLACEHOLDER}.{name}")
        fn.linkage = "internal"
        fn.attributes.add("noinline")
        return fn

    def _run(self) -> ir.Function:
        """void run(bufs, dims, batch, row, row_end, column, column_end, parts kept, parts that pass, sums, tables)."""
        fn = self._function("run", ir.VoidType(), [PTR, PTR, *[I64] * 5, *[PTR] * 4])
        b = Builder(fn)
        i, f32 = b.ir, ir.FloatType()
        bufs, dims, batch, row, row_end, column, column_end, kept, passing, sums, tables = fn.args
        p = self._sizes(b, dims)
        pointers = self._pointers(b, bufs)
        a = b.at(pointers[0], i.mul(batch, p["a_batch"]), f32)
        packed = self._packed(b, p, pointers, batch)
        size, one = b.i64(TALL), b.i64(1)
        edges = [(row, row_end), (column, column_end)]
        (first, last), (stay, stay_end) = edges if self.schedule.rows_pass else reversed(edges)
        tall = i.lshr(i.add(i.sub(stay_end, stay), b.i64(TALL - 1)), b.i64(5))  # tiles that stay

        def table(r: Any) -> Any:
            """Of the rows from r on."""
            at = i.sub(r, row)
            return b.at(tables, i.and_(at, b.i64(_TABLES * TALL - 1)) if self.schedule.rows_pass else at, I64)

        def whole(splitter: Splitter, at: Any, end: Any, k0: Any, live: Any, to: Any) -> Whole:
            behind = b.smin(i.add(at, size), i.sub(end, one))
            if splitter.rows:
                return Whole(b.at(a, k0, f32), b.at(a, i.add(k0, i.mul(i.sub(behind, at), p["lda"])), f32), table(at), live, to)
            below = i.mul(k0, b.i64(self.kernel.panel))
            here, next_ = (b.at(self._panel(b, p, packed, x), below, f32) for x in (at, behind))
            return Whole(here, next_, tables, live, to)

        def rows_of(r: Any) -> None:
            """Where 32 rows are, the last one again behind it."""

            def one_row(x: Any, _: list[Any]) -> Sequence[Any]:
                m = b.smin(i.add(r, x), i.sub(row_end, one))
                i.store(i.mul(m, p["lda"]), b.at(table(r), x, I64), align=8)
                return ()

            b.loop(b.i64(0), size, one, [], one_row)

        def deep(k0: Any, _: list[Any]) -> Sequence[Any]:
            live = b.smin(p["depth"], i.sub(p["k"], k0))
            steps = i.lshr(i.add(live, b.i64(STRIP - 1)), b.i64(5))
            pieces, bytes_ = i.mul(steps, b.i64(PIECES)), tile_bytes(b, steps)
            final = i.icmp_signed(">=", i.add(k0, live), p["k"])
            products = i.mul(tall, b.i64(len(_ORDER) // 2))  # of a step, among which its pieces are dealt out
            several = i.udiv(i.add(products, b.i64(PIECES - 1)), products)

            def keep(t: Any, _: list[Any]) -> Sequence[Any]:
                at = i.add(stay, i.mul(t, size))
                if self.keeps.rows:
                    rows_of(at)
                to = b.at(kept, i.mul(t, bytes_), I8)
                self.keeps.pieces(b, whole(self.keeps, at, stay_end, k0, live, to), steps, b.i64(0), pieces)
                return ()

            b.loop(b.i64(0), tall, one, [], keep)

            def buffer(at: Any) -> Any:
                turn = i.and_(i.lshr(i.sub(at, first), b.i64(5)), one)
                return b.at(passing, i.mul(turn, bytes_), I8)

            if self.passes.rows:
                rows_of(first)
            self.passes.pieces(b, whole(self.passes, first, last, k0, live, buffer(first)), steps, b.i64(0), pieces)

            def passing_tile(at: Any, before: list[Any]) -> Sequence[Any]:
                following = i.add(at, size)
                limit = i.select(i.icmp_signed("<", following, last), pieces, b.i64(0))
                if self.passes.rows:
                    rows_of(following)
                after = whole(self.passes, following, last, k0, live, buffer(following))
                line = i.mul(i.lshr(i.sub(at, first), b.i64(5)), tall)

                def tile(t: Any, carried: list[Any]) -> Sequence[Any]:
                    """Multiplies, and finishes the tile before, whose sums have arrived in memory meanwhile."""
                    turn, *done = carried
                    here = b.at(kept, i.mul(t, bytes_), I8)
                    other = i.add(stay, i.mul(t, size))
                    operands, corner = ([buffer(at), here], (at, other)) if self.passes.rows else ([here, buffer(at)], (other, at))
                    number = i.add(line, t)
                    number = i.select(i.icmp_signed(">=", p["depth"], p["k"]), i.and_(number, one), number)
                    place = b.at(sums, i.mul(number, b.i64(_SUMS)), f32)
                    rows = b.smin(size, i.sub(row_end, corner[0]))
                    wanted = i.select(final, rows, b.i64(0))
                    at_c = i.add(i.add(i.mul(batch, p["c_batch"]), corner[1]), i.mul(corner[0], p["ldc"]))
                    result = b.at(pointers[-1], at_c, storage(self.kernel.operands[-1].dtype))
                    args = [*operands, steps, place, k0, *after.values, turn, limit, several, result, p["ldc"], wanted]
                    with i.if_else(i.icmp_signed(">", rows, b.i64(ROWS))) as (two, only):
                        with two:
                            from_two = (i.call(self.multiply[2], args), i.block)
                        with only:
                            from_one = (i.call(self.multiply[1], args), i.block)
                    turn = b.merge(from_two, from_one)
                    i.call(self.finish, [bufs, dims, batch, *done])
                    return [turn, *corner, wanted, place, table(corner[0])]

                turn, *done = b.loop(b.i64(0), tall, one, [b.i64(0), *before], tile)
                self.passes.pieces(b, after, steps, turn, limit)
                return done

            nothing = [row, column, b.i64(0), sums, tables]
            done = b.loop(first, last, size, nothing, passing_tile)
            i.call(self.finish, [bufs, dims, batch, *done])
            return ()

        b.loop(b.i64(0), p["k"], p["depth"], [], deep)
        i.ret_void()
        return fn

    def _finish(self) -> ir.Function:
        """void finish(bufs, dims, batch, row, column, rows, sums, table of rows): results of a tile."""
        fn = self._function("finish", ir.VoidType(), [PTR, PTR, *[I64] * 4, PTR, PTR])
        b = Builder(fn)
        i, f32 = b.ir, ir.FloatType()
        bufs, dims, batch, row, column, rows, sums, table = fn.args
        p, pointers, c = self._sizes(b, dims), self._pointers(b, bufs), storage(self.kernel.operands[-1].dtype)

        def place(r: Any, v: int) -> Any:
            half = i.mul(i.and_(r, b.i64(-ROWS)), b.i64(STRIP))
            return b.at(sums, i.add(i.add(half, b.i64(v * ROWS * LANES)), i.mul(i.and_(r, b.i64(ROWS - 1)), b.i64(LANES))), f32)

        def check(r: Any, kept: list[Any]) -> Sequence[Any]:
            """0 times a number is 0."""
            sums = [b.load(_F, place(i.add(r, b.i64(x)), v), BYTES) for x in range(2) for v in range(2)]
            return [b.call(f"llvm.fma.v{LANES}f32", _F, x, ir.Constant(_F, None), y) for x, y in zip(sums, kept, strict=True)]

        found = b.loop(b.i64(0), rows, b.i64(2), [ir.Constant(_F, None)] * 4, check)  # a tile has 16 rows or 32
        total = i.fadd(i.fadd(found[0], found[1]), i.fadd(found[2], found[3]))
        with i.if_then(b.any(i.fcmp_unordered("uno", total, total)), likely=False):
            a = b.at(pointers[0], i.mul(batch, p["a_batch"]), f32)
            i.call(self.again, [p["k"], rows, sums, a, table, self._panel(b, p, self._packed(b, p, pointers, batch), column)])
        masks = [b.below(i.sub(p["n"], column), LANES, v * LANES) if self.schedule.ragged else None for v in range(2)]
        epilogue = self.epilogue.begin(b, dims, pointers, batch, column, masks, hold=True)
        out = b.at(pointers[-1], i.add(i.mul(batch, p["c_batch"]), column), c)

        def one(r: Any, _: list[Any]) -> Sequence[Any]:
            m = i.add(row, r)
            epilogue.row(m, [b.load(_F, place(r, v), BYTES) for v in range(2)], b.at(out, i.mul(m, p["ldc"]), c))
            return ()

        b.loop(b.i64(0), rows, b.i64(1), [], one)
        i.ret_void()
        return fn

    def _pointers(self, b: Builder, bufs: Any) -> list[Any]:
        return [b.load(PTR, b.at(bufs, b.i64(x), PTR), 8) for x in range(len(self.kernel.operands))]

    def _packed(self, b: Builder, p: Sizes, pointers: list[Any], batch: Any) -> Any:
        return b.at(pointers[1], b.ir.mul(batch, p["b_batch"]), ir.FloatType())

    def _panel(self, b: Builder, p: Sizes, packed: Any, column: Any) -> Any:
        """Row 0 of the strip at a column: strips are halves of panels."""
        i = b.ir
        half = i.and_(column, b.i64(self.kernel.panel - 1))
        return b.at(packed, i.add(i.mul(i.sub(column, half), p["k"]), half), ir.FloatType())

    def _multiply(self, high: int) -> ir.Function:
        """i64 multiply(parts of 16 · `high` rows, of a strip, steps, sums, k0, (what to split), turn, limit, pieces).

        Adds to `sums`, which begin at k0 = 0. So many pieces of what passes next are split behind each product of parts, from number
        `turn` to `limit`; returns the first that is left.
        """
        fn = self._function(f"multiply{high}", I64, [PTR, PTR, I64, PTR, I64, *TYPES, I64, I64, I64, PTR, I64, I64])
        b = Builder(fn)
        i, t = b.ir, Tiles(b, DType.BF16)
        a, strip, steps, sums, k0 = fn.args[:5]
        after = Whole(*fn.args[5:10])
        turn, limit, pieces, result, ldc, wanted = fn.args[10:]
        stored = storage(self.kernel.operands[-1].dtype)
        slots = i.mul(steps, b.i64(len(_ORDER) // 2))
        per_slot = i.udiv(i.add(wanted, i.sub(slots, b.i64(1))), slots)
        line = b.i64(BYTES)
        corners = [b.at(sums, b.i64(x * ROWS * LANES), ir.FloatType()) for x in range(2 * high)]
        with i.if_else(i.icmp_signed("==", k0, b.i64(0))) as (fresh, more):
            with fresh:
                for x in range(len(corners)):
                    t.zero(x)
            with more:
                for x, corner in enumerate(corners):
                    t.load(x, corner, line)
        half = i.mul(steps, b.i64(STEP))  # from 16 rows, or columns, to the next

        def step(s: Any, carried: list[Any]) -> Sequence[Any]:
            first = i.mul(s, b.i64(STEP))
            rows = [b.at(a, first, I8), b.at(a, i.add(first, half), I8)][:high]
            columns = [b.at(strip, first, I8), b.at(strip, i.add(first, half), I8)]
            before: tuple[int, int] | None = None
            turn, line_at = carried

            def fetch(r: Any, _: list[Any]) -> Sequence[Any]:
                at = b.at(result, i.mul(r, ldc), stored)
                b.prefetch(at, write=True)
                b.prefetch(b.at(at, b.i64(LANES), stored), write=True)
                return ()

            for at, (x, y) in enumerate(_ORDER):
                if before is None or before[0] != x:
                    for r in range(high):
                        t.load(4 + r, b.at(rows[r], b.i64(x * TILE), I8), line)
                if before is None or before[1] != y:
                    for c in range(2):
                        t.load(6 + c, b.at(columns[c], b.i64(y * TILE), I8), line)
                for r in range(high):
                    for c in range(2):
                        t.multiply(2 * r + c, 4 + r, 6 + c)
                before = x, y
                if not at % 2:
                    continue
                end = b.smin(i.add(turn, pieces), limit)
                self.passes.pieces(b, after, steps, turn, end)
                turn = end
                line_end = b.smin(i.add(line_at, per_slot), wanted)
                b.loop(line_at, line_end, b.i64(1), [], fetch)
                line_at = line_end
            return [turn, line_at]

        turn = b.loop(b.i64(0), steps, b.i64(1), [turn, b.i64(0)], step)[0]
        for x, corner in enumerate(corners):
            t.store(x, corner, line)
        i.ret(turn)
        return fn

    def _by_multiply_adds(self) -> ir.Function:
        """void again(k, rows, sums, A, table of rows, strip): rows whose sums are no finite numbers, slowly."""
        fn = self._function("again", ir.VoidType(), [I64, I64, *[PTR] * 4])
        b = Builder(fn)
        i, f32 = b.ir, ir.FloatType()
        depth, rows, sums, a, table, strip = fn.args

        def row(r: Any, _: list[Any]) -> Sequence[Any]:
            half = i.mul(i.and_(r, b.i64(-ROWS)), b.i64(STRIP))
            top = b.at(sums, i.add(half, i.mul(i.and_(r, b.i64(ROWS - 1)), b.i64(LANES))), f32)
            places = [b.at(top, b.i64(v * ROWS * LANES), f32) for v in range(2)]
            left = b.at(a, b.load(I64, b.at(table, r, I64), 8), f32)

            def step(k: Any, acc: list[Any]) -> Sequence[Any]:
                x = b.splat(b.load(f32, b.at(left, k, f32), 4), LANES)
                at = b.at(strip, i.mul(k, b.i64(self.kernel.panel)), f32)
                ys = [b.load(_F, b.at(at, b.i64(v * LANES), f32), 4) for v in range(2)]
                return [b.call(f"llvm.fma.v{LANES}f32", _F, x, y, z) for y, z in zip(ys, acc, strict=True)]

            found = [b.load(_F, at, BYTES) for at in places]
            wrong = i.fsub(i.fsub(found[0], found[0]), i.fsub(found[1], found[1]))
            with i.if_then(b.any(i.fcmp_unordered("uno", wrong, wrong))):
                for value, at in zip(b.loop(b.i64(0), depth, b.i64(1), [ir.Constant(_F, None)] * 2, step), places, strict=True):
                    i.store(value, at, align=BYTES)
            return ()

        b.loop(b.i64(0), rows, b.i64(1), [], row)
        i.ret_void()
        return fn
