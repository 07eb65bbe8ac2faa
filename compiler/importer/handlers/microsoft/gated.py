"""Handlers of onnxruntime's gates, branch mixes and stateful layers of recent decoders (com.microsoft), composed of others."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from .....ir import DType, Value
from .....ir import ops as O
from ...compose import Build, optional, required
from ...context import HandlerTable, ImportContext

Ins = list[Value | None]


def _rms(b: Build, x: Value, epsilon: float) -> Value:
    """f32 x over the root of its mean square along the last axis."""
    mean = b.reduce("mean", b.mul(x, x), [x.type.rank - 1])
    return b.div(x, b.sqrt(b.add(mean, epsilon)))


def _branches(ctx: ImportContext, node: NodeProto, b: Build, x: Value) -> Value:
    """[…, C, H] of grouped or flattened streams."""
    count = int(ctx.attr(node, "num_branches", 0))
    if not count:
        return x
    *lead, width = x.shape
    return b.reshape(x, (*lead, count, width // count))


def gated_add(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """x + y·gate."""
    x, y, gate = required(ctx, node, ins, 3)
    b = Build(ctx)
    return [b.add(x, b.mul(y, gate))]


def gated_rms_norm(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """RMS norm over groups as long as the scale, times SiLU or sigmoid of the gate; in float32."""
    x, scale, gate = required(ctx, node, ins, 3)
    b, size = Build(ctx), scale.shape[0]
    *lead, width = x.shape
    grouped = (*lead, width // size, size)
    y = _rms(b, b.reshape(b.cast(x, DType.F32), grouped), float(ctx.attr(node, "epsilon", 1e-5)))
    y = b.reshape(b.mul(y, b.cast(scale, DType.F32)), x.shape)
    z, name = b.cast(gate, DType.F32), str(ctx.attr(node, "activation", "silu"))
    if name not in ("silu", "swish", "sigmoid"):
        raise ctx.unsupported(f"GatedRMSNorm: activation {name!r}")
    return [b.cast(b.mul(y, b.emit(O.Sigmoid() if name == "sigmoid" else O.Silu(), z)), x.dtype)]


def branchwise_rms_norm(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """RMS norm of every branch; the scale is one for all, one a branch, or flat."""
    (x,) = required(ctx, node, ins, 1)
    b, scale = Build(ctx), optional(ins, 1)
    streams = _branches(ctx, node, b, b.cast(x, DType.F32))
    y = _rms(b, streams, float(ctx.attr(node, "epsilon", 1e-5)))
    if scale is not None:
        s = b.cast(scale, DType.F32)
        if s.type.rank == 1 and s.shape[0] != y.shape[-1]:
            s = b.reshape(s, y.shape[-2:])
        y = b.mul(y, s)
    return [b.cast(b.reshape(y, x.shape), x.dtype)]


def hyper_connection_pre_mix(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """reduction_scale·Σ_c x[…, c, h]·mix[…, c, h]."""
    x, mix = required(ctx, node, ins, 2)
    b = Build(ctx)
    streams = _branches(ctx, node, b, b.cast(x, DType.F32))
    total = b.reduce("sum", b.mul(streams, _gates(b, mix, streams)), [streams.type.rank - 2], False)
    return [b.cast(b.mul(total, float(ctx.attr(node, "reduction_scale", 1.0))), x.dtype)]


def _gates(b: Build, mix: Value, streams: Value) -> Value:
    """Gates […, C], […, C, 1], […, C, H] or […, C·H] as […, C, 1 or H], f32."""
    mix, rank = b.cast(mix, DType.F32), streams.type.rank
    if mix.type.rank == rank:
        return mix
    last = 1 if mix.shape[-1] == streams.shape[-2] else streams.shape[-1]
    return b.reshape(mix, (*mix.shape[:-1], streams.shape[-2], last))


def hyper_connection_post_mix(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Σ_c mix[…, c, k]·streams[…, c, h] + post[…, k, h]·block[…, h]."""
    x, block, post = required(ctx, node, ins, 3)
    b, matrix = Build(ctx), optional(ins, 3)
    streams = _branches(ctx, node, b, b.cast(x, DType.F32))
    out = b.cast(block, DType.F32)
    y = b.mul(_gates(b, post, streams), b.reshape(out, (*out.shape[:-1], 1, out.shape[-1])))
    y = b.add(streams if matrix is None else b.matmul(b.swap_last(b.cast(matrix, DType.F32)), streams), y)
    return [b.cast(b.reshape(y, x.shape), x.dtype)]


def linear_attention_gate(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """scale·softplus(a + bias), and the sigmoid of b."""
    a, bias, scale = required(ctx, node, ins, 3)
    b, beta = Build(ctx), optional(ins, 3)
    decay = b.cast(b.mul(b.emit(O.Softplus(), b.add(b.cast(a, DType.F32), bias)), scale), a.dtype)
    return [decay] if beta is None else [decay, b.cast(b.emit(O.Sigmoid(), b.cast(beta, DType.F32)), beta.dtype)]


def engram_gate(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """σ(sign(d)·√max(|d|, 1e-6))·value, d being the scaled dot product of normalised keys and queries."""
    key, query, value, key_scale, query_scale = required(ctx, node, ins, 5)
    b, epsilon, conv_scale = Build(ctx), float(ctx.attr(node, "epsilon", 1e-5)), optional(ins, 5)
    k, q = (b.mul(_rms(b, b.cast(x, DType.F32), epsilon), b.cast(s, DType.F32)) for x, s in ((key, key_scale), (query, query_scale)))
    size = b.dim(key.shape[3], DType.F32)
    dot = b.div(b.reduce("sum", b.mul(k, q), [3]), b.sqrt(size))
    root = b.mul(b.emit(O.Sign(), dot), b.sqrt(b.max(b.emit(O.Abs(), dot), 1e-6)))
    n, s, h = value.shape
    y = b.mul(b.emit(O.Sigmoid(), root), b.reshape(b.cast(value, DType.F32), (n, s, 1, h)))
    outs = [b.cast(y, value.dtype)]
    if conv_scale is not None:
        outs.append(b.cast(b.mul(_rms(b, y, epsilon), b.cast(conv_scale, DType.F32)), value.dtype))
    return outs


def gated_relative_position_bias(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """(u·(r·eco_a − 1) + 2)·rel_pos, with the gates u and r computed of the queries of each head."""
    x, x_bias, rel_pos, weight, bias, eco = required(ctx, node, ins, 6)
    b, heads = Build(ctx), int(ctx.attr(node, "num_heads"))
    if optional(ins, 6) is not None or x.type.rank != 3:
        raise ctx.unsupported("GatedRelativePositionBias of packed tokens")
    n, s, width = x.shape
    q = b.transpose(b.reshape(b.add(x, x_bias), (n, s, heads, width // heads)), (0, 2, 1, 3))
    gates = b.add(b.matmul(q, weight), bias)
    gates = b.reduce("sum", b.reshape(gates, (n, heads, s, 2, gates.shape[3] // 2)), [4], False)
    gates = b.emit(O.Sigmoid(), gates)
    u, r = b.slice(gates, 3, 0, 1), b.slice(gates, 3, 1, 1)
    return [b.mul(b.add(b.mul(u, b.sub(b.mul(r, eco), 1.0)), 2.0), rel_pos)]


def q_embed_layer_normalization(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """EmbedLayerNormalization of five quantized tables, each with a scale and a zero point."""
    ids, segments = required(ctx, node, ins, 1)[0], optional(ins, 1)
    tables, scales, zeros = ins[2:7], ins[8:13], ins[13:18]
    mask, b = optional(ins, 7), Build(ctx)
    word, position, kind, gamma, beta = (
        None if t is None or s is None or z is None else b.emit(O.Dequantize(), t, s, z)
        for t, s, z in zip(tables, scales, zeros, strict=True)
    )
    if word is None or position is None or gamma is None or beta is None:
        raise ctx.unsupported("QEmbedLayerNormalization without its tables")
    n, s = ids.shape
    total = b.add(
        b.emit(O.Gather(0), word, ctx.checked(ids, [0], [word.shape[0] - 1])),
        b.reshape(b.slice(position, 0, 0, s), (1, s, position.shape[1])),
    )
    if kind is not None and segments is not None:
        total = b.add(total, b.emit(O.Gather(0), kind, ctx.checked(segments, [0], [kind.shape[0] - 1])))
    y = b.emit(O.LayerNorm(2, float(ctx.attr(node, "epsilon", 1e-12))), total, gamma, beta)
    none = b.expand(b.const([0], DType.I32), (n,))
    return [y, none if mask is None else b.reduce("sum", b.cast(mask, DType.I32), [1], False)]


GATED_MS_HANDLERS: HandlerTable = {
    ("com.microsoft::BranchwiseRMSNorm", 1): branchwise_rms_norm,
    ("com.microsoft::EngramGate", 1): engram_gate,
    ("com.microsoft::GatedAdd", 1): gated_add,
    ("com.microsoft::GatedRMSNorm", 1): gated_rms_norm,
    ("com.microsoft::GatedRelativePositionBias", 1): gated_relative_position_bias,
    ("com.microsoft::HyperConnectionPostMix", 1): hyper_connection_post_mix,
    ("com.microsoft::HyperConnectionPreMix", 1): hyper_connection_pre_mix,
    ("com.microsoft::LinearAttentionGate", 1): linear_attention_gate,
    ("com.microsoft::QEmbedLayerNormalization", 1): q_embed_layer_normalization,
}
