"""Tiles of the image to where their products read them: the first end of minimal filtering on CPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import llvm_ir as ir
from ..build import I64, PTR, subroutine, vec
from .frame import F32, Frame
from .transform import both_axes, input_parts, input_transform, repeat, third_axis


class InputTiles:
    """void input(bufs, dims, v, first, count, zeros): v[t] = the transform of tile first + t, for all channels.

    A table has the address of each pixel of a tile; those outside of the image are read from `zeros`.
    """

    def __init__(self, f: Frame, module: ir.Module) -> None:
        self.f, self.lanes, self.places = f, f.schedule.lanes, f.places
        self.planes, self.rows, self.columns = f.filters
        b = self.b = subroutine(module, "input", [PTR, PTR, PTR, I64, I64, PTR])
        bufs, dims, self.v, self.first, self.count, zeros = b.fn.args
        i, p = b.ir, b.params(dims, f.size)
        self.p = p
        width = self.width = 1 << (self.columns.n - 1).bit_length()  # columns of a tile as lanes of an address vector
        self.table = b.alloca(I64, b.i64(self.planes.n * self.rows.n * width))
        self.pixel = i.mul(p["lda"], b.i64(4))
        self.lane = i.mul(ir.Constant(vec(I64, width), list(range(width))), b.splat(self.places.ahead(b, p, 2, b.i64(1)), width))
        self.steps = i.mul(b.splat(self.pixel, width), self.lane)
        self.start = i.ptrtoint(b.operand(bufs, 0), I64)
        self.nowhere = b.splat(i.ptrtoint(zeros, I64), width)
        self.deep, self.across = input_transform(b, self.planes), input_transform(b, self.columns)
        # halves of a large tile fit into registers, where all of it would wait on the stack: storing costs more than reading pixels twice
        self.along = input_parts(b, self.rows, 2 if self.rows.n * self.columns.n > f.target.vector_registers else 1)
        self.whole = i.and_(p["total"], b.i64(-self.lanes))

    def write(self) -> ir.Function:
        return self.b.whole(self.b.i64(0), self.count, self.b.i64(1), self._tile)

    def _tile(self, t: Any, _: list[Any]) -> Sequence[Any]:
        b, i, p = self.b, self.b.ir, self.p
        image, corner = self.places.place(b, p, i.add(self.first, t))
        first = [i.sub(at, p[f"pad_{name}"]) for at, name in zip(corner, "zyx", strict=True)]
        inside = i.icmp_unsigned("<", i.add(b.splat(first[2], self.width), self.lane), b.splat(p["in_x"], self.width))
        repeat(b, self.planes.n, lambda z: self._addresses(z, image, first, inside))
        out = b.at(self.v, i.mul(t, p["tile"]), F32)

        def full(c: Any, _: list[Any]) -> Sequence[Any]:
            self._channels(out, c, self.lanes, None)
            return ()

        b.loop(b.i64(0), self.whole, b.i64(self.lanes), [], full)
        if self.f.kernel.channels % self.lanes:
            lanes = self.lanes // 2 if self.f.schedule.half_in else self.lanes
            self._channels(out, self.whole, lanes, b.below(i.sub(p["total"], self.whole), lanes))
        return ()

    def _addresses(self, z: Any, image: Any, first: Sequence[Any], inside_x: Any) -> None:
        """Entries of plane z of a tile whose first pixel is `first`; inside_x: which of its columns the image has."""
        b, i, p, width = self.b, self.b.ir, self.p, self.width
        z0, y0, x0 = first
        depth = i.add(z0, self.places.ahead(b, p, 0, z))
        within = i.icmp_unsigned("<", depth, p["in_z"]) if not self.places.flat else None
        for y in range(self.rows.n):
            at = i.add(y0, self.places.ahead(b, p, 1, b.i64(y)))
            there = i.icmp_unsigned("<", at, p["in_y"])
            inside = i.and_(inside_x, b.splat(there if within is None else i.and_(there, within), width))
            line = self.places.line(b, p, "in", image, (depth, at, x0))
            address = i.add(b.splat(i.add(self.start, i.mul(line, self.pixel)), width), self.steps)
            here = b.at(self.table, i.mul(i.add(i.mul(z, b.i64(self.rows.n)), b.i64(y)), b.i64(width)), I64)
            i.store(i.select(inside, address, self.nowhere), here, align=8 * width)

    def _channels(self, out: Any, c: Any, lanes: int, mask: Any) -> None:
        """A vector of channels of a tile, from c on: transformed plane by plane, then along the third axis."""
        b, i, vector, flat = self.b, self.b.ir, vec(F32, lanes), self.rows.n * self.columns.n
        here = b.at(out, i.mul(c, b.i64(self.f.points)), F32)

        def pixel(z: Any, y: int, x: int) -> Any:
            slot = i.add(i.mul(i.add(i.mul(z, b.i64(self.rows.n)), b.i64(y)), b.i64(self.width)), b.i64(x))
            at = b.at(i.inttoptr(b.load(I64, b.at(self.table, slot, I64), 8), PTR), c, F32)
            return b.load(vector, at, 4) if mask is None else b.masked_load(vector, at, mask, 4)

        def plane(z: Any) -> None:
            at = 0
            for along in self.along:
                pixels = [[pixel(z, y, x) for x in range(self.columns.n)] for y in range(self.rows.n)]
                for value in (value for line in both_axes(along, self.across, pixels) for value in line):
                    position = i.add(i.mul(z, b.i64(flat)), b.i64(at))
                    i.store(value, b.at(here, i.mul(position, b.i64(self.lanes)), F32), align=4 * lanes)
                    at += 1

        repeat(b, self.planes.n, plane)
        if self.planes.n > 1:
            third_axis(b, self.deep, self.planes.n, flat, self.lanes, here, vector)
