"""Products back to pixels: the last end of minimal filtering on CPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import llvm_ir as ir
from ..build import I64, PTR, storage, subroutine, vec
from ..shelf import Shelf
from ..shuffles import concatenated
from .frame import F32, Frame
from .transform import both_axes, output_transform, repeat, third_axis


class OutputTiles:
    """void output(bufs, dims, products, first, count, group, column): tiles back to pixels, through the epilogue to memory.

    The pixels of a tile rest on a shelf, as the epilogue takes all vectors of one. `half`: the last of them needs half of its lanes.
    """

    def __init__(self, f: Frame, module: ir.Module, vectors: int, masked: bool, half: bool) -> None:
        self.f, self.lanes, self.vectors, self.places, self.half = f, f.schedule.lanes, vectors, f.places, half
        self.planes, self.rows, self.columns = f.filters
        b = self.b = subroutine(module, f"output{vectors}{'t' if masked else ''}", [PTR, PTR, PTR, *[I64] * 4])
        bufs, dims, self.products, self.first, self.count, group, column = b.fn.args
        i, p, operands = b.ir, b.params(dims, f.size), f.kernel.operands
        self.p = p
        pointers = b.operands(bufs, len(operands))
        live = i.sub(p["n"], column)
        masks = [b.below(live, self.lanes, v * self.lanes) if masked and v == vectors - 1 else None for v in range(vectors)]
        self.epilogue = f.epilogue.begin(b, dims, pointers, group, column, masks)
        self.element = storage(operands[-1].dtype)
        self.c = b.at(pointers[-1], i.add(i.mul(group, p["n"]), column), self.element)
        self.outputs = self.rows.m * self.columns.m  # of a plane
        self.shelf = Shelf(b, f.vector, self.planes.m * self.outputs, vectors)
        self.deep, self.along, self.across = (output_transform(b, x) for x in f.filters)

    def write(self) -> ir.Function:
        return self.b.whole(self.b.i64(0), self.count, self.b.i64(1), self._tile)

    def _tile(self, t: Any, _: list[Any]) -> Sequence[Any]:
        b, i, p = self.b, self.b.ir, self.p
        image, corner = self.places.place(b, p, i.add(self.first, t))
        source = b.at(self.products, i.mul(t, b.i64(self.f.points * self.f.strip)), F32)
        whole = self.vectors - self.half
        b.loop(b.i64(0), b.i64(whole), b.i64(1), [], lambda v, _: self._vector(source, v, self.lanes))
        if self.half:
            self._vector(source, b.i64(whole), self.lanes // 2)
        depth, down, right = (self.places.inside(b, p, axis, at) for axis, at in enumerate(corner))

        def plane(z: Any, _: list[Any]) -> Sequence[Any]:
            b.loop(b.i64(0), down, b.i64(1), [], lambda y, _: self._row(image, corner, z, y, right))
            return ()

        if self.planes.m == 1:
            plane(b.i64(0), [])
        else:
            b.loop(b.i64(0), depth, b.i64(1), [], plane)
        return ()

    def _vector(self, source: Any, v: Any, lanes: int) -> Sequence[Any]:
        """The first lanes of vector v of the products of a tile, transformed onto the shelf."""
        b, i, vector, strip = self.b, self.b.ir, vec(F32, lanes), self.f.strip
        flat = self.rows.n * self.columns.n
        here = b.at(source, i.mul(v, b.i64(self.lanes)), F32)
        if self.planes.n > 1:
            third_axis(b, self.deep, self.planes.n, flat, strip, here, vector)

        def plane(z: Any) -> None:
            at = b.at(here, i.mul(z, b.i64(flat * strip)), F32)
            points = [
                [b.load(vector, b.at(at, b.i64((y * self.columns.n + x) * strip), F32), 4) for x in range(self.columns.n)]
                for y in range(self.rows.n)
            ]
            shelved = i.add(i.mul(z, b.i64(self.outputs * self.vectors)), v)
            for n, value in enumerate(value for line in both_axes(self.along, self.across, points) for value in line):
                whole = value if lanes == self.lanes else concatenated(b, [value, ir.Constant(vector, None)])
                self.shelf.put(i.add(shelved, b.i64(n * self.vectors)), whole)

        repeat(b, self.planes.m, plane)
        return ()

    def _row(self, image: Any, corner: Sequence[Any], z: Any, y: Any, count: Any) -> Sequence[Any]:
        """The first `count` pixels of row y of plane z, from the shelf."""
        b, i, p = self.b, self.b.ir, self.p
        at = [i.add(corner[0], self.places.ahead(b, p, 0, z)), i.add(corner[1], self.places.ahead(b, p, 1, y)), corner[2]]
        first = self.places.line(b, p, "out", image, at)
        shelved = i.mul(i.add(i.mul(z, b.i64(self.rows.m)), y), b.i64(self.columns.m))

        def pixel(x: Any, _: list[Any]) -> Sequence[Any]:
            values = self.shelf.row(i.add(shelved, x))
            m = i.add(first, self.places.ahead(b, p, 2, x))
            self.epilogue.row(m, values, b.at(self.c, i.mul(m, p["ldc"]), self.element))
            return ()

        b.loop(b.i64(0), count, b.i64(1), [], pixel)
        return ()
