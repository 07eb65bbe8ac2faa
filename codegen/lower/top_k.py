"""TopK of rows too long for counting ranks: the first few kept in order while a row is read, or the row sorted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import Dim, DType, Op, TensorType, Value
from ...ir.ops import Cast, GatherElements, TopK, Transpose
from .apply import apply

COUNTED = 128  # longest rows whose ranks are counted, which is n² comparisons in vectors


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
    perm = (*(a for a in range(rank) if a != op.axis), op.axis)
    back = tuple(perm.index(a) for a in range(rank))
    rows = x if perm == tuple(range(rank)) else apply(Transpose(perm), loc, x)
    narrow = x.dtype.is_float and x.dtype.itemsize < 4
    keys = apply(Cast(DType.F32 if narrow else DType.U8), loc, rows) if narrow or x.dtype is DType.BOOL else rows
    best = apply(TopOrder(op.k, op.largest), loc, keys)
    values = apply(GatherElements(rank - 1), loc, rows, best)
    return [v if back == tuple(range(rank)) else apply(Transpose(back), loc, v) for v in (values, best)]
