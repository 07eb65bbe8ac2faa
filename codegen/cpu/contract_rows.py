"""Where the rows of A come from: a stride, convolution taps by indirection, or a gathered scratch tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from llvmlite import ir

from ...ir import DType
from ..kernel import ConvGeometry
from .build import I64, PTR, Builder, Params, vec

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

    def corner(self, b: Builder, m: Any) -> tuple[Any, list[Any]]:
        """(image, input coordinates of the first tap) of output pixel m."""
        i = b.ir
        at = []
        for d in reversed(range(self.rank)):
            m, o = i.udiv(m, self.out[d]), i.urem(m, self.out[d])
            at.append(i.sub(i.mul(o, self.strides[d]), self.pads[d]))
        return m, at[::-1]

    def pixel(self, b: Builder, image: Any, at: list[Any]) -> Any:
        for d in range(self.rank):
            image = b.ir.add(b.ir.mul(image, self.spatial[d]), at[d])
        return image


class ConvRows:
    """Pointers per row and tap; a pixel outside of the image reads a row of zeros."""

    def __init__(self, conv: ConvGeometry, params: Params, panel: int) -> None:
        self.geometry, self.panel = _Geometry(conv, params), panel

    def begin(self, b: Builder, dims: Any, p: dict[str, Any], a: Any, mr: int, element: Any, dtype: DType) -> Tile:
        return _ConvTile(self.geometry, self.panel, b, dims, p, a, mr, element, dtype)


class _ConvTile:
    def __init__(
        self, g: _Geometry, panel: int, b: Builder, dims: Any, p: dict[str, Any], a: Any, mr: int, element: Any, dtype: DType
    ) -> None:
        self.g, self.b, self.p, self.a, self.element, self.itemsize = g, b, p, a, element, dtype.itemsize
        g.load(b, dims)
        self.panel = panel
        i = b.ir
        self.width = 1 << (mr - 1).bit_length()  # rows as lanes of an address vector
        self.table = b.alloca(I64, self.width)
        self.base = [self._array() for _ in range(g.rank + 1)]
        zeros = b.alloca(element, p["channels"])
        zero = ir.Constant(element, None)
        b.loop(b.i64(0), p["channels"], b.i64(1), [], lambda at, _: (i.store(zero, b.at(zeros, at, element)), ())[1])
        self.zeros = i.ptrtoint(zeros, I64)
        self.lanes = vec(I64, self.width)
        self.start = i.ptrtoint(a, I64)
        self.pixel_bytes = i.mul(p["lda"], b.i64(self.itemsize))

    def _array(self) -> Any:
        array = self.b.alloca(I64, self.width)
        for r in range(self.width):
            self.b.ir.store(self.b.i64(0), self.b.at(array, self.b.i64(r), I64))
        return array

    def tile(self, indices: Sequence[Any], b_strip: Any, steps: tuple[Any, Any], acc: list[Any], product: Product) -> list[Any]:
        b, g, i, p = self.b, self.g, self.b.ir, self.p
        self._corners(indices)
        rank = g.rank
        first: list[Any] = [None] * rank
        rest = steps[0]
        for d in reversed(range(rank)):
            rest, first[d] = i.udiv(rest, g.kernel[d]), i.urem(rest, g.kernel[d])
        tap_bytes = i.mul(i.mul(p["channels"], b.i64(self.panel)), b.i64(self.itemsize))

        def tap(_: Any, carried: list[Any]) -> Sequence[Any]:
            counter, b_ptr, acc = carried[:rank], carried[rank], carried[rank + 1 :]
            inside, pixel = None, b.i64(0)
            for d in range(rank):
                shift = i.mul(counter[d], g.dilations[d])
                pixel = i.add(i.mul(pixel, g.spatial[d]), shift)
                at = i.add(b.load(self.lanes, self.base[d + 1], 64), b.splat(shift, self.width))
                ok = i.icmp_unsigned("<", at, b.splat(g.spatial[d], self.width))
                inside = ok if inside is None else i.and_(inside, ok)
            moved = i.add(b.load(self.lanes, self.base[0], 64), b.splat(i.mul(pixel, self.pixel_bytes), self.width))
            i.store(i.select(inside, moved, b.splat(self.zeros, self.width)), self.table, align=64)
            starts = [i.inttoptr(b.load(I64, b.at(self.table, b.i64(r), I64), 8), PTR) for r in range(len(indices))]
            acc = product(p["channels"], starts, b_ptr, acc)
            carry, following = b.i64(1), []
            for d in reversed(range(rank)):
                up = i.add(counter[d], carry)
                wrap = i.icmp_signed("==", up, g.kernel[d])
                following.append(i.select(wrap, b.i64(0), up))
                carry = i.zext(wrap, I64)
            b_next = i.gep(b_ptr, [tap_bytes], source_etype=ir.IntType(8))
            return [*following[::-1], b_next, *acc]

        out = b.loop(steps[0], steps[1], b.i64(1), [*first, b_strip, *acc], tap)
        return out[rank + 1 :]

    def _corners(self, indices: Sequence[Any]) -> None:
        """Coordinates and addresses of the first tap of each row: divided out once, then counted up row by row."""
        b, g, i = self.b, self.g, self.b.ir
        rest = indices[0]
        out: list[Any] = [None] * g.rank
        for d in reversed(range(g.rank)):
            rest, out[d] = i.udiv(rest, g.out[d]), i.urem(rest, g.out[d])
        for r, m in enumerate(indices):
            if r:
                carry = i.sub(m, indices[r - 1])  # 0 where clamped to the last row
                for d in reversed(range(g.rank)):
                    up = i.add(out[d], carry)
                    wrap = i.icmp_signed("==", up, g.out[d])
                    out[d] = i.select(wrap, b.i64(0), up)
                    carry = i.zext(wrap, I64)
                rest = i.add(rest, carry)
            at = [i.sub(i.mul(out[d], g.strides[d]), g.pads[d]) for d in range(g.rank)]
            address = i.add(self.start, i.mul(g.pixel(b, rest, at), self.pixel_bytes))
            for array, value in zip(self.base, [address, *at], strict=True):
                i.store(value, b.at(array, b.i64(r), I64))


class GatheredRows:
    """Few channels: the taps along the last spatial axis are contiguous, so rows are copied, with zeros outside, first."""

    def __init__(self, conv: ConvGeometry, params: Params) -> None:
        self.geometry = _Geometry(conv, params)

    def begin(self, b: Builder, dims: Any, p: dict[str, Any], a: Any, mr: int, element: Any, dtype: DType) -> Tile:
        return _GatheredTile(self.geometry, b, dims, p, a, mr, element, dtype)


class _GatheredTile:
    def __init__(
        self, g: _Geometry, b: Builder, dims: Any, p: dict[str, Any], a: Any, mr: int, element: Any, dtype: DType
    ) -> None:
        self.g, self.b, self.p, self.a, self.element, self.itemsize = g, b, p, a, element, dtype.itemsize
        g.load(b, dims)
        i = b.ir
        self.lanes = 16
        self.scratch = b.alloca(element, i.add(i.mul(p["k"], b.i64(mr)), b.i64(self.lanes)))
        self.rows = b.alloca(I64, mr)

    def tile(self, indices: Sequence[Any], b_strip: Any, steps: tuple[Any, Any], acc: list[Any], product: Product) -> list[Any]:
        b, i, p = self.b, self.b.ir, self.p
        for r, m in enumerate(indices):
            i.store(m, b.at(self.rows, b.i64(r), I64))

        def copy_row(r: Any, _: list[Any]) -> Sequence[Any]:
            m = b.load(I64, b.at(self.rows, r, I64), 8)
            self._copy(m, b.at(self.scratch, i.mul(r, p["k"]), self.element))
            return ()

        b.loop(b.i64(0), b.i64(len(indices)), b.i64(1), [], copy_row)
        starts = [b.at(self.scratch, i.mul(p["k"], b.i64(r)), self.element) for r in range(len(indices))]
        return product(p["k"], starts, b_strip, acc)

    def _copy(self, m: Any, out: Any) -> None:
        """Ascending whole vectors: what one segment writes too far, the next overwrites (the scratch has room at its end)."""
        b, g, i, p = self.b, self.g, self.b.ir, self.p
        image, corner = g.corner(b, m)
        segment = i.mul(g.kernel[-1], p["channels"])
        line = i.mul(g.spatial[-1], p["channels"])
        start = i.mul(corner[-1], p["channels"])
        t = vec(self.element, self.lanes)
        iota = ir.Constant(vec(I64, self.lanes), list(range(self.lanes)))

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
                lane = i.add(b.splat(e, self.lanes), iota)
                x = i.add(lane, b.splat(start, self.lanes))
                mask = i.and_(
                    i.icmp_unsigned("<", x, b.splat(limit, self.lanes)),
                    i.icmp_unsigned("<", lane, b.splat(segment, self.lanes)),
                )
                value = b.masked_load(t, b.at(self.a, i.add(source, e), self.element), mask, self.itemsize)
                i.store(value, b.at(out, e, self.element), align=self.itemsize)
                return ()

            b.loop(b.i64(0), segment, b.i64(self.lanes), [], chunk)
            return b.at(out, segment, self.element)

        nest(0, image, ir.Constant(ir.IntType(1), 1), out)
