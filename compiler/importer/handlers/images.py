"""Handlers of operators on images as files and on regions of them."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from ....ir import Dim, DType, Value
from ....ir import ops as O
from ..compose import Build, required
from ..context import HandlerTable, ImportContext
from ..held import Element


def image_decoder(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    form = str(ctx.attr(node, "pixel_format", "RGB"))
    if form not in ("RGB", "BGR", "Grayscale"):
        raise ctx.unsupported(f"ImageDecoder: pixel_format {form!r}")
    pixels = Element(DType.U8, (None, None, 1 if form == "Grayscale" else 3))
    return ctx.run_host(lambda results: O.ImageDecode(results, form), (x,), pixels)


def max_roi_pool(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Boxes [R, 5] of (image, x1, y1, x2, y2), rounded to pixels; the maximum over each cell, 0 for cells without pixels.

    Every cell looks at as many rows and columns as the largest does, the last ones again.
    """
    x, rois = required(ctx, node, ins, 2)
    b, shape = Build(ctx), ctx.attr(node, "pooled_shape")
    n, c, height, width = x.shape
    count, high, wide = rois.shape[0], int(shape[0]), int(shape[1])
    scale = float(ctx.attr(node, "spatial_scale", 1.0))
    half = b.add(b.mul(b.slice(rois, 1, 1, 4), scale), 0.5)
    corner = b.cast(b.emit(O.Floor(), half), DType.I64)  # away from zero for what is not negative, as C's round

    def places(low: int, cells: int, size: Dim) -> tuple[Value, Value, Dim]:
        """Along one axis: pixels of each cell, I64 [R, cells, most], whether it has any, BOOL [R, cells, 1], and `most`."""
        start, end = b.slice(corner, 1, low, 1), b.slice(corner, 1, low + 2, 1)
        step = b.div(b.cast(b.max(b.add(b.sub(end, start), 1), 1), DType.F32), float(cells))
        place = b.reshape(b.cast(b.iota(cells), DType.F32), (1, cells))
        limits = b.emit(O.Floor(), b.mul(place, step)), b.emit(O.Ceil(), b.mul(b.add(place, 1.0), step))
        within = [b.min(b.max(b.add(b.cast(v, DType.I64), start), 0), b.dim(size, DType.I64)) for v in limits]
        first, last = (b.reshape(v, (count, cells, 1)) for v in within)
        pixels = b.sub(last, first)
        most = ctx.size(b.max(b.reduce("max", pixels, [0, 1, 2]), 1), lo=1)
        at = b.min(b.add(first, b.reshape(b.iota(most), (1, 1, most))), b.sub(last, 1))
        return b.max(at, 0), b.emit(O.Greater(), pixels, b.const(0, DType.I64)), most

    image = ctx.checked(b.cast(b.reshape(b.slice(rois, 1, 0, 1), (count, 1, 1)), DType.I64), [0], [n - 1])
    (rows, some_rows, tall), (columns, some_columns, broad) = places(1, high, height), places(0, wide, width)
    lines = b.mul(b.add(rows, b.mul(image, b.dim(height, DType.I64))), b.dim(width, DType.I64))
    at = b.add(b.reshape(lines, (count, high * tall, 1)), b.reshape(columns, (count, 1, wide * broad)))
    found = b.emit(O.Gather(0), b.reshape(b.channels_last(x), (n * height * width, c)), at)
    y = b.reduce("max", b.reshape(found, (count, high, tall, wide, broad, c)), [2, 4], False)
    some = b.emit(O.And(), b.reshape(some_rows, (count, high, 1, 1)), b.reshape(some_columns, (count, 1, wide, 1)))
    return [b.channels_first(b.where(some, y, b.const(0, x.dtype)))]


IMAGE_HANDLERS: HandlerTable = {
    ("ImageDecoder", 20): image_decoder,
    ("MaxRoiPool", 1): max_roi_pool,
}
