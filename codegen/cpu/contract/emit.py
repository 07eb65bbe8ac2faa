"""ContractKernel → LLVM IR: a register tile of C accumulates over k while A is broadcast and packed B streams by.

One function per tile shape walks the rows of a unit; the entry cuts units out of batch × row blocks × strips, so that
a strip of B (lanes·vectors columns by k) is used by every row tile of a block while it is in cache. All sizes are read
from the params table: layers that differ in sizes only share one compiled function.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from ....errors import CodegenError
from ....ir import Dim
from ...kernel import ContractKernel, bytes_of
from .. import llvm_ir as ir
from ..build import I64, PTR, Builder, Params, kernel_function, storage, subroutine, vec
from ..emitted import PLACEHOLDER, Emitted, named
from ..epilogue import Epilogue
from ..float_mode import flush_subnormals
from ..product import Product
from ..row_tiles import cut_rows
from ..target import CpuTarget
from ..text_cache import TextEmitter
from .diagonal import DiagonalProduct
from .planes import PlaneStore
from .rows import ConvRows, RowSource, StridedRows
from .schedule import ContractSchedule


class VectorProduct(TextEmitter):
    """Raises CodegenError for element types or epilogues that cannot be emitted."""

    family = "contract"

    def __init__(self, kernel: ContractKernel, schedule: ContractSchedule, target: CpuTarget) -> None:
        self.kernel, self.schedule, self.target = kernel, schedule, target
        self.dtype = kernel.operands[0].dtype
        self.acc = storage(schedule.acc)
        self.vector = vec(self.acc, schedule.lanes)
        self.product = Product(self.dtype, schedule.acc, schedule.lanes, kernel.panel, schedule.unroll, schedule.k_multiple, target)
        k = kernel
        self.diagonal: DiagonalProduct | None = None
        if k.diagonal > 1:
            assert isinstance(k.k, int) and isinstance(k.n, int)
            inputs, outputs = k.k // _taps(k) // k.diagonal, k.n // k.diagonal
            self.diagonal = DiagonalProduct(inputs, outputs, k.n, schedule.lanes, k.panel, target)
        self.params = Params()
        conv = k.conv
        grouped = conv is not None
        channels = k.k // _taps(k)
        self.size = {
            name: self.params.add(dim)
            for name, dim in {
                "batch": k.batch, "m": k.m, "n": k.n, "k": k.k, "lda": k.lda, "a_batch": channels if grouped else k.a_batch,
                "b_batch": k.b_batch, "b_row": k.b_row, "ldc": k.ldc, "c_batch": k.n if grouped else k.c_batch,
                "block": schedule.block, "blocks": schedule.blocks, "whole_block": schedule.whole_block,
                "whole_blocks": schedule.whole_blocks, "strips": schedule.strips, "channels": channels,
                "k_block": schedule.k_block, "k_steps": schedule.steps, "b_step": self._b_step(),
                "share": schedule.share, "share_apart": min(schedule.share, schedule.share_apart),
            }.items()
        }  # fmt: skip
        self.rows: RowSource
        if schedule.mode == "matmul" or conv is None:
            self.rows = StridedRows(schedule.split)
        else:
            self.rows = ConvRows(conv, self.params, schedule.mode == "segments")
        self.epilogue = Epilogue(kernel, self.params, target, schedule.lanes)
        self.planes: PlaneStore | None = None
        if k.planes is not None:
            if any(o.dtype is not schedule.acc for o in (k.operands[0], k.operands[-1])):
                raise CodegenError(f"planes of {k.operands[-1].dtype.value}", expected=schedule.acc.value)
            self.planes = PlaneStore(k.planes, self.params, self.acc, schedule.lanes, schedule.lanes * schedule.vectors)

    def fingerprint(self) -> Hashable:
        """Everything that the text depends on: what the schedule fixes, but no sizes."""
        k, s = self.kernel, self.schedule
        narrow = isinstance(k.n, int) and k.n < s.lanes * s.vectors
        rank = len(k.conv.kernel) if k.conv else 0
        fixed = replace(s, block=0, blocks=0, whole_block=0, whole_blocks=0, strips=0, k_block=0, steps=0, share=0, share_apart=0)
        return (
            fixed,
            narrow,
            rank,
            k.panel,
            k.b_row != 0,
            self.diagonal,
            self.planes is not None,
            tuple(o.dtype for o in k.operands),
            self.epilogue.fingerprint(),
            self.target,
        )

    def _b_step(self) -> Dim:
        """Elements of B in one step of k, or in one tap of a convolution."""
        k, s = self.kernel, self.schedule
        return k.panel if s.mode == "matmul" else k.k // s.steps // k.diagonal * k.panel

    def described(self, text: str, symbol: str) -> Emitted:
        k, s = self.kernel, self.schedule
        flops = 2 * k.batch * k.m * k.n * (k.k // k.diagonal)
        strip = s.lanes * s.vectors
        return Emitted(
            text, symbol, tuple(self.params.dims), k.batch * s.blocks * s.strips, 2 * s.block * strip * k.k, flops, bytes_of(k.operands)
        )

    def text(self) -> tuple[str, str]:
        module = ir.Module()
        self.write(module, PLACEHOLDER)
        return named(str(module))

    def write(self, module: ir.Module, name: str) -> ir.Function:
        """The kernel's function, called `name`, and those that it calls."""
        k, s = self.kernel, self.schedule
        self.module = module
        tile_fns = {}
        if not (isinstance(k.n, int) and k.n < s.lanes * s.vectors):
            for mr in s.tiles:
                tile_fns[mr, False] = self._tile_function(mr, s.vectors, masked=False)
        if s.tail:
            for mr in s.tail_tiles:
                tile_fns[mr, True] = self._tile_function(mr, s.vectors if s.tail < 0 else s.tail, masked=True)
        return self._entry(tile_fns, name)

    def _entry(self, tiles: dict[tuple[int, bool], ir.Function], name: str) -> ir.Function:
        """void kernel(bufs, dims, begin, end): units, strips fastest so that a row block stays in the second-level cache.

        A call for all units cuts them its own way: no other thread wants half of the rows then.
        """
        s = self.schedule
        b = kernel_function(self.module, name)
        bufs, dims, begin, end = b.fn.args
        p = b.params(dims, self.size)
        strip = s.lanes * s.vectors
        i = b.ir
        everything = i.icmp_signed(">=", i.sub(end, begin), i.mul(p["batch"], i.mul(p["blocks"], p["strips"])))
        height = i.select(everything, p["whole_block"], p["block"])
        blocks = i.select(everything, p["whole_blocks"], p["blocks"])
        end = i.select(everything, i.mul(p["batch"], i.mul(p["whole_blocks"], p["strips"])), end)
        share = i.select(everything, p["share"], p["share_apart"])
        partial = ir.Constant(PTR, None)
        if s.split or self.planes is not None:  # planes are turned from it, with a vector of rows at a time
            more = s.lanes if self.planes is not None else 0
            partial = b.alloca(self.acc, i.mul(i.add(height, b.i64(more)), b.i64(strip)))
        planes = self.planes.function(self.module) if self.planes is not None else None

        def unit(u: Any, _: list[Any]) -> Sequence[Any]:
            strip_index, rest = i.urem(u, p["strips"]), i.udiv(u, p["strips"])
            if self.kernel.conv is None:
                block, batch = i.urem(rest, blocks), i.udiv(rest, blocks)
            else:  # groups read parts of the same pixels
                batch, block = i.urem(rest, p["batch"]), i.udiv(rest, p["batch"])
            first = i.mul(block, height)
            rows = b.smin(height, i.sub(p["m"], first))
            column = i.mul(strip_index, b.i64(strip))
            full = i.icmp_signed(">=", i.sub(p["n"], column), b.i64(strip))

            def run(masked: bool) -> None:
                def walk(k0: Any, _: list[Any]) -> Sequence[Any]:
                    k1 = b.smin(i.add(k0, p["k_block"]), p["k_steps"]) if s.split else p["k_steps"]
                    cut_rows(b, s.tail_tiles if masked else s.tiles, rows, lambda mr, lo, hi: i.call(tiles[mr, masked], [
                        bufs, dims, batch, i.add(first, lo), i.add(first, hi), column, first, k0, k1, partial, share]))  # fmt: skip
                    return ()

                if s.split:
                    b.loop(b.i64(0), p["k_steps"], p["k_block"], [], walk)
                else:
                    walk(b.i64(0), [])
                if planes is not None:
                    result = b.operand(bufs, len(self.kernel.operands) - 1)
                    live = b.smin(b.i64(strip), i.sub(p["n"], column))
                    i.call(planes, [result, dims, partial, first, rows, i.add(i.mul(batch, p["n"]), column), live])

            has = {masked for _, masked in tiles}
            if has == {False, True}:
                with i.if_else(full) as (then, other):
                    with then:
                        run(False)
                    with other:
                        run(True)
            else:
                run(has.pop())
            return ()

        restore = flush_subnormals(b, self.target) if s.acc.is_float else None
        b.loop(begin, end, b.i64(1), [], unit)
        if restore is not None:
            restore()
        i.ret_void()
        return b.fn

    def _tile_function(self, mr: int, vectors: int, masked: bool) -> ir.Function:
        """void tile(bufs, dims, batch, row, row_end, column, block_start, k0, k1, partial, share): row tiles of one strip.

        Steps [k0, k1) of k (of taps, for convolutions); sums rest in `partial` [row − block_start][strip] between calls.
        """
        s = self.schedule
        b = subroutine(self.module, f"{mr}x{vectors}{'t' if masked else ''}", [PTR, PTR, *[I64] * 7, PTR, I64])
        i = b.ir
        bufs, dims, batch, row, row_end, column, block_start, k0, k1, partial, share = b.fn.args
        p = b.params(dims, self.size)
        pointers = b.operands(bufs, len(self.kernel.operands))
        a = b.at(pointers[0], i.mul(batch, p["a_batch"]), storage(self.dtype))
        strip = s.lanes * s.vectors
        width = b.i64(self.kernel.panel)
        inner = i.urem(column, width) if self.kernel.panel != strip else b.i64(0)
        rows_apart = bool(self.kernel.b_row)
        if rows_apart:
            b_offset, step = i.add(i.mul(batch, p["b_batch"]), column), p["b_row"]
        else:
            b_offset = i.add(i.add(i.mul(batch, p["b_batch"]), i.mul(i.sub(column, inner), p["k"])), inner)
            step = p["b_step"]
        b_strip = b.at(pointers[1], i.add(b_offset, i.mul(k0, step)), storage(self.dtype))
        b_bytes = i.mul(i.mul(i.sub(k1, k0), step), b.i64(self.dtype.itemsize))
        if self.planes is not None:
            c, c_row, c_first = partial, b.i64(strip), block_start
        else:
            c = b.at(pointers[-1], i.add(i.mul(batch, p["c_batch"]), column), storage(self.kernel.operands[-1].dtype))
            c_row, c_first = p["ldc"], None
        masks = self._masks(b, i.sub(p["n"], column), vectors) if masked else [None] * vectors
        epilogue = self.epilogue.begin(b, dims, pointers, batch, column, masks)
        # A long epilogue runs row by row from the stack: unrolled over the tile it would be mostly compile time.
        shelf = b.alloca(self.vector, b.i64(mr * vectors)) if self.epilogue.long and mr > 1 else None
        rows = self.rows.begin(b, dims, p, a, mr, storage(self.dtype), self.dtype)

        def tile(first: Any, _: list[Any]) -> Sequence[Any]:
            last = i.sub(row_end, b.i64(1))
            indices = [first] + [b.smin(i.add(first, b.i64(r)), last) for r in range(1, mr)]
            start = i.sub(first, block_start)
            sums = b.at(partial, i.mul(start, b.i64(strip)), self.acc)
            acc = self._initial(b, i.icmp_signed("==", k0, b.i64(0)), sums, mr, vectors)
            follows = s.prefetch and (not masked or s.split)  # behind the last strip there is none
            ahead = self.product.ahead(b, b_bytes, b_strip, i.udiv(start, b.i64(mr)), share) if follows else None

            def product(length: Any, starts: list[Any], b_ptr: Any, acc: list[Any]) -> list[Any]:
                if rows_apart:
                    return self.product.accumulate(b, length, starts, b_ptr, acc, vectors, row=p["b_row"], masks=masks)
                if self.diagonal is not None:
                    return self.diagonal.accumulate(b, starts, b_ptr, acc, vectors)
                return self.product.accumulate(b, length, starts, b_ptr, acc, vectors, ahead)

            acc = rows.tile(indices, b_strip, (k0, k1), acc, product)

            def finish(m: Any, sums: Sequence[Any]) -> None:
                at = m if c_first is None else i.sub(m, c_first)
                out = b.at(c, i.mul(at, c_row), storage(self.kernel.operands[-1].dtype))
                epilogue.row(m, sums, out)

            def finish_all() -> None:
                if shelf is not None:
                    for x, value in enumerate(acc):
                        i.store(value, b.at(shelf, b.i64(x), self.vector), align=64)

                    def one(r: Any, _: list[Any]) -> Sequence[Any]:
                        at = b.at(shelf, i.mul(r, b.i64(vectors)), self.vector)
                        finish(i.add(first, r), [b.load(self.vector, b.at(at, b.i64(v), self.vector), 16) for v in range(vectors)])
                        return ()

                    b.loop(b.i64(0), b.smin(i.sub(row_end, first), b.i64(mr)), b.i64(1), [], one)
                    return
                finish(first, acc[:vectors])
                for r in range(1, mr):
                    with i.if_then(i.icmp_signed("<", i.add(first, b.i64(r)), row_end)):
                        finish(indices[r], acc[r * vectors : (r + 1) * vectors])

            if not s.split:
                finish_all()
                return ()
            with i.if_else(i.icmp_signed("<", k1, p["k_steps"])) as (more, done):
                with more:
                    for x, value in enumerate(acc):
                        r, v = divmod(x, vectors)
                        at = b.at(sums, b.i64(r * strip + v * s.lanes), self.acc)
                        if r == 0:
                            i.store(value, at, align=self.dtype.itemsize)
                            continue
                        with i.if_then(i.icmp_signed("<", i.add(first, b.i64(r)), row_end)):
                            i.store(value, at, align=self.dtype.itemsize)
                with done:
                    finish_all()
            return ()

        b.loop(row, row_end, b.i64(mr), [], tile)
        i.ret_void()
        return b.fn

    def _initial(self, b: Builder, fresh: Any, sums: Any, mr: int, vectors: int) -> list[Any]:
        """Accumulators: zero, or the partial sums of the earlier steps of k."""
        zero = ir.Constant(self.vector, None)
        if not self.schedule.split:
            return [zero] * (mr * vectors)
        i, strip = b.ir, self.schedule.lanes * self.schedule.vectors
        before = i.block
        with i.if_then(i.not_(fresh)):
            kept = [
                b.load(self.vector, b.at(sums, b.i64(r * strip + v * self.schedule.lanes), self.acc), self.schedule.acc.itemsize)
                for r in range(mr)
                for v in range(vectors)
            ]
            inside = i.block
        out = []
        for x in kept:
            phi = i.phi(self.vector)
            phi.add_incoming(zero, before)
            phi.add_incoming(x, inside)
            out.append(phi)
        return out

    def _masks(self, b: Builder, live: Any, vectors: int) -> list[Any]:
        lanes = self.schedule.lanes
        known = self.schedule.tail > 0
        return [None if known and v < vectors - 1 else b.below(live, lanes, v * lanes) for v in range(vectors)]


def _taps(kernel: ContractKernel) -> int:
    taps = 1
    for k in kernel.conv.kernel if kernel.conv else ():
        taps *= k
    return taps
