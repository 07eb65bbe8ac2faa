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
    n, _, height, width = x.shape
    count = rois.shape[0]
    scale = float(ctx.attr(node, "spatial_scale", 1.0))
    half = b.add(b.mul(b.slice(rois, 1, 1, 4), scale), 0.5)
    corner = b.cast(b.emit(O.Floor(), half), DType.I64)  # away from zero for what is not negative, as C's round

    def ends(low: int, cells: int) -> tuple[Value, Value]:
        """I64 [R, cells]: the first pixel of each cell, and the one behind its last."""
        start, end = b.slice(corner, 1, low, 1), b.slice(corner, 1, low + 2, 1)
        step = b.div(b.cast(b.max(b.add(b.sub(end, start), 1), 1), DType.F32), float(cells))
        place = b.reshape(b.cast(b.iota(cells), DType.F32), (1, cells))
        first = b.add(b.cast(b.emit(O.Floor(), b.mul(place, step)), DType.I64), start)
        return first, b.add(b.cast(b.emit(O.Ceil(), b.mul(b.add(place, 1.0), step)), DType.I64), start)

    def inside(first: Value, last: Value, cells: int, size: Dim) -> Value:
        """BOOL [R, cells, size]: which pixels belong to a cell."""
        at = b.reshape(b.iota(size), (1, 1, size))
        first, last = (b.reshape(v, (count, cells, 1)) for v in (first, last))
        return b.emit(O.And(), b.emit(O.GreaterEqual(), at, first), b.emit(O.Less(), at, last))

    high, wide = int(shape[0]), int(shape[1])
    image = ctx.checked(b.cast(b.reshape(b.slice(rois, 1, 0, 1), (count, 1)), DType.I64), [0], [n - 1])
    lowest, rows = b.const(float("-inf"), x.dtype), ends(1, high)
    pixels = b.transpose(x, (0, 2, 3, 1))  # [N, H, W, C]
    if isinstance(height, int):
        tall = _over_rows(b, pixels, image, *rows, lowest)
    else:
        own = b.emit(O.Gather(0), pixels, b.reshape(image, (count,)))
        which = b.reshape(inside(*rows, high, height), (count, high, height, 1, 1))
        tall = b.reduce("max", b.where(which, b.reshape(own, (count, 1, *own.shape[1:])), lowest), [2], False)
    columns = b.reshape(inside(*ends(0, wide), wide, width), (count, 1, wide, width, 1))
    pooled = b.where(columns, b.reshape(tall, (count, high, 1, *tall.shape[2:])), lowest)  # tall: [R, high, W, C]
    y = b.transpose(b.reduce("max", pooled, [3], False), (0, 3, 1, 2))
    return [b.where(b.emit(O.Equal(), y, lowest), b.const(0, x.dtype), y)]


def _over_rows(b: Build, x: Value, image: Value, first: Value, last: Value, lowest: Value) -> Value:
    """Maxima [R, cells, W, C] over rows `first` to `last` − 1 (I64 [R, cells]) of images (I64 [R, 1]) of x[N, H, W, C], H known.

    Of every row those over the next 2^k are computed; two of them cover any range (a sparse table).
    """
    n, h, w, c = x.shape
    assert isinstance(h, int)
    levels, step = [x], 1
    while 2 * step <= h:
        over = levels[-1]
        levels.append(b.max(over, b.concat(1, b.slice(over, 1, step, h - step), b.slice(over, 1, 0, step))))  # the last ones are not read
        step *= 2
    table = b.reshape(b.concat(0, *levels), (len(levels) * n * h, w, c))
    first, last = (b.min(b.max(v, 0), h) for v in (first, last))
    count = b.max(b.sub(last, first), 0)
    level = b.emit(O.Gather(0), b.const([max(1, i).bit_length() - 1 for i in range(h + 1)], DType.I64), count)
    span = b.emit(O.Gather(0), b.const([1 << max(1, i).bit_length() - 1 for i in range(h + 1)], DType.I64), count)
    start = b.mul(b.add(b.mul(level, b.dim(n, DType.I64)), image), h)
    ends = b.min(first, h - 1), b.max(b.sub(last, span), 0)
    found = b.max(*(b.emit(O.Gather(0), table, b.add(start, at)) for at in ends))
    some = b.reshape(b.emit(O.Greater(), count, b.const(0, DType.I64)), (*count.shape, 1, 1))
    return b.where(some, found, lowest)


IMAGE_HANDLERS: HandlerTable = {
    ("ImageDecoder", 20): image_decoder,
    ("MaxRoiPool", 1): max_roi_pool,
}
