"""Rows of a finished unit, turned into planes of channels: what a convolution stores where its reader wants channels first.

The unit's results rest in the second-level cache as [row][strip]; squares of them are turned in registers, so that memory sees each
result once, in runs of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...kernel import Planes
from .. import llvm_ir as ir
from ..build import I64, PTR, Builder, Params, subroutine, vec
from ..shuffles import turned


class PlaneStore:
    """float32 (or another type of `element`) of `lanes` in a vector, rows of `strip` columns."""

    def __init__(self, planes: Planes, params: Params, element: Any, lanes: int, strip: int) -> None:
        self.element, self.lanes, self.strip = element, lanes, strip
        self.slots = [params.add(d) for d in (planes.pixels, planes.plane, planes.image)]

    def function(self, module: ir.Module) -> ir.Function:
        """void planes(c, dims, unit, first, rows, column, live): rows [first, first + rows) of `unit` [row][strip], the `live` first
        columns of which become planes `column` on."""
        b = subroutine(module, "planes", [PTR, PTR, PTR, *[I64] * 4])
        c, dims, unit, first, rows, column, live = b.fn.args
        i = b.ir
        pixels, plane, image = (b.param(dims, s) for s in self.slots)
        c = b.at(c, i.mul(column, plane), self.element)
        end = i.add(first, rows)

        def of_image(m: Any) -> Any:
            number, pixel = i.udiv(m, pixels), i.urem(m, pixels)
            count = b.smin(i.sub(pixels, pixel), i.sub(end, m))
            source = b.at(unit, i.mul(i.sub(m, first), b.i64(self.strip)), self.element)
            target = b.at(c, i.add(i.mul(number, image), pixel), self.element)
            whole = i.and_(count, b.i64(-self.lanes))

            def group(g: Any, _: list[Any]) -> Sequence[Any]:
                here, there = b.at(source, g, self.element), b.at(target, i.mul(g, plane), self.element)
                left = i.sub(live, g)
                inner = i.select(i.icmp_signed(">=", left, b.i64(self.lanes)), whole, b.i64(0))

                def full(r: Any, _: list[Any]) -> Sequence[Any]:
                    for j, x in enumerate(self._square(b, here, r)):
                        i.store(x, b.at(there, i.add(i.mul(plane, b.i64(j)), r), self.element), align=4)
                    return ()

                def partial(r: Any, _: list[Any]) -> Sequence[Any]:
                    mask = b.below(i.sub(count, r), self.lanes)
                    for j, x in enumerate(self._square(b, here, r)):
                        with i.if_then(i.icmp_signed("<", b.i64(j), left)):
                            b.masked_store(x, b.at(there, i.add(i.mul(plane, b.i64(j)), r), self.element), mask, 4)
                    return ()

                b.loop(b.i64(0), inner, b.i64(self.lanes), [], full)
                b.loop(inner, count, b.i64(self.lanes), [], partial)
                return ()

            b.loop(b.i64(0), live, b.i64(self.lanes), [], group)
            return i.add(m, count)

        b.walk(first, end, of_image)
        i.ret_void()
        return b.fn

    def _square(self, b: Builder, source: Any, row: Any) -> list[Any]:
        """Columns of as many rows as a vector has lanes; those behind the last row are of what the stack has there."""
        t = vec(self.element, self.lanes)
        start = b.at(source, b.ir.mul(row, b.i64(self.strip)), self.element)
        return turned(b, [b.load(t, b.at(start, b.i64(j * self.strip), self.element), 4) for j in range(self.lanes)])
