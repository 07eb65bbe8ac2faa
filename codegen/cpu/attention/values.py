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
    b = subroutine(module, name, [PTR, I64, PTR, I64, I64, I64, PTR, PTR, PTR, PTR, I64, I1, I1])
    values = _Values(b, tile, value_size, sum_row, lanes, Functions(b, lanes, target))
    b.loop(b.i64(0), values.rows, b.i64(tile.rows), [], values.row_tile)
    b.ir.ret_void()
    return b.fn


class _Values:
    def __init__(self, b: Builder, tile: ValueTile, value_size: int, sum_row: int, lanes: int, math: Functions) -> None:
        self.b, self.tile, self.sum_row, self.lanes, self.math = b, tile, sum_row, lanes, math
        self.vector = vec(_F32, lanes)
        (self.weights, self.weight_row, self.v, self.v_row, self.keys, self.rows, self.sums, self.fade, self.inverse,
         self.out, self.out_row, self.fresh, self.final) = b.fn.args  # fmt: skip
        self.masks: list[Any] = [None] * tile.vectors
        if tile.masked:
            self.masks[-1] = ir.Constant(vec(I1, lanes), [lane < value_size % lanes for lane in range(lanes)])

    def row_tile(self, first: Any, _: list[Any]) -> Sequence[Any]:
        """Rows from `first` on."""
        b, i, tile = self.b, self.b.ir, self.tile
        at = [b.at(self.sums, i.mul(i.add(first, b.i64(r)), b.i64(self.sum_row)), _F32) for r in range(tile.rows)]
        acc = self._faded(at, b.at(self.fade, first, _F32))
        whole = i.and_(self.keys, b.i64(-_UNROLL))
        acc = b.loop(b.i64(0), whole, b.i64(_UNROLL), acc, lambda key, acc: self._step(key, _UNROLL, first, acc))
        acc = b.loop(whole, self.keys, b.i64(1), acc, lambda key, acc: self._step(key, 1, first, acc))
        with i.if_else(self.final) as (done, more):
            with more:
                for n, x in enumerate(acc):
                    i.store(x, b.at(at[n // tile.vectors], b.i64(n % tile.vectors * self.lanes), _F32), align=4)
            with done:
                for r in range(tile.rows):
                    with i.if_then(i.icmp_signed("<", i.add(first, b.i64(r)), self.rows)):
                        self._finish(first, r, acc[r * tile.vectors : (r + 1) * tile.vectors])
        return ()

    def _faded(self, rows: Sequence[Any], fade: Any) -> list[Any]:
        """Accumulators: the sums so far, faded, or zero."""
        b, i, tile = self.b, self.b.ir, self.tile
        before = i.block
        kept = []
        with i.if_then(i.not_(self.fresh)):
            for r, row in enumerate(rows):
                factor = b.splat(b.load(_F32, b.at(fade, b.i64(r), _F32), 4), self.lanes)
                kept += [i.fmul(self._load(row, x), factor) for x in range(tile.vectors)]
            inside = i.block
        out = []
        for x in kept:
            phi = i.phi(self.vector)
            phi.add_incoming(ir.Constant(self.vector, None), before)
            phi.add_incoming(x, inside)
            out.append(phi)
        return out

    def _step(self, key: Any, count: int, first: Any, acc: list[Any]) -> list[Any]:
        """Products with so many rows of v from `key` on."""
        b, i, tile, lanes = self.b, self.b.ir, self.tile, self.lanes
        acc = list(acc)
        line, of = b.at(self.v, i.mul(key, self.v_row), _F32), b.at(self.weights, i.add(i.mul(key, self.weight_row), first), _F32)
        for _ in range(count):
            row = [self._load(line, x) for x in range(tile.vectors)]
            for r in range(tile.rows):
                weight = b.splat(b.load(_F32, b.at(of, b.i64(r), _F32), 4), lanes)
                for x in range(tile.vectors):
                    acc[r * tile.vectors + x] = self.math.call("fma", [weight, row[x], acc[r * tile.vectors + x]], [DType.F32] * 3)
            line, of = b.at(line, self.v_row, _F32), b.at(of, self.weight_row, _F32)
        return acc

    def _finish(self, first: Any, r: int, acc: Sequence[Any]) -> None:
        """The result of one query."""
        b, i = self.b, self.b.ir
        row = i.add(first, b.i64(r))
        scale = b.splat(b.load(_F32, b.at(self.inverse, row, _F32), 4), self.lanes)
        line = b.at(self.out, i.mul(row, self.out_row), _F32)
        for x, value in enumerate(acc):
            y, at = i.fmul(value, scale), b.at(line, b.i64(x * self.lanes), _F32)
            if self.masks[x] is None:
                i.store(y, at, align=4)
            else:
                b.masked_store(y, at, self.masks[x], 4)

    def _load(self, line: Any, x: int) -> Any:
        """The x-th vector of a row."""
        return self.b.load(self.vector, self.b.at(line, self.b.i64(x * self.lanes), _F32), 4)
