"""Handlers of onnxruntime's attention of decoders with shared caches (com.microsoft), and what generation does to scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from .....ir import Dim, DType, Value
from .....ir import ops as O
from ...compose import Build, optional, required, wanted
from ...context import HandlerTable, ImportContext
from ..attention import attend, merge_heads, rotate, scaled, score_products, split_heads, unpacked
from .masks import hidden, joined, key_mask

Ins = list[Value | None]


def decoder_masked_attention(ctx: ImportContext, node: NodeProto, ins: Ins, shared: bool | None = None) -> Sequence[Value]:
    """One new token against a cache: its own (self attention), or the keys of an encoder given with four axes (cross attention).

    A shared cache has room for later tokens: the new key goes to place past_sequence_length, and what is behind is not seen.
    `shared` is the node's attribute if not given. With a cache_indirection, cached key t of beam j is that of the beam which it says.
    """
    (q,) = required(ctx, node, ins, 1)
    b, heads = Build(ctx), int(ctx.attr(node, "num_heads"))
    k, v, mask, extra, past_k, past_v, past, beams, beam_of, bias = (optional(ins, i) for i in range(1, 11))
    cross = k is not None and k.type.rank == 4
    q4, k4, v4 = _projected(ctx, node, b, (q, k, v), bias, heads)
    seen: Value | None = None
    if not cross and past_k is not None and past_v is not None:
        if ctx.attr(node, "past_present_share_buffer", 0) if shared is None else shared:
            if past is None:
                raise ctx.unsupported(f"{node.op_type} with a shared cache but without past_sequence_length")
            at = b.reshape(b.cast(past, DType.I64), ())
            place = b.iota(past_k.shape[2])
            here = b.reshape(b.emit(O.Equal(), place, at), (1, 1, past_k.shape[2], 1))
            k4, v4 = b.where(here, k4, past_k), b.where(here, v4, past_v)
            seen = hidden(ctx, node, b, b.reshape(b.emit(O.LessEqual(), place, at), (1, 1, 1, past_k.shape[2])), q.dtype, -np.inf)
        else:
            k4, v4 = b.concat(2, past_k, k4), b.concat(2, past_v, v4)
    presents = [k4, v4]
    if beam_of is not None and beams is not None and past is not None and not cross:
        k4, v4 = (_of_beams(b, x, beam_of, past) for x in (k4, v4))
    if mask is not None:
        mask = _padded(b, mask, k4.shape[2]) if seen is not None else mask
        seen = joined(b, seen, key_mask(ctx, node, b, mask, q4, k4.shape[2]))
    if extra is not None and extra.shape[3] != k4.shape[2] and seen is not None:
        extra = _padded_columns(b, extra, k4.shape[2])
    total = joined(b, seen, extra)
    q4, scale = scaled(ctx, node, b, q4, k4)
    outs = [merge_heads(b, attend(b, q4, k4, v4, total, scale)), *presents]
    if wanted(node, 3):
        outs.append(score_products(b, q4, k4, total, scale, 0.0, 0 if total is None else 2))
    return outs


def _projected(
    ctx: ImportContext, node: NodeProto, b: Build, given: tuple[Value, Value | None, Value | None], bias: Value | None, heads: int
) -> list[Value]:
    """Queries, keys and values [B, H, S, D] with their parts of the bias; given all in the first, one by one, or as heads already."""
    q, k, v = given
    if k is not None and v is not None:
        parts = [q, k, v]
    elif k is None:
        width = q.shape[2] // 3
        if v is not None or not isinstance(q.shape[2], int) or (bias is not None and bias.shape[0] != q.shape[2]):
            raise ctx.unsupported(f"{node.op_type} of a packed query {q.type}")
        parts = [b.slice(q, 2, at * width, width) for at in range(3)]
    else:
        raise ctx.unsupported(f"{node.op_type} without values")
    start: Dim = 0
    found = []
    for x in parts:
        if x.type.rank == 3:
            if bias is not None:
                x = b.add(x, b.slice(bias, 0, start, x.shape[2]))
            start = start + x.shape[2]
            x = split_heads(b, x, heads)
        found.append(x)
    return found


def _padded(b: Build, mask: Value, keys: Dim) -> Value:
    """A mask [B, L] with ones up to `keys`."""
    n, length = mask.shape
    return mask if length == keys else b.concat(1, mask, b.expand(b.const(1, mask.dtype), (n, keys - length)))


def _padded_columns(b: Build, bias: Value, keys: Dim) -> Value:
    return b.concat(3, bias, b.expand(b.const(0, bias.dtype), (*bias.shape[:3], keys - bias.shape[3])))


def _of_beams(b: Build, x: Value, beam_of: Value, past: Value) -> Value:
    """x[B, H, L, D] with the rows of each place before `past` from the beam that beam_of[batch, beam, place] names."""
    n, h, length, d = x.shape
    groups, width, _ = beam_of.shape
    index = b.cast(b.slice(beam_of, 2, 0, length), DType.I64)
    cached = b.emit(O.Less(), b.reshape(b.iota(length), (1, 1, length)), b.reshape(b.cast(past, DType.I64), ()))
    index = b.where(cached, index, b.reshape(b.iota(width), (1, width, 1)))
    first = b.mul(b.reshape(b.iota(groups), (groups, 1, 1)), b.dim(width, DType.I64))
    row = b.reshape(b.add(index, first), (n, 1, length))
    flat = b.add(b.mul(row, b.dim(h, DType.I64)), b.reshape(b.iota(h), (1, h, 1)))
    flat = b.add(b.mul(flat, b.dim(length, DType.I64)), b.reshape(b.iota(length), (1, 1, length)))
    return b.emit(O.Gather(0), b.reshape(x, (n * h * length, d)), flat)


def sparse_attention(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Grouped causal heads with a shared cache, where only blocks of a mask in CSR form are seen; layouts repeat over heads."""
    q, past_k, past_v = (optional(ins, i) for i in (0, 3, 4))
    k, v, cos, sin = (optional(ins, i) for i in (1, 2, 9, 10))
    lengths = optional(ins, 8)
    b, heads, groups = Build(ctx), int(ctx.attr(node, "num_heads")), int(ctx.attr(node, "kv_num_heads"))
    block = int(ctx.attr(node, "sparse_block_size"))
    starts, columns = (
        ctx.require_known(optional(ins, i), f"the block {what} of SparseAttention") for i, what in ((5, "rows"), (6, "columns"))
    )
    if q is None or past_k is None or past_v is None or lengths is None:
        raise ctx.unsupported("SparseAttention without its cache or its lengths")
    n, s, _ = q.shape
    if k is None or v is None:
        q, k, v = unpacked(b, q, heads, groups)
    q, k, v = split_heads(b, q, heads), split_heads(b, k, groups), split_heads(b, v, groups)
    ends = b.reshape(b.cast(lengths, DType.I64), (n, 1))
    # A prompt begins at 0; a single token goes behind the others of its sequence.
    known = ctx.dims(optional(ins, 7))
    prompt = known is not None and known[0] == s
    first = b.expand(b.const([[0]], DType.I64), (n, 1)) if prompt else b.sub(ends, b.dim(s, DType.I64))
    place = b.add(first, b.reshape(b.iota(s), (1, s)))
    if ctx.attr(node, "do_rotary", 0):
        if cos is None or sin is None:
            raise ctx.unsupported("SparseAttention with do_rotary but without its tables")
        q, k = (rotate(ctx, node, x, cos, sin, place, bool(ctx.attr(node, "rotary_interleaved", 0))) for x in (q, k))
    keys = past_k.shape[2]
    j = b.reshape(b.iota(keys), (1, keys))
    source = b.sub(j, first)
    fresh = b.emit(O.And(), b.emit(O.GreaterEqual(), source, b.const(0, DType.I64)), b.emit(O.Less(), source, b.dim(s, DType.I64)))
    index = b.min(b.max(source, 0), b.dim(s - 1, DType.I64))
    k, v = (_placed(b, past, x, index, fresh) for past, x in ((past_k, k), (past_v, v)))
    blocks = _blocks(ctx, starts, columns)  # [layouts, rows, columns]
    table = b.const(np.tile(blocks, (heads // len(blocks), 1, 1)).ravel(), DType.BOOL)
    side, span = blocks.shape[1], b.const(block, DType.I64)
    row = b.reshape(b.min(b.div(place, span), side - 1), (n, 1, s, 1))
    column = b.reshape(b.min(b.div(j, span), side - 1), (1, 1, 1, keys))
    head = b.reshape(b.mul(b.iota(heads), b.const(side * side, DType.I64)), (1, heads, 1, 1))
    keep = b.emit(O.Gather(0), table, b.add(head, b.add(b.mul(row, side), column)))
    keep = b.emit(O.And(), keep, b.emit(O.LessEqual(), b.reshape(j, (1, 1, 1, keys)), b.reshape(place, (n, 1, s, 1))))
    q, scale = scaled(ctx, node, b, q, k)
    mask = b.where(keep, b.const(0, q.dtype), b.const(-np.inf, q.dtype))
    return [merge_heads(b, attend(b, q, k, v, mask, scale)), k, v]


def _placed(b: Build, past: Value, new: Value, index: Value, fresh: Value) -> Value:
    """The cache with the new rows: row j is new[index[b, j]] where fresh[b, j]."""
    n, groups, s, size = new.shape
    keys = past.shape[2]
    lead = b.mul(b.reshape(b.iota(n * groups), (n, groups, 1)), b.dim(s, DType.I64))
    rows = b.emit(O.Gather(0), b.reshape(new, (n * groups * s, size)), b.add(lead, b.reshape(index, (n, 1, keys))))
    return b.where(b.reshape(fresh, (n, 1, keys, 1)), rows, past)


def _blocks(ctx: ImportContext, starts: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Boolean [layouts, blocks, blocks] of a CSR mask."""
    if starts.ndim != 2 or columns.ndim != 2 or len(starts) != len(columns):
        raise ctx.unsupported(f"SparseAttention with rows {list(starts.shape)} and columns {list(columns.shape)}")
    layouts, side = starts.shape[0], starts.shape[1] - 1
    out = np.zeros((layouts, side, side), bool)
    for layout, row in np.ndindex(layouts, side):
        of_row = columns[layout, starts[layout, row] : starts[layout, row + 1]]
        if of_row.size and not (of_row.min() >= 0 and of_row.max() < side):
            raise ctx.unsupported(f"SparseAttention with a block column {of_row.max()} of {side}")
        out[layout, row, of_row] = True
    return out


def ngram_repeat_block(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Scores of tokens that would repeat an n-gram of the sequence become −∞."""
    ids, score = required(ctx, node, ins, 2)
    b, size = Build(ctx), int(ctx.attr(node, "ngram_size"))
    if size < 1:
        raise ctx.unsupported(f"NGramRepeatBlock of {size} tokens")
    n, length = ids.shape
    if isinstance(length, int) and length < size:
        return [score]  # no n-gram yet
    count = length - size + 1
    same: Value | None = None
    for i in range(size - 1):
        at = b.emit(O.Equal(), b.slice(ids, 1, i, count), b.slice(ids, 1, length - size + 1 + i, 1))
        same = at if same is None else b.emit(O.And(), same, at)
    low, high = b.const(-np.inf, score.dtype), b.const(np.inf, score.dtype)
    limit = b.expand(low, (n, count)) if same is None else b.where(same, low, high)
    target = b.slice(ids, 1, size - 1, count)
    return [b.emit(O.ScatterElements(1, "min"), score, target, limit)]


DECODING_MS_HANDLERS: HandlerTable = {
    ("com.microsoft::DecoderMaskedMultiHeadAttention", 1): decoder_masked_attention,
    ("com.microsoft::NGramRepeatBlock", 1): ngram_repeat_block,
    ("com.microsoft::SparseAttention", 1): sparse_attention,
}
