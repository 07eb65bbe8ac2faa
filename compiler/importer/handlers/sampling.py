"""RoiAlign and DeformConv, which read images between pixels (four gathers and a weighted sum), and AffineGrid, which says where."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from ....ir import Dim, DType, Value, floordiv
from ....ir import ops as O
from ..compose import Build, optional, required
from ..context import HandlerTable, ImportContext


def _corners(b: Build, pixels: Value, base: Value, y: Value, x: Value, size: tuple[Dim, Dim], zeros: bool) -> list[Value]:
    """The four weighted neighbours of points (y, x) in pixels[base + row·W + column, C]; outside is zero if `zeros`."""
    height, width = (b.dim(n, y.dtype) for n in size)
    one, nil = b.const(1, y.dtype), b.const(0, y.dtype)
    y0, x0 = b.emit(O.Floor(), y), b.emit(O.Floor(), x)
    fy, fx = b.sub(y, y0), b.sub(x, x0)
    found = []
    for down, wy in ((0.0, b.sub(one, fy)), (1.0, fy)):
        for right, wx in ((0.0, b.sub(one, fx)), (1.0, fx)):
            row, col = b.add(y0, down), b.add(x0, right)
            weight = b.mul(wy, wx)
            if zeros:
                for at, end in ((row, height), (col, width)):
                    inside = b.emit(O.And(), b.emit(O.GreaterEqual(), at, nil), b.emit(O.Less(), at, end))
                    weight = b.mul(weight, b.cast(inside, y.dtype))
            row, col = b.min(b.max(row, nil), b.sub(height, one)), b.min(b.max(col, nil), b.sub(width, one))
            flat = b.add(b.mul(b.cast(row, DType.I64), b.dim(size[1], DType.I64)), b.cast(col, DType.I64))
            got = b.emit(O.Gather(0), pixels, b.add(base, flat))
            found.append(b.mul(got, b.reshape(weight, (*weight.shape, 1))))
    return found


def roi_align(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Each box divided into output_height × output_width cells, averaged over points in each (or their maximum)."""
    x, rois, batch = required(ctx, node, ins, 3)
    b = Build(ctx)
    mode, samples = ctx.attr(node, "mode", "avg"), int(ctx.attr(node, "sampling_ratio", 0))
    if mode not in ("avg", "max"):
        raise ctx.unsupported(f"RoiAlign: mode {mode!r}")
    n, c, height, width = x.shape
    half = ctx.attr(node, "coordinate_transformation_mode", "half_pixel" if ctx.opset() >= 16 else "output_half_pixel") == "half_pixel"
    boxes = b.sub(b.mul(rois, float(ctx.attr(node, "spatial_scale", 1.0))), 0.5 if half else 0.0)
    count = rois.shape[0]
    cells = int(ctx.attr(node, "output_height", 1)), int(ctx.attr(node, "output_width", 1))
    (ys, in_y, tall), (xs, in_x, wide) = (_points(ctx, node, boxes, half, 1 - a, cells[a], x.shape[2 + a]) for a in (0, 1))
    rows, cols = ys.shape[1], xs.shape[1]
    full = (count, rows, cols)
    ys, in_y = (b.expand(b.reshape(v, (count, rows, 1)), full) for v in (ys, in_y))
    xs, in_x = (b.expand(b.reshape(v, (count, 1, cols)), full) for v in (xs, in_x))
    pixels = b.reshape(b.channels_last(x), (n * height * width, c))
    base = b.mul(b.reshape(b.cast(batch, DType.I64), (count, 1, 1)), b.dim(height * width, DType.I64))
    parts = _corners(b, pixels, base, ys, xs, (height, width), False)
    total = parts[0]
    for part in parts[1:]:  # onnxruntime's maximum is over the weighted corners themselves
        total = b.max(total, part) if mode == "max" else b.add(total, part)
    touched = b.reshape(b.cast(b.emit(O.And(), in_y, in_x), x.dtype), (*full, 1))
    split = (count, cells[0], floordiv(rows, cells[0]), cells[1], floordiv(cols, cells[1]), c)
    total = b.reshape(b.mul(total, touched), split)
    if mode == "max":
        return [b.channels_first(b.reduce("max", total, (2, 4), False))]
    if samples > 0:
        return [b.channels_first(b.reduce("mean", total, (2, 4), False))]
    area = b.cast(b.reshape(b.max(b.mul(tall, wide), 1.0), (count, 1, 1, 1)), x.dtype)
    return [b.channels_first(b.div(b.reduce("sum", total, (2, 4), False), area))]


def _points(ctx: ImportContext, node: NodeProto, boxes: Value, half: bool, low: int, cells: int, size: Dim) -> tuple[Value, Value, Value]:
    """Of RoiAlign along one axis, where boxes begin at boxes[:, low] [R, cells · samples]: coordinates, and whether they touch the
    image; points per cell [R, 1, 1].

    There are sampling_ratio² points in a cell; with 0, as many as a cell has pixels: then all boxes get as many as the largest
    needs, and those that are too many count nothing.
    """
    b, count, dtype = Build(ctx), boxes.shape[0], boxes.dtype
    mode, samples = ctx.attr(node, "mode", "avg"), int(ctx.attr(node, "sampling_ratio", 0))
    start = b.reshape(b.slice(boxes, 1, low, 1), (count, 1, 1))
    extent = b.sub(b.reshape(b.slice(boxes, 1, low + 2, 1), (count, 1, 1)), start)
    cell = b.div(extent if half else b.max(extent, 1.0), float(cells))
    number = b.const(np.full((1, 1, 1), max(samples, 1)), dtype)
    most: Dim = samples
    if samples <= 0:
        number = b.max(b.emit(O.Ceil(), cell), 0.0)
        most = ctx.size(b.cast(b.max(b.reduce("max", number, [0, 1, 2]), 1.0), DType.I64), lo=1)  # also of no boxes
    step = b.reshape(b.cast(b.iota(most), dtype), (1, 1, most))
    beyond = b.emit(O.GreaterEqual(), step, number)
    if mode == "max":  # again the last one
        step = b.emit(O.Min(), step, b.max(b.sub(number, 1.0), 0.0))
    inner = b.div(b.add(step, 0.5), b.max(number, 1.0))
    at = b.add(start, b.mul(cell, b.add(b.reshape(b.cast(b.iota(cells), dtype), (1, cells, 1)), inner)))
    end = b.dim(size, dtype)
    touches = b.emit(O.And(), b.emit(O.GreaterEqual(), at, b.const(-1, dtype)), b.emit(O.LessEqual(), at, end))
    if samples <= 0 and mode == "avg":
        touches = b.emit(O.And(), touches, b.emit(O.Not(), beyond))
    shape = (count, cells * most)
    clamped = b.min(b.max(at, 0.0), b.sub(end, 1.0))
    return b.reshape(clamped, shape), b.reshape(b.expand(touches, at.shape), shape), number


def deform_conv(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Every tap reads at its own offset; what they read is contracted like a 1×1 convolution."""
    x, w, offset = required(ctx, node, ins, 3)
    bias, mask, b = optional(ins, 3), optional(ins, 4), Build(ctx)
    if x.type.rank != 4 or not all(isinstance(k, int) for k in w.shape[2:]):
        raise ctx.unsupported(f"DeformConv of {x.type} with weights {w.type}")
    n, c, height, width = x.shape
    kernel = tuple(int(k) for k in w.shape[2:])
    strides, dilations = (ctx.attr(node, name, None) or (1, 1) for name in ("strides", "dilations"))
    pads = ctx.attr(node, "pads", None) or (0, 0, 0, 0)
    groups, parts = int(ctx.attr(node, "group", 1)), int(ctx.attr(node, "offset_group", 1))
    out, taps = offset.shape[2:], kernel[0] * kernel[1]
    moved = b.reshape(offset, (n, parts, taps, 2, *out))
    where = []
    for axis in (0, 1):
        # position of the tap before it is moved: o·stride + k·dilation − pad
        tap = np.arange(kernel[axis]) * dilations[axis] - pads[axis]
        per_tap = np.repeat(tap, kernel[1]) if axis == 0 else np.tile(tap, kernel[0])
        o = b.mul(b.cast(b.iota(out[axis]), x.dtype), float(strides[axis]))
        o = b.reshape(o, (out[0], 1) if axis == 0 else (1, out[1]))
        start = b.add(o, b.const(per_tap.reshape(taps, 1, 1), x.dtype))
        where.append(b.add(b.reshape(b.slice(moved, 3, axis, 1), (n, parts, taps, *out)), start))
    # image and offset group together number the planes that a point may read
    per = c // parts
    planes = b.transpose(b.reshape(x, (n, parts, per, height, width)), (0, 1, 3, 4, 2))
    pixels = b.reshape(planes, (n * parts * height * width, per))
    base = b.reshape(b.mul(b.iota(n * parts), b.dim(height * width, DType.I64)), (n, parts, 1, 1, 1))
    found = _corners(b, pixels, base, where[0], where[1], (height, width), True)
    seen = b.add(b.add(found[0], found[1]), b.add(found[2], found[3]))
    if mask is not None:
        seen = b.mul(seen, b.reshape(mask, (n, parts, taps, *out, 1)))
    seen = b.reshape(b.transpose(seen, (0, 3, 4, 1, 5, 2)), (n, *out, c * taps))
    weights = b.transpose(b.reshape(w, (w.shape[0], w.shape[1] * taps, 1, 1)), (2, 3, 1, 0))
    y = b.emit(O.Conv((1, 1), (0, 0), (0, 0), (1, 1), groups), seen, weights)
    return [b.channels_first(y if bias is None else b.add(y, bias))]


def affine_grid(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """theta[N, d, d + 1] times (x, y[, z], 1) at every pixel. The operator's own function in ONNX squeezes a batch of 1 away.

    Aligned corners count from the end: a single pixel lies at 1, as onnxruntime has it.
    """
    theta, size_value = required(ctx, node, ins, 2)
    b = Build(ctx)
    batch, _, *spatial = ctx.require_sizes(size_value, "the size of AffineGrid")
    d = len(spatial)
    if d not in (2, 3) or theta.type.rank != 3:
        raise ctx.unsupported(f"AffineGrid of {d} spatial axes with a theta of rank {theta.type.rank}")
    for found, wanted in zip(theta.shape, (batch, d, d + 1), strict=True):
        ctx.require_equal(found, wanted)
    dtype = theta.dtype

    def coordinates(axis: int) -> Value:
        n = spatial[axis]
        pixel = b.cast(b.iota(n), dtype)
        if ctx.flag(node, "align_corners", False):
            step = b.div(b.const(2, dtype), b.max(b.dim(n - 1, dtype), 1.0))
            at = b.sub(b.const(1, dtype), b.mul(b.sub(b.dim(n - 1, dtype), pixel), step))
        else:
            at = b.div(b.sub(b.add(b.mul(pixel, 2.0), 1.0), b.dim(n, dtype)), b.dim(n, dtype))
        return b.along(at, axis + 1, d + 2)

    def column(j: int) -> Value:
        return b.reshape(b.slice(theta, 2, j, 1), (batch, *(1,) * d, d))

    total = column(d)
    for j in reversed(range(d)):
        total = b.add(b.mul(coordinates(d - 1 - j), column(j)), total)
    return [total]


SAMPLING_HANDLERS: HandlerTable = {
    ("AffineGrid", 20): affine_grid,
    ("RoiAlign", 10): roi_align,
    ("DeformConv", 19): deform_conv,
}
