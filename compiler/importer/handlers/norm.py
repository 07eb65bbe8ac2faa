"""Handlers of normalisation operators, composed of reductions and arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from ....ir import DType, Value, prod
from ....ir import ops as O
from ..compose import Build, axis_of, optional, required, sized, wanted
from ..context import HandlerTable, ImportContext


def batch_normalization(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """x·a + c with a = scale/√(var + ε), c = bias − mean·a, which fold when the statistics are constants."""
    x, scale, bias, mean, var = required(ctx, node, ins, 5)
    if ctx.attr(node, "training_mode", 0) or any(wanted(node, i) for i in range(1, 5)):
        return _batch_training(ctx, node, x, scale, bias, mean, var)
    b = Build(ctx)
    r = x.type.rank
    parts = [scale, bias, mean, var]
    if ctx.opset() < 9 and not ctx.attr(node, "spatial", 1):  # statistics of every element of a sample
        parts = [b.reshape(v, x.shape[1:]) for v in parts]
    elif r > 1:
        x, parts = by_channels(ctx, x, *parts)
    known = [ctx.known(v) for v in parts]
    eps = float(ctx.attr(node, "epsilon", 1e-5))
    if all(k is not None for k in known):
        # In float64, so that folding the two factors costs no accuracy.
        s, o, m, v = (np.asarray(k, np.float64) for k in known)
        factor = s / np.sqrt(v + eps)
        a, c = b.const(factor, x.dtype), b.const(o - m * factor, x.dtype)
    else:
        s32, o32, m32, v32 = (b.cast(v, DType.F64 if x.dtype is DType.F64 else DType.F32) for v in parts)
        factor_v = b.div(s32, b.sqrt(b.add(v32, eps)))
        a, c = b.cast(factor_v, x.dtype), b.cast(b.sub(o32, b.mul(m32, factor_v)), x.dtype)
    if a.type.rank == 1 and r > 1:
        a, c = (b.along(v, 1, r) for v in (a, c))
    return [b.add(b.mul(x, a), c)]


def _batch_training(ctx: ImportContext, node: NodeProto, x: Value, scale: Value, bias: Value, mean: Value, var: Value) -> list[Value]:
    """Normalised by the batch itself, with the running statistics moved on; before opset 14 also with those of the batch."""
    b, r = Build(ctx), x.type.rank
    if ctx.opset() < 9 and not ctx.attr(node, "spatial", 1):
        raise ctx.unsupported("BatchNormalization in training mode with spatial=0")
    wide = DType.F64 if x.dtype is DType.F64 else DType.F32
    axes = [0, *range(2, r)]
    y = b.cast(x, wide)
    own_mean = b.reduce("mean", y, axes)
    centred = b.sub(y, own_mean)
    own_var = b.reduce("mean", b.mul(centred, centred), axes)
    y = b.div(centred, b.sqrt(b.add(own_var, float(ctx.attr(node, "epsilon", 1e-5)))))
    y = b.add(b.mul(y, b.along(b.cast(scale, wide), 1, r)), b.along(b.cast(bias, wide), 1, r))
    momentum = float(ctx.attr(node, "momentum", 0.9))
    current = [b.reshape(v, mean.shape) for v in (own_mean, own_var)]
    running = [b.add(b.mul(b.cast(old, wide), momentum), b.mul(new, 1 - momentum)) for old, new in zip((mean, var), current, strict=True)]
    return [b.cast(y, x.dtype), *(b.cast(v, mean.dtype) for v in (*running, *current))]


def by_channels(ctx: ImportContext, x: Value, *params: Value) -> tuple[Value, list[Value]]:
    """x, of axes N, C …, and vectors of C elements, C being a number where any of them says so."""
    n, c, *spatial = x.shape
    c = next((d for d in (c, *(p.type.numel for p in params)) if isinstance(d, int)), c)
    return sized(ctx, x, (n, c, *spatial)), [sized(ctx, p, (c,)) for p in params]


def standardise(b: Build, x: Value, axes: Sequence[int], eps: float) -> tuple[Value, Value, Value]:
    """(x − mean)/√(var + ε) over axes, with the mean and 1/√(var + ε)."""
    mean = b.reduce("mean", x, axes)
    centred = b.sub(x, mean)
    var = b.reduce("mean", b.mul(centred, centred), axes)
    inv = b.emit(O.Reciprocal(), b.sqrt(b.add(var, eps)))
    return b.mul(centred, inv), mean, inv


def instance_normalization(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, (scale, bias) = by_channels(ctx, *required(ctx, node, ins, 3))
    b, r = Build(ctx), x.type.rank
    y, _, _ = standardise(b, x, range(2, r), float(ctx.attr(node, "epsilon", 1e-5)))
    return [b.add(b.mul(y, b.along(scale, 1, r)), b.along(bias, 1, r))]


def group_normalization(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """x as [N, groups, C/groups·S]; opset 18 has scale and bias per group, 21 per channel."""
    x, scale, bias = required(ctx, node, ins, 3)
    b, groups = Build(ctx), int(ctx.attr(node, "num_groups"))
    n, c, *spatial = x.shape
    if isinstance(c, int) and c % groups:
        raise ctx.unsupported(f"GroupNormalization of {c} channels in {groups} groups")
    work = b.cast(x, DType.F32) if x.dtype in (DType.F16, DType.BF16) else x
    split = b.reshape(work, (n, groups, c // groups, *spatial))
    y, _, _ = standardise(b, split, range(2, split.type.rank), float(ctx.attr(node, "epsilon", 1e-5)))
    scale, bias = b.cast(scale, y.dtype), b.cast(bias, y.dtype)
    if ctx.opset() < 21:
        y = b.add(b.mul(y, b.along(scale, 1, y.type.rank)), b.along(bias, 1, y.type.rank))
        return [b.cast(b.reshape(y, x.shape), x.dtype)]
    y = b.reshape(y, x.shape)
    return [b.cast(b.add(b.mul(y, b.along(scale, 1, y.type.rank)), b.along(bias, 1, y.type.rank)), x.dtype)]


def fitted(ctx: ImportContext, x: Value, *params: Value) -> Value:
    """x with open dims replaced by the known ones of parameters that broadcast to it; all but 1 have to be equal."""
    shape = list(x.shape)
    for p in params:
        for i, d in enumerate(reversed(p.shape[-len(shape) :]), 1):
            if d != 1:
                ctx.require_equal(shape[-i], d)
                shape[-i] = d if isinstance(d, int) else shape[-i]
    return Build(ctx).reshape(x, shape)


def layer_normalization(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, scale = required(ctx, node, ins, 2)
    b, axis = Build(ctx), axis_of(ctx, node, x.type.rank, -1)
    bias = optional(ins, 2)
    bias = b.const(np.zeros(()), x.dtype) if bias is None else bias
    x = fitted(ctx, x, scale, bias)
    eps = float(ctx.attr(node, "epsilon", 1e-5))
    y = b.emit(O.LayerNorm(axis, eps), x, scale, bias)
    if not (wanted(node, 1) or wanted(node, 2)):
        return [y]
    work = b.cast(x, DType.F32) if x.dtype in (DType.F16, DType.BF16) else x
    _, mean, inv = standardise(b, work, range(axis, x.type.rank), eps)
    return [y, mean, inv]


def rms_normalization(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """RMSNormalization and onnxruntime's SimplifiedLayerNormalization."""
    x, scale = required(ctx, node, ins, 2)
    b, axis = Build(ctx), axis_of(ctx, node, x.type.rank, -1)
    eps = float(ctx.attr(node, "epsilon", 1e-5))
    x = fitted(ctx, x, scale)
    y = b.emit(O.RMSNorm(axis, eps), x, scale)
    if not wanted(node, 1):
        return [y]
    work = b.cast(x, DType.F32) if x.dtype in (DType.F16, DType.BF16) else x
    square = b.reduce("mean", b.mul(work, work), range(axis, x.type.rank))
    return [y, b.emit(O.Reciprocal(), b.sqrt(b.add(square, eps)))]


def mean_variance_normalization(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """(x − mean)/(√var + 1e-9), the formula of the ONNX function body."""
    (x,) = required(ctx, node, ins, 1)
    b, r = Build(ctx), x.type.rank
    axes = [int(a) % r for a in ctx.attr(node, "axes", (0, 2, 3))]
    mean = b.reduce("mean", x, axes)
    centred = b.sub(x, mean)
    std = b.sqrt(b.reduce("mean", b.mul(centred, centred), axes))
    return [b.div(centred, b.add(std, 1e-9))]


def lp_normalization(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """x / ‖x‖ₚ along one axis; a zero norm gives zeros."""
    (x,) = required(ctx, node, ins, 1)
    b, axis = Build(ctx), axis_of(ctx, node, x.type.rank, -1)
    if int(ctx.attr(node, "p", 2)) == 1:
        norm = b.reduce("sum", b.emit(O.Abs(), x), [axis])
    else:
        norm = b.sqrt(b.reduce("sum", b.mul(x, x), [axis]))
    zero = b.emit(O.Equal(), norm, b.const(0, x.dtype))
    return [b.div(x, b.where(zero, b.const(1, x.dtype), norm))]


def hardmax(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """1 at the first maximum along the axis, 0 elsewhere; before opset 13 over all axes from `axis` on."""
    (x,) = required(ctx, node, ins, 1)
    b, old = Build(ctx), ctx.opset() < 13
    axis = axis_of(ctx, node, x.type.rank, 1 if old else -1)
    shape = x.shape
    if old:
        rest = prod(shape[axis:])
        x = b.reshape(x, (*shape[:axis], rest))
        axis = x.type.rank - 1
    best = b.emit(O.ArgReduce("argmax", axis, True), x)
    here = b.along(b.iota(x.shape[axis]), axis, x.type.rank)
    return [b.reshape(b.cast(b.emit(O.Equal(), best, here), x.dtype), shape)]


NORM_HANDLERS: HandlerTable = {
    ("BatchNormalization", 7): batch_normalization,
    ("InstanceNormalization", 1): instance_normalization,
    ("GroupNormalization", 18): group_normalization,
    ("LayerNormalization", 1): layer_normalization,  # 17; onnxruntime writes it at older opsets too
    ("RMSNormalization", 23): rms_normalization,
    ("SimplifiedLayerNormalization", 1): rms_normalization,
    ("MeanVarianceNormalization", 9): mean_variance_normalization,
    ("LpNormalization", 1): lp_normalization,
    ("Hardmax", 1): hardmax,
}
