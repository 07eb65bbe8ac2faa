"""Products of a tile of rows and a strip, beside which what passes next is split and the lines of results are fetched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I8, I64, PTR, Builder
from ..tiles import BYTES, ROWS, Tiles
from .operands import Operands
from .split import LANES, STEP, TILE, TYPES, Whole

# (part of A, part of B), so that each differs from the one before in one of both; the smallest products come first
_ORDER = ((2, 0), (1, 0), (1, 1), (0, 1), (0, 2), (0, 0))
SLOTS = len(_ORDER) // 2  # of a step: places behind two products, for other work
ARGS = [PTR, PTR, I64, PTR, I64, *TYPES, I64, I64, I64, PTR, I64, I64]


def write_multiply(b: Builder, operands: Operands, high: int) -> None:
    """i64 multiply(parts of 16 · `high` rows, of a strip, steps, sums, k0, (what to split), turn, limit, pieces, C, ldc, wanted).

    Adds to `sums`, which begin at k0 = 0. In every slot so many `pieces` of what passes next are split, from number `turn` to `limit`
    (returns the first that is left), and the lines of some of the `wanted` rows of C are fetched, as they will be written soon.
    """
    i, t = b.ir, Tiles(b, DType.BF16)
    a, strip, steps, sums, k0 = b.fn.args[:5]
    after = Whole(*b.fn.args[5:10])
    turn, limit, pieces, result, ldc, wanted = b.fn.args[10:]
    slots = i.mul(steps, b.i64(SLOTS))
    per_slot = i.udiv(i.add(wanted, i.sub(slots, b.i64(1))), slots)
    corners = [b.at(sums, b.i64(x * ROWS * LANES), ir.FloatType()) for x in range(2 * high)]
    with i.if_else(i.icmp_signed("==", k0, b.i64(0))) as (fresh, more):
        with fresh:
            for x in range(len(corners)):
                t.zero(x)
        with more:
            for x, corner in enumerate(corners):
                t.load(x, corner, b.i64(BYTES))
    half = i.mul(steps, b.i64(STEP))  # from 16 rows, or columns, to the next

    def fetch(r: Any, _: list[Any]) -> Sequence[Any]:
        at = b.at(result, i.mul(r, ldc), operands.stored)
        b.prefetch(at, write=True)
        b.prefetch(b.at(at, b.i64(LANES), operands.stored), write=True)
        return ()

    def step(s: Any, carried: list[Any]) -> Sequence[Any]:
        first = i.mul(s, b.i64(STEP))
        rows = [b.at(a, first, I8), b.at(a, i.add(first, half), I8)][:high]
        columns = [b.at(strip, first, I8), b.at(strip, i.add(first, half), I8)]
        turn, fetched = carried
        for at, _ in enumerate(_products(b, t, rows, columns)):
            if at % 2:
                end = b.smin(i.add(turn, pieces), limit)
                operands.passes.pieces(b, after, steps, turn, end)
                turn = end
                fetched_end = b.smin(i.add(fetched, per_slot), wanted)
                b.loop(fetched, fetched_end, b.i64(1), [], fetch)
                fetched = fetched_end
        return [turn, fetched]

    turn = b.loop(b.i64(0), steps, b.i64(1), [turn, b.i64(0)], step)[0]
    for x, corner in enumerate(corners):
        t.store(x, corner, b.i64(BYTES))
    i.ret(turn)


def _products(b: Builder, t: Tiles, rows: Sequence[Any], columns: Sequence[Any]) -> Iterator[None]:
    """The six products of parts of a step, one after the other: registers 0 to 3 add up, 4 and 5 have rows, 6 and 7 columns.

    What changes from one to the next is loaded as soon as its register was used last.
    """

    def load_row(r: int, part: int) -> None:
        t.load(4 + r, b.at(rows[r], b.i64(part * TILE), I8), b.i64(BYTES))

    def load_column(c: int, part: int) -> None:
        t.load(6 + c, b.at(columns[c], b.i64(part * TILE), I8), b.i64(BYTES))

    for r in range(len(rows)):
        load_row(r, _ORDER[0][0])
    for c in range(len(columns)):
        load_column(c, _ORDER[0][1])
    for (x, y), (next_x, next_y) in zip(_ORDER, (*_ORDER[1:], _ORDER[-1]), strict=True):
        corners = [(r, c) for r in range(len(rows)) for c in range(len(columns))]
        if next_y != y:
            corners.sort(key=lambda corner: corner[1])
        for n, (r, c) in enumerate(corners):
            t.multiply(2 * r + c, 4 + r, 6 + c)
            if next_x != x and all(row != r for row, _ in corners[n + 1 :]):
                load_row(r, next_x)
            if next_y != y and all(column != c for _, column in corners[n + 1 :]):
                load_column(c, next_y)
        yield
