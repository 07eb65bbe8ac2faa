"""ContractKernel with grouped operands → LLVM IR: dot products of bytes or bfloat16, on tile registers or vectors.

A unit is a block of rows by some strips of packed B. Its rows of A are read in place where they are whole lines, else
copied once (`rows.py`). A register tile leaves its sums in a small array, from which the epilogue stores row by row.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from ....ir import floordiv, prod
from ...kernel import ContractKernel, bytes_of
from ...packing import padded_k
from .. import llvm_ir as ir
from ..build import I8, Builder, Params, kernel_function, vec
from ..emitted import Emitted, named
from ..epilogue import Epilogue
from ..target import CpuTarget
from ..text_cache import TextEmitter
from ..tiles import BYTES, ROWS, Tiles
from .instructions import dot_kind
from .on_tiles import TileRegisters
from .on_vectors import VectorRegisters
from .rows import ConvGather, Copier, gather_plain, gather_tiles
from .schedule import NO_HINTS, DotHints, DotSchedule, schedule_dot
from .tile import Frame, Sizes
from .window import Window


def emit_dot_contract(kernel: ContractKernel, target: CpuTarget, hints: DotHints = NO_HINTS) -> Emitted:
    """Raises CodegenError for element types or epilogues that cannot be emitted, ScheduleError for hints that do not suit."""
    return _Emitter(kernel, schedule_dot(kernel, target, hints), target).emit()


class _Emitter(TextEmitter):
    family = "dot"

    def __init__(self, kernel: ContractKernel, schedule: DotSchedule, target: CpuTarget) -> None:
        self.kernel, self.schedule, self.target = kernel, schedule, target
        self.kind = dot_kind(kernel.operands[0].dtype, kernel.operands[1].dtype)
        self.params = Params()
        k, grouped = kernel, kernel.conv is not None
        taps = prod(k.conv.kernel) if k.conv is not None else 1
        channels = floordiv(k.k, taps)
        size = self.kind.a.itemsize
        self.size = {
            name: self.params.add(dim)
            for name, dim in {
                "m": k.m, "n": k.n, "row_bytes": k.k * size, "pitch": padded_k(k.k, self.kind.group) * size,
                "lda": k.lda * size, "a_batch": (channels if grouped else k.a_batch) * size, "b_batch": k.b_batch * size,
                "ldc": k.ldc, "c_batch": k.n if grouped else k.c_batch, "rows": schedule.rows, "blocks": schedule.blocks,
                "strips": schedule.strips, "chunks": schedule.chunks, "channel_bytes": channels * size,
            }.items()
        }  # fmt: skip
        self.conv = None
        if k.conv is not None and schedule.gather == "conv":
            self.conv = ConvGather(k.conv, self.params, schedule.segments, schedule.line)
        self.window = None
        if schedule.window is not None:
            assert isinstance(schedule.rows, int)
            self.window = Window(schedule.window, schedule.rows, self.params)
        self.epilogue = Epilogue(kernel, self.params, target, schedule.lanes)

    def fingerprint(self) -> Hashable:
        """Everything that the text depends on: what the schedule fixes, but no sizes."""
        k = self.kernel
        rank = len(k.conv.kernel) if k.conv else 0
        fixed = replace(self.schedule, rows=0, blocks=0, strips=0, chunks=0, window=None)
        return fixed, rank, k.panel, k.border, tuple(o.dtype for o in k.operands), self.epilogue.fingerprint(), self.target

    def described(self, text: str, symbol: str) -> Emitted:
        k, s = self.kernel, self.schedule
        rows = s.rows * s.window.length(1) if s.window is not None else s.rows
        cost = rows * s.strips * k.panel * k.k // (2 if s.how == "tiles" else 1)
        return Emitted(
            text, symbol, tuple(self.params.dims), k.batch * s.blocks * s.chunks, cost, 2 * k.batch * k.m * k.n * k.k, bytes_of(k.operands)
        )

    def text(self) -> tuple[str, str]:
        s, self.module = self.schedule, ir.Module()
        frame = Frame(self.module, self.kernel, s, self.kind, self.size, self.window, self.epilogue)
        tile = TileRegisters if s.how == "tiles" else VectorRegisters
        masks = (False, True) if s.masked else (False,)
        tiles = {(h, masked): tile(frame, h, masked).write() for h in s.heights for masked in masks}
        self._entry(tiles)
        return named(str(self.module))

    def _entry(self, tiles: dict[tuple[int, bool], ir.Function]) -> None:
        """void kernel(bufs, dims, begin, end): row blocks fastest, so that a chunk of B stays in the second-level cache."""
        k, s = self.kernel, self.schedule
        b = kernel_function(self.module)
        i = b.ir
        bufs, dims, begin, end = b.fn.args
        p = b.params(dims, self.size)
        a = b.operand(bufs, 0)
        w = self.window.load(b, dims) if self.window is not None else {}
        scratch = None
        if w:
            scratch = b.alloca(I8, w["bytes"])
        elif s.gather != "never":
            whole = i.and_(i.add(p["rows"], b.i64(31)), b.i64(-32))
            scratch = b.alloca(I8, i.add(i.mul(whole, i.or_(p["pitch"], b.i64(BYTES))), b.i64(BYTES)))
        copier = Copier(b, self.target)
        outside = ir.Constant(vec(I8, copier.wide), None)
        if self.conv is not None:
            self.conv.load(b, dims)
        if k.border >= 0:
            outside = copier.splat(b.load(I8, b.operand(bufs, k.border)))
        if s.how == "tiles":
            Tiles(b, self.kind.a).configure()

        def unit(u: Any, _: list[Any]) -> Sequence[Any]:
            block, rest = i.urem(u, p["blocks"]), i.udiv(u, p["blocks"])
            chunk, batch = i.urem(rest, p["chunks"]), i.udiv(rest, p["chunks"])
            source = b.at(a, i.mul(batch, p["a_batch"]), I8)
            if w:
                first, rows, place = self._band(b, p, w, copier, outside, block, source, scratch)
            else:
                first = i.mul(block, p["rows"])
                rows = b.smin(p["rows"], i.sub(p["m"], first))
                place = self._rows(b, p, copier, outside, first, rows, source, scratch)
            strip = i.mul(chunk, p["strips"])
            last = i.sdiv(i.add(p["n"], b.i64(k.panel - 1)), b.i64(k.panel))

            left, right = (i.mul(x, b.i64(k.panel)) for x in (strip, b.smin(i.add(strip, p["strips"]), last)))
            whole = b.smin(right, i.mul(i.sdiv(p["n"], b.i64(k.panel)), b.i64(k.panel))) if s.masked else right

            def run(masked: bool, lo: Any, hi: Any) -> None:
                self._cut_rows(b, rows, lambda h, top, end: i.call(tiles[h, masked], [
                    bufs, dims, batch, first, top, end, lo, hi, *place]))  # fmt: skip

            run(False, left, whole)
            if s.masked:
                with i.if_then(i.icmp_signed("<", whole, right)):
                    run(True, whole, right)
            return ()

        b.loop(begin, end, b.i64(1), [], unit)
        if s.how == "tiles":
            Tiles(b, self.kind.a).release()
        i.ret_void()

    def _band(
        self, b: Builder, p: Sizes, w: Sizes, copier: Copier, outside: Any, block: Any, source: Any, scratch: Any
    ) -> tuple[Any, Any, Any]:
        """(first row of C, rows of A, where they are) of a band of an image."""
        i = b.ir
        assert self.window is not None
        image, first = i.udiv(block, w["bands"]), i.mul(i.urem(block, w["bands"]), w["band"])
        rows = b.smin(w["band"], i.sub(w["out_height"], first))
        start = b.at(source, i.mul(i.mul(image, i.mul(w["height"], w["wide"])), p["lda"]), I8)
        self.window.copy(b, w, copier, start, p["lda"], outside, first, rows, scratch)
        whole = i.mul(i.add(i.mul(image, w["out_height"]), first), w["out_width"])
        length = i.add(i.mul(i.sub(rows, b.i64(1)), w["line"]), w["out_width"])
        stride = i.mul(w["step"], w["pixel"])
        return whole, length, (scratch, stride, stride, b.i64(BYTES))

    def _rows(
        self, b: Builder, p: Sizes, copier: Copier, outside: Any, first: Any, rows: Any, source: Any, scratch: Any
    ) -> tuple[Any, ...]:
        """Where rows [first, first + rows) of A are: first byte, bytes from one to the next in a tile, for a row of the block
        (16 of them are a tile), and from one 64 bytes of K to the next."""
        s, i = self.schedule, b.ir
        start = b.at(source, i.mul(first, p["lda"]), I8)
        line = b.i64(BYTES)
        place = [start, p["lda"], p["lda"], line]
        if self.conv is not None:
            pitch = i.or_(p["pitch"], line)  # an odd number of lines: rows do not meet in the cache
            self.conv.run(b, copier, source, p["lda"], p["channel_bytes"], outside, first, rows, scratch, pitch, p["row_bytes"])
            return scratch, pitch, pitch, line
        if s.gather == "never":
            return tuple(place)
        if s.how == "tiles":
            gather, copied = gather_tiles, [scratch, line, p["pitch"], b.i64(ROWS * BYTES)]
        else:
            gather, copied = gather_plain, [scratch, p["pitch"], p["pitch"], line]
        if s.gather == "matmul":
            gather(b, copier, start, p["lda"], p["row_bytes"], scratch, p["pitch"], rows)
            return tuple(copied)
        before = i.block
        with i.if_then(i.icmp_unsigned("!=", i.and_(rows, b.i64(ROWS - 1)), b.i64(0))):
            gather(b, copier, start, p["lda"], p["row_bytes"], scratch, p["pitch"], rows)
            inside = i.block
        chosen = []
        for value, other in zip(place, copied, strict=True):
            phi = i.phi(value.type)
            phi.add_incoming(value, before)
            phi.add_incoming(other, inside)
            chosen.append(phi)
        return tuple(chosen)

    def _cut_rows(self, b: Builder, rows: Any, call: Any) -> None:
        """The highest row tiles first; on tile registers the last one may hold rows that nobody stores."""
        i, heights = b.ir, self.schedule.heights
        done = b.i64(0)
        for x, h in enumerate(heights):
            end = i.add(done, i.mul(i.udiv(i.sub(rows, done), b.i64(h)), b.i64(h)))
            if self.schedule.how == "tiles":
                if x == len(heights) - 1:
                    end = rows
                else:  # more than half of a tall tile is worth one
                    rounded = i.and_(i.add(rows, b.i64(h - ROWS - 1)), b.i64(-h))
                    end = b.smin(rounded, rows)
            call(h, done, end)
            done = end
