"""Where the parts of one operand stay while tiles of the other pass by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import llvm_ir as ir
from ..build import I8, I64, PTR, Builder
from ..tiles import ROWS
from .finish import FINISH_ARGS
from .multiply import SLOTS
from .operands import Operands
from .queue import Queue
from .schedule import STRIP, TALL
from .split import PIECES, Splitter, Whole, tile_bytes

TABLES = 4  # of rows that pass: of a tile that is finished, that is multiplied, that is split, and none
_SUMS = TALL * STRIP  # of a tile: corners of 16 x 16 one after the other
ARGS = [PTR, PTR, *[I64] * 4, *[PTR] * 7]
_FINISH = ir.FunctionType(ir.VoidType(), FINISH_ARGS)


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
    """void walk(bufs, dims, batch, stay, stay_end, unit, parts that stay, parts that pass, sums, tables, queue, list, finish).

    What stays is [stay, stay_end) of rows, or columns; `unit` is the first of those that it is part of. `multiply`: by halves of a tile
    that have rows.
    """

    def __init__(self, b: Builder, operands: Operands, multiply: Mapping[int, ir.Function], following: ir.Function) -> None:
        self.b, self.operands, self.multiply, self.following = b, operands, multiply, following
        bufs, dims, batch, self.stay, self.stay_end, self.unit, *memory, self.finish = b.fn.args
        self.kept, self.passing, self.sums, self.tables, self.queue, self.list = memory
        self.call, self.batch = [bufs, dims, batch], batch
        self.p = operands.sizes(b, dims)
        self.pointers = operands.pointers(b, bufs)
        self.a = operands.a(b, self.p, self.pointers, batch)
        self.packed = operands.packed(b, self.p, self.pointers, batch)
        self.tall = b.ir.udiv(b.ir.add(b.ir.sub(self.stay_end, self.stay), b.i64(TALL - 1)), b.i64(TALL))  # tiles that stay

    def write(self) -> ir.Function:
        Queue(self.b, self.queue).close()
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
        first = self._following(d, b.i64(-TALL), b.i64(-1))
        if self.operands.passes.rows:
            self._list_rows(first, self._table(b.i64(0)))
        whole = self._passing(d, first, b.i64(0))
        self.operands.passes.pieces(b, whole, steps, b.i64(0), pieces)
        nothing = [b.i64(0), b.i64(0), b.i64(0), self.sums, self.tables]
        _, _, *done = b.during([first, b.i64(0), *nothing], lambda x: i.icmp_signed(">=", x[0], b.i64(0)), lambda x: self._pass(d, *x))
        self._finish(done)
        return ()

    def _following(self, d: _Depth, at: Any, number: Any) -> Any:
        args = [self.call[1], self.queue, self.list, self.unit, d.start, at, number]
        return self.b.ir.call(self.following, args)

    def _finish(self, tile: Sequence[Any]) -> None:
        self.b.ir.call_through(_FINISH, self.finish, [*self.call, *tile])

    def _keep(self, d: _Depth, t: Any) -> Sequence[Any]:
        """Splits tile number `t` of what stays."""
        at = self.b.ir.add(self.stay, self.b.ir.mul(t, self.b.i64(TALL)))
        table = self._table_that_stays(t)
        if self.operands.keeps.rows:
            self._list_rows(at, table)
        whole = self._whole(self.operands.keeps, d, at, table, self._kept(d, t))
        self.operands.keeps.pieces(self.b, whole, d.steps, self.b.i64(0), d.pieces)
        return ()

    def _pass(self, d: _Depth, at: Any, number: Any, *before: Any) -> Sequence[Any]:
        """Multiplies tile number `number`, at `at`, by all that stay, while the following is split.

        `before`, and what is returned behind the next tile and its number: the arguments of `finish` for the last tile whose sums are in
        memory.
        """
        b, i, passes = self.b, self.b.ir, self.operands.passes
        following, behind = self._following(d, at, number), i.add(number, b.i64(1))
        some = i.icmp_signed(">=", following, b.i64(0))
        limit, place = i.select(some, d.pieces, b.i64(0)), i.select(some, following, at)
        if passes.rows:
            self._list_rows(place, self._table(behind))
        after = self._passing(d, place, behind)
        line = i.mul(number, self.tall)

        def tile(t: Any, carried: list[Any]) -> Sequence[Any]:
            """Multiplies, and finishes the tile before, whose sums have arrived in memory meanwhile."""
            turn, *done = carried
            stays, passing, other = self._kept(d, t), self._buffer(d, number), i.add(self.stay, i.mul(t, b.i64(TALL)))
            parts, (row, column) = ([passing, stays], (at, other)) if passes.rows else ([stays, passing], (other, at))
            sums = self._sums_of(i.add(line, t))
            rows = b.smin(b.i64(TALL), i.sub(self.p["m"], row))
            wanted = i.select(d.last, rows, b.i64(0))
            args = [*parts, d.steps, sums, d.start, *after.values, turn, limit, d.several, self._c(row, column), self.p["ldc"], wanted]
            with i.if_else(i.icmp_signed(">", rows, b.i64(ROWS))) as (two, only):
                with two:
                    from_two = (i.call(self.multiply[2], args), i.block)
                with only:
                    from_one = (i.call(self.multiply[1], args), i.block)
            turn = b.merge(from_two, from_one)
            self._finish(done)
            return [turn, row, column, wanted, sums, self._table(number) if passes.rows else self._table_that_stays(t)]

        turn, *done = b.loop(b.i64(0), self.tall, b.i64(1), [b.i64(0), *before], tile)
        passes.pieces(b, after, d.steps, turn, limit)
        return [following, behind, *done]

    def _passing(self, d: _Depth, at: Any, number: Any) -> Whole:
        return self._whole(self.operands.passes, d, at, self._table(number), self._buffer(d, number))

    def _whole(self, splitter: Splitter, d: _Depth, at: Any, table: Any, to: Any) -> Whole:
        """What lies at row, or column, `at`; `to`: where its parts go."""
        b, i = self.b, self.b.ir
        behind = b.smin(i.add(at, b.i64(TALL)), i.sub(self.p["m" if splitter.rows else "n"], b.i64(1)))
        if splitter.rows:
            k0, f32 = d.start, ir.FloatType()
            far = b.at(self.a, i.add(k0, i.mul(i.sub(behind, at), self.p["lda"])), f32)
            return Whole(b.at(self.a, k0, f32), far, table, d.live, to)
        below = i.mul(d.start, b.i64(self.operands.kernel.panel))
        here, far = (b.at(self.operands.strip(b, self.p, self.packed, x), below, ir.FloatType()) for x in (at, behind))
        return Whole(here, far, self.tables, d.live, to)

    def _list_rows(self, first: Any, table: Any) -> None:
        """Where 32 rows are, the last one again behind it."""
        b, i = self.b, self.b.ir

        def one_row(x: Any, _: list[Any]) -> Sequence[Any]:
            m = b.smin(i.add(first, x), i.sub(self.p["m"], b.i64(1)))
            i.store(i.mul(m, self.p["lda"]), b.at(table, x, I64), align=8)
            return ()

        b.loop(b.i64(0), b.i64(TALL), b.i64(1), [], one_row)

    def _table(self, number: Any) -> Any:
        """Of the rows of a tile that passes."""
        i = self.b.ir
        return self.b.at(self.tables, i.mul(i.and_(number, self.b.i64(TABLES - 1)), self.b.i64(TALL)), I64)

    def _table_that_stays(self, t: Any) -> Any:
        return self.b.at(self.tables, self.b.ir.mul(t, self.b.i64(TALL)), I64)

    def _kept(self, d: _Depth, t: Any) -> Any:
        return self.b.at(self.kept, self.b.ir.mul(t, d.bytes), I8)

    def _buffer(self, d: _Depth, number: Any) -> Any:
        """One of two, in turns."""
        return self.b.at(self.passing, self.b.ir.mul(self.b.ir.and_(number, self.b.i64(1)), d.bytes), I8)

    def _sums_of(self, number: Any) -> Any:
        """Those of every tile wait where more of k follows, else only those of the tile before."""
        b, i = self.b, self.b.ir
        number = i.select(i.icmp_signed(">=", self.p["depth"], self.p["k"]), i.and_(number, b.i64(1)), number)
        return b.at(self.sums, i.mul(number, b.i64(_SUMS)), ir.FloatType())

    def _c(self, row: Any, column: Any) -> Any:
        i = self.b.ir
        at = i.add(i.add(i.mul(self.batch, self.p["c_batch"]), column), i.mul(row, self.p["ldc"]))
        return self.b.at(self.pointers[-1], at, self.operands.stored)
