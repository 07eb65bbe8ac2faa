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
_BURST = 8  # vectors stored one after another: 16 fill the half of the queue of stores that a thread has of a core of two, and all waits


def value_function(
    module: ir.Module, name: str, tile: ValueTile, value_size: int, sum_row: int, lanes: int, target: CpuTarget
) -> ir.Function:
    """void values(weights, weight_row, v, v_row, keys, rows, sums, fade, inverse, out, out_row, fresh, fades, final).

    sums[r] = sums[r] · fade[r] (0 if `fresh`, sums[r] unless `fades`) + Σ_key weights[key·weight_row + r] · v[key·v_row …], for rows
    r < `rows`, or with `final` out[r·out_row …] = that times inverse[r]. Rows of `sums` are `sum_row` apart, with room for a tile more
    than `rows`. Rows of v are whole vectors.
    """
    b = subroutine(module, name, [PTR, I64, PTR, I64, I64, I64, PTR, PTR, PTR, PTR, I64, I1, I1, I1])
    values = _Values(b, tile, value_size, sum_row, lanes, Functions(b, lanes, target))
    b.loop(b.i64(0), values.rows, b.i64(tile.rows), [], values.row_tile)
    b.ir.ret_void()
    return b.fn


class _Values:
    def __init__(self, b: Builder, tile: ValueTile, value_size: int, sum_row: int, lanes: int, math: Functions) -> None:
        self.b, self.tile, self.sum_row, self.lanes, self.math = b, tile, sum_row, lanes, math
        self.vector = vec(_F32, lanes)
        (self.weights, self.weight_row, self.v, self.v_row, self.keys, self.rows, self.sums, self.fade, self.inverse,
         self.out, self.out_row, self.fresh, self.fades, self.final) = b.fn.args  # fmt: skip
        self.masks: list[Any] = [None] * tile.vectors
        if tile.masked:
            self.masks[-1] = ir.Constant(vec(I1, lanes), [lane < value_size % lanes for lane in range(lanes)])

    def row_tile(self, first: Any, _: list[Any]) -> Sequence[Any]:
        """Rows from `first` on."""
        b, i, tile = self.b, self.b.ir, self.tile
        acc = self._faded([self._at(first, r) for r in range(tile.rows)], b.at(self.fade, first, _F32))
        rest, last = i.and_(self.keys, b.i64(_UNROLL - 1)), i.sub(self.keys, b.i64(_UNROLL))
        acc = b.loop(b.i64(0), rest, b.i64(1), acc, lambda key, acc: self._step(key, 1, first, acc))
        acc = b.loop(rest, last, b.i64(_UNROLL), acc, lambda key, acc: self._step(key, _UNROLL, first, acc))
        with i.if_else(i.icmp_signed(">=", last, b.i64(0))) as (several, few):
            with several:
                for rows in self._sections():
                    of = slice(rows.start * tile.vectors, rows.stop * tile.vectors)
                    self._keep(first, rows, self._step(last, _UNROLL, first, acc[of], rows))
            with few:
                self._keep(first, range(tile.rows), acc)
        return ()

    def _sections(self) -> list[range]:
        """Rows of the tile that get their last products, and are stored, together."""
        step = max(1, _BURST // self.tile.vectors)
        return [range(r, min(r + step, self.tile.rows)) for r in range(0, self.tile.rows, step)]

    def _keep(self, first: Any, rows: range, acc: list[Any]) -> None:
        """Sums of some rows of the tile where they rest, or as results."""
        b, i, tile = self.b, self.b.ir, self.tile
        with i.if_else(self.final) as (done, more):
            with more:
                at = [self._at(first, r) for r in rows]
                for n, x in enumerate(acc):
                    i.store(x, b.at(at[n // tile.vectors], b.i64(n % tile.vectors * self.lanes), _F32), align=4)
            with done:
                for n, r in enumerate(rows):
                    with i.if_then(i.icmp_signed("<", i.add(first, b.i64(r)), self.rows)):
                        self._finish(first, r, acc[n * tile.vectors : (n + 1) * tile.vectors])

    def _faded(self, rows: Sequence[Any], fade: Any) -> list[Any]:
        """Accumulators: the sums so far, faded, or zero."""
        b, i, tile = self.b, self.b.ir, self.tile
        start, zero = i.block, ir.Constant(self.vector, None)
        with i.if_then(i.not_(self.fresh)):
            before = i.block
            kept = [self._load(row, x) for row in rows for x in range(tile.vectors)]
            with i.if_then(self.fades):
                factors = [b.splat(b.load(_F32, b.at(fade, b.i64(r), _F32), 4), self.lanes) for r in range(tile.rows)]
                faded = [i.fmul(x, factors[n // tile.vectors]) for n, x in enumerate(kept)]
                inside = i.block
            kept = [b.merge((x, before), (y, inside)) for x, y in zip(kept, faded, strict=True)]
            inside = i.block
        return [b.merge((zero, start), (x, inside)) for x in kept]

    def _step(self, key: Any, count: int, first: Any, acc: list[Any], rows: range | None = None) -> list[Any]:
        """Products with so many rows of v from `key` on, of some rows of the tile."""
        b, i, tile, lanes = self.b, self.b.ir, self.tile, self.lanes
        acc = list(acc)
        line, of = b.at(self.v, i.mul(key, self.v_row), _F32), b.at(self.weights, i.add(i.mul(key, self.weight_row), first), _F32)
        for _ in range(count):
            row = [self._load(line, x) for x in range(tile.vectors)]
            for n, r in enumerate(rows or range(tile.rows)):
                weight = b.splat(b.load(_F32, b.at(of, b.i64(r), _F32), 4), lanes)
                for x in range(tile.vectors):
                    acc[n * tile.vectors + x] = self.math.call("fma", [weight, row[x], acc[n * tile.vectors + x]], [DType.F32] * 3)
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

    def _at(self, first: Any, r: int) -> Any:
        """The sums of row r of the tile."""
        b, i = self.b, self.b.ir
        return b.at(self.sums, i.mul(i.add(first, b.i64(r)), b.i64(self.sum_row)), _F32)

    def _load(self, line: Any, x: int) -> Any:
        """The x-th vector of a row."""
        return self.b.load(self.vector, self.b.at(line, self.b.i64(x * self.lanes), _F32), 4)
