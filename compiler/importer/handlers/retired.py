"""Handlers of operators that the default domain no longer has; onnxruntime still runs them for models of its early days."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from ....ir import Value
from ....ir import ops as O
from ..compose import Build, required
from ..context import HandlerTable, ImportContext
from .elementwise import identity, with_floats
from .moves import slice_from_operands

Ins = list[Value | None]


def affine(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """alpha·x + beta."""
    (x,) = required(ctx, node, ins, 1)
    b = Build(ctx)
    return [b.add(b.mul(x, float(ctx.attr(node, "alpha", 1.0))), float(ctx.attr(node, "beta", 0.0)))]


def scale(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    return [Build(ctx).mul(x, float(ctx.attr(node, "scale", 1.0)))]


def image_scaler(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """scale·x + bias[C] of x[N, C, H, W]."""
    (x,) = required(ctx, node, ins, 1)
    b, bias = Build(ctx), ctx.attr(node, "bias", ())
    if x.type.rank != 4 or (isinstance(x.shape[1], int) and len(bias) != x.shape[1]):
        raise ctx.unsupported(f"ImageScaler of {x.type} with {len(bias)} biases")
    return [b.add(b.mul(x, float(ctx.attr(node, "scale", 1.0))), b.const(np.reshape(bias, (1, -1, 1, 1)), x.dtype))]


def crop(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """x[N, C, H, W] without its borders (left, top, right, bottom), or from left and top on of the size `scale` (height, width)."""
    (x,) = required(ctx, node, ins, 1)
    b, border, size = Build(ctx), ctx.attr(node, "border", ()), ctx.attr(node, "scale", ())
    if x.type.rank != 4 or len(border) != 4 or len(size) not in (0, 2):
        raise ctx.unsupported(f"Crop of {x.type} by border={list(border)} and scale={list(size)}")
    for axis, lo, hi in ((2, border[1], border[3]), (3, border[0], border[2])):
        length = size[axis - 2] if size else x.shape[axis] - lo - hi
        ctx.require_within(length, 0, x.shape[axis] - lo)
        x = b.slice(x, axis, lo, length)
    return [x]


def scaled_tanh(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """alpha·tanh(beta·x)."""
    (x,) = required(ctx, node, ins, 1)
    b = Build(ctx)
    return [b.mul(b.emit(O.Tanh(), b.mul(x, float(ctx.attr(node, "beta", 1.0)))), float(ctx.attr(node, "alpha", 1.0)))]


def parametric_softplus(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """alpha·ln(exp(beta·x) + 1)."""
    (x,) = required(ctx, node, ins, 1)
    b = Build(ctx)
    return [b.mul(b.emit(O.Softplus(), b.mul(x, float(ctx.attr(node, "beta", 1.0)))), float(ctx.attr(node, "alpha", 1.0)))]


def mean_variance_normalization(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Over images, or with `across_channels` over all axes; without `normalize_variance` only the mean is taken out."""
    (x,) = required(ctx, node, ins, 1)
    b, rank = Build(ctx), x.type.rank
    axes = [axis for axis in range(rank) if axis != 1 or ctx.flag(node, "across_channels", False)]
    centred = b.sub(x, b.reduce("mean", x, axes))
    if not ctx.flag(node, "normalize_variance", True):
        return [centred]
    return [b.div(centred, b.sqrt(b.reduce("mean", b.mul(centred, centred), axes)))]


RETIRED_HANDLERS: HandlerTable = {
    ("Affine", 1): affine,
    ("Crop", 1): crop,
    ("DynamicSlice", 1): slice_from_operands,
    ("ImageScaler", 1): image_scaler,
    ("MeanVarianceNormalization", 1): mean_variance_normalization,
    ("MemcpyFromHost", 1): identity,
    ("MemcpyToHost", 1): identity,
    ("ParametricSoftplus", 1): parametric_softplus,
    ("Scale", 1): scale,
    ("ScaledTanh", 1): scaled_tanh,
    ("ThresholdedRelu", 1): with_floats(O.ThresholdedRelu, alpha=1.0),
}
