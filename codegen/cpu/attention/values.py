"""The second product of attention: rows of weights, which lie transposed, by a block of v, onto running sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I1, I64, PTR, Builder, subroutine, vec
from ..math.functions import Functions
from ..target import CpuTarget
from .schedule import ValueTile

_F32 = ir.FloatType()
_UNROLL = 4


def value_function(
    module: ir.Module, name: str, tile: ValueTile, value_size: int, sum_row: int, lanes: int, target: CpuTarget
) -> ir.Function:
    """void values(weights, weight_row, v, v_row, keys, rows, sums, fade, inverse, out, out_row, fresh, final).

    sums[r] = sums[r] · fade[r] (0 if `fresh`) + Σ_key weights[key·weight_row + r] · v[key·v_row …], for rows r < `rows`, or with
    `final` out[r·out_row …] = that times inverse[r]. Rows of `sums` are `sum_row`
    apart, with room for a tile more than `rows`. Rows of v are whole vectors.
    """
    types = [PTR, I64, PTR, I64, I64, I64, PTR, PTR, PTR, PTR, I64, I1, I1]
    b = subroutine(module, name, types)
    i = b.ir
    weights, weight_row, v, v_row, keys, rows, sums, fade, inverse, out, out_row, fresh, final = b.fn.args
    vector, math = vec(_F32, lanes), Functions(b, lanes, target)
    tail = value_size % lanes
    masks: list[Any] = [None] * tile.vectors
    if tile.masked:
        masks[-1] = ir.Constant(vec(I1, lanes), [lane < tail for lane in range(lanes)])

    def step(key: Any, count: int, first: Any, acc: list[Any]) -> list[Any]:
        acc = list(acc)
        line, of = b.at(v, i.mul(key, v_row), _F32), b.at(weights, i.add(i.mul(key, weight_row), first), _F32)
        for _ in range(count):
            row = [b.load(vector, b.at(line, b.i64(x * lanes), _F32), 4) for x in range(tile.vectors)]
            for r in range(tile.rows):
                weight = b.splat(b.load(_F32, b.at(of, b.i64(r), _F32), 4), lanes)
                for x in range(tile.vectors):
                    acc[r * tile.vectors + x] = math.call("fma", [weight, row[x], acc[r * tile.vectors + x]], [DType.F32] * 3)
            line, of = b.at(line, v_row, _F32), b.at(of, weight_row, _F32)
        return acc

    def finish(first: Any, r: int, acc: Sequence[Any]) -> None:
        """The result of one query."""
        row = i.add(first, b.i64(r))
        scale = b.splat(b.load(_F32, b.at(inverse, row, _F32), 4), lanes)
        line = b.at(out, i.mul(row, out_row), _F32)
        for x, value in enumerate(acc):
            y, at = i.fmul(value, scale), b.at(line, b.i64(x * lanes), _F32)
            if masks[x] is None:
                i.store(y, at, align=4)
            else:
                b.masked_store(y, at, masks[x], 4)

    def row_tile(first: Any, _: list[Any]) -> Sequence[Any]:
        at = [b.at(sums, i.mul(i.add(first, b.i64(r)), b.i64(sum_row)), _F32) for r in range(tile.rows)]
        acc = _faded(b, fresh, at, b.at(fade, first, _F32), tile, lanes)
        whole = i.and_(keys, b.i64(-_UNROLL))
        acc = b.loop(b.i64(0), whole, b.i64(_UNROLL), acc, lambda key, acc: step(key, _UNROLL, first, acc))
        acc = b.loop(whole, keys, b.i64(1), acc, lambda key, acc: step(key, 1, first, acc))
        with i.if_else(final) as (done, more):
            with more:
                for n, x in enumerate(acc):
                    i.store(x, b.at(at[n // tile.vectors], b.i64(n % tile.vectors * lanes), _F32), align=4)
            with done:
                for r in range(tile.rows):
                    with i.if_then(i.icmp_signed("<", i.add(first, b.i64(r)), rows)):
                        finish(first, r, acc[r * tile.vectors : (r + 1) * tile.vectors])
        return ()

    b.loop(b.i64(0), rows, b.i64(tile.rows), [], row_tile)
    i.ret_void()
    return b.fn


def _faded(b: Builder, fresh: Any, rows: Sequence[Any], fade: Any, tile: ValueTile, lanes: int) -> list[Any]:
    """Accumulators: the sums so far, faded, or zero."""
    i, vector = b.ir, vec(_F32, lanes)
    before = i.block
    kept = []
    with i.if_then(i.not_(fresh)):
        for r, row in enumerate(rows):
            factor = b.splat(b.load(_F32, b.at(fade, b.i64(r), _F32), 4), lanes)
            kept += [i.fmul(b.load(vector, b.at(row, b.i64(x * lanes), _F32), 4), factor) for x in range(tile.vectors)]
        inside = i.block
    out = []
    for x in kept:
        phi = i.phi(vector)
        phi.add_incoming(ir.Constant(vector, None), before)
        phi.add_incoming(x, inside)
        out.append(phi)
    return out
