"""The units of a product with weights of few bits: a block of rows by a chunk of strips, and how they are multiplied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I64, Builder
from ..row_tiles import cut_rows
from ..tiles import Tiles
from .frame import Frame

F32 = ir.FloatType()
TileFunctions = dict[tuple[int, bool], ir.Function]  # by rows, and whether columns are masked


@dataclass(frozen=True)
class Wide:
    """Functions for many rows: `expand` a strip of weights, then multiply by `tiles`, or `split` rows of A and use `products`."""

    expand: ir.Function
    tiles: TileFunctions = field(default_factory=dict)
    split: ir.Function | None = None
    products: dict[bool, ir.Function] = field(default_factory=dict)


@dataclass(frozen=True)
class _TileMemory:
    """Memory of a unit on AMX tiles. split: rows of A by a block of K, low parts `low` bytes on. sums: [strips, rows, columns].
    kept: the first of the rows that are split now, or −1."""

    split: Any
    low: Any
    sums: Any
    rows: Any
    kept: Any

    @classmethod
    def allocate(cls, b: Builder, p: dict[str, Any], columns: int) -> _TileMemory:
        i = b.ir
        rows = i.and_(i.add(p["rows"], b.i64(31)), b.i64(-32))
        size = i.mul(p["depth"], rows)
        sums = b.alloca(F32, i.mul(i.mul(rows, p["chunk"]), b.i64(columns)))
        kept = b.alloca(I64, b.i64(1))
        i.store(b.i64(-1), kept, align=8)
        return cls(b.alloca(F32, size), i.mul(size, b.i64(2)), sums, rows, kept)


@dataclass(frozen=True)
class _Unit:
    """`count` rows [first, stop) by strips [begin, end)."""

    first: Any
    stop: Any
    count: Any
    begin: Any
    end: Any


class Units:
    """Writes units into the kernel's function: few rows by `few`, many by `wide` where there is such a way."""

    def __init__(self, b: Builder, f: Frame, p: dict[str, Any], few: TileFunctions, wide: Wide | None) -> None:
        self.b, self.f, self.s, self.p, self.few, self.wide = b, f, f.schedule, p, few, wide
        self.bufs, self.dims = b.fn.args[:2]
        i = b.ir
        self.columns = b.i64(f.columns)
        self.scratch = b.alloca(F32, i.mul(p["depth"], self.columns)) if wide else None
        self.memory = _TileMemory.allocate(b, p, f.columns) if wide and wide.split else None
        self.chunks = i.udiv(i.add(p["strips"], i.sub(p["chunk"], b.i64(1))), p["chunk"])

    def write(self, u: Any) -> None:
        """Unit number u."""
        b, i = self.b, self.b.ir
        unit = self._place(u)
        if self.wide is None:
            self._decoded(unit)
            return
        many = i.icmp_signed(">=", unit.count, b.i64(self.s.expand))
        half = i.mul(i.mul(self.p["depth"], self.columns), b.i64(2))
        if self.memory is not None:
            self._on_tiles(unit, self.wide, self.memory, many, half)
            return
        with i.if_else(many) as (then, other):
            with then:
                self._expanded(unit, self.wide, half)
            with other:
                self._decoded(unit)

    def _place(self, u: Any) -> _Unit:
        """Blocks of rows are fastest, so that a strip's levels stay in cache; on AMX tiles chunks are: their rows are split already."""
        b, i, p = self.b, self.b.ir, self.p
        tiled = self.memory is not None
        first = i.mul(i.udiv(u, self.chunks) if tiled else i.urem(u, p["blocks"]), p["rows"])
        stop = b.smin(i.add(first, p["rows"]), p["m"])
        count = i.sub(stop, first)
        begin = i.mul(i.urem(u, self.chunks) if tiled else i.udiv(u, p["blocks"]), p["chunk"])
        return _Unit(first, stop, count, begin, b.smin(i.add(begin, p["chunk"]), p["strips"]))

    def decoded(self, first: Any, stop: Any, begin: Any, end: Any) -> None:
        """Rows [first, stop) by strips [begin, end), as floats."""
        self._decoded(_Unit(first, stop, self.b.ir.sub(stop, first), begin, end))

    def _strips(self, unit: _Unit, run: Callable[[Any, bool], None]) -> None:
        """run(first column, whether columns are masked) for each strip."""
        b, i = self.b, self.b.ir

        def one(at: Any, _: list[Any]) -> Sequence[Any]:
            column = i.mul(at, self.columns)
            if not self.s.masked:
                run(column, False)
                return ()
            with i.if_else(i.icmp_signed(">=", i.sub(self.p["n"], column), self.columns)) as (full, partial):
                with full:
                    run(column, False)
                with partial:
                    run(column, True)
            return ()

        b.loop(unit.begin, unit.end, b.i64(1), [], one)

    def _decoded(self, unit: _Unit) -> None:
        """Levels become floats where they are multiplied."""
        b, i = self.b, self.b.ir

        def run(column: Any, masked: bool) -> None:
            done = unit.first
            for h in self.s.heights:
                to = i.add(done, i.mul(i.udiv(i.sub(unit.stop, done), b.i64(h)), b.i64(h)))
                i.call(self.few[h, masked], [self.bufs, self.dims, done, to, column])
                done = to

        self._strips(unit, run)

    def _expanded(self, unit: _Unit, wide: Wide, half: Any) -> None:
        """A strip of weights becomes floats first."""
        b, i = self.b, self.b.ir

        def run(column: Any, masked: bool) -> None:
            i.call(wide.expand, [self.bufs, self.dims, column, self.scratch, half, b.i64(0), self.p["words"]])
            cut_rows(b, self.s.wide, unit.count, lambda h, lo, hi: i.call(
                wide.tiles[h, masked],
                [self.bufs, self.dims, i.add(unit.first, lo), i.add(unit.first, hi), column, self.scratch]))  # fmt: skip

        self._strips(unit, run)

    def _on_tiles(self, unit: _Unit, wide: Wide, memory: _TileMemory, many: Any, half: Any) -> None:
        """Block of K by block of K; as few rows where rows turn out not to be what can be split."""
        b, i, p, each = self.b, self.b.ir, self.p, self.f.each

        def block(k: Any, seen: list[Any]) -> Sequence[Any]:
            """Rows are split, and every strip of the unit is multiplied."""
            size = b.smin(i.sub(p["k"], k), p["depth"])
            goes_on, last = i.icmp_signed(">", k, b.i64(0)), i.icmp_signed("==", i.add(k, size), p["k"])
            a = b.at(b.at(b.operand(self.bufs, 0), i.mul(unit.first, p["lda"]), F32), k, F32)
            known = i.and_(i.icmp_signed("==", unit.first, b.load(I64, memory.kept, 8)), i.icmp_signed(">=", p["depth"], p["k"]))
            rows = i.select(known, b.i64(0), unit.count)
            fits = i.and_(seen[0], i.call(wide.split, [a, p["lda"], size, rows, memory.split, memory.low]))
            i.store(i.select(fits, unit.first, b.i64(-1)), memory.kept, align=8)

            def run(column: Any, masked: bool) -> None:
                word = i.udiv(k, b.i64(each))
                stop = i.add(word, i.udiv(i.add(size, b.i64(each - 1)), b.i64(each)))
                i.call(wide.expand, [self.bufs, self.dims, column, self.scratch, half, word, stop])
                sums = b.at(memory.sums, i.mul(i.sub(column, i.mul(unit.begin, self.columns)), memory.rows), F32)
                i.call(wide.products[masked], [self.bufs, self.dims, unit.first, unit.count, column, memory.split, memory.low,
                                               self.scratch, half, size, goes_on, last, sums])  # fmt: skip

            with i.if_then(fits):
                Tiles(b, DType.BF16).configure()
                self._strips(unit, run)
                Tiles(b, DType.BF16).release()
            return [fits]

        (can,) = b.loop(b.i64(0), i.select(many, p["k"], b.i64(0)), p["depth"], [many], block)
        with i.if_then(i.not_(can)):
            self._decoded(unit)
