"""Tiles of the three parts of float32: the upper, middle and lower 8 bits of the significand, each a bfloat16.

A tile of rows of A, or a strip of packed B, is [half of 16 rows or columns][step of 32 of k][part] tiles of registers. Parts lie in
pairs (k, k + 16), in A and B alike: then a shift and an `and` pack them. A piece is two lines of each of the three: 64 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import llvm_ir as ir
from ..build import I8, I32, I64, PTR, Builder, vec
from ..tiles import BYTES, ROWS
from .schedule import STRIP, TALL

LANES, PARTS, TILE = 16, 3, ROWS * BYTES
STEP = PARTS * TILE  # bytes of a step of 16 rows, or columns
PIECES = 16  # of a step of a tile of rows, or a strip
_F, _I = vec(ir.FloatType(), LANES), vec(I32, LANES)
TYPES = [PTR, PTR, PTR, I64, PTR]  # of what `Whole.values` lists


@dataclass(frozen=True, slots=True)
class Whole:
    """What is to be split: `start` of it, and of what lies `behind`, which memory is asked for; `table`: where each of 32 rows is, in
    elements from there (of A only); `live` of k; `to`: where the parts go."""

    start: Any
    behind: Any
    table: Any
    live: Any
    to: Any

    @property
    def values(self) -> list[Any]:
        return [self.start, self.behind, self.table, self.live, self.to]


@dataclass(frozen=True, slots=True)
class Splitter:
    """`rows`: of A, else strips of B, `panel` columns from row to row. `short`: k does not fill the last step."""

    rows: bool
    panel: int
    short: bool

    def pieces(self, b: Builder, what: Whole, steps: Any, begin: Any, end: Any) -> None:
        """Pieces [begin, end) of 16 · steps."""

        def piece(t: Any, _: list[Any]) -> Sequence[Any]:
            (self._of_rows if self.rows else self._of_strip)(b, what, steps, b.ir.lshr(t, b.i64(4)), b.ir.and_(t, b.i64(PIECES - 1)))
            return ()

        b.loop(begin, end, b.i64(1), [], piece)

    def _of_rows(self, b: Builder, what: Whole, steps: Any, step: Any, row: Any) -> None:
        """A row and that 16 behind it. Reads no element beyond `live` of a row."""
        i, f32 = b.ir, ir.FloatType()
        first = i.mul(step, b.i64(STRIP))
        left = i.sub(what.live, first)
        masks = [b.below(left, LANES, v * LANES) if self.short else None for v in range(2)]
        for half in range(2):
            at = i.add(b.load(I64, b.at(what.table, i.add(row, b.i64(half * ROWS)), I64), 8), first)
            pair = []
            for v, mask in enumerate(masks):
                place = i.add(at, b.i64(v * LANES))
                here = b.at(what.start, place, f32)
                pair.append(b.load(_F, here, 4) if mask is None else b.masked_load(_F, here, mask, 4))
                b.prefetch(b.at(what.behind, place, f32), 2)
            self._split(b, pair, self._line(b, what, steps, step, row, half))

    def _of_strip(self, b: Builder, what: Whole, steps: Any, step: Any, row: Any) -> None:
        """Two rows of k, of all 32 columns; zeros behind the last row of k."""
        i, f32 = b.ir, ir.FloatType()
        pairs: list[list[Any]] = [[], []]
        for v in range(2):
            k = i.add(i.mul(step, b.i64(STRIP)), i.add(row, b.i64(v * ROWS)))
            inside = i.icmp_signed("<", k, what.live)
            top = i.mul(i.select(inside, k, b.i64(0)) if self.short else k, b.i64(self.panel))
            for half in range(2):
                place = i.add(top, b.i64(half * LANES))
                x = b.load(_F, b.at(what.start, place, f32), 4)
                pairs[half].append(i.select(inside, x, ir.Constant(_F, None)) if self.short else x)
                b.prefetch(b.at(what.behind, place, f32), 2)
        for half, pair in enumerate(pairs):
            self._split(b, pair, self._line(b, what, steps, step, row, half))

    def _line(self, b: Builder, what: Whole, steps: Any, step: Any, row: Any, half: int) -> Any:
        """Where row `row` of the upper parts of a half goes."""
        i = b.ir
        tile = i.add(step, steps) if half else step
        return b.at(what.to, i.add(i.mul(tile, b.i64(STEP)), i.mul(row, b.i64(BYTES))), I8)

    def _split(self, b: Builder, pair: Sequence[Any], to: Any) -> None:
        """Three lines, a tile apart, of the parts of two vectors side by side."""
        x, y = pair
        i, high, sixteen = b.ir, ir.Constant(_I, [-65536] * LANES), ir.Constant(_I, [16] * LANES)
        for part in range(PARTS):
            xs, ys = i.bitcast(x, _I), i.bitcast(y, _I)
            upper_x, upper_y = i.and_(xs, high), i.and_(ys, high)
            i.store(i.or_(i.lshr(xs, sixteen), upper_y), b.at(to, b.i64(part * TILE), I8), align=BYTES)
            if part < PARTS - 1:
                x, y = i.fsub(x, i.bitcast(upper_x, _F)), i.fsub(y, i.bitcast(upper_y, _F))


def tile_bytes(b: Builder, steps: Any) -> Any:
    """Of the parts of a tile of rows, or of a strip."""
    return b.ir.mul(steps, b.i64(TALL // ROWS * STEP))
