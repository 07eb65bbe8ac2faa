"""Handlers of attention, rotary embeddings, and onnxruntime's fused transformer operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from ....ir import Dim, DType, Value, floordiv
from ....ir import ops as O
from ....ir.ops.contract import default_scale
from ..compose import Build, optional, required, sized, wanted
from ..context import HandlerTable, ImportContext
from .norm import fitted

_HUGE = 2**62  # of indices that go around the end


def split_heads(b: Build, x: Value, count: int) -> Value:
    """[B, S, H·D] -> [B, H, S, D]."""
    n, s, width = x.shape
    return b.transpose(b.reshape(x, (n, s, count, width // count)), (0, 2, 1, 3))


def merge_heads(b: Build, x: Value) -> Value:
    """[B, H, S, D] -> [B, S, H·D]."""
    n, h, s, d = x.shape
    return b.reshape(b.transpose(x, (0, 2, 1, 3)), (n, s, h * d))


def additive(b: Build, mask: Value, dtype: DType) -> Value:
    """A boolean mask (True: attend) as 0 and −∞; a float one as it is."""
    if mask.dtype is not DType.BOOL:
        return b.cast(mask, dtype)
    return b.where(mask, b.const(0, dtype), b.const(-np.inf, dtype))


def _rank4(b: Build, mask: Value) -> Value:
    return b.reshape(mask, (*(1,) * (4 - mask.type.rank), *mask.shape))


def visible(b: Build, rows: Dim, cols: Dim, offset: Value | Dim) -> Value:
    """Boolean mask j ≤ i + offset, [S, L], or [B, 1, S, L] for an offset per batch."""
    i, j = b.reshape(b.iota(rows), (rows, 1)), b.reshape(b.iota(cols), (1, cols))
    shift = offset if isinstance(offset, Value) else b.dim(offset, DType.I64)
    if shift.type.rank == 1:
        shift = b.reshape(shift, (shift.shape[0], 1, 1, 1))
    return b.emit(O.LessEqual(), j, b.add(i, shift))


def attend(b: Build, q: Value, k: Value, v: Value, mask: Value | None, scale: float, causal: bool = False, softcap: float = 0.0) -> Value:
    """Attention over rank-4 operands; only a soft cap keeps it from being one op."""
    if not softcap:
        return b.emit(O.Attention(scale, causal), q, k, v, *([] if mask is None else [mask]))
    n, h, s, _ = q.shape
    groups = k.shape[1]
    if causal:
        allowed = additive(b, visible(b, s, k.shape[2], k.shape[2] - s), q.dtype)
        mask = allowed if mask is None else b.add(mask, allowed)
    weights = b.reshape(score_products(b, q, k, mask, scale, softcap, 3), (n, groups, h // groups, s, k.shape[2]))
    v5 = b.reshape(v, (v.shape[0], groups, 1, *v.shape[2:]))
    return b.reshape(b.matmul(weights, v5), (n, h, s, v.shape[3]))


def unpacked(b: Build, qkv: Value, heads: int, groups: int) -> tuple[Value, Value, Value]:
    """Queries, keys and values that lie one behind the other: [B, S, (heads + 2·groups)·D]."""
    size = qkv.shape[2] // (heads + 2 * groups)
    q, k, v = (b.slice(qkv, 2, at * size, count * size) for at, count in ((0, heads), (heads, groups), (heads + groups, groups)))
    return q, k, v


def scaled(ctx: ImportContext, node: NodeProto, b: Build, q: Value, k: Value) -> tuple[Value, float]:
    """The queries and the scale of the scores: 1/√(head size) if not given, put into the queries where that is symbolic."""
    given = ctx.attr(node, "scale", None)
    if given is not None and (given or not node.domain):  # 0 means the default in com.microsoft
        return q, float(given)
    size = next((d for d in (q.shape[3], k.shape[3]) if isinstance(d, int)), None)
    if size is not None:
        return q, default_scale(size)
    wide = DType.F64 if q.dtype is DType.F64 else DType.F32
    return b.mul(q, b.cast(b.emit(O.Reciprocal(), b.sqrt(b.dim(q.shape[3], wide))), q.dtype)), 1.0


def _padded(b: Build, mask: Value, cols: Dim) -> Value:
    """A mask whose last axis is as long as the keys, shorter (what is missing is not attended), or 1, as sizes will tell."""
    last, short = mask.type.rank - 1, b.dim(mask.shape[-1], DType.I64)
    at = b.iota(cols)
    held = b.emit(O.Or(), b.emit(O.Less(), at, short), b.emit(O.Equal(), short, b.const(1, DType.I64)))
    values = b.emit(O.Gather(last), mask, b.min(at, b.sub(short, 1)))
    return b.where(held, values, b.const(-np.inf, mask.dtype))


def attention(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """ONNX Attention: heads split, past joined, masks made additive, then one op."""
    q, k, v = required(ctx, node, ins, 3)
    b, flat = Build(ctx), ins[0] is not None and ins[0].type.rank == 3
    if flat:
        heads, kv_heads = int(ctx.attr(node, "q_num_heads", 0)), int(ctx.attr(node, "kv_num_heads", 0))
        if not heads or not kv_heads:
            raise ctx.unsupported("Attention of rank-3 inputs without q_num_heads and kv_num_heads")
        q, k, v = split_heads(b, q, heads), split_heads(b, k, kv_heads), split_heads(b, v, kv_heads)
    given, past_k, past_v, valid = (optional(ins, i) for i in (3, 4, 5, 6))
    past: Dim = 0
    if past_k is not None and past_v is not None:
        past = past_k.shape[2]
        k, v = b.concat(2, past_k, k), b.concat(2, past_v, v)
    rows, cols = q.shape[2], k.shape[2]
    mask = None if given is None else _given_mask(ctx, b, given, q.dtype, cols)
    mask, causal = _limited(ctx, node, b, mask, q.dtype, rows, cols, past, valid)
    q, scale = scaled(ctx, node, b, q, k)
    softcap = float(ctx.attr(node, "softcap", 0.0) or 0.0)
    y = attend(b, q, k, v, mask, scale, causal, softcap)
    y = merge_heads(b, y) if flat else y
    if not wanted(node, 3):
        return [y, k, v]
    if causal:
        mask = _also(b, mask, visible(b, rows, cols, past), q.dtype)
    return [y, k, v, score_products(b, q, k, mask, scale, softcap, int(ctx.attr(node, "qk_matmul_output_mode", 0)))]


def _given_mask(ctx: ImportContext, b: Build, mask: Value, dtype: DType, cols: Dim) -> Value:
    """A mask of rank 4 that is added to scores. It may cover only the first keys; those beyond are not attended."""
    mask = additive(b, mask, dtype)
    short = mask.shape[-1]
    if short != cols and short != 1 and isinstance(short, int) and isinstance(cols, int):
        mask = b.concat(mask.type.rank - 1, mask, b.expand(b.const(-np.inf, dtype), (*mask.shape[:-1], cols - short)))
    elif ctx.stretch and short not in (cols, 1):
        mask = _padded(b, mask, cols)
    return _rank4(b, mask)


def _limited(ctx: ImportContext, node: NodeProto, b: Build, mask: Value | None, dtype: DType, rows: Dim, cols: Dim, past: Dim,
             valid: Value | None) -> tuple[Value | None, bool]:  # fmt: skip
    """The mask with the node's window, with the numbers of keys that are `valid` and, unless the op itself is to be causal (the second
    result), with what is later."""
    left, right = int(ctx.attr(node, "left_window_size", -1)), int(ctx.attr(node, "right_window_size", -1))
    causal = bool(ctx.attr(node, "is_causal", 0))
    offset: Value = b.dim(past, DType.I64)
    if valid is not None:
        offset = b.sub(b.cast(valid, DType.I64), b.dim(rows, DType.I64))
    if left >= 0:  # i + offset − left ≤ j, that is, not j ≤ i + offset − left − 1
        mask = _also(b, mask, b.emit(O.Not(), visible(b, rows, cols, b.sub(offset, left + 1))), dtype)
    if right >= 0:
        mask = _also(b, mask, visible(b, rows, cols, b.add(offset, right)), dtype)
    if valid is not None:
        n = b.cast(valid, DType.I64)
        limit = b.sub(b.reshape(n, (n.shape[0], 1, 1, 1)), b.const(1, DType.I64))
        mask = _also(b, mask, b.emit(O.LessEqual(), b.reshape(b.iota(cols), (1, 1, 1, cols)), limit), dtype)
    if not causal or (valid is None and cols - past == rows):  # the op aligns the last query with the last key
        return mask, causal
    return _also(b, mask, visible(b, rows, cols, past if valid is None else offset), dtype), False


def _also(b: Build, mask: Value | None, allowed: Value, dtype: DType) -> Value:
    """The mask where only those are seen that are allowed, too."""
    more = _rank4(b, additive(b, allowed, dtype))
    return more if mask is None else b.add(mask, more)


def score_products(b: Build, q: Value, k: Value, mask: Value | None, scale: float, softcap: float, mode: int) -> Value:
    """The products of queries and keys: as they are (0), capped (1), with the mask (2), or as weights (3)."""
    n, h, s, d = q.shape
    groups, cols = k.shape[1:3]
    q5 = b.reshape(q, (n, groups, h // groups, s, d))
    k5 = b.reshape(k, (n, groups, 1, cols, d))
    scores = b.reshape(b.mul(b.matmul(q5, b.swap_last(k5)), scale), (n, h, s, cols))
    if softcap and mode:
        scores = b.mul(b.emit(O.Tanh(), b.div(scores, softcap)), softcap)
    if mode < 2 or (mode == 2 and mask is None):
        return scores
    if mask is None:
        return b.emit(O.Softmax(3), scores)
    scores = b.add(scores, mask)
    if mode == 2:
        return scores
    none = b.emit(O.Equal(), b.reduce("max", mask, [3]), b.const(-np.inf, mask.dtype))  # rows that see no key
    return b.where(none, b.const(0, scores.dtype), b.emit(O.Softmax(3), scores))


def rotate(ctx: ImportContext, node: NodeProto, x: Value, cos: Value, sin: Value, positions: Value | None, interleaved: bool) -> Value:
    """Rotary embedding of [B, H, S, D] or [B, S, H·D], by tables of every position or of every token."""
    b = Build(ctx)
    if x.type.rank == 3:
        heads = int(ctx.attr(node, "num_heads", 0))
        if not heads and not node.domain:
            raise ctx.unsupported("RotaryEmbedding of a rank-3 input without num_heads")
        size = x.shape[2] // heads if heads else cos.shape[-1] * 2  # onnxruntime: tables of whole heads then
        y = b.reshape(x, (*x.shape[:2], heads or floordiv(x.shape[2], size), size))
    else:
        y = b.transpose(x, (0, 2, 1, 3))
    n, s, h, d = y.shape
    size = int(ctx.attr(node, "rotary_embedding_dim", 0) or 0) or d
    if positions is not None:
        if positions.type.rank == 1 or positions.shape == (1, 1):  # onnxruntime: the offset of the first token
            index = b.add(b.reshape(positions, (1, 1)), b.reshape(b.iota(s), (1, s)))
        else:
            index = positions
        index = ctx.checked(index, [0], [cos.shape[0] - 1])
        cos, sin = (b.emit(O.Gather(0), c, index) for c in (cos, sin))
    cos, sin = (b.reshape(c, (c.shape[0], s, 1, c.shape[-1])) for c in (cos, sin))
    turned, kept = b.slice(y, 3, 0, size), (b.slice(y, 3, size, d - size) if size != d else None)
    half = size // 2
    if not interleaved and isinstance(size, int) and cos.shape[0] in (1, n):
        out = b.emit(O.Rotary(), turned, *(b.slice(t, 3, 0, half) for t in (cos, sin)))
    else:
        if interleaved:
            x1, x2 = b.slice(turned, 3, 0, half, 2), b.slice(turned, 3, 1, half, 2)
        else:
            x1, x2 = b.slice(turned, 3, 0, half), b.slice(turned, 3, half, half)
        real, imag = b.sub(b.mul(cos, x1), b.mul(sin, x2)), b.add(b.mul(sin, x1), b.mul(cos, x2))
        if interleaved:
            real, imag = (b.reshape(z, (n, s, h, half, 1)) for z in (real, imag))
        out = b.reshape(b.concat(4, real, imag), (n, s, h, size)) if interleaved else b.concat(3, real, imag)
    if kept is not None:
        out = b.concat(3, out, kept)
    return b.reshape(out, x.shape) if x.type.rank == 3 else b.transpose(out, (0, 2, 1, 3))


def rotary_embedding(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, cos, sin = required(ctx, node, ins, 3)
    return [rotate(ctx, node, x, cos, sin, optional(ins, 3), bool(ctx.attr(node, "interleaved", 0)))]


def rotary_embedding_ms(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, positions, cos, sin = required(ctx, node, ins, 4)
    return [rotate(ctx, node, x, cos, sin, positions, bool(ctx.attr(node, "interleaved", 0)))]


def gelu_ms(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Gelu, BiasGelu (exact) and FastGelu (tanh), with an optional bias."""
    x = required(ctx, node, ins, 1)[0]
    b, bias = Build(ctx), optional(ins, 1)
    x = x if bias is None else b.add(x, bias)
    return [b.emit(O.Gelu(node.op_type == "FastGelu"), x)]


def quick_gelu(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """x·σ(alpha·x)."""
    (x,) = required(ctx, node, ins, 1)
    b = Build(ctx)
    return [b.mul(x, b.emit(O.Sigmoid(), b.mul(x, float(ctx.attr(node, "alpha", 1.702)))))]


def skip_layer_normalization(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """(Simplified)LayerNormalization of input + skip (+ bias); the sum is the fourth output."""
    x, skip, gamma = required(ctx, node, ins, 3)
    b, simplified = Build(ctx), node.op_type.startswith("SkipSimplified")
    if wanted(node, 1) or wanted(node, 2):
        raise ctx.unsupported(f"{node.op_type} with its statistics outputs")
    beta, bias = (None, optional(ins, 3)) if simplified else (optional(ins, 3), optional(ins, 4))
    total = b.add(x, skip)
    total = fitted(ctx, total if bias is None else b.add(total, bias), gamma)
    eps, axis = float(ctx.attr(node, "epsilon", 1e-12 if not simplified else 1e-5)), x.type.rank - 1
    if simplified:
        y = b.emit(O.RMSNorm(axis, eps), total, gamma)
    else:
        y = b.emit(O.LayerNorm(axis, eps), total, gamma, b.const(0, x.dtype) if beta is None else beta)
    return [y, y, y, total]


def tensor_scatter(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """A cache [B, …, max, …] with an update [B, …, n, …] written at each batch's index of `axis`, around the end if circular."""
    past, update = required(ctx, node, ins, 2)
    b, rank, at = Build(ctx), past.type.rank, optional(ins, 2)
    axis = int(ctx.attr(node, "axis", -2)) % rank
    mode = str(ctx.attr(node, "mode", "linear"))
    if axis == 0 or mode not in ("linear", "circular"):
        raise ctx.unsupported(f"TensorScatter along axis {axis} in mode {mode!r}")
    size, count = past.shape[axis], update.shape[axis]
    ctx.require_at_most(count, size)
    update = sized(ctx, update, (*past.shape[:axis], count, *past.shape[axis + 1 :]))
    step = b.along(b.iota(size), axis, rank)
    if at is not None:
        at = ctx.checked(at, (0,), (size - count if mode == "linear" else _HUGE,))
        at = sized(ctx, b.cast(at, DType.I64), past.shape[:1])
        step = b.sub(step, b.reshape(at, (past.shape[0], *(1 for _ in range(rank - 1)))))
    if mode == "circular":
        step = b.emit(O.Mod(), step, b.dim(size, DType.I64))
    length = b.dim(count, DType.I64)
    written = b.emit(O.And(), b.emit(O.GreaterEqual(), step, b.const(0, DType.I64)), b.emit(O.Less(), step, length))
    source = b.max(b.emit(O.Min(), step, b.sub(length, 1)), 0)
    return [b.where(written, b.emit(O.GatherElements(axis), update, b.expand(source, past.shape)), past)]


ATTENTION_HANDLERS: HandlerTable = {
    ("Attention", 23): attention,
    ("RotaryEmbedding", 23): rotary_embedding,
    ("TensorScatter", 24): tensor_scatter,
    ("com.microsoft::RotaryEmbedding", 1): rotary_embedding_ms,
    ("com.microsoft::Gelu", 1): gelu_ms,
    ("com.microsoft::BiasGelu", 1): gelu_ms,
    ("com.microsoft::FastGelu", 1): gelu_ms,
    ("com.microsoft::QuickGelu", 1): quick_gelu,
    ("com.microsoft::SkipLayerNormalization", 1): skip_layer_normalization,
    ("com.microsoft::SkipSimplifiedLayerNormalization", 1): skip_layer_normalization,
}
