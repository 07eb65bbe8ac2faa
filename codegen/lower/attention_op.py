"""What attention becomes before lowering: one op with a kernel, or, for other element types, two products and a softmax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...ir import Const, DType, Node, Op, TensorType, Value, const, lower, prod
from ...ir.ops import Add, Attention, Cast, Iota, LessEqual, MatMul, Mul, Reshape, Softmax, Transpose, Where
from ...ir.ops import DimTensor as Dims
from .apply import apply


@dataclass(frozen=True)
class SafeSoftmax(Softmax):
    """A row of −∞ only gives zeros, not NaN: no key is visible."""


@dataclass(frozen=True)
class BlockedAttention(Op):
    """Attention as `AttentionKernel` computes it: head sizes known, the mask float32 and transposed to [B|1, H|1, L|1, S|1],
    unless it lies `by_rows`: [B|1, H|1, S, L]."""

    scale: float
    causal: bool
    rounded: bool = False
    by_rows: bool = False

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return Attention(self.scale, self.causal).infer(types[:3])


WIDEST_SIXTEEN_BITS = 256  # elements of a head of 16-bit floats that there is a kernel for


def decompose_attention(op: Attention, ins: tuple[Value, ...], loc: tuple[str, ...], turned: dict[Value, Value],
                        kernels: frozenset[DType], by_rows: bool = False) -> Value:  # fmt: skip
    """The result of attention by ops that have kernels, attention of `kernels` among them.

    `turned`: masks that were transposed before, for layers that share one. `by_rows`: the kernel does that, where it can.
    """
    one = _blocked(op, ins, loc, turned, kernels, by_rows)
    return _scores(op, ins, loc) if one is None else one


def _blocked(op: Attention, ins: tuple[Value, ...], loc: tuple[str, ...], turned: dict[Value, Value],
             kernels: frozenset[DType], by_rows: bool) -> Value | None:  # fmt: skip
    """The op as one kernel, or None where there is none for it."""
    q, k, v, *masks = ins
    heads, kv_heads = q.shape[1], k.shape[1]
    width, value_width = q.shape[3], v.shape[3]
    if q.dtype not in kernels or not (isinstance(width, int) and isinstance(value_width, int) and min(width, value_width) > 0):
        return None
    if q.dtype is not DType.F32 and max(width, value_width) > WIDEST_SIXTEEN_BITS:
        return None
    if heads != kv_heads and not (isinstance(heads, int) and isinstance(kv_heads, int)):
        return None
    if k.shape[0] != v.shape[0] or kv_heads != v.shape[1] or kv_heads == 0:
        return None
    if by_rows and masks and not op.rounded:
        return Node.make(BlockedAttention(op.scale, op.causal, by_rows=True), (q, k, v, _float_of_rank_4(masks[0], loc)), loc).out
    for m in masks:
        if m not in turned:
            turned[m] = _transposed(_float_of_rank_4(m, loc), loc)
    return Node.make(BlockedAttention(op.scale, op.causal, op.rounded), (q, k, v, *(turned[m] for m in masks)), loc).out


def read_by_rows(attention: Node, uses: int, most: int) -> bool:
    """Whether attention should read its mask, of so many `uses`, as it lies, keys next to each other: every reader turns it in registers,
    `most` of which take less than storing it transposed once. Constants are transposed while compiling.
    """
    q, _k, _v, *masks = attention.inputs
    if not masks or isinstance(masks[0].node.op, Const):
        return False
    shape = (*(1,) * (4 - len(masks[0].shape)), *masks[0].shape)
    readers = prod(n for n, own in zip(q.shape[:2], shape[:2], strict=True) if own == 1) * uses
    return 1 not in shape[2:] and isinstance(readers, int) and readers <= most


def _float_of_rank_4(mask: Value, loc: tuple[str, ...]) -> Value:
    mask = mask if mask.dtype is DType.F32 else apply(Cast(DType.F32), loc, mask)
    shape = (*(1,) * (4 - len(mask.shape)), *mask.shape)
    return mask if shape == mask.shape else apply(Reshape(shape), loc, mask)


def _transposed(mask: Value, loc: tuple[str, ...]) -> Value:
    """[B, H, S, L] -> [B, H, L, S]."""
    shape = mask.shape
    if 1 in shape[2:]:
        return apply(Reshape((*shape[:2], shape[3], shape[2])), loc, mask)
    return apply(Transpose((0, 1, 3, 2)), loc, mask)


def _scores(op: Attention, ins: tuple[Value, ...], loc: tuple[str, ...]) -> Value:
    """Scores stored: for element types that the attention kernel lacks."""
    q, k, v = ins[:3]
    batch, heads, rows, size = q.shape
    kv_heads, columns = k.shape[1], k.shape[2]
    grouped = isinstance(heads, int) and isinstance(kv_heads, int) and heads != kv_heads
    if grouped:  # the query heads that share a key head become rows of one product
        q = apply(Reshape((batch, kv_heads, heads // kv_heads * rows, size)), loc, q)
    s = apply(MatMul(), loc, q, apply(Transpose((0, 1, 3, 2)), loc, k))
    s = apply(Mul(), loc, s, const(op.scale, s.dtype, loc))
    if grouped:
        s = apply(Reshape((s.shape[0], heads, rows, columns)), loc, s)
    if len(ins) == 4:
        s = apply(Add(), loc, s, ins[3] if ins[3].dtype is s.dtype else apply(Cast(s.dtype), loc, ins[3]))
    if op.causal:
        first = apply(Reshape((rows, 1)), loc, apply(Iota(rows), loc))
        last = apply(Add(), loc, first, apply(Dims((columns - rows,), ()), loc))
        seen = apply(LessEqual(), loc, apply(Iota(columns), loc), last)
        s = apply(Where(), loc, seen, s, const(-np.inf, s.dtype, loc))
    sees_all = len(ins) == 3 and (not op.causal or lower(columns - rows) >= 0)
    p = apply(Softmax(3) if sees_all else SafeSoftmax(3), loc, s)
    if grouped:
        p = apply(Reshape((p.shape[0], kv_heads, heads // kv_heads * rows, columns)), loc, p)
    y = apply(MatMul(), loc, p, v)
    return apply(Reshape((y.shape[0], heads, rows, v.shape[3])), loc, y) if grouped else y
