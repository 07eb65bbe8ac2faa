"""Handlers of onnxruntime's fused operators (com.microsoft): convolutions and products with an activation, sums of embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from .....ir import DType, Value
from .....ir import ops as O
from ...compose import Build, optional, required
from ...context import HandlerTable, ImportContext
from ..contract import gemm
from ..windows import convolve

_FUSED = {
    "Relu": O.Relu, "Sigmoid": O.Sigmoid, "Tanh": O.Tanh, "LeakyRelu": O.LeakyRelu, "HardSigmoid": O.HardSigmoid,
    "HardSwish": O.HardSwish, "Elu": O.Elu, "Silu": O.Silu, "Selu": O.Selu, "Celu": O.Celu, "Softplus": O.Softplus,
    "Softsign": O.Softsign, "ThresholdedRelu": O.ThresholdedRelu,
}  # fmt: skip


def activate(ctx: ImportContext, node: NodeProto, b: Build, y: Value) -> Value:
    name = ctx.attr(node, "activation", None)
    if not name:
        return y
    given = ctx.attr(node, "activation_params", None)
    if given is None:  # FusedGemm names them one by one
        given = [p for p in (ctx.attr(node, f"activation_{k}", None) for k in ("alpha", "beta", "gamma")) if p is not None]
    params = tuple(float(p) for p in given)
    if name == "Clip" and len(params) == 2:
        return b.min(b.max(y, params[0]), params[1])
    if name not in _FUSED:
        raise ctx.unsupported(f"{node.op_type}: activation {name!r}")
    return b.emit(_FUSED[name](*params), y)


def fused_conv(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """com.microsoft FusedConv: activation(conv(x, w, bias) + z)."""
    x, w = required(ctx, node, ins, 2)
    b, other = Build(ctx), optional(ins, 3)
    y = convolve(ctx, node, x, w, optional(ins, 2))
    return [activate(ctx, node, b, y if other is None else b.add(y, other))]


def fused_gemm(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    return [activate(ctx, node, Build(ctx), gemm(ctx, node, ins)[0])]


def embed_layer_normalization(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """com.microsoft EmbedLayerNormalization: word + position (+ segment) embeddings, normalised."""
    ids = required(ctx, node, ins, 1)[0]
    segments, words, places, kinds, gamma, beta, mask, position_ids = (optional(ins, i) for i in range(1, 9))
    if words is None or places is None or gamma is None or beta is None:
        raise ctx.unsupported("EmbedLayerNormalization without its tables")
    b = Build(ctx)
    n, s = ids.shape
    where = position_ids if position_ids is not None else b.reshape(b.iota(s), (1, s))
    ids, where = (ctx.checked(v, [0], [table.shape[0] - 1]) for v, table in ((ids, words), (where, places)))
    total = b.add(b.emit(O.Gather(0), words, ids), b.emit(O.Gather(0), places, where))
    if kinds is not None and segments is not None:
        total = b.add(total, b.emit(O.Gather(0), kinds, ctx.checked(segments, [0], [kinds.shape[0] - 1])))
    y = b.emit(O.LayerNorm(2, float(ctx.attr(node, "epsilon", 1e-12))), total, gamma, beta)
    if mask is None:
        index = b.ctx.const(np.zeros(int(n), np.int32)) if isinstance(n, int) else b.expand(b.const([0], DType.I32), (n,))
    else:
        index = b.reduce("sum", b.cast(mask, DType.I32), [1], False)
    return [y, index, total]


FUSED_HANDLERS: HandlerTable = {
    ("com.microsoft::FusedConv", 1): fused_conv,
    ("com.microsoft::FusedGemm", 1): fused_gemm,
    ("com.microsoft::EmbedLayerNormalization", 1): embed_layer_normalization,
}
