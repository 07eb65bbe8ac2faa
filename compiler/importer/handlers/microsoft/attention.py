"""Handlers of onnxruntime's attention operators (com.microsoft): fused projections, key and value caches, grouped heads.

Defaults are onnxruntime's, which differ from those of the ONNX operators of the same names.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from .....ir import Dim, DType, Value, dim_max, floordiv
from .....ir import ops as O
from ...compose import Build, optional, required, sized, wanted
from ...context import HandlerTable, ImportContext
from ..attention import additive, attend, merge_heads, rotate, scaled, score_products, split_heads, unpacked, visible
from .decoding import decoder_masked_attention
from .masks import joined, key_mask
from .quantized_cache import cache_code


def attend_packed(ctx: ImportContext, node: NodeProto, qkv: Value, mask: Value | None, past: Value | None, extra: Value | None,
                  present: bool) -> list[Value]:  # fmt: skip
    """Attention behind a joint projection [B, S, Dq + Dk + Dv], with a cache [2, B, H, P, D] if any."""
    b, heads = Build(ctx), int(ctx.attr(node, "num_heads"))
    if ctx.attr(node, "do_rotary", 0) or ctx.attr(node, "past_present_share_buffer", 0):
        raise ctx.unsupported(f"{node.op_type} with do_rotary or a shared cache")
    sizes = ctx.attr(node, "qkv_hidden_sizes", None) or (floordiv(qkv.shape[2], 3 * heads) * heads,) * 3
    qkv = sized(ctx, qkv, (*qkv.shape[:2], sum(sizes, 0)))
    starts = (0, sizes[0], sizes[0] + sizes[1])
    q, k, v = (split_heads(b, b.slice(qkv, 2, s, z), heads) for s, z in zip(starts, sizes, strict=True))
    outs = []
    if past is not None:
        k, v = (b.concat(2, b.reshape(b.slice(past, 0, i, 1), past.shape[1:]), x) for i, x in enumerate((k, v)))
    if present:
        outs = [b.concat(0, *(b.reshape(x, (1, *x.shape)) for x in (k, v)))]
    bias = None if mask is None else key_mask(ctx, node, b, mask, q, k.shape[2])
    q, scale = scaled(ctx, node, b, q, k)
    y = attend(b, q, k, v, joined(b, bias, extra), scale, bool(ctx.attr(node, "unidirectional", 0)))
    return [merge_heads(b, y), *outs]


def attention_ms(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """One projection to query, key and value, then attention."""
    x, w = required(ctx, node, ins, 2)
    b = Build(ctx)
    bias, mask, past, extra = (optional(ins, i) for i in range(2, 6))
    qkv = b.matmul(x, w)
    qkv = qkv if bias is None else b.add(qkv, bias)
    return attend_packed(ctx, node, qkv, mask, past, extra, wanted(node, 1))


def multi_head_attention(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """query, key, value, bias, key_padding_mask, attention_bias, past_key, past_value; key and value may be packed together."""
    q, b, heads = required(ctx, node, ins, 1)[0], Build(ctx), int(ctx.attr(node, "num_heads"))
    k, v, bias, padding, extra, past_k, past_v = (optional(ins, i) for i in range(1, 8))
    if optional(ins, 8) is not None or optional(ins, 9) is not None:
        beam_of = optional(ins, 9)
        beams = None if beam_of is None else b.dim(beam_of.shape[1], DType.I32)
        order = [*ins[:3], *(optional(ins, i) for i in (4, 5, 6, 7, 8)), beams, beam_of, bias]
        return decoder_masked_attention(ctx, node, order, shared=optional(ins, 8) is not None)
    if q.type.rank == 5:  # [B, S, H, 3, D]
        q, k, v = (b.transpose(_part(b, q, i), (0, 2, 1, 3)) for i in range(3))
    elif k is not None and k.type.rank == 5:  # [B, L, H, 2, D]
        k, v = (b.transpose(_part(b, k, i), (0, 2, 1, 3)) for i in range(2))
    if k is None or v is None:
        raise ctx.unsupported("MultiHeadAttention without key and value")
    sides = [q, k, v]
    widths = [x.shape[2] if x.type.rank == 3 else heads * x.shape[3] for x in sides]
    start: Dim = 0
    for i, (x, width) in enumerate(zip(sides, widths, strict=True)):
        if bias is not None and x.type.rank == 3:
            x = b.add(x, b.slice(bias, 0, start, width))
        elif bias is not None and q.type.rank == 4 and q is sides[0] and ins[1] is None:
            x = b.add(x, b.reshape(b.slice(bias, 0, start, width), (heads, 1, x.shape[3])))
        sides[i] = split_heads(b, x, heads) if x.type.rank == 3 else x
        start = start + width
    q, k, v = sides
    aligned = k.shape[2] == q.shape[2]
    if past_k is not None and past_v is not None:
        k, v = b.concat(2, past_k, k), b.concat(2, past_v, v)
    mask = None if padding is None else key_mask(ctx, node, b, padding, q, k.shape[2])
    q, scale = scaled(ctx, node, b, q, k)
    total, causal = joined(b, mask, extra), bool(ctx.attr(node, "unidirectional", 0))
    if causal and not aligned:  # query i sees the cached keys, and i + 1 of the new ones; the last one, in onnxruntime, all
        rows, cols = q.shape[2], k.shape[2]
        last = b.emit(O.Equal(), b.reshape(b.iota(rows), (rows, 1)), b.dim(rows - 1, DType.I64))
        seen = b.emit(O.Or(), visible(b, rows, cols, 0 if past_k is None else past_k.shape[2]), last)
        seen = additive(b, seen, q.dtype)
        total, causal = joined(b, total, b.reshape(seen, (1, 1, rows, cols))), False
    outs = [merge_heads(b, attend(b, q, k, v, total, scale, causal)), k, v]
    if wanted(node, 3):
        if causal:
            raise ctx.unsupported("MultiHeadAttention with unidirectional and its qk output")
        outs.append(score_products(b, q, k, total, scale, 0.0, 2))
    return outs


def _part(b: Build, x: Value, index: int) -> Value:
    """Entry `index` of axis 3 of [B, S, H, n, D]."""
    n, s, h, _, d = x.shape
    return b.reshape(b.slice(x, 3, index, 1), (n, s, h, d))


def group_query_attention(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Grouped heads with a cache, rotary embedding, window, soft cap and sinks; sequences end at seqlens_k[b].

    New keys follow the first seqlens_k + 1 − S cached ones of each sequence, and query i of the new ones sees what is at its
    place or before.
    """
    q, lengths = required(ctx, node, ins, 1)[0], optional(ins, 5)
    b = Build(ctx)
    heads, groups = int(ctx.attr(node, "num_heads")), int(ctx.attr(node, "kv_num_heads"))
    k, v, past_k, past_v = (optional(ins, i) for i in range(1, 5))
    cos, sin, places, extra, sink = (optional(ins, i) for i in range(7, 12))
    if ctx.attr(node, "sliding_window_cache", 0):
        raise ctx.unsupported("GroupQueryAttention with sliding_window_cache")
    if lengths is None:
        raise ctx.unsupported("GroupQueryAttention without seqlens_k")
    n, s, _ = q.shape
    if k is None or v is None:
        q, k, v = unpacked(b, q, heads, groups)
    q, k, v = split_heads(b, q, heads), split_heads(b, k, groups), split_heads(b, v, groups)
    q, k = (_normed(ctx, node, b, x, optional(ins, i)) for x, i in ((q, 14), (k, 15)))
    ends = b.add(b.reshape(b.cast(lengths, DType.I64), (n,)), b.const(1, DType.I64))
    before = b.max(b.sub(ends, b.dim(s, DType.I64)), b.const(0, DType.I64))  # cached keys of each sequence
    if ctx.attr(node, "do_rotary", 0):
        if cos is None or sin is None:
            raise ctx.unsupported("GroupQueryAttention with do_rotary but without its tables")
        if places is None:
            places = b.add(b.reshape(before, (n, 1)), b.reshape(b.iota(s), (1, s)))
        q, k = (rotate(ctx, node, x, cos, sin, places, bool(ctx.attr(node, "rotary_interleaved", 0))) for x in (q, k))
    codes = [cache_code(ctx, node, which, past, optional(ins, i), groups) for which, past, i in (("k", past_k, 12), ("v", past_v, 13))]
    k, v = (x if code is None else code.encode(b, x) for x, code in zip((k, v), codes, strict=True))
    keys = s if past_k is None else _total(ctx, optional(ins, 6))
    present = k, v = _cached(ctx, b, keys, past_k, past_v, k, v, before)
    k, v = (b.slice(x, 2, 0, keys) for x in (k, v))
    k, v = (x if code is None else code.decode(b, x, q.dtype) for x, code in zip((k, v), codes, strict=True))
    at, row = b.reshape(b.iota(keys), (1, 1, 1, keys)), b.reshape(b.iota(s), (1, 1, s, 1))
    last = b.add(row, b.reshape(before, (n, 1, 1, 1)))
    keep = b.emit(O.LessEqual(), at, last)
    if not ctx.attr(node, "causal", 1):
        keep = b.emit(O.Less(), at, b.reshape(ends, (n, 1, 1, 1)))
    window = int(ctx.attr(node, "local_window_size", -1))
    if window > 0:
        keep = b.emit(O.And(), keep, b.emit(O.Greater(), at, b.sub(last, b.const(window, DType.I64))))
    mask = b.where(keep, b.const(0, q.dtype), b.const(-np.inf, q.dtype))
    if extra is not None:
        extra = b.slice(extra, 3, 0, keys)
        mask = b.add(mask, extra)
    softcap = float(ctx.attr(node, "softcap", 0.0) or 0.0)
    # where each query is, is known without lengths: mere causal attention skips what it hides
    aligned = past_k is None or (n == 1 and keys == past_k.shape[2] + s)
    causal = bool(ctx.attr(node, "causal", 1)) and aligned and window <= 0 and not softcap
    if sink is not None or int(ctx.attr(node, "smooth_softmax", -1)) == 1:
        causal = False
        k, v, mask = _with_sink(b, k, v, mask, b.const(0, q.dtype) if sink is None else b.reshape(sink, (1, heads, 1, 1)))
    q, scale = scaled(ctx, node, b, q, k)
    outs = [merge_heads(b, attend(b, q, k, v, extra if causal else mask, scale, causal, softcap)), *present]
    if wanted(node, 3):
        after = int(ctx.attr(node, "qk_output", 0)) == 2
        scores = b.slice(score_products(b, q, k, mask, scale, softcap, 3 if after else 2), 3, 0, keys)
        outs.append(scores if after else b.where(keep, scores, b.const(0, q.dtype)))
    return outs


def _normed(ctx: ImportContext, node: NodeProto, b: Build, x: Value, weight: Value | None) -> Value:
    return x if weight is None else b.emit(O.RMSNorm(3, float(ctx.attr(node, "qk_norm_epsilon", 1e-6))), x, weight)


def _total(ctx: ImportContext, given: Value | None) -> Dim:
    """total_sequence_length: keys of the longest sequence, cached and new."""
    if given is None:
        raise ctx.unsupported("GroupQueryAttention with a cache but without total_sequence_length")
    return ctx.size(given, lo=1)


def _cached(ctx: ImportContext, b: Build, total: Dim, past_k: Value | None, past_v: Value | None, k: Value, v: Value,
            before: Value) -> tuple[Value, Value]:  # fmt: skip
    """Keys and values up to the end of the longest sequence: the cache may be as long as that already, or be appended to.

    Behind the end of a sequence there are zeros.
    """
    if past_k is None or past_v is None:
        return k, v
    n, s = k.shape[0], k.shape[2]
    past = past_k.shape[2]
    keys = dim_max(total, past)
    if n == 1 and keys == past + s:
        return b.concat(2, past_k, k), b.concat(2, past_v, v)
    first = ctx.checked(before, [0], [keys - s])
    held = b.emit(O.Less(), b.reshape(b.iota(keys), (1, 1, keys, 1)), b.reshape(first, (n, 1, 1, 1)))
    outs = []
    for old, new in ((past_k, k), (past_v, v)):
        zero = b.const(0, new.dtype)
        room = b.where(held, b.emit(O.Pad((0, 0, 0, 0), (0, 0, keys - past, 0)), old, zero), zero)
        outs.append(_written(b, room, new, first))
    return outs[0], outs[1]


def _written(b: Build, cache: Value, update: Value, first: Value) -> Value:
    """The cache [B, G, L, D] with the update [B, G, S, D] from row `first` (I64 [B]) on, behind which it has room."""
    lead = update.shape[:3]
    at = b.add(b.reshape(first, (lead[0], 1, 1)), b.along(b.iota(lead[2]), 2, 3))
    places = (b.along(b.iota(lead[0]), 0, 3), b.along(b.iota(lead[1]), 1, 3), at)
    index = b.concat(3, *(b.reshape(b.expand(p, lead), (*lead, 1)) for p in places))
    return b.emit(O.ScatterND(), cache, index, update)


def _with_sink(b: Build, k: Value, v: Value, mask: Value, sink: Value) -> tuple[Value, Value, Value]:
    """One more key of score `sink` and value 0: it takes part in the sum of the softmax only."""
    n, groups, keys, _ = k.shape
    k, v = (b.concat(2, x, b.expand(b.const(0, x.dtype), (n, groups, 1, x.shape[3]))) for x in (k, v))
    heads = sink.shape[1] if sink.type.rank == 4 else mask.shape[1]
    rows = mask.shape[2]
    mask = b.expand(mask, (mask.shape[0], heads, rows, keys))
    return k, v, b.concat(3, mask, b.expand(sink, (*mask.shape[:3], 1)))


ATTENTION_MS_HANDLERS: HandlerTable = {
    ("com.microsoft::Attention", 1): attention_ms,
    ("com.microsoft::MultiHeadAttention", 1): multi_head_attention,
    ("com.microsoft::GroupQueryAttention", 1): group_query_attention,
}
