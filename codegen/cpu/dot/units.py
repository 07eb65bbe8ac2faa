"""The units of dot products: a block of rows of A, read in place or copied once, by a chunk of strips of packed B."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .. import llvm_ir as ir
from ..build import I8, Builder, vec
from ..tiles import BYTES, ROWS
from .rows import Copier, gather_plain, gather_tiles
from .tile import Frame
from .window import ActiveWindow


class Place(NamedTuple):
    """Where rows of A are: the first byte, bytes from one row to the next in a tile, for a row of the block (16 of them are a tile),
    and from one 64 bytes of K to the next."""

    start: Any
    stride: Any
    advance: Any
    step: Any


class Units:
    """Writes units into the kernel's function; `tiles` by height, and whether columns are masked."""

    def __init__(self, b: Builder, f: Frame, tiles: Mapping[tuple[int, bool], ir.Function]) -> None:
        self.b, self.f, self.s, self.tiles = b, f, f.schedule, tiles
        self.bufs, self.dims = b.fn.args[:2]
        i, p = b.ir, b.params(self.dims, f.size)
        self.p, self.a = p, b.operand(self.bufs, 0)
        self.window = f.window.begin(b, self.dims) if f.window is not None else None
        self.scratch = None
        if self.window is not None:
            self.scratch = b.alloca(I8, self.window.p["bytes"])
        elif self.s.gather != "never":
            whole = i.and_(i.add(p["rows"], b.i64(31)), b.i64(-32))
            self.scratch = b.alloca(I8, i.add(i.mul(whole, i.or_(p["pitch"], b.i64(BYTES))), b.i64(BYTES)))
        self.copier = Copier(b, f.epilogue.target)
        self.outside = ir.Constant(vec(I8, self.copier.wide), None)
        self.im2col = f.conv.begin(b, self.dims, p, self.copier) if f.conv is not None else None
        if f.kernel.border >= 0:
            self.outside = self.copier.splat(b.load(I8, b.operand(self.bufs, f.kernel.border)))

    def write(self, u: Any) -> None:
        """Unit number u: row blocks are fastest, so that a chunk of B stays in the second-level cache."""
        b, i, p = self.b, self.b.ir, self.p
        block, rest = i.urem(u, p["blocks"]), i.udiv(u, p["blocks"])
        chunk, batch = i.urem(rest, p["chunks"]), i.udiv(rest, p["chunks"])
        source = b.at(self.a, i.mul(batch, p["a_batch"]), I8)
        first, rows, place = self._block(block, source) if self.window is None else self._band(self.window, block, source)
        left, whole, right = self._columns(chunk)

        def run(masked: bool, lo: Any, hi: Any) -> None:
            self._cut_rows(rows, lambda h, top, end: i.call(self.tiles[h, masked], [
                self.bufs, self.dims, batch, first, top, end, lo, hi, *place]))  # fmt: skip

        run(False, left, whole)
        if self.s.masked:
            with i.if_then(i.icmp_signed("<", whole, right)):
                run(True, whole, right)

    def _columns(self, chunk: Any) -> tuple[Any, Any, Any]:
        """(first, end of the whole strips, end) of a chunk's columns, in whole strips."""
        b, i, p = self.b, self.b.ir, self.p
        panel = b.i64(self.f.kernel.panel)
        strip = i.mul(chunk, p["strips"])
        last = i.sdiv(i.add(p["n"], b.i64(self.f.kernel.panel - 1)), panel)
        left, right = (i.mul(x, panel) for x in (strip, b.smin(i.add(strip, p["strips"]), last)))
        return left, b.smin(right, i.mul(i.sdiv(p["n"], panel), panel)) if self.s.masked else right, right

    def _band(self, window: ActiveWindow, block: Any, source: Any) -> tuple[Any, Any, Place]:
        """(first row of C, rows of A, where they are) of a band of an image."""
        b, i, w = self.b, self.b.ir, window.p
        image, first = i.udiv(block, w["bands"]), i.mul(i.urem(block, w["bands"]), w["band"])
        rows = b.smin(w["band"], i.sub(w["out_height"], first))
        start = b.at(source, i.mul(i.mul(image, i.mul(w["height"], w["wide"])), self.p["lda"]), I8)
        window.copy(self.copier, start, self.p["lda"], self.outside, first, rows, self.scratch)
        whole = i.mul(i.add(i.mul(image, w["out_height"]), first), w["out_width"])
        length = i.add(i.mul(i.sub(rows, b.i64(1)), w["line"]), w["out_width"])
        stride = i.mul(w["step"], w["pixel"])
        return whole, length, Place(self.scratch, stride, stride, b.i64(BYTES))

    def _block(self, block: Any, source: Any) -> tuple[Any, Any, Place]:
        """The same of a block of rows."""
        b, i, p = self.b, self.b.ir, self.p
        first = i.mul(block, p["rows"])
        rows = b.smin(p["rows"], i.sub(p["m"], first))
        start = b.at(source, i.mul(first, p["lda"]), I8)
        line = b.i64(BYTES)
        if self.im2col is not None:
            pitch = i.or_(p["pitch"], line)  # an odd number of lines: rows do not meet in the cache
            self.im2col.run(source, self.outside, first, rows, self.scratch, pitch)
            return first, rows, Place(self.scratch, pitch, pitch, line)
        in_place = Place(start, p["lda"], p["lda"], line)
        return first, rows, in_place if self.s.gather == "never" else self._gathered(in_place, rows)

    def _gathered(self, in_place: Place, rows: Any) -> Place:
        """Where the rows of a product are copied to; with tails in place, only those that are no whole tiles."""
        b, i, p = self.b, self.b.ir, self.p
        line = b.i64(BYTES)
        if self.s.how == "tiles":
            gather, copied = gather_tiles, Place(self.scratch, line, p["pitch"], b.i64(ROWS * BYTES))
        else:
            gather, copied = gather_plain, Place(self.scratch, p["pitch"], p["pitch"], line)
        if self.s.gather == "matmul":
            gather(b, self.copier, in_place.start, p["lda"], p["row_bytes"], self.scratch, p["pitch"], rows)
            return copied
        before = i.block
        with i.if_then(i.icmp_unsigned("!=", i.and_(rows, b.i64(ROWS - 1)), b.i64(0))):
            gather(b, self.copier, in_place.start, p["lda"], p["row_bytes"], self.scratch, p["pitch"], rows)
            inside = i.block
        return Place(*(b.merge((value, before), (other, inside)) for value, other in zip(in_place, copied, strict=True)))

    def _cut_rows(self, rows: Any, call: Callable[[int, Any, Any], Any]) -> None:
        """The highest row tiles first; on tile registers the last one may hold rows that nobody stores."""
        b, i, heights = self.b, self.b.ir, self.s.heights
        done = b.i64(0)
        for x, h in enumerate(heights):
            end = i.add(done, i.mul(i.udiv(i.sub(rows, done), b.i64(h)), b.i64(h)))
            if self.s.how == "tiles":
                if x == len(heights) - 1:
                    end = rows
                else:  # more than half of a tall tile is worth one
                    rounded = i.and_(i.add(rows, b.i64(h - ROWS - 1)), b.i64(-h))
                    end = b.smin(rounded, rows)
            call(h, done, end)
            done = end
