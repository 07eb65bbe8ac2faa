"""Handlers of onnxruntime's smaller operators (com.microsoft), composed of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx import NodeProto, helper

from .....ir import DType, Value
from .....ir import ops as O
from ...compose import Build, optional, required
from ...context import Handler, HandlerTable, ImportContext
from ..contract import fused_matmul
from ..elementwise import identity
from ..moves import gather_nd, pad
from ..norm import standardise
from ..select import unique
from ..shape import range_, trilu
from ..windows import conv_transpose, convolve, max_pool
from .fused import activate

Ins = list[Value | None]


def bias_add(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """x + bias + skip."""
    x, bias, skip = required(ctx, node, ins, 3)
    b = Build(ctx)
    return [b.add(b.add(x, bias), skip)]


def bias_split_gelu(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Of x + bias, the first half times the GELU of the second."""
    x, bias = required(ctx, node, ins, 2)
    b, last = Build(ctx), x.type.rank - 1
    y, half = b.add(x, bias), x.shape[last] // 2
    return [b.mul(b.slice(y, last, 0, half), b.emit(O.Gelu(False), b.slice(y, last, half, half)))]


def bias_softmax(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Softmax over all axes from `axis` on of x + bias; the bias repeats along inner or outer batch axes."""
    x, bias = required(ctx, node, ins, 2)
    b, rank = Build(ctx), x.type.rank
    axis = int(ctx.attr(node, "axis", 1)) % rank
    if not ctx.attr(node, "is_inner_broadcast", 0) and bias.type.rank < rank:
        lead = bias.type.rank - (rank - axis)
        bias = b.reshape(bias, (*bias.shape[: max(lead, 0)], *(1,) * (rank - bias.type.rank), *bias.shape[max(lead, 0) :]))
    lead_size, rest = 1, 1
    for d in x.shape[:axis]:
        lead_size = lead_size * d
    for d in x.shape[axis:]:
        rest = rest * d
    flat = b.reshape(b.add(x, bias), (lead_size, rest))
    return [b.reshape(b.emit(O.Softmax(1), flat), x.shape)]


def _group_norm(ctx: ImportContext, node: NodeProto, x: Value, gamma: Value, beta: Value) -> Value:
    """Normalised by groups of channels, then SiLU if `activation` is 1."""
    b, groups = Build(ctx), int(ctx.attr(node, "groups"))
    last = bool(ctx.attr(node, "channels_last", 1))
    work = b.cast(b.channels_first(x) if last else x, DType.F32)
    n, c, *spatial = work.shape
    split = b.reshape(work, (n, groups, c // groups, *spatial))
    y, _, _ = standardise(b, split, range(2, split.type.rank), float(ctx.attr(node, "epsilon", 1e-5)))
    y = b.reshape(y, work.shape)
    y = b.add(b.mul(y, b.along(b.cast(gamma, DType.F32), 1, y.type.rank)), b.along(b.cast(beta, DType.F32), 1, y.type.rank))
    if int(ctx.attr(node, "activation")) == 1:
        y = b.emit(O.Silu(), y)
    return b.cast(b.channels_last(y) if last else y, x.dtype)


def group_norm(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    return [_group_norm(ctx, node, *required(ctx, node, ins, 3))]


def skip_group_norm(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """GroupNorm of x + skip + bias, and that sum; a skip [N, C] or [N, 1, 1, C] repeats over the image."""
    x, gamma, beta, skip = required(ctx, node, ins, 4)
    b, bias = Build(ctx), optional(ins, 4)
    last = bool(ctx.attr(node, "channels_last", 1))
    if skip.type.rank == 2:
        n, c = skip.shape
        skip = b.reshape(skip, (n, 1, 1, c) if last else (n, c, 1, 1))
    total = b.add(x, skip)
    if bias is not None:
        total = b.add(total, bias if last else b.along(bias, 1, x.type.rank))
    return [_group_norm(ctx, node, total, gamma, beta), total]


def nhwc_conv(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Conv of channels-last x by w[O, *K, C/g], and NhwcFusedConv with its sum and activation."""
    x, w = required(ctx, node, ins, 2)
    b, other = Build(ctx), optional(ins, 3)
    y = b.channels_last(convolve(ctx, node, b.channels_first(x), b.channels_first(w), optional(ins, 2)))
    return [activate(ctx, node, b, y if other is None else b.add(y, other))]


def nhwc_max_pool(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    b = Build(ctx)
    return [b.channels_last(max_pool(ctx, node, [b.channels_first(x)])[0])]


def expand_dims(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    x, axis = required(ctx, node, ins, 2)
    at = int(ctx.require_known(axis, "the axis of ExpandDims").reshape(()))
    at = at + x.type.rank + 1 if at < 0 else at
    if not 0 <= at <= x.type.rank:
        raise ctx.unsupported(f"ExpandDims at axis {at} of rank {x.type.rank}")
    return [Build(ctx).reshape(x, (*x.shape[:at], 1, *x.shape[at:]))]


def _complex_mul(conjugate: bool) -> Handler:
    def handler(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
        """Products of complex numbers held as pairs along the last axis."""
        x, y = required(ctx, node, ins, 2)
        b = Build(ctx)
        (xr, xi), (yr, yi) = ([b.slice(v, v.type.rank - 1, i, 1) for i in (0, 1)] for v in (x, y))
        if conjugate:
            yi = b.emit(O.Neg(), yi)
        real, imag = b.sub(b.mul(xr, yr), b.mul(xi, yi)), b.add(b.mul(xr, yi), b.mul(xi, yr))
        return [b.concat(real.type.rank - 1, real, imag)]

    return handler


def cdist(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Distances of the rows of a[M, K] to those of c[N, K], squared for "sqeuclidean"."""
    x, y = required(ctx, node, ins, 2)
    b, metric = Build(ctx), str(ctx.attr(node, "metric", "sqeuclidean"))
    if metric not in ("sqeuclidean", "euclidean"):
        raise ctx.unsupported(f"CDist by {metric!r}")
    squares = [b.reduce("sum", b.mul(v, v), [1]) for v in (x, y)]
    total = b.add(b.sub(squares[0], b.mul(b.matmul(x, b.swap_last(y)), 2.0)), b.swap_last(squares[1]))
    total = b.max(total, 0.0)
    return [total if metric == "sqeuclidean" else b.sqrt(total)]


def is_all_finite(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    b, bad = Build(ctx), None
    only_inf, only_nan = bool(ctx.attr(node, "isinf_only", 0)), bool(ctx.attr(node, "isnan_only", 0))
    for x in required(ctx, node, ins, len(ins)):
        found = []
        if not only_inf:
            found.append(b.emit(O.IsNaN(), x))
        if not only_nan:
            found.append(b.emit(O.IsInf(), x))
        for f in found:
            some = b.reduce("max", f, range(x.type.rank), False)
            bad = some if bad is None else b.emit(O.Or(), bad, some)
    if bad is None:
        raise ctx.unsupported("IsAllFinite of nothing")
    return [b.emit(O.Not(), bad)]


def bias_dropout(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """x + bias (+ residual) outside of training."""
    x, bias = required(ctx, node, ins, 2)
    b, residual, training = Build(ctx), optional(ins, 2), optional(ins, 4)
    known = None if training is None else ctx.known(training)
    if training is not None and (known is None or known.any()):
        raise ctx.unsupported("BiasDropout in training mode")
    y = b.add(x, bias)
    keep = b.expand(b.const(True, DType.BOOL), x.shape)
    return [y if residual is None else b.add(y, residual), keep]


def torch_embedding(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    table, index = required(ctx, node, ins, 2)
    return [Build(ctx).emit(O.Gather(0), table, ctx.index_of(index, table.shape[0]))]


def scaled_silu(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """x·σ(alpha·x)·scale."""
    (x,) = required(ctx, node, ins, 1)
    b, scale, alpha = Build(ctx), optional(ins, 1), float(ctx.attr(node, "alpha", 1.0))
    y = b.mul(x, b.emit(O.Sigmoid(), x if alpha == 1 else b.mul(x, alpha)))
    return [y if scale is None else b.mul(y, b.cast(scale, x.dtype))]


def fused_matmul_activation(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """FusedMatMul with an activation, whose parameters are attributes of its own."""
    names: dict[str, Callable[..., O.Relu | O.Sigmoid | O.Tanh | O.LeakyRelu | O.HardSigmoid]] = {
        "Relu": O.Relu, "Sigmoid": O.Sigmoid, "Tanh": O.Tanh, "LeakyRelu": O.LeakyRelu, "HardSigmoid": O.HardSigmoid,
    }  # fmt: skip
    name = str(ctx.attr(node, "activation"))
    if name not in names:
        raise ctx.unsupported(f"FusedMatMulActivation: activation {name!r}")
    (y,) = fused_matmul(ctx, node, ins)
    alpha, beta = ctx.attr(node, "activation_alpha", None), ctx.attr(node, "activation_beta", None)
    given = [float(p) for p in (alpha, beta) if p is not None] if name in ("LeakyRelu", "HardSigmoid") else []
    return [Build(ctx).emit(names[name](*given), y)]


def unique_ms(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """The distinct elements in the order in which they come, to which of them each is equal, how often each occurs."""
    same = helper.make_node("Unique", node.input, ["y", "first", "inverse", "counts"], name=node.name, sorted=0)
    values, _, inverse, counts = unique(ctx, same, ins)
    return [values, inverse, counts]


def conv_transpose_with_dynamic_pads(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """ConvTranspose whose pads are an operand, which has to be known when compiling."""
    x, w = required(ctx, node, ins, 2)
    pads, rank = optional(ins, 2), x.type.rank - 2
    given = None if pads is None else ctx.require_known(pads, "what ConvTransposeWithDynamicPads pads by")
    known = [0] * (2 * rank) if given is None else [int(p) for p in given.ravel()]
    same = NodeProto()
    same.CopyFrom(node)
    same.attribute.append(helper.make_attribute("pads", known))
    return conv_transpose(ctx, same, [x, w, optional(ins, 3)])


SMALL_MS_HANDLERS: HandlerTable = {
    (f"com.microsoft::{name}", 1): handler
    for name, handler in {
        "BiasAdd": bias_add,
        "BiasDropout": bias_dropout,
        "BiasSoftmax": bias_softmax,
        "BiasSplitGelu": bias_split_gelu,
        "CDist": cdist,
        "ConvTransposeWithDynamicPads": conv_transpose_with_dynamic_pads,
        "ComplexMul": _complex_mul(False),
        "ComplexMulConj": _complex_mul(True),
        "ExpandDims": expand_dims,
        "FusedMatMulActivation": fused_matmul_activation,
        "GatherND": gather_nd,
        "GroupNorm": group_norm,
        "IsAllFinite": is_all_finite,
        "NhwcConv": nhwc_conv,
        "NhwcFusedConv": nhwc_conv,
        "NhwcMaxPool": nhwc_max_pool,
        "Pad": pad,
        "Range": range_,
        "SampleOp": identity,
        "ScaledSiLU": scaled_silu,
        "SkipGroupNorm": skip_group_norm,
        "SparseToDenseMatMul": fused_matmul,  # a sparse matrix is held as a dense one
        "TorchEmbedding": torch_embedding,
        "TransposeMatMul": fused_matmul,
        "Trilu": trilu,
        "Unique": unique_ms,
    }.items()
}
