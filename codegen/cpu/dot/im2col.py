"""Rows of A of a convolution for dot instructions: the taps of an output pixel, copied to where they are contiguous."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...kernel import ConvGeometry
from .. import llvm_ir as ir
from ..build import I1, I8, I64, Builder, Params, vec
from .rows import LINE, Copier


class ConvGather:
    """Sizes of a convolution. `segments`: the taps of a line of the image are one piece. `line`: a row is no longer than a line of the
    cache, and put together in a register."""

    def __init__(self, conv: ConvGeometry, params: Params, segments: bool, line: bool) -> None:
        self.rank, self.segments, self.line = len(conv.kernel), segments, line
        fields = (conv.spatial, conv.out_spatial, conv.kernel, conv.strides, conv.pads_lo, conv.dilations)
        self.slots = [[params.add(d) for d in field] for field in fields]

    def begin(self, b: Builder, dims: Any, p: Mapping[str, Any], copier: Copier) -> Im2col:
        return Im2col(self, b, dims, p, copier)


class Im2col:
    """Writes the copy of some output pixels of one group into a function."""

    def __init__(self, of: ConvGather, b: Builder, dims: Any, p: Mapping[str, Any], copier: Copier) -> None:
        self.b, self.copier, self.rank, self.segments, self.line = b, copier, of.rank, of.segments, of.line
        self.pixel_bytes, self.channel_bytes, self.row_bytes = p["lda"], p["channel_bytes"], p["row_bytes"]
        self.spatial, self.out, self.kernel, self.strides, self.pads, self.dilations = (
            [b.param(dims, s) for s in field] for field in of.slots
        )

    def run(self, source: Any, outside: Any, first: Any, rows: Any, to: Any, pitch: Any) -> None:
        """Output pixels [first, first + rows) to rows `pitch` bytes apart; `outside` is a vector of the border's byte."""
        b, i = self.b, self.b.ir
        image, at = first, [b.i64(0)] * self.rank
        for d in reversed(range(self.rank)):
            image, at[d] = i.udiv(image, self.out[d]), i.urem(image, self.out[d])
        zero = ir.Constant(vec(I8, self.copier.wide), None)
        segment = i.mul(self.kernel[-1], self.channel_bytes)

        def pad(start: Any) -> None:
            self.copier.fill(b.at(start, self.row_bytes, I8), zero, i.sub(pitch, self.row_bytes))

        def border(image: Any, corner: list[Any], start: Any) -> None:
            self._taps(source, outside, image, corner, start)
            pad(start)

        def inner(image: Any, corner: list[Any], start: Any) -> None:
            if self.line:
                i.store(self._line(source, segment, image, corner), start, align=1)
            else:
                self._inner(source, segment, image, corner, start)
                pad(start)

        def row(r: Any, carried: list[Any]) -> Sequence[Any]:
            image, place = carried[0], carried[1:]
            corner = [i.sub(i.mul(o, s), p) for o, s, p in zip(place, self.strides, self.pads, strict=True)]
            start = b.at(to, i.mul(r, pitch), I8)
            if self.segments and self.copier.masked:
                with i.if_else(self._is_inside(corner)) as (inside, beyond):
                    with inside:
                        inner(image, corner, start)
                    with beyond:
                        border(image, corner, start)
            else:
                border(image, corner, start)
            return self._next(image, place)

        b.loop(b.i64(0), rows, b.i64(1), [image, *at], row)

    def _next(self, image: Any, place: Sequence[Any]) -> list[Any]:
        """The image and place of the pixel that follows."""
        b, i = self.b, self.b.ir
        carry, following = b.i64(1), []
        for d in reversed(range(self.rank)):
            up = i.add(place[d], carry)
            wrap = i.icmp_signed("==", up, self.out[d])
            following.append(i.select(wrap, b.i64(0), up))
            carry = i.zext(wrap, I64)
        return [i.add(image, carry), *following[::-1]]

    def _is_inside(self, corner: list[Any]) -> Any:
        """Whether no tap of a window is outside of the image."""
        b, i = self.b, self.b.ir
        inside: Any = ir.Constant(I1, 1)
        for at, size, kernel, dilation in zip(corner, self.spatial, self.kernel, self.dilations, strict=True):
            end = i.add(at, i.mul(i.sub(kernel, b.i64(1)), dilation))
            inside = i.and_(inside, i.and_(i.icmp_signed(">=", at, b.i64(0)), i.icmp_signed("<", end, size)))
        return inside

    def _lines(self, image: Any, corner: list[Any], carried: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
        """carried = body(first pixel, carried) for each line of a window that is inside."""
        b, i, last = self.b, self.b.ir, self.rank - 1

        def nest(d: int, position: Any, carried: list[Any]) -> list[Any]:
            if d == last:
                return body(i.add(i.mul(position, self.spatial[last]), corner[last]), carried)

            def along(t: Any, carried: list[Any]) -> Sequence[Any]:
                x = i.add(corner[d], i.mul(t, self.dilations[d]))
                return nest(d + 1, i.add(i.mul(position, self.spatial[d]), x), carried)

            return b.loop(b.i64(0), self.kernel[d], b.i64(1), carried, along)

        return nest(0, image, carried)

    def _inner(self, source: Any, segment: Any, image: Any, corner: list[Any], out: Any) -> None:
        """The taps of a window that is inside, each line of them in one piece."""
        b, i = self.b, self.b.ir

        def piece(pixel: Any, carried: list[Any]) -> list[Any]:
            self.copier.piece(carried[0], b.at(source, i.mul(pixel, self.pixel_bytes), I8), segment)
            return [b.at(carried[0], segment, I8)]

        self._lines(image, corner, [out], piece)

    def _line(self, source: Any, segment: Any, image: Any, corner: list[Any]) -> Any:
        """The same as the bytes of a line, with zeros behind."""
        b, i = self.b, self.b.ir

        def piece(pixel: Any, carried: list[Any]) -> list[Any]:
            line, at = carried
            part = self.copier.part(b.at(source, i.mul(pixel, self.pixel_bytes), I8), segment, at)
            return [i.or_(line, part), i.add(at, segment)]

        return self._lines(image, corner, [ir.Constant(vec(I8, LINE), None), b.i64(0)], piece)[0]

    def _taps(self, source: Any, outside: Any, image: Any, corner: list[Any], out: Any) -> None:
        """The taps of any window, with the border's byte for those that are outside."""
        b, i, last = self.b, self.b.ir, self.rank - 1
        taps = self.kernel[last] if self.segments else b.i64(1)  # taps of one piece
        size = i.mul(taps, self.channel_bytes)

        def pieces(position: Any, inside: Any, out: Any) -> Any:
            def piece(s: Any, carried: list[Any]) -> Sequence[Any]:
                x = i.add(corner[last], i.mul(s, self.dilations[last]))
                low = b.smin(b.smax(i.neg(x), b.i64(0)), taps)
                high = b.smax(b.smin(i.sub(self.spatial[last], x), taps), low)
                high = i.select(inside, high, low)
                pixel = i.add(i.mul(position, self.spatial[last]), i.add(x, low))
                live = i.sub(high, low)
                with i.if_then(i.icmp_signed("<", live, taps)):
                    self.copier.fill(carried[0], outside, size)
                with i.if_then(i.icmp_signed(">", live, b.i64(0))):
                    here = b.at(carried[0], i.mul(low, self.channel_bytes), I8)
                    self.copier.copy(here, b.at(source, i.mul(pixel, self.pixel_bytes), I8), i.mul(live, self.channel_bytes))
                return [b.at(carried[0], size, I8)]

            count = b.i64(1) if self.segments else self.kernel[last]
            return b.loop(b.i64(0), count, b.i64(1), [out], piece)[0]

        def nest(d: int, position: Any, inside: Any, out: Any) -> Any:
            if d == last:
                return pieces(position, inside, out)

            def along(t: Any, carried: list[Any]) -> Sequence[Any]:
                x = i.add(corner[d], i.mul(t, self.dilations[d]))
                ok = i.and_(inside, i.icmp_unsigned("<", x, self.spatial[d]))
                return [nest(d + 1, i.add(i.mul(position, self.spatial[d]), x), ok, carried[0])]

            return b.loop(b.i64(0), self.kernel[d], b.i64(1), [out], along)[0]

        nest(0, image, ir.Constant(I1, 1), out)
