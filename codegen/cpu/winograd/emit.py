"""WinogradKernel → LLVM IR: transform a block of image tiles, run the products of every position, transform back.

A unit keeps the transformed input [tile][channels / lanes][position][lane] and the products [tile][position][strip] on its
stack, small enough for the second-level cache, so that both transforms write and read one run of memory;
transformed weights [strip][position][channel][panel] stream by in the order of use.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from llvmlite import ir

from ....ir import Dim, DType
from ...kernel import WinogradKernel
from ...winograd import filtering, positions
from ..build import I64, PTR, Builder, Params, storage, vec
from ..emitted import PLACEHOLDER, Emitted, named
from ..epilogue import Epilogue
from ..float_mode import flush_subnormals
from ..product import Product
from ..row_tiles import cut_rows
from ..target import CpuTarget
from ..text_cache import TextEmitter, text_of
from .place import Places
from .schedule import NO_HINTS, WinogradHints, WinogradSchedule, schedule_winograd
from .transform import both_axes, input_transform, output_transform, repeat, third_axis

_F32 = storage(DType.F32)
_VOID = ir.VoidType()


def emit_winograd(kernel: WinogradKernel, target: CpuTarget, hints: WinogradHints = NO_HINTS) -> Emitted:
    """Raises CodegenError for element types or epilogues that cannot be emitted, ScheduleError for hints that do not suit."""
    return _Emitter(kernel, schedule_winograd(kernel, target, hints), target).emit()


class _Emitter(TextEmitter):
    family = "winograd"

    def __init__(self, kernel: WinogradKernel, schedule: WinogradSchedule, target: CpuTarget) -> None:
        self.kernel, self.schedule, self.target = kernel, schedule, target
        k, s, c = kernel, schedule, kernel.conv
        self.filters = [filtering(m, r) for m, r in zip(k.tile, c.kernel, strict=True)]
        self.points = positions(k.tile, c.kernel)
        self.strip = s.lanes * s.vectors
        self.vector = vec(_F32, s.lanes)
        self.product = Product(DType.F32, DType.F32, s.lanes, k.panel, min(s.unroll, s.lanes), True, target, s.share)
        self.places = Places(k)
        self.params = Params()
        self.size = {
            name: self.params.add(dim)
            for name, dim in {
                "n": k.n, "channels": k.channels, "lda": k.lda, "ldc": k.ldc, "tile": s.tile, "block": s.block, "most": s.most,
                "blocks": s.blocks, "group": s.group, "groups": s.groups, "strips": s.strips, "tiles": self.places.tiles,
                "lanes": s.lanes, **self.places.dims,
            }.items()
        }  # fmt: skip
        self.epilogue = Epilogue(kernel, self.params, target, s.lanes)

    def fingerprint(self) -> Hashable:
        """Everything that the text depends on: no sizes."""
        k, s = self.kernel, self.schedule
        fixed = replace(s, tile=0, block=0, most=0, blocks=0, group=0, groups=0, strips=min(2, s.strips))
        ragged = k.n % s.lanes != 0, k.channels % s.lanes != 0
        shape = k.tile, k.conv.kernel, self.places.flat, self.places.dilated
        return fixed, ragged, shape, k.panel, tuple(o.dtype for o in k.operands), self.epilogue.fingerprint(), self.target

    def emit(self) -> Emitted:
        k, s = self.kernel, self.schedule
        text, symbol = text_of(self)
        flops = 2 * self.places.tiles * self.points * k.channels * k.n
        size: Dim = 0
        for o in k.operands:
            size = size + o.numel * o.dtype.itemsize
        unit = 2 * s.block * self.points * k.channels * s.group * self.strip
        return Emitted(text, symbol, tuple(self.params.dims), s.blocks * s.groups, unit, flops, size)

    def text(self) -> tuple[str, str]:
        s = self.schedule
        self.module = ir.Module(name="kernel")
        into = self._input_function()
        ends = {}
        if s.strips > 1 or not s.tail:
            ends[False] = self._strip_function(s.vectors, masked=not s.tail and self.kernel.n % s.lanes != 0)
        if s.tail:
            ends[True] = self._strip_function(s.tail, masked=self.kernel.n % s.lanes != 0)
        self._entry(into, ends)
        return named(str(self.module))

    def _function(self, name: str, args: Sequence[Any]) -> tuple[ir.Function, Builder]:
        fn = ir.Function(self.module, ir.FunctionType(_VOID, args), name)
        if name != PLACEHOLDER:
            fn.linkage = "internal"
            fn.attributes.add("noinline")
        return fn, Builder(fn)

    def _load_sizes(self, b: Builder, dims: Any) -> dict[str, Any]:
        return {name: b.param(dims, at) for name, at in self.size.items()}

    def _entry(self, into: ir.Function, strips: dict[bool, ir.Function]) -> None:
        """void kernel(bufs, dims, begin, end): units, groups of strips fastest, so that they share a transformed input."""
        fn, b = self._function(PLACEHOLDER, [PTR, PTR, I64, I64])
        bufs, dims, begin, end = fn.args
        i, p = b.ir, self._load_sizes(b, dims)
        v = b.alloca(_F32, i.mul(p["most"], p["tile"]))
        products = b.alloca(_F32, i.mul(p["most"], b.i64(self.points * self.strip)))
        zeros = b.alloca(_F32, i.add(p["channels"], b.i64(self.schedule.lanes)))

        def clear(at: Any, _: list[Any]) -> Sequence[Any]:
            i.store(ir.Constant(_F32, 0.0), b.at(zeros, at, _F32))
            return ()

        b.loop(b.i64(0), p["channels"], b.i64(1), [], clear)

        def unit(u: Any, _: list[Any]) -> Sequence[Any]:
            group, block = i.urem(u, p["groups"]), i.udiv(u, p["groups"])
            first = i.mul(block, p["block"])
            count = b.smin(p["block"], i.sub(p["tiles"], first))
            fresh = i.or_(i.icmp_signed("==", u, begin), i.icmp_signed("==", group, b.i64(0)))
            with i.if_then(fresh):
                i.call(into, [bufs, dims, v, first, count, zeros])
            low = i.mul(group, p["group"])
            high = b.smin(i.add(low, p["group"]), p["strips"])

            def strip(at: Any, _: list[Any]) -> Sequence[Any]:
                args = [bufs, dims, v, products, first, count, i.mul(at, b.i64(self.strip))]
                if len(strips) == 1:
                    i.call(next(iter(strips.values())), args)
                    return ()
                last = i.icmp_signed("==", i.add(at, b.i64(1)), p["strips"])
                with i.if_else(last) as (then, other):
                    with then:
                        i.call(strips[True], args)
                    with other:
                        i.call(strips[False], args)
                return ()

            b.loop(low, high, b.i64(1), [], strip)
            return ()

        restore = flush_subnormals(b, self.target)
        b.loop(begin, end, b.i64(1), [], unit)
        restore()
        i.ret_void()

    def _input_function(self) -> ir.Function:
        """void input(bufs, dims, v, first, count, zeros): v[t] = the transform of tile first + t, for all channels."""
        s, (planes, rows, columns) = self.schedule, self.filters
        fn, b = self._function(f"{PLACEHOLDER}.input", [PTR, PTR, PTR, I64, I64, PTR])
        bufs, dims, v, first, count, zeros = fn.args
        i, p = b.ir, self._load_sizes(b, dims)
        width = 1 << (columns.n - 1).bit_length()  # columns of a tile as lanes of an address vector
        table = b.alloca(I64, b.i64(planes.n * rows.n * width))
        pixel = i.mul(p["lda"], b.i64(4))
        lane = i.mul(ir.Constant(vec(I64, width), list(range(width))), b.splat(self.places.ahead(b, p, 2, b.i64(1)), width))
        steps = i.mul(b.splat(pixel, width), lane)
        start = i.ptrtoint(b.load(PTR, bufs, 8), I64)
        nowhere = b.splat(i.ptrtoint(zeros, I64), width)
        deep, along, across = (input_transform(b, f) for f in self.filters)
        whole = i.and_(p["channels"], b.i64(-s.lanes))
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
                channels(whole, b.below(i.sub(p["channels"], whole), s.lanes))
            return ()

        b.loop(b.i64(0), count, b.i64(1), [], tile)
        i.ret_void()
        return fn

    def _strip_function(self, vectors: int, masked: bool) -> ir.Function:
        """void strip(bufs, dims, v, products, first, count, column): all of one strip of output channels."""
        s = self.schedule
        gemms = {mr: self._product_function(mr, vectors) for mr in s.heights}
        back = self._output_function(vectors, masked)
        fn, b = self._function(f"{PLACEHOLDER}.strip{vectors}", [PTR, PTR, PTR, PTR, *[I64] * 3])
        bufs, dims, v, products, first, count, column = fn.args
        i, p = b.ir, self._load_sizes(b, dims)
        panel = b.i64(self.kernel.panel)
        inner = i.urem(column, panel) if self.kernel.panel != self.strip else b.i64(0)
        step = i.mul(p["channels"], panel)
        start = i.add(i.mul(i.mul(i.sub(column, inner), b.i64(self.points)), p["channels"]), inner)
        weights = b.at(b.load(PTR, b.at(bufs, b.i64(1), PTR), 8), start, _F32)

        def position(at: Any, _: list[Any]) -> Sequence[Any]:
            a = b.at(v, i.mul(at, b.i64(s.lanes)), _F32)
            w = b.at(weights, i.mul(at, step), _F32)
            c = b.at(products, i.mul(at, b.i64(self.strip)), _F32)
            cut_rows(b, s.heights, count, lambda mr, low, high: i.call(gemms[mr], [dims, a, w, c, low, high]))
            return ()

        b.loop(b.i64(0), b.i64(self.points), b.i64(1), [], position)
        i.call(back, [bufs, dims, products, first, count, column])
        i.ret_void()
        return fn

    def _product_function(self, mr: int, vectors: int) -> ir.Function:
        """void product(dims, a, w, c, low, high): c[t] = a[t] · w for image tiles [low, high) of one position."""
        fn, b = self._function(f"{PLACEHOLDER}.{mr}x{vectors}", [PTR, PTR, PTR, PTR, I64, I64])
        dims, a, w, c, low, high = fn.args
        i, p, lanes = b.ir, self._load_sizes(b, dims), self.schedule.lanes
        last = i.sub(high, b.i64(1))
        panel = self.kernel.panel
        whole = i.and_(p["channels"], b.i64(-lanes))
        tail = replace(self.product, unroll=4, exact=False)

        def tile(t: Any, _: list[Any]) -> Sequence[Any]:
            indices = [t, *(b.smin(i.add(t, b.i64(r)), last) for r in range(1, mr))]
            starts = [b.at(a, i.mul(x, p["tile"]), _F32) for x in indices]
            size = i.mul(p["channels"], b.i64(4 * panel))
            ahead = self.product.ahead(b, size, w, i.udiv(t, b.i64(mr))) if self.schedule.prefetch else None

            def run(product: Product, c: Any, length: Any, acc: list[Any]) -> list[Any]:
                rows = [b.at(x, i.mul(c, b.i64(self.points)), _F32) for x in starts]
                return product.accumulate(b, length, rows, b.at(w, i.mul(c, b.i64(panel)), _F32), acc, vectors, ahead)

            acc = [ir.Constant(self.vector, None)] * (mr * vectors)
            acc = b.loop(b.i64(0), whole, b.i64(lanes), acc, lambda c, acc: run(self.product, c, p["lanes"], acc))
            if self.kernel.channels % lanes:
                acc = run(tail, whole, i.sub(p["channels"], whole), acc)
            for r, x in enumerate(indices):  # a clamped row is stored again, equal
                out = b.at(c, i.mul(x, b.i64(self.points * self.strip)), _F32)
                for at in range(vectors):
                    i.store(acc[r * vectors + at], b.at(out, b.i64(at * self.schedule.lanes), _F32), align=4)
            return ()

        b.loop(low, high, b.i64(mr), [], tile)
        i.ret_void()
        return fn

    def _output_function(self, vectors: int, masked: bool) -> ir.Function:
        """void output(bufs, dims, products, first, count, column): tiles back to pixels, through the epilogue to memory."""
        s, k, (planes, rows, columns) = self.schedule, self.kernel, self.filters
        fn, b = self._function(f"{PLACEHOLDER}.output{vectors}", [PTR, PTR, PTR, *[I64] * 3])
        bufs, dims, products, first, count, column = fn.args
        i, p = b.ir, self._load_sizes(b, dims)
        pointers = [b.load(PTR, b.at(bufs, b.i64(x), PTR), 8) for x in range(len(k.operands))]
        live = i.sub(p["n"], column)
        masks = [b.below(live, s.lanes, v * s.lanes) if masked and v == vectors - 1 else None for v in range(vectors)]
        epilogue = self.epilogue.begin(b, dims, pointers, b.i64(0), column, masks)
        out_type = storage(k.operands[-1].dtype)
        c = b.at(pointers[-1], column, out_type)
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
        return fn
