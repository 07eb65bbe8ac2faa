"""Handlers of operators that onnxruntime has on GPUs only (com.microsoft): batches without padding, T5's bias, rotations, spectra."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from .....ir import Dim, DType, Value
from .....ir import ops as O
from ...compose import Build, optional, required
from ...context import HandlerTable, ImportContext
from ..signal import fourier
from .attention import attend_packed

Ins = list[Value | None]


def remove_padding(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """The tokens of x[B, S, H] one behind the other, of which each sequence has so many in front; where they were, [B, S], those of
    padding last; where each sequence begins, [B + 1]; and the longest one's length, [1]."""
    x, count = required(ctx, node, ins, 2)
    b, (batch, length, width) = Build(ctx), x.shape
    dtype, places = count.dtype, batch * length
    count = b.cast(ctx.checked(b.reshape(count, (batch,)), [0], [length]), DType.I64)
    ends = b.emit(O.CumSum(0), count)
    whole = b.reduce("sum", count, [0], False)
    total = ctx.size(whole)
    real = b.emit(O.Less(), b.reshape(b.iota(length), (1, length)), b.reshape(count, (batch, 1)))
    real = b.reshape(real, (places,))
    number = b.emit(O.CumSum(0), b.cast(real, DType.I64))
    place = b.iota(places)
    target = b.where(real, b.sub(number, 1), b.add(b.sub(place, number), whole))
    offset = b.emit(O.ScatterElements(0), b.expand(b.const([0], DType.I64), (places,)), target, place)
    rows = b.emit(O.Gather(0), b.reshape(x, (places, width)), b.slice(offset, 0, 0, total))
    starts = b.concat(0, b.const([0], DType.I64), ends)
    return [rows, *(b.cast(v, dtype) for v in (b.reshape(offset, (batch, length)), starts, b.reduce("max", count, [0])))]


def restore_padding(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """The rows of x[T, H] where they were, zeros elsewhere."""
    x, offset = required(ctx, node, ins, 2)
    return [_spread(ctx, Build(ctx), x, offset)]


def _spread(ctx: ImportContext, b: Build, x: Value, offset: Value) -> Value:
    """x[T, H] -> [B, S, H] by offsets [B, S] of all tokens, the first T of which are the rows of x."""
    (batch, length), (total, width) = offset.shape, x.shape
    places: Dim = batch * length
    at = b.reshape(b.cast(ctx.checked(offset, [0], [places - 1]), DType.I64), (places,))
    source = b.emit(O.ScatterElements(0), b.expand(b.const([0], DType.I64), (places,)), at, b.iota(places))
    rows = b.concat(0, x, b.expand(b.const([[0]], x.dtype), (1, width)))  # behind the tokens, a row of zeros
    return b.reshape(b.emit(O.Gather(0), rows, b.min(source, b.dim(total, DType.I64))), (batch, length, width))


def _attended(ctx: ImportContext, node: NodeProto, qkv: Value, offset: Value, starts: Value, extra: Value | None) -> Value:
    """Attention of tokens [T, Dq + Dk + Dv] within their sequences."""
    b, (batch, length) = Build(ctx), offset.shape
    starts = b.cast(starts, DType.I64)
    lengths = b.sub(b.slice(starts, 0, 1, batch), b.slice(starts, 0, 0, batch))
    (y,) = attend_packed(ctx, node, _spread(ctx, b, qkv, offset), lengths, None, extra, False)
    at = b.slice(b.reshape(b.cast(offset, DType.I64), (batch * length,)), 0, 0, qkv.shape[0])
    return b.emit(O.Gather(0), b.reshape(y, (batch * length, y.shape[2])), at)


def packed_attention(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Attention of x[T, H], with its projection."""
    x, w, bias, offset, starts = required(ctx, node, ins, 5)
    b = Build(ctx)
    return [_attended(ctx, node, b.add(b.matmul(x, w), bias), offset, starts, optional(ins, 5))]


def packed_multi_head_attention(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """The same behind projections: query, key and value [T, D], or all in one [T, heads, 3, D / heads]."""
    b, (query, key, value, bias, offset, starts, extra) = Build(ctx), (optional(ins, i) for i in range(7))
    if query is None or offset is None or starts is None or (key is None) != (value is None):
        raise ctx.unsupported("PackedMultiHeadAttention without its query, offsets or lengths")
    if key is not None and value is not None:
        qkv = b.concat(1, query, key, value)
    elif query.type.rank == 4:
        tokens, heads, three, size = query.shape
        qkv = b.reshape(b.transpose(query, (0, 2, 1, 3)), (tokens, three * heads * size))
    else:
        raise ctx.unsupported(f"PackedMultiHeadAttention of {query.type} without key and value")
    return [_attended(ctx, node, qkv if bias is None else b.add(qkv, bias), offset, starts, extra)]


def relative_position_bias(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """T5's bias [1, heads, queries, keys] by the distance of key and query; what the table holds is ordered by heads, then buckets.

    C. Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer", 2020: one bucket for each
    small distance, and growing ones up to max_distance.
    """
    table, queries, keys = required(ctx, node, ins, 3)
    b, (buckets, heads) = Build(ctx), table.shape
    farthest = int(ctx.attr(node, "max_distance"))
    if not isinstance(buckets, int) or buckets < 4 or farthest <= buckets // 2:
        raise ctx.unsupported(f"RelativePositionBias with a table {table.type} and max_distance={farthest}")
    rows, columns = (ctx.size(v) for v in (queries, keys))
    distance = b.sub(b.reshape(b.iota(columns), (1, columns)), b.reshape(b.iota(rows), (rows, 1)))
    first: Value | None = None
    half = buckets
    if ctx.attr(node, "is_bidirectional", 0):
        half = buckets // 2
        first = b.where(b.emit(O.Greater(), distance, b.const(0, DType.I64)), b.const(half, DType.I64), b.const(0, DType.I64))
        distance = b.emit(O.Abs(), distance)
    else:
        distance = b.max(b.emit(O.Neg(), distance), 0)
    exact = half // 2
    share = b.div(b.emit(O.Log(), b.div(b.cast(b.max(distance, 1), DType.F32), float(exact))), float(np.log(farthest / exact)))
    large = b.min(b.add(b.cast(b.mul(share, float(half - exact)), DType.I64), exact), half - 1)
    bucket = b.where(b.emit(O.Less(), distance, b.const(exact, DType.I64)), distance, large)
    bucket = bucket if first is None else b.add(bucket, first)
    y = b.emit(O.Gather(1), b.reshape(table, (heads, buckets)), bucket)
    return [b.reshape(y, (1, heads, rows, columns))]


def gemma_rotary_embedding(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """q·cos + q'·sin and k·cos + k'·sin of angles [B, S, D], for states [B, heads, S, D] and what turning by 90° makes of them."""
    angles, *states = required(ctx, node, ins, 5)
    b = Build(ctx)
    wide = b.reshape(angles, (angles.shape[0], 1, *angles.shape[1:]))
    cos, sin = (b.cast(b.emit(op, wide), states[0].dtype) for op in (O.Cos(), O.Sin()))
    return [b.add(b.mul(x, cos), b.mul(turned, sin)) for x, turned in (states[:2], states[2:])]


def rfft(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """The spectrum […, n // 2 + 1, 2] of x[…, n]."""
    (x,) = required(ctx, node, ins, 1)
    _check_spectrum(ctx, node)
    b = Build(ctx)
    return [fourier(ctx, b, b.reshape(x, (*x.shape, 1)), x.shape[-1], False, True)]


def irfft(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Real numbers […, n] of their spectrum […, n // 2 + 1, 2], for an even n; divided by n."""
    (x,) = required(ctx, node, ins, 1)
    _check_spectrum(ctx, node)
    b, n = Build(ctx), (x.shape[-2] - 1) * 2
    ctx.require_equal(x.shape[-1], 2)
    return [b.reshape(fourier(ctx, b, b.reshape(x, (*x.shape[:-1], 2)), n, True, True), (*x.shape[:-2], n))]


def _check_spectrum(ctx: ImportContext, node: NodeProto) -> None:
    given = {name: int(ctx.attr(node, name, default)) for name, default in (("signal_ndim", 1), ("onesided", 1), ("normalized", 0))}
    if given != {"signal_ndim": 1, "onesided": 1, "normalized": 0}:
        raise ctx.unsupported(f"{node.op_type} with {given}, expected one axis, one side, no normalization")


PACKED_MS_HANDLERS: HandlerTable = {
    ("com.microsoft::GemmaRotaryEmbedding", 1): gemma_rotary_embedding,
    ("com.microsoft::Irfft", 1): irfft,
    ("com.microsoft::PackedAttention", 1): packed_attention,
    ("com.microsoft::PackedMultiHeadAttention", 1): packed_multi_head_attention,
    ("com.microsoft::RelativePositionBias", 1): relative_position_bias,
    ("com.microsoft::RemovePadding", 1): remove_padding,
    ("com.microsoft::RestorePadding", 1): restore_padding,
    ("com.microsoft::Rfft", 1): rfft,
}
