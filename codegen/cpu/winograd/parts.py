"""What kernels of minimal filtering whose epilogues differ have in common: the transform of the input, and the products."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I64, PTR, Builder, subroutine, vec
from ..emitted import PLACEHOLDER, named
from ..product import Product
from ..row_tiles import cut_rows
from ..text_cache import Text
from .frame import F32, Frame
from .inputs import InputTiles


def fixed(f: Frame) -> Hashable:
    """What the text depends on besides the epilogue: no sizes."""
    k, s = f.kernel, f.schedule
    schedule = replace(s, tile=0, block=0, most=0, blocks=0, group=0, groups=0, strips=0, of_group=min(2, s.of_group), share=0)
    ragged = k.n % s.lanes != 0, k.channels % s.lanes != 0
    return schedule, ragged, (k.groups > 1, k.tile, k.conv.kernel, f.places.flat, f.places.dilated), k.panel, f.target


class InputPart(Text):
    """The function of `InputTiles`."""

    family = "winograd input"

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def fingerprint(self) -> Hashable:
        return fixed(self.frame)

    def text(self) -> tuple[str, str]:
        module = ir.Module()
        tiles = InputTiles(self.frame, module).write()
        b = Builder(ir.Function(module, tiles.ftype, PLACEHOLDER))
        b.ir.call(tiles, b.fn.args)
        b.ir.ret_void()
        return named(str(module))


class ProductsPart(Text):
    """void products(dims, v, weights, products, count): of every position, by one strip of `vectors`, the last of which may be `masked`."""

    family = "winograd products"

    def __init__(self, frame: Frame, vectors: int, masked: bool) -> None:
        self.frame, self.vectors, self.masked = frame, vectors, masked
        self.half = masked and frame.schedule.half

    def fingerprint(self) -> Hashable:
        return fixed(self.frame), self.vectors, self.half

    def text(self) -> tuple[str, str]:
        f, module = self.frame, ir.Module()
        gemms = {mr: self._product(module, mr) for mr in f.schedule.heights}
        b = Builder(ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR, PTR, PTR, PTR, I64]), PLACEHOLDER))
        dims, v, weights, products, count = b.fn.args
        i, p = b.ir, b.params(dims, f.size)
        step = i.mul(p["channels"], b.i64(f.kernel.panel))

        def position(at: Any, _: list[Any]) -> Sequence[Any]:
            a = b.at(v, i.mul(at, b.i64(f.schedule.lanes)), F32)
            w = b.at(weights, i.mul(at, step), F32)
            c = b.at(products, i.mul(at, b.i64(f.strip)), F32)
            cut_rows(b, f.schedule.heights, count, lambda mr, low, high: i.call(gemms[mr], [dims, a, w, c, low, high]))
            return ()

        b.loop(b.i64(0), b.i64(f.points), b.i64(1), [], position)
        i.ret_void()
        return named(str(module))

    def _product(self, module: ir.Module, mr: int) -> ir.Function:
        """void product(dims, a, w, c, low, high): c[t] = a[t] · w for image tiles [low, high) of one position.

        The last row tile may go beyond: finding the rows of one would take as many instructions as multiplying few channels.
        """
        f = self.frame
        b = subroutine(module, f"{mr}x{self.vectors}{'h' if self.half else ''}", [PTR, PTR, PTR, PTR, I64, I64])
        dims, a, w, c, low, high = b.fn.args
        i, p, lanes = b.ir, b.params(dims, f.size), f.schedule.lanes
        panel, vectors, half = f.kernel.panel, self.vectors, self.half
        whole = i.and_(p["channels"], b.i64(-lanes))
        product = Product(DType.F32, DType.F32, lanes, panel, min(f.schedule.unroll, lanes), True, f.target)
        tail = replace(product, unroll=4, exact=False)

        def tile(t: Any, _: list[Any]) -> Sequence[Any]:
            first = b.at(a, i.mul(t, p["tile"]), F32)
            starts = [first, *(b.at(first, p[f"row {r}"], F32) for r in range(1, mr))]
            size = i.mul(p["channels"], b.i64(4 * panel))
            ahead = product.ahead(b, size, w, i.udiv(t, b.i64(mr)), p["share"]) if f.schedule.prefetch else None

            def run(by: Product, c: Any, length: Any, acc: list[Any]) -> list[Any]:
                rows = [b.at(x, i.mul(c, b.i64(f.points)), F32) for x in starts]
                return by.accumulate(b, length, rows, b.at(w, i.mul(c, b.i64(panel)), F32), acc, vectors, ahead, half=half)

            last = vec(F32, lanes // 2) if half else f.vector
            acc = [ir.Constant(v, None) for v in (*[f.vector] * (vectors - 1), last)] * mr
            acc = b.loop(b.i64(0), whole, b.i64(lanes), acc, lambda c, acc: run(product, c, p["lanes"], acc))
            if f.kernel.channels % lanes:
                acc = run(tail, whole, i.sub(p["channels"], whole), acc)
            row = f.points * f.strip
            out = b.at(c, i.mul(t, b.i64(row)), F32)
            for n, x in enumerate(acc):
                r, at = divmod(n, vectors)
                i.store(x, b.at(out, b.i64(r * row + at * lanes), F32), align=4)
            return ()

        b.loop(low, high, b.i64(mr), [], tile)
        i.ret_void()
        return b.fn
