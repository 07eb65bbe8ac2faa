"""The units of vector products: a block of rows by a strip, of one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import llvm_ir as ir
from ..build import PTR, Builder
from ..row_tiles import cut_rows
from .parts import ProductParts


@dataclass(frozen=True)
class _Unit:
    batch: Any
    first: Any  # row
    rows: Any
    column: Any


class Units:
    """Writes units into the kernel's function; `tiles` by rows, and whether columns are masked. `end`: behind the last unit of the call.

    A call for all units cuts them its own way: no other thread wants half of the rows then.
    """

    def __init__(self, b: Builder, product: ProductParts, tiles: Mapping[tuple[int, bool], ir.Function]) -> None:
        self.b, self.of, self.s, self.tiles = b, product, product.schedule, tiles
        self.bufs, self.dims, begin, end = b.fn.args
        self.strip = self.s.lanes * self.s.vectors
        i, p = b.ir, b.params(self.dims, product.size)
        self.p = p
        everything = i.icmp_signed(">=", i.sub(end, begin), i.mul(p["batch"], i.mul(p["blocks"], p["strips"])))
        self.height = i.select(everything, p["whole_block"], p["block"])
        self.blocks = i.select(everything, p["whole_blocks"], p["blocks"])
        self.end = i.select(everything, i.mul(p["batch"], i.mul(p["whole_blocks"], p["strips"])), end)
        self.share = i.select(everything, p["share"], p["share_apart"])
        self.widest = self.s.lanes * product.widest
        self.partial: Any = ir.Constant(PTR, None)
        if self.s.split or product.planes is not None:  # planes are turned from it, with a vector of rows at a time
            more = self.s.lanes if product.planes is not None else 0
            self.partial = b.alloca(product.acc, i.mul(i.add(self.height, b.i64(more)), b.i64(self.widest)))
        self.planes = product.planes.function(product.module) if product.planes is not None else None

    def write(self, u: Any) -> None:
        """Unit number u: strips are fastest, so that a row block stays in the second-level cache."""
        b, i, p = self.b, self.b.ir, self.p
        strip, rest = i.urem(u, p["strips"]), i.udiv(u, p["strips"])
        if self.of.kernel.conv is None:
            block, batch = i.urem(rest, self.blocks), i.udiv(rest, self.blocks)
        else:  # groups read parts of the same pixels
            batch, block = i.urem(rest, p["batch"]), i.udiv(rest, p["batch"])
        first = i.mul(block, self.height)
        rows = b.smin(self.height, i.sub(p["m"], first))
        unit = _Unit(batch, first, rows, i.mul(strip, b.i64(self.strip)))
        if self.s.tail > self.s.vectors:
            full = i.icmp_signed("<", strip, i.sub(p["strips"], b.i64(1)))
        else:
            full = i.icmp_signed(">=", i.sub(p["n"], unit.column), b.i64(self.strip))
        widths = {masked for _, masked in self.tiles}
        if len(widths) == 1:
            self._multiply(unit, widths.pop())
            return
        with i.if_else(full) as (whole, partial):
            with whole:
                self._multiply(unit, False)
            with partial:
                self._multiply(unit, True)

    def _multiply(self, unit: _Unit, masked: bool) -> None:
        """All steps of k, block by block where k is split; then planes, where results become some."""
        b, i, p, s = self.b, self.b.ir, self.p, self.s

        def walk(k0: Any, _: list[Any]) -> Sequence[Any]:
            k1 = b.smin(i.add(k0, p["k_block"]), p["k_steps"]) if s.split else p["k_steps"]
            cut_rows(b, s.tail_tiles if masked else s.tiles, unit.rows, lambda mr, lo, hi: i.call(self.tiles[mr, masked], [
                self.bufs, self.dims, unit.batch, i.add(unit.first, lo), i.add(unit.first, hi), unit.column, unit.first,
                k0, k1, self.partial, self.share]))  # fmt: skip
            return ()

        if s.split:
            b.loop(b.i64(0), p["k_steps"], p["k_block"], [], walk)
        else:
            walk(b.i64(0), [])
        if self.planes is not None:
            result = b.operand(self.bufs, len(self.of.kernel.operands) - 1)
            live = b.smin(b.i64(self.widest), i.sub(p["n"], unit.column))
            column = i.add(i.mul(unit.batch, p["n"]), unit.column)
            i.call(self.planes, [result, self.dims, self.partial, unit.first, unit.rows, column, live])
