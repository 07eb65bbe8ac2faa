"""Tiles of the image to and from where their products are: the two ends of minimal filtering on CPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir import DType, ceildiv
from ...kernel import WinogradKernel
from ...winograd import filtering, positions
from .. import llvm_ir as ir
from ..build import I64, PTR, Params, storage, subroutine, vec
from ..epilogue import Epilogue
from ..target import CpuTarget
from .place import Places
from .schedule import WinogradSchedule
from .transform import both_axes, input_transform, output_transform, repeat, third_axis

_F32 = storage(DType.F32)


class TileTransforms:
    """The sizes of a kernel, and the functions of its `module` that transform tiles of the input, and products back to pixels."""

    module: ir.Module

    def __init__(self, kernel: WinogradKernel, schedule: WinogradSchedule, target: CpuTarget) -> None:
        self.kernel, self.schedule, self.target = kernel, schedule, target
        k, s, c = kernel, schedule, kernel.conv
        self.filters = [filtering(m, r) for m, r in zip(k.tile, c.kernel, strict=True)]
        self.points = positions(k.tile, c.kernel)
        self.strip = s.lanes * s.vectors
        self.vector = vec(_F32, s.lanes)
        self.places = Places(k)
        self.params = Params()
        self.size = {
            name: self.params.add(dim)
            for name, dim in {
                "n": k.n, "channels": k.channels, "total": k.groups * k.channels,
                "weights": self.points * k.channels * ceildiv(k.n, k.panel) * k.panel,
                "of_group": s.of_group, "lda": k.lda, "ldc": k.ldc, "tile": s.tile, "block": s.block, "most": s.most,
                "blocks": s.blocks, "group": s.group, "groups": s.groups, "strips": s.strips, "tiles": self.places.tiles,
                "lanes": s.lanes, "share": s.share, **self.places.dims,
            }.items()
        }  # fmt: skip
        self.epilogue = Epilogue(kernel, self.params, target, s.lanes)

    def _input_function(self) -> ir.Function:
        """void input(bufs, dims, v, first, count, zeros): v[t] = the transform of tile first + t, for all channels."""
        s, (planes, rows, columns) = self.schedule, self.filters
        b = subroutine(self.module, "input", [PTR, PTR, PTR, I64, I64, PTR])
        bufs, dims, v, first, count, zeros = b.fn.args
        i, p = b.ir, b.params(dims, self.size)
        width = 1 << (columns.n - 1).bit_length()  # columns of a tile as lanes of an address vector
        table = b.alloca(I64, b.i64(planes.n * rows.n * width))
        pixel = i.mul(p["lda"], b.i64(4))
        lane = i.mul(ir.Constant(vec(I64, width), list(range(width))), b.splat(self.places.ahead(b, p, 2, b.i64(1)), width))
        steps = i.mul(b.splat(pixel, width), lane)
        start = i.ptrtoint(b.load(PTR, bufs, 8), I64)
        nowhere = b.splat(i.ptrtoint(zeros, I64), width)
        deep, along, across = (input_transform(b, f) for f in self.filters)
        whole = i.and_(p["total"], b.i64(-s.lanes))
        flat = rows.n * columns.n  # positions of a plane

        def tile(t: Any, _: list[Any]) -> Sequence[Any]:
            image, corner = self.places.place(b, p, i.add(first, t))
            z0, y0, x0 = (i.sub(at, p[f"pad_{name}"]) for at, name in zip(corner, "zyx", strict=True))
            inside_x = i.icmp_unsigned("<", i.add(b.splat(x0, width), lane), b.splat(p["in_x"], width))

            def addresses(z: Any) -> None:
                depth = i.add(z0, self.places.ahead(b, p, 0, z))
                within = i.icmp_unsigned("<", depth, p["in_z"]) if not self.places.flat else None
                for y in range(rows.n):
                    at = i.add(y0, self.places.ahead(b, p, 1, b.i64(y)))
                    there = i.icmp_unsigned("<", at, p["in_y"])
                    inside = i.and_(inside_x, b.splat(there if within is None else i.and_(there, within), width))
                    line = self.places.line(b, p, "in", image, (depth, at, x0))
                    address = i.add(b.splat(i.add(start, i.mul(line, pixel)), width), steps)
                    here = b.at(table, i.mul(i.add(i.mul(z, b.i64(rows.n)), b.i64(y)), b.i64(width)), I64)
                    i.store(i.select(inside, address, nowhere), here, align=8 * width)

            repeat(b, planes.n, addresses)
            out = b.at(v, i.mul(t, p["tile"]), _F32)

            def channels(c: Any, mask: Any) -> None:
                here = b.at(out, i.mul(c, b.i64(self.points)), _F32)

                def plane(z: Any) -> None:
                    x: list[list[Any]] = []
                    for y in range(rows.n):
                        x.append([])
                        for column in range(columns.n):
                            slot = i.add(i.mul(i.add(i.mul(z, b.i64(rows.n)), b.i64(y)), b.i64(width)), b.i64(column))
                            at = b.at(i.inttoptr(b.load(I64, b.at(table, slot, I64), 8), PTR), c, _F32)
                            x[-1].append(b.load(self.vector, at, 4) if mask is None else b.masked_load(self.vector, at, mask, 4))
                    done = [value for line in both_axes(along, across, x) for value in line]
                    for at, value in enumerate(done):
                        position = i.add(i.mul(z, b.i64(flat)), b.i64(at))
                        i.store(value, b.at(here, i.mul(position, b.i64(s.lanes)), _F32), align=4 * s.lanes)

                repeat(b, planes.n, plane)
                if planes.n > 1:
                    third_axis(b, deep, planes.n, flat, s.lanes, here, self.vector)

            def full(c: Any, _: list[Any]) -> Sequence[Any]:
                channels(c, None)
                return ()

            b.loop(b.i64(0), whole, b.i64(s.lanes), [], full)
            if self.kernel.channels % s.lanes:
                channels(whole, b.below(i.sub(p["total"], whole), s.lanes))
            return ()

        b.loop(b.i64(0), count, b.i64(1), [], tile)
        i.ret_void()
        return b.fn

    def _output_function(self, vectors: int, masked: bool) -> ir.Function:
        """void output(bufs, dims, products, first, count, group, column): tiles back to pixels, through the epilogue to memory."""
        s, k, (planes, rows, columns) = self.schedule, self.kernel, self.filters
        b = subroutine(self.module, f"output{vectors}", [PTR, PTR, PTR, *[I64] * 4])
        bufs, dims, products, first, count, group, column = b.fn.args
        i, p = b.ir, b.params(dims, self.size)
        pointers = b.operands(bufs, len(k.operands))
        live = i.sub(p["n"], column)
        masks = [b.below(live, s.lanes, v * s.lanes) if masked and v == vectors - 1 else None for v in range(vectors)]
        epilogue = self.epilogue.begin(b, dims, pointers, group, column, masks)
        out_type = storage(k.operands[-1].dtype)
        c = b.at(pointers[-1], i.add(i.mul(group, p["n"]), column), out_type)
        outputs = rows.m * columns.m  # of a plane
        shelf = b.alloca(self.vector, b.i64(planes.m * outputs * vectors))
        deep, along, across = (output_transform(b, f) for f in self.filters)
        flat = rows.n * columns.n

        def tile(t: Any, _: list[Any]) -> Sequence[Any]:
            image, corner = self.places.place(b, p, i.add(first, t))
            source = b.at(products, i.mul(t, b.i64(self.points * self.strip)), _F32)

            def vector(v: Any, _: list[Any]) -> Sequence[Any]:
                here = b.at(source, i.mul(v, b.i64(s.lanes)), _F32)
                if planes.n > 1:
                    third_axis(b, deep, planes.n, flat, self.strip, here, self.vector)

                def plane(z: Any) -> None:
                    at = b.at(here, i.mul(z, b.i64(flat * self.strip)), _F32)
                    x = [
                        [b.load(self.vector, b.at(at, b.i64((y * columns.n + z) * self.strip), _F32), 4) for z in range(columns.n)]
                        for y in range(rows.n)
                    ]
                    shelved = i.add(i.mul(z, b.i64(outputs * vectors)), v)
                    for n, value in enumerate(value for line in both_axes(along, across, x) for value in line):
                        i.store(value, b.at(shelf, i.add(shelved, b.i64(n * vectors)), self.vector), align=16)

                repeat(b, planes.m, plane)
                return ()

            b.loop(b.i64(0), b.i64(vectors), b.i64(1), [], vector)
            depth, down, right = (self.places.inside(b, p, axis, at) for axis, at in enumerate(corner))

            def row(z: Any, y: Any) -> None:
                at = [i.add(corner[0], self.places.ahead(b, p, 0, z)), i.add(corner[1], self.places.ahead(b, p, 1, y)), corner[2]]
                first_of_line = self.places.line(b, p, "out", image, at)
                shelved = i.mul(i.add(i.mul(z, b.i64(rows.m)), y), b.i64(columns.m))

                def pixel(x: Any, _: list[Any]) -> Sequence[Any]:
                    at = b.at(shelf, i.mul(i.add(shelved, x), b.i64(vectors)), self.vector)
                    values = [b.load(self.vector, b.at(at, b.i64(v), self.vector), 16) for v in range(vectors)]
                    m = i.add(first_of_line, self.places.ahead(b, p, 2, x))
                    epilogue.row(m, values, b.at(c, i.mul(m, p["ldc"]), out_type))
                    return ()

                b.loop(b.i64(0), right, b.i64(1), [], pixel)

            def plane(z: Any, _: list[Any]) -> Sequence[Any]:
                def line(y: Any, _: list[Any]) -> Sequence[Any]:
                    row(z, y)
                    return ()

                b.loop(b.i64(0), down, b.i64(1), [], line)
                return ()

            if planes.m == 1:
                plane(b.i64(0), [])
            else:
                b.loop(b.i64(0), depth, b.i64(1), [], plane)
            return ()

        b.loop(b.i64(0), count, b.i64(1), [], tile)
        i.ret_void()
        return b.fn
