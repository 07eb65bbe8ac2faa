"""Where the parts of one operand stay while tiles of the other pass by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import llvm_ir as ir
from ..build import I8, I64, PTR, Builder
from ..tiles import ROWS
from .multiply import SLOTS
from .operands import Operands
from .schedule import STRIP, TALL
from .split import PIECES, Splitter, Whole, tile_bytes

TABLES = 4  # of rows that pass: of a tile that is finished, that is multiplied, that is split, and none
_SUMS = TALL * STRIP  # of a tile: corners of 16 x 16 one after the other
ARGS = [PTR, PTR, *[I64] * 5, *[PTR] * 4]


@dataclass(frozen=True, slots=True)
class _Depth:
    """A part of k, from `start` on: `live` numbers in `steps`, `last` of all; `pieces` and `bytes` of a tile's parts; `several` pieces
    are split in a slot."""

    start: Any
    live: Any
    steps: Any
    pieces: Any
    bytes: Any
    last: Any
    several: Any


class Walk:
    """void walk(bufs, dims, batch, row, row_end, column, column_end, parts that stay, parts that pass, sums, tables).

    `multiply`: by halves of a tile that have rows.
    """

    def __init__(self, fn: ir.Function, operands: Operands, multiply: Mapping[int, ir.Function], finish: ir.Function) -> None:
        self.b = b = Builder(fn)
        self.operands, self.multiply, self.finish = operands, multiply, finish
        bufs, dims, batch, row, row_end, column, column_end, self.kept, self.passing, self.sums, self.tables = fn.args
        self.call, self.batch, self.row, self.row_end, self.column = [bufs, dims, batch], batch, row, row_end, column
        self.p = operands.sizes(b, dims)
        self.pointers = operands.pointers(b, bufs)
        self.a = operands.a(b, self.p, self.pointers, batch)
        self.packed = operands.packed(b, self.p, self.pointers, batch)
        edges = [(row, row_end), (column, column_end)]
        (self.first, self.last), (self.stay, self.stay_end) = edges if operands.schedule.rows_pass else reversed(edges)
        self.tall = b.ir.udiv(b.ir.add(b.ir.sub(self.stay_end, self.stay), b.i64(TALL - 1)), b.i64(TALL))  # tiles that stay

    def write(self) -> ir.Function:
        return self.b.whole(self.b.i64(0), self.p["k"], self.p["depth"], self._deep)

    def _deep(self, k0: Any, _: list[Any]) -> Sequence[Any]:
        b, i = self.b, self.b.ir
        live = b.smin(self.p["depth"], i.sub(self.p["k"], k0))
        steps = i.udiv(i.add(live, b.i64(STRIP - 1)), b.i64(STRIP))
        pieces, bytes_ = i.mul(steps, b.i64(PIECES)), tile_bytes(b, steps)
        last = i.icmp_signed(">=", i.add(k0, live), self.p["k"])
        slots = i.mul(self.tall, b.i64(SLOTS))  # of a step
        several = i.udiv(i.add(slots, b.i64(PIECES - 1)), slots)
        d = _Depth(k0, live, steps, pieces, bytes_, last, several)
        b.loop(b.i64(0), self.tall, b.i64(1), [], lambda t, _: self._keep(d, t))
        if self.operands.passes.rows:
            self._list_rows(self.first)
        to = self._buffer(d, self.first)
        self.operands.passes.pieces(b, self._whole(self.operands.passes, d, self.first, self.last, to), steps, b.i64(0), pieces)
        nothing = [self.row, self.column, b.i64(0), self.sums, self.tables]
        done = b.loop(self.first, self.last, b.i64(TALL), nothing, lambda at, before: self._pass(d, at, before))
        i.call(self.finish, [*self.call, *done])
        return ()

    def _keep(self, d: _Depth, t: Any) -> Sequence[Any]:
        """Splits tile number `t` of what stays."""
        at = self.b.ir.add(self.stay, self.b.ir.mul(t, self.b.i64(TALL)))
        if self.operands.keeps.rows:
            self._list_rows(at)
        whole = self._whole(self.operands.keeps, d, at, self.stay_end, self._kept(d, t))
        self.operands.keeps.pieces(self.b, whole, d.steps, self.b.i64(0), d.pieces)
        return ()

    def _pass(self, d: _Depth, at: Any, before: list[Any]) -> Sequence[Any]:
        """Multiplies the tile at `at` by all that stay, while the following is split.

        `before`, and what is returned: the arguments of `finish` for the last tile whose sums are in memory.
        """
        b, i, passes = self.b, self.b.ir, self.operands.passes
        following = i.add(at, b.i64(TALL))
        limit = i.select(i.icmp_signed("<", following, self.last), d.pieces, b.i64(0))
        if passes.rows:
            self._list_rows(following)
        after = self._whole(passes, d, following, self.last, self._buffer(d, following))
        line = i.mul(self._number(at), self.tall)

        def tile(t: Any, carried: list[Any]) -> Sequence[Any]:
            """Multiplies, and finishes the tile before, whose sums have arrived in memory meanwhile."""
            turn, *done = carried
            stays, passing, other = self._kept(d, t), self._buffer(d, at), i.add(self.stay, i.mul(t, b.i64(TALL)))
            parts, (row, column) = ([passing, stays], (at, other)) if passes.rows else ([stays, passing], (other, at))
            sums = self._sums_of(i.add(line, t))
            rows = b.smin(b.i64(TALL), i.sub(self.row_end, row))
            wanted = i.select(d.last, rows, b.i64(0))
            args = [*parts, d.steps, sums, d.start, *after.values, turn, limit, d.several, self._c(row, column), self.p["ldc"], wanted]
            with i.if_else(i.icmp_signed(">", rows, b.i64(ROWS))) as (two, only):
                with two:
                    from_two = (i.call(self.multiply[2], args), i.block)
                with only:
                    from_one = (i.call(self.multiply[1], args), i.block)
            turn = b.merge(from_two, from_one)
            i.call(self.finish, [*self.call, *done])
            return [turn, row, column, wanted, sums, self._table(row)]

        turn, *done = b.loop(b.i64(0), self.tall, b.i64(1), [b.i64(0), *before], tile)
        passes.pieces(b, after, d.steps, turn, limit)
        return done

    def _whole(self, splitter: Splitter, d: _Depth, at: Any, end: Any, to: Any) -> Whole:
        """What lies at row, or column, `at`; `to`: where its parts go."""
        b, i = self.b, self.b.ir
        behind = b.smin(i.add(at, b.i64(TALL)), i.sub(end, b.i64(1)))
        if splitter.rows:
            k0, f32 = d.start, ir.FloatType()
            far = b.at(self.a, i.add(k0, i.mul(i.sub(behind, at), self.p["lda"])), f32)
            return Whole(b.at(self.a, k0, f32), far, self._table(at), d.live, to)
        below = i.mul(d.start, b.i64(self.operands.kernel.panel))
        here, far = (b.at(self.operands.strip(b, self.p, self.packed, x), below, ir.FloatType()) for x in (at, behind))
        return Whole(here, far, self.tables, d.live, to)

    def _list_rows(self, first: Any) -> None:
        """Where 32 rows are, the last one again behind it."""
        b, i = self.b, self.b.ir

        def one_row(x: Any, _: list[Any]) -> Sequence[Any]:
            m = b.smin(i.add(first, x), i.sub(self.row_end, b.i64(1)))
            i.store(i.mul(m, self.p["lda"]), b.at(self._table(first), x, I64), align=8)
            return ()

        b.loop(b.i64(0), b.i64(TALL), b.i64(1), [], one_row)

    def _table(self, first: Any) -> Any:
        """Of the rows from `first` on."""
        at = self.b.ir.sub(first, self.row)
        wraps = self.operands.schedule.rows_pass
        return self.b.at(self.tables, self.b.ir.and_(at, self.b.i64(TABLES * TALL - 1)) if wraps else at, I64)

    def _kept(self, d: _Depth, t: Any) -> Any:
        return self.b.at(self.kept, self.b.ir.mul(t, d.bytes), I8)

    def _buffer(self, d: _Depth, at: Any) -> Any:
        """One of two, in turns."""
        turn = self.b.ir.and_(self._number(at), self.b.i64(1))
        return self.b.at(self.passing, self.b.ir.mul(turn, d.bytes), I8)

    def _number(self, at: Any) -> Any:
        """Of the tile at `at`, among those that pass."""
        return self.b.ir.udiv(self.b.ir.sub(at, self.first), self.b.i64(TALL))

    def _sums_of(self, number: Any) -> Any:
        """Those of every tile wait where more of k follows, else only those of the tile before."""
        b, i = self.b, self.b.ir
        number = i.select(i.icmp_signed(">=", self.p["depth"], self.p["k"]), i.and_(number, b.i64(1)), number)
        return b.at(self.sums, i.mul(number, b.i64(_SUMS)), ir.FloatType())

    def _c(self, row: Any, column: Any) -> Any:
        i = self.b.ir
        at = i.add(i.add(i.mul(self.batch, self.p["c_batch"]), column), i.mul(row, self.p["ldc"]))
        return self.b.at(self.pointers[-1], at, self.operands.stored)
