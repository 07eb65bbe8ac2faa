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

    First the maximum over rows, then over columns.
    """
    x, rois = required(ctx, node, ins, 2)
    b, shape = Build(ctx), ctx.attr(node, "pooled_shape")
    _, c, height, width = x.shape
    count = rois.shape[0]
    scale = float(ctx.attr(node, "spatial_scale", 1.0))
    half = b.add(b.mul(b.slice(rois, 1, 1, 4), scale), 0.5)
    corner = b.cast(b.emit(O.Floor(), half), DType.I64)  # away from zero for what is not negative, as C's round

    def cells(low: int, cells: int, size: Dim) -> Value:
        """BOOL [R, cells, size]: which pixels belong to a cell."""
        start, end = b.slice(corner, 1, low, 1), b.slice(corner, 1, low + 2, 1)
        step = b.div(b.cast(b.max(b.add(b.sub(end, start), 1), 1), DType.F32), float(cells))
        place = b.reshape(b.cast(b.iota(cells), DType.F32), (1, cells))
        first = b.add(b.cast(b.emit(O.Floor(), b.mul(place, step)), DType.I64), start)
        last = b.add(b.cast(b.emit(O.Ceil(), b.mul(b.add(place, 1.0), step)), DType.I64), start)
        at = b.reshape(b.iota(size), (1, 1, size))
        first, last = (b.reshape(v, (count, cells, 1)) for v in (first, last))
        return b.emit(O.And(), b.emit(O.GreaterEqual(), at, first), b.emit(O.Less(), at, last))

    rows, columns = cells(1, int(shape[0]), height), cells(0, int(shape[1]), width)
    images = b.emit(O.Gather(0), x, b.cast(b.reshape(b.slice(rois, 1, 0, 1), (count,)), DType.I64))  # [R, C, H, W]
    lowest = b.const(float("-inf"), x.dtype)
    rows = b.reshape(rows, (count, 1, int(shape[0]), height, 1))
    tall = b.where(rows, b.reshape(images, (count, c, 1, height, width)), lowest)
    tall = b.reduce("max", tall, [3], False)  # [R, C, cells, W]
    columns = b.reshape(columns, (count, 1, 1, int(shape[1]), width))
    pooled = b.where(columns, b.reshape(tall, (count, c, int(shape[0]), 1, width)), lowest)
    y = b.reduce("max", pooled, [4], False)
    return [b.where(b.emit(O.Equal(), y, lowest), b.const(0, x.dtype), y)]


IMAGE_HANDLERS: HandlerTable = {
    ("ImageDecoder", 20): image_decoder,
    ("MaxRoiPool", 1): max_roi_pool,
}
