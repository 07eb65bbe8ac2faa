"""Where the rows of A come from: a stride, or convolution taps by indirection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ....ir import DType
from ...kernel import ConvGeometry
from .. import llvm_ir as ir
from ..build import I1, I8, I32, I64, PTR, Builder, Params, vec

_COPY = 16  # elements copied at a time
Product = Callable[[Any, list[Any], Any, list[Any]], list[Any]]  # (k, row starts, B, accumulators) -> accumulators


class Tile(Protocol):
    def tile(self, indices: Sequence[Any], b_strip: Any, steps: tuple[Any, Any], acc: list[Any], product: Product) -> list[Any]:
        """Accumulate steps [from, to) of the rows `indices` (clamped to valid ones) times B, `b_strip` being at `from`."""
        ...


class RowSource(Protocol):
    def begin(self, b: Builder, dims: Any, p: dict[str, Any], a: Any, mr: int, element: Any, dtype: DType) -> Tile:
        """Set up at the start of a function; `a` is the start of A of this batch (group), `p` the loaded sizes."""
        ...


class StridedRows:
    def __init__(self, split: bool) -> None:
        self.split = split

    def begin(self, b: Builder, dims: Any, p: dict[str, Any], a: Any, mr: int, element: Any, dtype: DType) -> Tile:
        return _StridedTile(b, p, a, element, self.split)


class _StridedTile:
    def __init__(self, b: Builder, p: dict[str, Any], a: Any, element: Any, split: bool) -> None:
        self.b, self.p, self.a, self.element, self.split = b, p, a, element, split

    def tile(self, indices: Sequence[Any], b_strip: Any, steps: tuple[Any, Any], acc: list[Any], product: Product) -> list[Any]:
        b = self.b
        starts = [b.at(self.a, b.ir.mul(m, self.p["lda"]), self.element) for m in indices]
        if self.split:
            starts = [b.at(start, steps[0], self.element) for start in starts]
        return product(b.ir.sub(steps[1], steps[0]), starts, b_strip, acc)


class _Geometry:
    """Params of a convolution, and positions of an output pixel in the input."""

    def __init__(self, conv: ConvGeometry, params: Params) -> None:
        self.rank = len(conv.kernel)
        fields = (conv.spatial, conv.out_spatial, conv.kernel, conv.strides, conv.pads_lo, conv.dilations)
        self.slots = [[params.add(d) for d in field] for field in fields]

    def load(self, b: Builder, dims: Any) -> None:
        self.spatial, self.out, self.kernel, self.strides, self.pads, self.dilations = (
            [b.param(dims, s) for s in field] for field in self.slots
        )

    def output(self, b: Builder, m: Any) -> tuple[Any, list[Any]]:
        """(image, coordinates) of output pixel m."""
        at: list[Any] = [None] * self.rank
        for d in reversed(range(self.rank)):
            m, at[d] = b.ir.udiv(m, self.out[d]), b.ir.urem(m, self.out[d])
        return m, at


class ConvRows:
    """Pointers per row and tap; a pixel outside of the image reads a row of zeros.

    `segments`: few channels, so the taps along the last axis, contiguous in memory, count as one. Rows that cross the border
    of the image along that axis are copied first, with zeros outside. `abreast`: groups whose channels are read from one address.
    """

    def __init__(self, conv: ConvGeometry, params: Params, segments: bool, abreast: int = 1) -> None:
        self.geometry, self.segments, self.abreast = _Geometry(conv, params), segments, abreast

    def begin(self, b: Builder, dims: Any, p: dict[str, Any], a: Any, mr: int, element: Any, dtype: DType) -> Tile:
        self.geometry.load(b, dims)
        return _ConvTile(self, b, p, a, mr, element, dtype.itemsize)


class _ConvTile:
    def __init__(self, rows: ConvRows, b: Builder, p: dict[str, Any], a: Any, mr: int, element: Any, itemsize: int) -> None:
        self.g, self.segments = rows.geometry, rows.segments
        self.b, self.p, self.a, self.element, self.itemsize = b, p, a, element, itemsize
        i, g = b.ir, self.g
        self.looped = g.rank - self.segments  # axes whose taps are walked one by one
        self.width = 1 << (mr - 1).bit_length()  # rows as lanes of an address vector
        self.lanes = vec(I64, self.width)
        self.length = i.mul(g.kernel[-1], p["channels"]) if self.segments else p["channels"]
        self.table = b.alloca(I64, b.i64(self.width))
        self.base = [self._array() for _ in range(self.looped + 1)]
        if self.segments:
            self.border = self._array()
            self.scratch = b.alloca(element, i.add(i.mul(p["k"], b.i64(mr)), b.i64(_COPY)))
            row = b.splat(i.mul(p["k"], b.i64(itemsize)), self.width)
            self.copies = i.add(b.splat(i.ptrtoint(self.scratch, I64), self.width), i.mul(b.iota(self.width), row))
        empty = i.mul(self.length, b.i64(rows.abreast))
        zeros = b.alloca(element, empty)
        b.clear(zeros, i.mul(empty, b.i64(itemsize)))
        self.zeros = i.ptrtoint(zeros, I64)
        self.start = i.ptrtoint(a, I64)
        self.pixel_bytes = i.mul(p["lda"], b.i64(itemsize))
        # how far rows in one line are apart: in pixels, bytes, elements
        stride = g.strides[-1]
        self.steps = [stride, i.mul(stride, self.pixel_bytes), i.mul(stride, p["channels"])][: 3 if self.segments else 2]
        self.along = [i.mul(b.iota(self.width), b.splat(x, self.width)) for x in self.steps]

    def _array(self) -> Any:
        array = self.b.alloca(I64, self.b.i64(self.width))
        for r in range(self.width):
            self.b.ir.store(self.b.i64(0), self.b.at(array, self.b.i64(r), I64))
        return array

    def tile(self, indices: Sequence[Any], b_strip: Any, steps: tuple[Any, Any], acc: list[Any], product: Product) -> list[Any]:
        b, g, i = self.b, self.g, self.b.ir
        self._corners(indices)
        looped = self.looped
        first: list[Any] = [None] * looped
        rest = steps[0]
        for d in reversed(range(looped)):
            rest, first[d] = i.udiv(rest, g.kernel[d]), i.urem(rest, g.kernel[d])
        row_bytes = i.mul(self.length, b.i64(self.itemsize))
        tap_bytes = i.mul(self.p["b_step"], b.i64(self.itemsize))

        def tap(t: Any, carried: list[Any]) -> Sequence[Any]:
            counter, b_ptr, acc = carried[:looped], carried[looped], carried[looped + 1 :]
            inside, pixel = ir.Constant(vec(I1, self.width), [1] * self.width), b.i64(0)
            for d in range(g.rank):
                pixel = i.mul(pixel, g.spatial[d])
                if d < looped:
                    shift = i.mul(counter[d], g.dilations[d])
                    pixel = i.add(pixel, shift)
                    at = i.add(b.load(self.lanes, self.base[d + 1], 64), b.splat(shift, self.width))
                    inside = i.and_(inside, i.icmp_unsigned("<", at, b.splat(g.spatial[d], self.width)))
            base = b.load(self.lanes, self.base[0], 64)
            offset = i.mul(pixel, self.pixel_bytes)
            address = i.add(base, b.splat(offset, self.width))
            address = i.select(inside, address, b.splat(self.zeros, self.width))
            regular = inside
            if self.segments:
                border = i.icmp_unsigned("!=", b.load(self.lanes, self.border, 64), ir.Constant(self.lanes, None))
                address = i.select(border, i.add(base, b.splat(i.mul(t, row_bytes), self.width)), address)
                regular = i.and_(inside, i.not_(border))
            before = i.block
            with i.if_then(b.any(inside)):  # else all of them are outside of the image
                starts = self._starts(address, i.add(self.first, offset), i.and_(self.even, i.not_(b.any(i.not_(regular)))), len(indices))
                more = product(self.length, starts, b_ptr, acc)
                after = i.block
            acc = [b.merge((x, before), (y, after)) for x, y in zip(acc, more, strict=True)]
            carry, following = b.i64(1), []
            for d in reversed(range(looped)):
                up = i.add(counter[d], carry)
                wrap = i.icmp_signed("==", up, g.kernel[d])
                following.append(i.select(wrap, b.i64(0), up))
                carry = i.zext(wrap, I64)
            b_next = i.gep(b_ptr, [tap_bytes], source_etype=I8)
            return [*following[::-1], b_next, *acc]

        out = b.loop(steps[0], steps[1], b.i64(1), [*first, b_strip, *acc], tap)
        return out[looped + 1 :]

    def _starts(self, address: Any, first: Any, even: Any, count: int) -> list[Any]:
        """Where rows start: by one stride if `even`, else as the vector says."""
        b, i = self.b, self.b.ir
        with i.if_else(even) as (stride, table):
            with stride:
                near = [first]
                while len(near) < count:  # few steps deep: it is known how far 1, 2, 4 … rows are
                    near += [i.add(x, i.shl(self.steps[1], b.i64(len(near).bit_length() - 1))) for x in near]
                from_stride = i.block
            with table:
                i.store(address, self.table, align=64)
                far = [b.load(I64, b.at(self.table, b.i64(r), I64), 8) for r in range(count)]
                from_table = i.block
        addresses = [b.merge((x, from_stride), (y, from_table)) for x, y in zip(near, far, strict=False)]
        return [i.inttoptr(x, PTR) for x in addresses]

    def _corners(self, indices: Sequence[Any]) -> None:
        """Coordinates and addresses of the first tap of each row."""
        b, g, i = self.b, self.g, self.b.ir
        image, out = g.output(b, indices[0])
        at, pixel = self._corner(image, out)
        self.first = i.add(self.start, i.mul(pixel, self.pixel_bytes))
        last = i.sub(indices[-1], indices[0])
        in_line = i.icmp_signed("<", i.add(out[-1], last), g.out[-1])
        self.even = i.and_(in_line, i.icmp_signed("==", last, b.i64(len(indices) - 1)))
        with i.if_else(in_line) as (one, several):
            with one:
                in_line = self._line(at, last)
                from_line = i.block
            with several:
                in_lines = self._lines(image, out, indices)
                from_lines = i.block
        if self.segments:
            with i.if_then(b.merge((in_line, from_line), (in_lines, from_lines))):
                self._copy_border(indices)

    def _line(self, at: Sequence[Any], last: Any) -> Any:
        """Rows next to each other in a line of the output, lanes behind the last repeating it. Whether any needs a copy."""
        b, i, width = self.b, self.b.ir, self.width
        along = []
        for ahead, step in zip(self.along, self.steps, strict=True):
            end = b.splat(i.mul(last, step), width)
            along.append(i.select(i.icmp_signed("<", ahead, end), ahead, end))
        address = i.add(b.splat(self.first, width), along[1])
        border: Any = None
        if self.segments:
            border = self._crosses(i.add(b.splat(i.mul(at[-1], self.p["channels"]), width), along[2]))
            i.store(i.zext(border, self.lanes), self.border, align=64)
            address = i.select(border, self.copies, address)
        positions = [*(b.splat(x, width) for x in at[:-1]), i.add(b.splat(at[-1], width), along[0])]
        for array, value in zip(self.base, [address, *positions[: self.looped]], strict=True):
            i.store(value, array, align=64)
        return ir.Constant(I1, 0) if border is None else b.any(border)

    def _lines(self, image: Any, out: list[Any], indices: Sequence[Any]) -> Any:
        """Rows of several lines: coordinates are counted up row by row. Whether any needs a copy."""
        b, g, i = self.b, self.g, self.b.ir
        crossing: Any = ir.Constant(I1, 0)
        for r, m in enumerate(indices):
            if r:
                carry = i.sub(m, indices[r - 1])  # 0 where clamped to the last row
                for d in reversed(range(g.rank)):
                    up = i.add(out[d], carry)
                    wrap = i.icmp_signed("==", up, g.out[d])
                    out[d] = i.select(wrap, b.i64(0), up)
                    carry = i.zext(wrap, I64)
                image = i.add(image, carry)
            at, pixel = self._corner(image, out)
            address = i.add(self.start, i.mul(pixel, self.pixel_bytes))
            if self.segments:
                border = self._crosses(i.mul(at[-1], self.p["channels"]))
                crossing = i.or_(crossing, border)
                copy = i.extract_element(self.copies, ir.Constant(I32, r))
                address = i.select(border, copy, address)
                i.store(i.zext(border, I64), b.at(self.border, b.i64(r), I64))
            for array, value in zip(self.base, [address, *at[: self.looped]], strict=True):
                i.store(value, b.at(array, b.i64(r), I64))
        return crossing

    def _corner(self, image: Any, out: Sequence[Any]) -> tuple[list[Any], Any]:
        """Position of the first tap of an output pixel, and which pixel of the input that is."""
        g, i = self.g, self.b.ir
        at = [i.sub(i.mul(out[d], g.strides[d]), g.pads[d]) for d in range(g.rank)]
        pixel = image
        for d in range(g.rank):
            pixel = i.add(i.mul(pixel, g.spatial[d]), at[d])
        return at, pixel

    def _crosses(self, start: Any) -> Any:
        """Whether a segment that starts there, in a line, leaves it."""
        i, line = self.b.ir, self.b.ir.mul(self.g.spatial[-1], self.p["channels"])
        end, zero = i.sub(line, self.length), self.b.i64(0)
        if isinstance(start.type, ir.VectorType):
            end, zero = self.b.splat(end, self.width), ir.Constant(start.type, None)
        return i.or_(i.icmp_signed("<", start, zero), i.icmp_signed(">", start, end))

    def _copy_border(self, indices: Sequence[Any]) -> None:
        b, i = self.b, self.b.ir
        for r, m in enumerate(indices):
            i.store(m, b.at(self.table, b.i64(r), I64))  # free until the first tap

        def row(r: Any, _: list[Any]) -> Sequence[Any]:
            with i.if_then(i.icmp_unsigned("!=", b.load(I64, b.at(self.border, r, I64), 8), b.i64(0))):
                m = b.load(I64, b.at(self.table, r, I64), 8)
                self._copy(m, b.at(self.scratch, i.mul(r, self.p["k"]), self.element))
            return ()

        b.loop(b.i64(0), b.i64(len(indices)), b.i64(1), [], row)

    def _copy(self, m: Any, out: Any) -> None:
        """A whole row of A. Ascending whole vectors: what one segment writes too far, the next overwrites (the scratch has
        room at its end; a later row is written later, or is not read)."""
        b, g, i, p = self.b, self.g, self.b.ir, self.p
        image, pixel = g.output(b, m)
        corner = [i.sub(i.mul(pixel[d], g.strides[d]), g.pads[d]) for d in range(g.rank)]
        line = i.mul(g.spatial[-1], p["channels"])
        start = i.mul(corner[-1], p["channels"])
        t = vec(self.element, _COPY)
        iota = b.iota(_COPY)

        def nest(d: int, position: Any, inside: Any, out: Any) -> Any:
            if d < g.rank - 1:

                def along(k: Any, carried: list[Any]) -> Sequence[Any]:
                    at = i.add(corner[d], i.mul(k, g.dilations[d]))
                    ok = i.and_(inside, i.icmp_unsigned("<", at, g.spatial[d]))
                    return [nest(d + 1, i.add(i.mul(position, g.spatial[d]), at), ok, carried[0])]

                return b.loop(b.i64(0), g.kernel[d], b.i64(1), [out], along)[0]
            limit = i.select(inside, line, b.i64(0))
            source = i.add(i.mul(position, line), start)

            def chunk(e: Any, _: list[Any]) -> Sequence[Any]:
                lane = i.add(b.splat(e, _COPY), iota)
                x = i.add(lane, b.splat(start, _COPY))
                mask = i.and_(i.icmp_unsigned("<", x, b.splat(limit, _COPY)), i.icmp_unsigned("<", lane, b.splat(self.length, _COPY)))
                value = b.masked_load(t, b.at(self.a, i.add(source, e), self.element), mask, self.itemsize)
                i.store(value, b.at(out, e, self.element), align=self.itemsize)
                return ()

            b.loop(b.i64(0), self.length, b.i64(_COPY), [], chunk)
            return b.at(out, self.length, self.element)

        nest(0, image, ir.Constant(I1, 1), out)
