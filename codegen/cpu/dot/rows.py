"""Rows of A for dot instructions, copied to where they are contiguous, whole 64-byte lines: tails of products, taps of convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...kernel import ConvGeometry
from .. import llvm_ir as ir
from ..build import I1, I8, I64, Builder, Params, vec
from ..target import CpuTarget

_LINE = 64


class Copier:
    """Bytes from anywhere; reads no byte outside of the source."""

    def __init__(self, b: Builder, target: CpuTarget) -> None:
        self.b, self.masked = b, target.masked
        self.wide = _LINE if target.masked else 16

    def copy(self, to: Any, source: Any, size: Any) -> None:
        """Exactly `size` bytes."""
        b, i = self.b, self.b.ir
        t = vec(I8, self.wide)
        if self.masked:

            def chunk(at: Any, _: list[Any]) -> Sequence[Any]:
                mask = i.bitcast(self._first(i.sub(size, at)), vec(I1, _LINE))
                b.masked_store(b.masked_load(t, b.at(source, at, I8), mask, 1), b.at(to, at, I8), mask, 1)
                return ()

            b.loop(b.i64(0), size, b.i64(_LINE), [], chunk)
            return
        whole = i.and_(size, b.i64(-self.wide))

        def move(t: Any) -> Any:
            def body(at: Any, _: list[Any]) -> Sequence[Any]:
                i.store(b.load(t, b.at(source, at, I8)), b.at(to, at, I8), align=1)
                return ()

            return body

        b.loop(b.i64(0), whole, b.i64(self.wide), [], move(t))
        b.loop(whole, size, b.i64(1), [], move(I8))

    def piece(self, to: Any, source: Any, size: Any) -> None:
        """Exactly `size` bytes, seldom more than a line; where loads can be masked."""
        b, i = self.b, self.b.ir
        mask = i.bitcast(self._first(size), vec(I1, _LINE))
        b.masked_store(b.masked_load(vec(I8, _LINE), source, mask, 1), to, mask, 1)
        with i.if_then(i.icmp_signed(">", size, b.i64(_LINE))):
            self.copy(b.at(to, b.i64(_LINE), I8), b.at(source, b.i64(_LINE), I8), i.sub(size, b.i64(_LINE)))

    def part(self, source: Any, size: Any, at: Any) -> Any:
        """A line with `size` bytes from its byte `at` on, and zeros elsewhere; where loads can be masked."""
        b, i = self.b, self.b.ir
        mask = i.bitcast(i.shl(self._first(size), at), vec(I1, _LINE))
        return b.masked_load(vec(I8, _LINE), b.at(source, i.neg(at), I8), mask, 1)

    def copy_padded(self, to: Any, source: Any, size: Any) -> None:
        """Less than a line, and zeros up to its end; where stores can be masked."""
        b, i = self.b, self.b.ir
        mask = i.bitcast(self._first(size), vec(I1, _LINE))
        i.store(b.masked_load(vec(I8, _LINE), source, mask, 1), to, align=1)

    def lines(self, to: Any, source: Any, size: Any) -> None:
        """Whole lines of 64 bytes."""
        b, t = self.b, vec(I8, _LINE)

        def move(at: Any, _: list[Any]) -> Sequence[Any]:
            b.ir.store(b.load(t, b.at(source, at, I8)), b.at(to, at, I8), align=1)
            return ()

        b.loop(b.i64(0), size, b.i64(_LINE), [], move)

    def fill(self, to: Any, value: Any, size: Any) -> None:
        """At least `size` bytes, up to 63 more, each `value` (a vector of it)."""
        b = self.b

        def body(at: Any, _: list[Any]) -> Sequence[Any]:
            b.ir.store(value, b.at(to, at, I8), align=1)
            return ()

        b.loop(b.i64(0), size, b.i64(self.wide), [], body)

    def splat(self, byte: Any) -> Any:
        return self.b.splat(byte, self.wide)

    def _first(self, count: Any) -> Any:
        """The lowest min(count, 64) bits."""
        b, i = self.b, self.b.ir
        bits = i.sub(i.shl(b.i64(1), i.and_(count, b.i64(63))), b.i64(1))
        return i.select(i.icmp_signed(">=", count, b.i64(_LINE)), b.i64(-1), bits)


def gather_plain(b: Builder, copier: Copier, source: Any, stride: Any, size: Any, to: Any, pitch: Any, rows: Any) -> None:
    """`rows` rows of `size` bytes, `stride` bytes apart, to rows `pitch` bytes apart, zeros behind."""
    i = b.ir
    zero = ir.Constant(vec(I8, copier.wide), None)

    def row(r: Any, _: list[Any]) -> Sequence[Any]:
        out = b.at(to, i.mul(r, pitch), I8)
        copier.copy(out, b.at(source, i.mul(r, stride), I8), size)
        copier.fill(b.at(out, size, I8), zero, i.sub(pitch, size))
        return ()

    b.loop(b.i64(0), rows, b.i64(1), [], row)


def gather_tiles(b: Builder, copier: Copier, source: Any, stride: Any, size: Any, to: Any, pitch: Any, rows: Any) -> None:
    """The same as tiles of 16 rows by 64 bytes, those of 16 rows one behind the other. Reads no more than `size` bytes of a row."""
    i = b.ir
    whole = i.and_(size, b.i64(-_LINE))
    t = vec(I8, _LINE)

    def row(r: Any, _: list[Any]) -> Sequence[Any]:
        line = i.add(i.mul(i.and_(r, b.i64(-16)), pitch), i.mul(i.and_(r, b.i64(15)), b.i64(_LINE)))
        start, out = b.at(source, i.mul(r, stride), I8), b.at(to, line, I8)

        def move(at: Any, _: list[Any]) -> Sequence[Any]:
            i.store(b.load(t, b.at(start, at, I8)), b.at(out, i.mul(at, b.i64(16)), I8), align=_LINE)
            return ()

        b.loop(b.i64(0), whole, b.i64(_LINE), [], move)
        with i.if_then(i.icmp_signed("<", whole, size)):
            copier.copy_padded(b.at(out, i.mul(whole, b.i64(16)), I8), b.at(start, whole, I8), i.sub(size, whole))
        return ()

    b.loop(b.i64(0), rows, b.i64(1), [], row)


class ConvGather:
    """im2col of some output pixels of one group. `line`: a row is no longer than a line, and put together in a register."""

    def __init__(self, conv: ConvGeometry, params: Params, segments: bool, line: bool) -> None:
        self.rank, self.segments, self.line = len(conv.kernel), segments, line
        fields = (conv.spatial, conv.out_spatial, conv.kernel, conv.strides, conv.pads_lo, conv.dilations)
        self.slots = [[params.add(d) for d in field] for field in fields]

    def load(self, b: Builder, dims: Any) -> None:
        self.spatial, self.out, self.kernel, self.strides, self.pads, self.dilations = (
            [b.param(dims, s) for s in field] for field in self.slots
        )

    def run(self, b: Builder, copier: Copier, source: Any, pixel_bytes: Any, channel_bytes: Any, outside: Any, first: Any,
            rows: Any, to: Any, pitch: Any, row_bytes: Any) -> None:  # fmt: skip
        """Output pixels [first, first + rows) to rows `pitch` bytes apart; `outside` is a vector of the border's byte."""
        i, rank = b.ir, self.rank
        rest, at = first, [b.i64(0)] * rank
        for d in reversed(range(rank)):
            rest, at[d] = i.udiv(rest, self.out[d]), i.urem(rest, self.out[d])
        zero = ir.Constant(vec(I8, copier.wide), None)
        segment = i.mul(self.kernel[rank - 1], channel_bytes)

        def pad(start: Any) -> None:
            copier.fill(b.at(start, row_bytes, I8), zero, i.sub(pitch, row_bytes))

        def row(r: Any, carried: list[Any]) -> Sequence[Any]:
            image, place = carried[0], carried[1:]
            corner = [i.sub(i.mul(o, s), p) for o, s, p in zip(place, self.strides, self.pads, strict=True)]
            start = b.at(to, i.mul(r, pitch), I8)
            if self.segments and copier.masked:
                with i.if_else(self._is_inside(b, corner)) as (inside, border):
                    with inside:
                        if self.line:
                            i.store(self._line(b, copier, source, pixel_bytes, segment, image, corner), start, align=1)
                        else:
                            self._inner(b, copier, source, pixel_bytes, segment, image, corner, start)
                            pad(start)
                    with border:
                        self._taps(b, copier, source, pixel_bytes, channel_bytes, outside, image, corner, start)
                        pad(start)
            else:
                self._taps(b, copier, source, pixel_bytes, channel_bytes, outside, image, corner, start)
                pad(start)
            carry, following = b.i64(1), []
            for d in reversed(range(rank)):
                up = i.add(place[d], carry)
                wrap = i.icmp_signed("==", up, self.out[d])
                following.append(i.select(wrap, b.i64(0), up))
                carry = i.zext(wrap, I64)
            return [i.add(image, carry), *following[::-1]]

        b.loop(b.i64(0), rows, b.i64(1), [rest, *at], row)

    def _is_inside(self, b: Builder, corner: list[Any]) -> Any:
        """Whether no tap of a window is outside of the image."""
        i = b.ir
        inside: Any = ir.Constant(I1, 1)
        for at, size, kernel, dilation in zip(corner, self.spatial, self.kernel, self.dilations, strict=True):
            end = i.add(at, i.mul(i.sub(kernel, b.i64(1)), dilation))
            inside = i.and_(inside, i.and_(i.icmp_signed(">=", at, b.i64(0)), i.icmp_signed("<", end, size)))
        return inside

    def _inner(self, b: Builder, copier: Copier, source: Any, pixel_bytes: Any, segment: Any, image: Any, corner: list[Any],
               out: Any) -> None:  # fmt: skip
        """The taps of a window that is inside, each row of them in one piece."""
        i, last = b.ir, self.rank - 1

        def nest(d: int, position: Any, out: Any) -> Any:
            if d == last:
                pixel = i.add(i.mul(position, self.spatial[last]), corner[last])
                copier.piece(out, b.at(source, i.mul(pixel, pixel_bytes), I8), segment)
                return b.at(out, segment, I8)

            def along(t: Any, carried: list[Any]) -> Sequence[Any]:
                x = i.add(corner[d], i.mul(t, self.dilations[d]))
                return [nest(d + 1, i.add(i.mul(position, self.spatial[d]), x), carried[0])]

            return b.loop(b.i64(0), self.kernel[d], b.i64(1), [out], along)[0]

        nest(0, image, out)

    def _line(self, b: Builder, copier: Copier, source: Any, pixel_bytes: Any, segment: Any, image: Any, corner: list[Any]) -> Any:
        """The same as the bytes of a line, with zeros behind."""
        i, last = b.ir, self.rank - 1

        def nest(d: int, position: Any, line: Any, at: Any) -> list[Any]:
            if d == last:
                pixel = i.add(i.mul(position, self.spatial[last]), corner[last])
                part = copier.part(b.at(source, i.mul(pixel, pixel_bytes), I8), segment, at)
                return [i.or_(line, part), i.add(at, segment)]

            def along(t: Any, carried: list[Any]) -> Sequence[Any]:
                x = i.add(corner[d], i.mul(t, self.dilations[d]))
                return nest(d + 1, i.add(i.mul(position, self.spatial[d]), x), *carried)

            return b.loop(b.i64(0), self.kernel[d], b.i64(1), [line, at], along)

        return nest(0, image, ir.Constant(vec(I8, _LINE), None), b.i64(0))[0]

    def _taps(self, b: Builder, copier: Copier, source: Any, pixel_bytes: Any, channel_bytes: Any, outside: Any, image: Any,
              corner: list[Any], out: Any) -> Any:  # fmt: skip
        i, last = b.ir, self.rank - 1
        width = self.spatial[last]
        taps = self.kernel[last] if self.segments else b.i64(1)  # taps of one piece
        size = i.mul(taps, channel_bytes)

        def pieces(position: Any, inside: Any, out: Any) -> Any:
            def piece(s: Any, carried: list[Any]) -> Sequence[Any]:
                x = i.add(corner[last], i.mul(s, self.dilations[last]))
                low = b.smin(b.smax(i.neg(x), b.i64(0)), taps)
                high = b.smax(b.smin(i.sub(width, x), taps), low)
                high = i.select(inside, high, low)
                pixel = i.add(i.mul(position, width), i.add(x, low))
                live = i.sub(high, low)
                with i.if_then(i.icmp_signed("<", live, taps)):
                    copier.fill(carried[0], outside, size)
                with i.if_then(i.icmp_signed(">", live, b.i64(0))):
                    here = b.at(carried[0], i.mul(low, channel_bytes), I8)
                    copier.copy(here, b.at(source, i.mul(pixel, pixel_bytes), I8), i.mul(live, channel_bytes))
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

        return nest(0, image, ir.Constant(I1, 1), out)
