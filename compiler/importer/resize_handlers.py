"""Handlers of Resize and its ancestor Upsample."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from onnx import NodeProto

from ...ir import Dim, Value, floordiv
from ...ir import ops as O
from .compose import optional, required
from .context import HandlerTable, ImportContext


def _scaled(d: Dim, scale: float) -> Dim:
    """⌊d · scale⌋, in float32 for numbers as onnxruntime does."""
    if isinstance(d, int):
        return int(np.float32(d) * np.float32(scale))
    exact = Fraction(float(scale))
    return floordiv(d * exact.numerator, exact.denominator)


def _emit(ctx: ImportContext, x: Value, op: O.Resize) -> Sequence[Value]:
    crop = op.coord_mode == "tf_crop_and_resize"
    if op.sizes == x.shape and not crop and all(s is None or s == 1 for s in op.scales):
        return [x]
    return ctx.emit(op, x).outputs


def upsample(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Scales up by ⌊x / scale⌋ (nearest) or asymmetric linear; scales are an input since opset 9."""
    (x,) = required(ctx, node, ins, 1)
    scales = ctx.attr(node, "scales") if ctx.opset() < 9 else ctx.require_known(ins[1], "the scales of Upsample").ravel()
    return by_scales(ctx, x, [float(s) for s in scales], ctx.attr(node, "mode", "nearest"))


def resize_10(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    scales = ctx.require_known(ins[1], "the scales of Resize").ravel()
    return by_scales(ctx, x, [float(s) for s in scales], ctx.attr(node, "mode", "nearest"))


def by_scales(ctx: ImportContext, x: Value, scales: list[float], mode: str) -> Sequence[Value]:
    if len(scales) != x.type.rank:
        raise ctx.unsupported(f"{len(scales)} scales for {x.type}")
    sizes = tuple(_scaled(d, s) for d, s in zip(x.shape, scales, strict=True))
    mode = {"bilinear": "linear"}.get(mode, mode)
    return _emit(ctx, x, O.Resize(sizes, tuple(scales), mode, "asymmetric", "floor"))


def resize(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Operands (x, roi, scales, sizes) since opset 11; `axes`, antialias and aspect-ratio policies since 18."""
    (x,) = required(ctx, node, ins, 1)
    rank = x.type.rank
    axes = [a % rank for a in ctx.attr(node, "axes", tuple(range(rank)))]
    roi = _given(ctx, optional(ins, 1))
    scale_values = optional(ins, 2)
    sizes: list[Dim] = list(x.shape)
    scales: list[float | None] = [1.0] * rank
    if optional(ins, 3) is not None:
        wanted = ctx.require_sizes(ins[3], "the sizes of Resize")
        _check_count(ctx, wanted, axes)
        policy = ctx.attr(node, "keep_aspect_ratio_policy", "stretch")
        if policy == "stretch":
            for axis, size in zip(axes, wanted, strict=True):
                sizes[axis], scales[axis] = size, None
        else:
            ratios = []
            for a, s in zip(axes, wanted, strict=True):
                d = x.shape[a]
                if not isinstance(s, int) or not isinstance(d, int):
                    raise ctx.unsupported(f"Resize with aspect-ratio policy {policy} of symbolic dims")
                ratios.append(s / d)
            scale = min(ratios) if policy == "not_larger" else max(ratios)
            for axis in axes:
                sizes[axis], scales[axis] = int(np.floor(scale * x.shape[axis] + 0.5)), scale
    elif scale_values is not None and scale_values.type.numel != 0:
        numbers = ctx.require_known(scale_values, "the scales of Resize").ravel()
        _check_count(ctx, list(numbers), axes)
        for axis, number in zip(axes, numbers, strict=True):
            scales[axis] = float(number)
            sizes[axis] = _scaled(x.shape[axis], float(number))
    else:
        raise ctx.unsupported("Resize without scales or sizes")
    coord = ctx.attr(node, "coordinate_transformation_mode", "half_pixel")
    region: tuple[float, ...] = ()
    if coord == "tf_crop_and_resize":
        if len(roi) != 2 * len(axes):
            raise ctx.unsupported(f"Resize with a region of {len(roi)} numbers for {len(axes)} axes")
        full = [0.0] * rank + [1.0] * rank
        for i, axis in enumerate(axes):
            full[axis], full[rank + axis] = roi[i], roi[len(axes) + i]
        region = tuple(full)
    op = O.Resize(
        tuple(sizes), tuple(scales), ctx.attr(node, "mode", "nearest"), coord,
        ctx.attr(node, "nearest_mode", "round_prefer_floor"), float(ctx.attr(node, "cubic_coeff_a", -0.75)),
        bool(ctx.attr(node, "exclude_outside", 0)), float(ctx.attr(node, "extrapolation_value", 0.0)),
        bool(ctx.attr(node, "antialias", 0)), region,
    )  # fmt: skip
    return _emit(ctx, x, op)


def _given(ctx: ImportContext, value: Value | None) -> tuple[float, ...]:
    if value is None or value.type.numel == 0:
        return ()
    known = ctx.known(value)
    return () if known is None else tuple(float(v) for v in known.ravel())


def _check_count(ctx: ImportContext, given: Sequence[object], axes: Sequence[int]) -> None:
    if len(given) != len(axes):
        raise ctx.unsupported(f"Resize of {len(axes)} axes by {len(given)} numbers")


RESIZE_HANDLERS: HandlerTable = {
    ("Resize", 10): resize_10,
    ("Resize", 11): resize,
    ("Upsample", 7): upsample,
}
