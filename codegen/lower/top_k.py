"""TopK: the first few kept in order while a line is read, or sorted from what may be among them; one by a reduction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import Dim, DType, Op, Shape, TensorType, Value, prod, upper
from ...ir.ops import ArgReduce, Cast, GatherElements, TopK, Transpose
from ..kernel import KEPT
from .apply import apply

_LANES = 16  # of 32 bits, in a vector
_SHORT = 200  # elements of lines that are better turned than looked at one by one


@dataclass(frozen=True)
class TopOrder(Op):
    """Indices of the first `k` elements along an axis in (descending) order, I64."""

    k: Dim
    descending: bool
    axis: int = -1

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        shape, axis = types[0].shape, self.axis % len(types[0].shape)
        return (TensorType(DType.I64, (*shape[:axis], self.k, *shape[axis + 1 :])),)


def decompose_top_k(op: TopK, x: Value, loc: tuple[str, ...], abreast: bool) -> Sequence[Value]:
    """The first k in order, and what stands there. `abreast`: lines may be looked at side by side, where that is quicker."""
    if op.k == 1 and (op.largest or not x.dtype.is_float):  # NaN is the first of both, and the largest
        best = apply(ArgReduce("argmax" if op.largest else "argmin", op.axis, True), loc, x)
        return [apply(GatherElements(op.axis), loc, x, best), best]
    narrow = x.dtype.is_float and x.dtype.itemsize < 4
    comparable = DType.F32 if narrow else DType.U8 if x.dtype is DType.BOOL else x.dtype
    keys = x if x.dtype is comparable else apply(Cast(comparable), loc, x)
    to = _axis_to(x.shape, op.axis, op.k) if abreast else len(x.shape) - 1
    others = [a for a in range(len(x.shape)) if a != op.axis]
    perm = (*others[:to], op.axis, *others[to:])
    back = tuple(perm.index(a) for a in range(len(perm)))
    best = _moved(apply(TopOrder(op.k, op.largest, to), loc, _moved(keys, perm, loc)), back, loc)
    return [apply(GatherElements(op.axis), loc, x, best), best]


def _moved(x: Value, perm: tuple[int, ...], loc: tuple[str, ...]) -> Value:
    return x if perm == tuple(range(len(perm))) else apply(Transpose(perm), loc, x)


def _axis_to(shape: Shape, axis: int, k: Dim) -> int:
    """Where the axis goes: short lines are turned until enough of them lie side by side to fill the lanes of a vector."""
    size, columns, lines = (upper(d) for d in (shape[axis], prod(shape[axis + 1 :]), prod(shape[:axis] + shape[axis + 1 :])))
    if upper(k) > KEPT:
        return len(shape) - 1
    if columns >= _LANES or (columns > 1 and size <= 32 * columns):
        return axis
    return 0 if lines >= _LANES and size <= _SHORT else len(shape) - 1
