"""Handlers of Resize and its ancestor Upsample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
from onnx import NodeProto

from ....ir import Dim, DType, Value, floordiv, is_static
from ....ir import ops as O
from ..compose import Build, axis_in, optional, required
from ..context import HandlerTable, ImportContext
from .resize_composed import Along, resize_composed
from .runtime_axes import dims_value


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
    if ctx.opset() < 9:
        return by_scales(ctx, x, [float(s) for s in ctx.attr(node, "scales")], ctx.attr(node, "mode", "nearest"))
    return resize_10(ctx, node, ins)


def resize_10(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, scales = required(ctx, node, ins, 2)
    known, mode = ctx.known(scales), ctx.attr(node, "mode", "nearest")
    if known is not None:
        return by_scales(ctx, x, [float(s) for s in known.ravel()], mode)
    form = O.Resize((), (), _mode(mode), "asymmetric", "floor")
    return [_in_run(ctx, x, form, range(x.type.rank), scales, None, None)]


def by_scales(ctx: ImportContext, x: Value, scales: list[float], mode: str) -> Sequence[Value]:
    if len(scales) != x.type.rank:
        raise ctx.unsupported(f"{len(scales)} scales for {x.type}")
    if mode == "nearest" and min(scales) < 1:  # onnxruntime then rounds up
        less = [min(s, 1.0) for s in scales]
        sizes = tuple(_scaled(d, s) for d, s in zip(x.shape, less, strict=True))
        (x,) = _emit(ctx, x, O.Resize(sizes, tuple(less), mode, "asymmetric", "ceil"))
        scales = [max(s, 1.0) for s in scales]
    sizes = tuple(_scaled(d, s) for d, s in zip(x.shape, scales, strict=True))
    return _emit(ctx, x, O.Resize(sizes, tuple(scales), _mode(mode), "asymmetric", "floor"))


def _mode(name: str) -> str:
    return {"bilinear": "linear"}.get(name, name)


def resize(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Operands (x, roi, scales, sizes) since opset 11; `axes`, antialias and aspect-ratio policies since 18."""
    (x,) = required(ctx, node, ins, 1)
    rank = x.type.rank
    axes = [axis_in(ctx, node, a, rank) for a in ctx.attr(node, "axes", tuple(range(rank)))]
    roi, scales, sizes = (v if v is not None and v.type.numel != 0 else None for v in (optional(ins, i) for i in (1, 2, 3)))
    coord, policy = ctx.attr(node, "coordinate_transformation_mode", "half_pixel"), ctx.attr(node, "keep_aspect_ratio_policy", "stretch")
    region = roi if coord == "tf_crop_and_resize" else None
    if (scales is None) == (sizes is None):
        raise ctx.unsupported("Resize without scales or sizes, or with both")
    if coord == "tf_crop_and_resize" and region is None:
        raise ctx.unsupported("Resize to a region that is not given")
    for given, count in ((scales, len(axes)), (sizes, len(axes)), (region, 2 * len(axes))):
        if given is not None and given.type.numel != count:
            raise ctx.unsupported(f"Resize of {len(axes)} axes by {given.type}")
    form = O.Resize(
        (), (), ctx.attr(node, "mode", "nearest"), coord, ctx.attr(node, "nearest_mode", "round_prefer_floor"),
        float(ctx.attr(node, "cubic_coeff_a", -0.75)), bool(ctx.attr(node, "exclude_outside", 0)),
        float(ctx.attr(node, "extrapolation_value", 0.0)), bool(ctx.attr(node, "antialias", 0)),
    )  # fmt: skip
    op = _at_compile_time(ctx, x, form, axes, scales, sizes, region, policy)
    return [_in_run(ctx, x, form, axes, scales, sizes, region, policy)] if op is None else _emit(ctx, x, op)


def _at_compile_time(
    ctx: ImportContext, x: Value, form: O.Resize, axes: Sequence[int], scale_values: Value | None, size_values: Value | None,
    region: Value | None, policy: str,
) -> O.Resize | None:  # fmt: skip
    """The op, where scales and region are constants and, for all but the simple modes, sizes as well; else None."""
    rank = x.type.rank
    sizes: list[Dim] = list(x.shape)
    scales: list[float | None] = [1.0] * rank
    if size_values is not None:
        wanted = ctx.dims(size_values)
        if wanted is None and policy == "stretch" and _simple(form):
            wanted = ctx.require_sizes(size_values, "the sizes of Resize")
        if wanted is None:
            return None
        for axis, size in zip(axes, wanted, strict=True):
            sizes[axis], scales[axis] = size, None
        if policy != "stretch":
            if not is_static([*wanted, *(x.shape[a] for a in axes)]):
                return None
            ratios = [s / x.shape[a] for s, a in zip(wanted, axes, strict=True)]
            scale = min(ratios) if policy == "not_larger" else max(ratios)
            for axis in axes:
                sizes[axis], scales[axis] = int(np.floor(scale * x.shape[axis] + 0.5)), scale
    else:
        numbers = ctx.known(scale_values)
        if numbers is None:
            return None
        for axis, number in zip(axes, numbers.ravel(), strict=True):
            scales[axis], sizes[axis] = float(number), _scaled(x.shape[axis], float(number))
    changed = [a for a in axes if not (sizes[a] == x.shape[a] and scales[a] in (None, 1.0)) or region is not None]
    if not _simple(form) and not is_static([d for a in changed for d in (sizes[a], x.shape[a])]):
        return None
    ends: tuple[float, ...] = ()
    if region is not None:
        known = ctx.known(region)
        if known is None:
            return None
        full = [0.0] * rank + [1.0] * rank
        for i, axis in enumerate(axes):
            if sizes[axis] != x.shape[axis] or scales[axis] not in (None, 1.0):  # else onnxruntime leaves the axis as it is
                full[axis], full[rank + axis] = float(known.ravel()[i]), float(known.ravel()[len(axes) + i])
        ends = tuple(full)
    return replace(form, sizes=tuple(sizes), scales=tuple(scales), roi=ends)


def _simple(form: O.Resize) -> bool:
    """Whether kernels compute positions and weights of symbolic sizes themselves."""
    return form.mode != "cubic" and not form.antialias and not form.exclude_outside and form.coord_mode != "tf_crop_and_resize"


def _in_run(
    ctx: ImportContext, x: Value, form: O.Resize, axes: Sequence[int], scale_values: Value | None, size_values: Value | None,
    region: Value | None, policy: str = "stretch",
) -> Value:  # fmt: skip
    """Sizes from scales, or scales from sizes, when the model runs."""
    b, count = Build(ctx), len(axes)
    old = b.cast(dims_value(b, [x.shape[a] for a in axes]), DType.F32)
    factors, wanted = ctx.known(scale_values), ctx.dims(size_values) if policy == "stretch" else None
    if scale_values is not None:
        scales = b.reshape(b.cast(scale_values, DType.F32), (count,))
        new = b.cast(b.emit(O.Floor(), b.mul(old, scales)), DType.I64)
    else:
        assert size_values is not None
        new = b.reshape(b.cast(size_values, DType.I64), (count,))
        scales = b.div(b.cast(new, DType.F32), old)
        if policy != "stretch":
            scales = b.expand(b.reduce("min" if policy == "not_larger" else "max", scales, [0]), (count,))
            new = b.cast(b.emit(O.Floor(), b.add(b.mul(old, scales), 0.5)), DType.I64)

    def entry(v: Value, i: int) -> Value:
        return b.reshape(b.slice(v, 0, i, 1), ())

    plan = []
    for i, axis in enumerate(axes):
        if factors is not None:
            size = _scaled(x.shape[axis], float(factors.ravel()[i]))
        else:
            size = ctx.size(new, i) if wanted is None else wanted[i]
        if region is None and size == x.shape[axis] and (factors is None or factors.ravel()[i] == 1):
            continue
        ends = None
        if region is not None:
            flat = b.reshape(b.cast(region, DType.F32), (2 * count,))
            ends = entry(flat, i), entry(flat, count + i)
        plan.append(Along(axis, size, entry(scales, i), ends))
    return resize_composed(b, x, form, plan)


RESIZE_HANDLERS: HandlerTable = {
    ("Resize", 10): resize_10,
    ("Resize", 11): resize,
    ("Upsample", 7): upsample,
}
