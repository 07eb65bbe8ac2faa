"""Handlers of onnxruntime's operators that read windows and boxes out of tensors (com.microsoft)."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from .....ir import Dim, DType, Value
from .....ir import ops as O
from ...compose import Build, required, sized
from ...context import HandlerTable, ImportContext

Ins = list[Value | None]


def unfold_tensor(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Windows of `size` elements along an axis, every `step`, as a new last axis."""
    (x,) = required(ctx, node, ins, 1)
    b, rank = Build(ctx), x.type.rank
    axis, size, step = int(ctx.attr(node, "dim", -1)) % rank, int(ctx.attr(node, "size")), int(ctx.attr(node, "step", 1))
    if size < 1 or step < 1:
        raise ctx.unsupported(f"UnfoldTensor of size {size} by steps of {step}")
    count = (x.shape[axis] - size) // step + 1
    at = b.add(b.mul(b.reshape(b.iota(count), (count, 1)), b.const(step, DType.I64)), b.reshape(b.iota(size), (1, size)))
    y = b.emit(O.Gather(axis), x, at)
    return [b.transpose(y, (*range(axis + 1), *range(axis + 2, rank + 1), axis + 1))]


def crop_and_resize(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Boxes [y1, x1, y2, x2] of images x[N, C, H, W], in parts of the image, resized to one size."""
    x, boxes, image, size = required(ctx, node, ins, 4)
    b, mode, outside = Build(ctx), str(ctx.attr(node, "mode", "bilinear")), float(ctx.attr(node, "extrapolation_value", 0.0))
    if mode not in ("bilinear", "nearest"):
        raise ctx.unsupported(f"CropAndResize by {mode!r}")
    crop = ctx.require_sizes(sized(ctx, size, (2,)), "crop_size of CropAndResize", 1)
    n, c, *sides = x.shape
    count = boxes.shape[0]
    places, inside = [], []
    for axis, (side, length) in enumerate(zip(sides, crop, strict=True)):
        low, high = (b.slice(boxes, 1, axis + k, 1) for k in (0, 2))
        top = b.sub(b.dim(side, x.dtype), 1.0)
        steps, i = b.sub(b.dim(length, x.dtype), 1.0), b.cast(b.reshape(b.iota(length), (1, length)), x.dtype)
        spread = b.add(b.mul(low, top), b.mul(i, b.div(b.mul(b.sub(high, low), top), b.max(steps, 1.0))))
        middle = b.mul(b.mul(b.add(low, high), 0.5), top)
        at = b.where(b.emit(O.Greater(), steps, b.const(0, x.dtype)), spread, middle)  # [boxes, length]
        held = b.emit(O.And(), b.emit(O.GreaterEqual(), at, b.const(0, x.dtype)), b.emit(O.LessEqual(), at, top))
        shape: tuple[Dim, ...] = (count, length, 1) if axis == 0 else (count, 1, length)
        places.append((b.reshape(b.min(b.max(at, 0.0), top), shape), side))
        inside.append(b.reshape(held, shape))
    pixels = b.reshape(b.channels_last(x), (n * sides[0] * sides[1], c))
    first = b.mul(b.reshape(b.cast(image, DType.I64), (count, 1, 1)), b.dim(sides[0] * sides[1], DType.I64))

    def read(row: Value, column: Value) -> Value:
        index = b.add(b.mul(b.cast(row, DType.I64), b.dim(sides[1], DType.I64)), b.cast(column, DType.I64))
        return b.emit(O.Gather(0), pixels, b.add(first, index))

    (y, _), (z, _) = places
    if mode == "nearest":
        half = b.const(0.5, x.dtype)
        value = read(*(b.emit(O.Floor(), b.add(p, half)) for p in (y, z)))
    else:
        (y0, y1), (z0, z1) = (((b.emit(O.Floor(), p)), b.emit(O.Ceil(), p)) for p in (y, z))
        dy, dz = (b.reshape(b.sub(p, q), (*p.shape, 1)) for p, q in ((y, y0), (z, z0)))
        above, below = (b.add(left, b.mul(b.sub(read(row, z1), left), dz)) for row in (y0, y1) for left in (read(row, z0),))
        value = b.add(above, b.mul(b.sub(below, above), dy))
    keep = b.emit(O.And(), *inside)
    value = b.where(b.reshape(keep, (*keep.shape, 1)), value, b.const(outside, x.dtype))
    return [b.channels_first(value)]


SAMPLING_MS_HANDLERS: HandlerTable = {
    ("com.microsoft::CropAndResize", 1): crop_and_resize,
    ("com.microsoft::UnfoldTensor", 1): unfold_tensor,
}
