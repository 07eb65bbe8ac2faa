"""What becomes of a tile's sums: those that are no finite numbers are computed again, then the epilogue has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import llvm_ir as ir
from ..build import I64, PTR, Builder, vec
from ..epilogue import Epilogue
from ..tiles import BYTES, ROWS
from .operands import Operands
from .schedule import STRIP
from .split import LANES

FINISH_ARGS, AGAIN_ARGS = [PTR, PTR, *[I64] * 4, PTR, PTR], [I64, I64, *[PTR] * 4]
_F = vec(ir.FloatType(), LANES)
_ZERO = ir.Constant(_F, None)


def write_finish(b: Builder, operands: Operands, epilogue: Epilogue, again: ir.Function) -> None:
    """void finish(bufs, dims, batch, row, column, rows, sums, table of rows): results of a tile."""
    i = b.ir
    bufs, dims, batch, row, column, rows, sums, table = b.fn.args
    p, pointers, c = operands.sizes(b, dims), operands.pointers(b, bufs), operands.stored

    def check(r: Any, kept: list[Any]) -> Sequence[Any]:
        """0 times a number is 0."""
        sums_of = [b.load(_F, _place(b, sums, i.add(r, b.i64(x)), v), BYTES) for x in range(2) for v in range(2)]
        return [b.fma(x, _ZERO, y) for x, y in zip(sums_of, kept, strict=True)]

    found = b.loop(b.i64(0), rows, b.i64(2), [_ZERO] * 4, check)  # a tile has 16 rows or 32
    total = i.fadd(i.fadd(found[0], found[1]), i.fadd(found[2], found[3]))
    with i.if_then(b.any(i.fcmp_unordered("uno", total, total)), likely=False):
        a, packed = operands.a(b, p, pointers, batch), operands.packed(b, p, pointers, batch)
        i.call(again, [p["k"], rows, sums, a, table, operands.strip(b, p, packed, column)])
    masks = [b.below(i.sub(p["n"], column), LANES, v * LANES) if operands.schedule.ragged else None for v in range(2)]
    written = epilogue.begin(b, dims, pointers, batch, column, masks, hold=True)
    out = b.at(pointers[-1], i.add(i.mul(batch, p["c_batch"]), column), c)

    def one(r: Any, _: list[Any]) -> Sequence[Any]:
        m = i.add(row, r)
        written.row(m, [b.load(_F, _place(b, sums, r, v), BYTES) for v in range(2)], b.at(out, i.mul(m, p["ldc"]), c))
        return ()

    b.loop(b.i64(0), rows, b.i64(1), [], one)
    i.ret_void()


def write_again(b: Builder, panel: int) -> None:
    """void again(k, rows, sums, A, table of rows, strip): rows whose sums are no finite numbers, by multiply-adds, slowly."""
    i, f32 = b.ir, ir.FloatType()
    depth, rows, sums, a, table, strip = b.fn.args

    def row(r: Any, _: list[Any]) -> Sequence[Any]:
        places = [_place(b, sums, r, v) for v in range(2)]
        left = b.at(a, b.load(I64, b.at(table, r, I64), 8), f32)

        def step(k: Any, acc: list[Any]) -> Sequence[Any]:
            x = b.splat(b.load(f32, b.at(left, k, f32), 4), LANES)
            at = b.at(strip, i.mul(k, b.i64(panel)), f32)
            ys = [b.load(_F, b.at(at, b.i64(v * LANES), f32), 4) for v in range(2)]
            return [b.fma(x, y, z) for y, z in zip(ys, acc, strict=True)]

        found = [b.load(_F, at, BYTES) for at in places]
        wrong = i.fsub(i.fsub(found[0], found[0]), i.fsub(found[1], found[1]))
        with i.if_then(b.any(i.fcmp_unordered("uno", wrong, wrong))):
            for value, at in zip(b.loop(b.i64(0), depth, b.i64(1), [_ZERO] * 2, step), places, strict=True):
                i.store(value, at, align=BYTES)
        return ()

    b.loop(b.i64(0), rows, b.i64(1), [], row)
    i.ret_void()


def _place(b: Builder, sums: Any, row: Any, vector: int) -> Any:
    """A vector of a row of the sums, which are corners of 16 × 16 one after the other."""
    i = b.ir
    half = i.mul(i.and_(row, b.i64(-ROWS)), b.i64(STRIP))
    corner = i.add(half, b.i64(vector * ROWS * LANES))
    return b.at(sums, i.add(corner, i.mul(i.and_(row, b.i64(ROWS - 1)), b.i64(LANES))), ir.FloatType())
