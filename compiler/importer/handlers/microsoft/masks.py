"""Masks over keys as onnxruntime's attention operators take them, made additive."""

from __future__ import annotations

from onnx import NodeProto

from .....ir import Dim, DType, Expr, Value
from .....ir import ops as O
from ...compose import Build
from ...context import ImportContext

_FILL = -10000.0  # what masked scores get in these operators, unless mask_filter_value says otherwise


def hidden(ctx: ImportContext, node: NodeProto, b: Build, keep: Value, dtype: DType, fill: float | None = None) -> Value:
    """Zero where `keep`, `fill` or else the node's filter value elsewhere."""
    given = ctx.attr(node, "mask_filter_value", None) if fill is None else fill
    return b.where(keep, b.const(0, dtype), b.const(_FILL if given is None else float(given), dtype))


def key_mask(ctx: ImportContext, node: NodeProto, b: Build, mask: Value, q: Value, keys: Dim) -> Value:
    """A mask over keys, additive and broadcasting to [B, H, S, L]: lengths [B], lengths and starts [2·B], or 0/1 of rank 2 to 4.

    Of 3·B + 2 numbers the first B are the lengths, as MultiHeadAttention's kernels for GPUs have it. A length that may be any of
    these, as where the file names the batch of every input differently, has to be B.
    """
    batch, rows = q.shape[0], q.shape[2]
    at = b.reshape(b.iota(keys), (1, 1, 1, keys))
    match mask.type.rank:
        case 1:
            numbers = mask.shape[0]
            if numbers not in (batch, 2 * batch, 3 * batch + 2) and (isinstance(numbers, Expr) or isinstance(batch, Expr)):
                ctx.require_equal(numbers, batch)
                mask = b.reshape(mask, (numbers := batch,))
            known = b.cast(mask, DType.I64)
            ends = b.reshape(b.slice(known, 0, 0, batch), (batch, 1, 1, 1))
            keep = b.emit(O.Less(), at, ends)
            if numbers == batch * 2 and numbers != batch:
                starts = b.reshape(b.slice(known, 0, batch, batch), (batch, 1, 1, 1))
                keep = b.emit(O.And(), keep, b.emit(O.GreaterEqual(), at, starts))
            elif numbers not in (batch, 3 * batch + 2):
                raise ctx.unsupported(f"{node.op_type} with a mask of shape {list(map(str, mask.shape))}")
        case 2:
            keep = b.reshape(b.cast(mask, DType.BOOL), (mask.shape[0], 1, 1, mask.shape[1]))
        case 3:
            keep = b.reshape(b.cast(mask, DType.BOOL), (mask.shape[0], 1, *mask.shape[1:]))
        case 4:  # of the longest sequence: rows of the last queries
            past = keys - rows
            part = b.slice(b.slice(mask, 2, past, rows), 3, 0, keys)
            keep = b.cast(part, DType.BOOL)
        case rank:
            raise ctx.unsupported(f"{node.op_type} with a mask of rank {rank}")
    return hidden(ctx, node, b, keep, q.dtype)


def joined(b: Build, *masks: Value | None) -> Value | None:
    total = None
    for m in masks:
        if m is not None:
            total = m if total is None else b.add(total, m)
    return total
