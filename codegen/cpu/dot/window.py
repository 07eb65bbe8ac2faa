"""Convolutions without im2col: a band of the image is copied once, with its border, and every tap reads it shifted.

Rows of the image lie one behind the other, the border between two of them shared. So neighbouring output pixels are
rows of A at a stride, for every tap, and so are the pixels at a row's end followed by those of the next row; what
falls between two rows is computed and not stored. With a stride along the rows' axis, rows of equal phase lie together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....ir import Shape
from ...kernel import ContractKernel
from .. import llvm_ir as ir
from ..build import I8, Builder, Params
from .rows import LINE, Copier

_MOST_BYTES = 512 << 10  # of a band: it is read from the second-level cache
_BAND_BYTES = 192 << 10  # the same where a band may be cut
_FEWEST = 128  # pixels of a band that is not cut for the sake of more units
_BEHIND = 32  # rows of A that the last tile reads and nobody stores


@dataclass(frozen=True, slots=True)
class WindowShape:
    """Numbers of one convolution; two axes, of which the first may be one row.

    Attributes:
        width: of a row as it is stored, its border included: a multiple of the stride.
        line: output pixels from one row to the next, counting those that are not stored.
        pixel: bytes.
    """

    spatial: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    dilations: tuple[int, int]
    width: int
    line: int
    pixel: int

    def phase_rows(self, rows: int) -> int:
        """Stored rows of equal phase that `rows` output rows read."""
        (s, _), (d, _), (k, _) = self.strides, self.dilations, self.kernel
        return -(-((rows - 1) * s + (k - 1) * d + 1) // s)

    def bytes(self, rows: int) -> int:
        """Of the copy that `rows` output rows read, what a tile reads behind it included."""
        (s, t), (_, d), (_, k) = self.strides, self.dilations, self.kernel
        return (s * self.phase_rows(rows) * self.width + self.width + (_BEHIND * t + k * d)) * self.pixel

    def length(self, rows: int) -> int:
        """Rows of A."""
        return (rows - 1) * self.line + self.out[1]

    def band(self, images: int, wanted: int) -> int:
        """Output rows of one unit: as many as fit, fewer where `wanted` units would not come about."""
        rows = self.out[0]
        while rows > 1 and (self.bytes(rows) > _BAND_BYTES or
                            (images * -(-self.out[0] // rows) < wanted and self.length(-(-rows // 2)) >= _FEWEST)):  # fmt: skip
            rows = -(-rows // 2)
        return rows


def window_shape(kernel: ContractKernel, size: int, unit: int) -> WindowShape | None:
    """None where taps have no whole units of so many bytes, or sizes are not known, or a row is too long."""
    conv = kernel.conv
    if conv is None or len(conv.kernel) > 2 or math.prod(conv.kernel) == 1 or not isinstance(kernel.k, int):
        return None
    fields = (conv.spatial, conv.out_spatial, conv.kernel, conv.strides, conv.pads_lo, conv.dilations)
    numbers = [_pair(field, neutral) for field, neutral in zip(fields, (1, 1, 1, 1, 0, 1), strict=True)]
    channels = kernel.k // math.prod(conv.kernel)
    if None in numbers or 0 in conv.out_spatial or channels * size % unit:
        return None
    spatial, out, taps, strides, pads, dilations = (pair for pair in numbers if pair is not None)
    if min(pads) < 0:
        return None
    behind = max(0, (out[1] - 1) * strides[1] + (taps[1] - 1) * dilations[1] - pads[1] - (spatial[1] - 1))
    width = -(-(spatial[1] + max(pads[1], behind)) // strides[1]) * strides[1]
    shape = WindowShape(
        spatial=spatial,
        out=out,
        kernel=taps,
        strides=strides,
        pads=pads,
        dilations=dilations,
        width=width,
        line=width // strides[1],
        pixel=channels * size,
    )
    return shape if shape.bytes(1) <= _MOST_BYTES else None


def _pair(field: Shape, neutral: int) -> tuple[int, int] | None:
    """Numbers of two axes, the first of which may be missing; None where one is not known."""
    match field:
        case (int(d),):
            return neutral, d
        case (int(c), int(d)):
            return c, d
    return None


class Window:
    """Sizes of a convolution and of a band of `rows` output rows."""

    def __init__(self, shape: WindowShape, rows: int, params: Params) -> None:
        fields = {
            "height": shape.spatial[0], "wide": shape.spatial[1], "out_height": shape.out[0], "out_width": shape.out[1],
            "taps": shape.kernel[0], "columns": shape.kernel[1], "stride": shape.strides[0], "step": shape.strides[1],
            "top": shape.pads[0], "left": shape.pads[1], "down": shape.dilations[0], "across": shape.dilations[1],
            "width": shape.width, "line": shape.line, "phase": shape.phase_rows(rows), "pixel": shape.pixel,
            "bytes": shape.bytes(rows), "band": rows, "bands": -(-shape.out[0] // rows),
        }  # fmt: skip
        self.slots = {name: params.add(value) for name, value in fields.items()}
        self.lines = shape.pixel % LINE == 0

    def begin(self, b: Builder, dims: Any) -> ActiveWindow:
        return ActiveWindow(b, b.params(dims, self.slots), self.lines)


class ActiveWindow:
    """Writes the copy of a band, and the loop over taps, into a function; `p`: sizes; `lines`: pixels are whole lines of 64 bytes."""

    def __init__(self, b: Builder, p: Mapping[str, Any], lines: bool) -> None:
        self.b, self.p, self.lines = b, p, lines

    def copy(self, copier: Copier, image: Any, pixel_bytes: Any, outside: Any, first: Any, rows: Any, to: Any) -> None:
        """What output rows [first, first + rows) of one image read; `outside` is a vector of the border's byte."""
        b, i, p = self.b, self.b.ir, self.p
        top = i.sub(i.mul(first, p["stride"]), p["top"])
        stored = i.add(i.add(i.mul(i.sub(rows, b.i64(1)), p["stride"]), i.mul(i.sub(p["taps"], b.i64(1)), p["down"])), b.i64(1))
        row_bytes, line = i.mul(p["width"], p["pixel"]), i.mul(p["wide"], p["pixel"])
        lead, gap = i.mul(p["left"], p["pixel"]), i.sub(row_bytes, line)
        dense = i.icmp_signed("==", pixel_bytes, p["pixel"])
        copy, fill = (copier.lines, copier.fill) if self.lines else (copier.copy, copier.fill_exactly)

        def row(q: Any, _: list[Any]) -> Sequence[Any]:
            phase, at = i.urem(q, p["stride"]), i.udiv(q, p["stride"])
            out = b.at(to, i.mul(i.add(i.mul(phase, p["phase"]), at), row_bytes), I8)
            with i.if_then(i.icmp_signed("==", at, b.i64(0))):
                fill(out, outside, lead)
            out = b.at(out, lead, I8)
            y = i.add(top, q)
            with i.if_else(i.icmp_unsigned("<", y, p["height"])) as (inside, beyond):
                with inside:
                    source = b.at(image, i.mul(i.mul(y, p["wide"]), pixel_bytes), I8)
                    with i.if_else(dense) as (whole, apart):
                        with whole:
                            copy(out, source, line)
                        with apart:

                            def pixel(x: Any, _: list[Any]) -> Sequence[Any]:
                                copy(b.at(out, i.mul(x, p["pixel"]), I8), b.at(source, i.mul(x, pixel_bytes), I8), p["pixel"])
                                return ()

                            b.loop(b.i64(0), p["wide"], b.i64(1), [], pixel)
                    fill(b.at(out, line, I8), outside, gap)
                with beyond:
                    fill(out, outside, row_bytes)
            return ()

        b.loop(b.i64(0), stored, b.i64(1), [], row)

    def taps(self, start: Any, carried: list[Any], body: Callable[[Any, Any, list[Any]], Sequence[Any]], joined: bool = False) -> list[Any]:
        """carried = body(A of the tap, its bytes, carried) for every tap; `joined`: for those that are neighbours at once."""
        b, i, p = self.b, self.b.ir, self.p
        count, size = p["columns"], p["pixel"]
        if joined:
            apart = i.icmp_signed("!=", p["across"], b.i64(1))
            count, size = i.select(apart, count, b.i64(1)), i.select(apart, size, i.mul(size, count))

        def row(r: Any, carried: list[Any]) -> Sequence[Any]:
            down = i.mul(r, p["down"])
            phase, at = i.urem(down, p["stride"]), i.udiv(down, p["stride"])
            row_at = i.mul(i.add(i.mul(phase, p["phase"]), at), p["width"])

            def column(c: Any, carried: list[Any]) -> Sequence[Any]:
                offset = i.mul(i.add(row_at, i.mul(c, p["across"])), p["pixel"])
                return body(b.at(start, offset, I8), size, carried)

            return b.loop(b.i64(0), count, b.i64(1), carried, column)

        return b.loop(b.i64(0), p["taps"], b.i64(1), carried, row)

    def stored(self, at: Any, end: Any, block_start: Any, store: Callable[[Any, Any], None]) -> None:
        """`store(row of the tile, row m of C)` for the rows of A from `at` to `end` that are output pixels."""
        b, i, p = self.b, self.b.ir, self.p
        y, x = i.udiv(at, p["line"]), i.urem(at, p["line"])
        m = i.add(block_start, i.add(i.mul(y, p["out_width"]), b.smin(x, p["out_width"])))

        def finish(r: Any, carried: list[Any]) -> Sequence[Any]:
            x, m = carried
            live = i.icmp_signed("<", x, p["out_width"])
            with i.if_then(live):
                store(r, m)
            after = i.add(x, b.i64(1))
            wrapped = i.icmp_signed("==", after, p["line"])
            return [i.select(wrapped, b.i64(0), after), i.add(m, i.zext(live, ir.IntType(64)))]

        b.loop(b.i64(0), i.sub(end, at), b.i64(1), [x, m], finish)
