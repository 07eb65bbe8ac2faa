"""Dot products on tile registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..build import I8
from ..tiles import BYTES, ROWS, Tiles
from .tile import RegisterTile
from .window import ActiveWindow

_LONGEST = 512 << 10  # bytes of a strip of B that the second-level cache keeps beside the strip before it
_AHEAD = 8 << 10  # bytes of B that are fetched before they are multiplied, where strips are longer


class TileRegisters(RegisterTile):
    """Sums rest until the next tile is being multiplied: the epilogue fills the time that tile registers take."""

    def _walk(self, count: Any) -> None:
        b, i = self.b, self.b.ir

        def tile(t: Any, before: list[Any]) -> Sequence[Any]:
            row, column = self._place(t)
            live = i.icmp_signed("<", t, count)
            with i.if_then(live):
                self._multiply(t, row, column)
            with i.if_then(i.icmp_signed(">", t, b.i64(0))):
                self._finish(*before)
            with i.if_then(live):
                self._put_down()
            return [row, column]

        b.loop(b.i64(0), i.add(count, b.i64(1)), b.i64(1), [b.i64(0), b.i64(0)], tile)

    def _put_down(self) -> None:
        """Sums go from the registers to memory."""
        b, t, width = self.b, Tiles(self.b, self.f.kind.a), 4 * self.f.kernel.panel
        for x in range(self.height // ROWS):
            for y in range(2):
                t.store(2 * x + y, b.at(self.sums, b.i64(x * ROWS * width + y * BYTES), I8), b.i64(width))

    def _multiply(self, t: Any, row: Any, column: Any) -> None:
        """Rows of A by 32 columns: sums in tiles 0 … 3, A in 4 and 5, B in 6 and 7."""
        b, i, high = self.b, self.b.ir, self.height // ROWS
        first = self._rows(row)
        rows = (first, b.at(first, i.mul(self.advance, b.i64(ROWS)), I8))[:high]
        b_strip, ahead = self._strip(column), self._ahead(i.urem(t, self.inner))
        for x in range(2 * high):
            Tiles(b, self.f.kind.a).zero(x)
        if self.window is not None:
            self._multiply_window(self.window, rows[0], b_strip, ahead)
            return

        def along(at: Any, carried: list[Any]) -> Sequence[Any]:
            offset = i.mul(at, self.step)
            return [self._line([b.at(row, offset, I8) for row in rows], carried[0], ahead)]

        b.loop(b.i64(0), i.udiv(self.p["pitch"], b.i64(BYTES)), b.i64(1), [b_strip], along)

    def _multiply_window(self, window: ActiveWindow, start: Any, b_strip: Any, ahead: Any) -> None:
        """The same for every tap of a convolution."""
        b, high = self.b, self.height // ROWS
        below = b.ir.mul(self.stride, b.i64(ROWS))

        def tap(start: Any, size: Any, carried: list[Any]) -> Sequence[Any]:
            def along(at: Any, carried: list[Any]) -> Sequence[Any]:
                first = b.at(start, at, I8)
                return [self._line((first, b.at(first, below, I8))[:high], carried[0], ahead)]

            return b.loop(b.i64(0), size, b.i64(BYTES), carried, along)

        window.taps(start, [b_strip], tap)

    def _line(self, starts: Sequence[Any], line: Any, ahead: Any) -> Any:
        """64 bytes of K of the rows at `starts` by those of B at `line`; returns the line that follows."""
        b, t, width = self.b, Tiles(self.b, self.f.kind.a), 4 * self.f.kernel.panel
        self._fetch(starts[0], line, ahead)
        for x, start in enumerate(starts):
            t.load(4 + x, start, self.stride)
        for y in range(2):
            t.load(6 + y, b.at(line, b.i64(y * BYTES), I8), b.i64(width))
        for x in range(len(starts)):
            for y in range(2):
                t.multiply(2 * x + y, 4 + x, 6 + y)
        return b.at(line, b.i64(ROWS * width), I8)

    def _ahead(self, turn: Any) -> Any:
        """Where what this turn of the inner loop asks memory for begins, from the place of B, or of A."""
        b, i, s = self.b, self.b.ir, self.s
        if s.fetch == "a":
            share = i.and_(i.mul(turn, b.i64(s.share)), b.i64(s.heights[0] - 1))
            return i.mul(self.advance, i.add(b.i64(self.height), share))
        far = i.select(i.icmp_signed("<=", self.strip_bytes, b.i64(_LONGEST)), self.strip_bytes, b.i64(_AHEAD))
        return i.add(far, i.and_(i.mul(turn, b.i64(s.share * BYTES)), b.i64(ROWS * 4 * self.f.kernel.panel - 1)))

    def _fetch(self, start: Any, line: Any, ahead: Any) -> None:
        """Ask memory for a share of what is multiplied later: tile loads want 16 lines at once, too late to wait for them.

        Of B that is the next strip, of A the rows of the next tile; every turn of the inner loop fetches a part, so that
        memory is busy throughout.
        """
        b, i = self.b, self.b.ir
        for x in range(self.s.share):
            if self.s.fetch == "a":
                b.prefetch(b.at(start, i.add(ahead, i.mul(self.advance, b.i64(x))), I8), 2)
            else:
                b.prefetch(b.at(line, i.add(ahead, b.i64(x * BYTES)), I8), 2)
