"""TopK: the first few kept in order while a row is read, or sorted from what may be among them; one by a reduction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import Dim, DType, Op, TensorType, Value
from ...ir.ops import ArgReduce, Cast, GatherElements, TopK, Transpose
from .apply import apply


@dataclass(frozen=True)
class TopOrder(Op):
    """Indices of the first `k` elements of each row in (descending) order, I64 [..., k]."""

    k: Dim
    descending: bool

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (TensorType(DType.I64, (*types[0].shape[:-1], self.k)),)


def decompose_top_k(op: TopK, x: Value, loc: tuple[str, ...]) -> Sequence[Value]:
    """The first k in order, and what stands there."""
    rank = len(x.shape)
    if op.k == 1 and (op.largest or not x.dtype.is_float):  # NaN is the first of both, and the largest
        best = apply(ArgReduce("argmax" if op.largest else "argmin", op.axis, True), loc, x)
        return [apply(GatherElements(op.axis), loc, x, best), best]
    perm = (*(a for a in range(rank) if a != op.axis), op.axis)
    back = tuple(perm.index(a) for a in range(rank))
    rows = x if perm == tuple(range(rank)) else apply(Transpose(perm), loc, x)
    narrow = x.dtype.is_float and x.dtype.itemsize < 4
    keys = apply(Cast(DType.F32 if narrow else DType.U8), loc, rows) if narrow or x.dtype is DType.BOOL else rows
    best = apply(TopOrder(op.k, op.largest), loc, keys)
    values = apply(GatherElements(rank - 1), loc, rows, best)
    return [v if back == tuple(range(rank)) else apply(Transpose(back), loc, v) for v in (values, best)]
