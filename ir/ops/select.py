"""Ops whose results depend on the order of values or on how many of them there are; sizes stay upper bounds.

Composed with `Graph.sizes` they make NonZero, Compress, Unique and NonMaxSuppression: count first, then slice to the count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import VerifyError
from ..dtypes import DType
from ..op import Op
from ..types import TensorType

SORTABLE = (DType.F32, DType.F64, DType.I8, DType.I16, DType.I32, DType.I64, DType.U8, DType.U16, DType.U32, DType.U64)


@dataclass(frozen=True)
class Positions(Op):
    """Where a BOOL vector is true, in order: (positions I64 [n], of which the first `count` mean something, count I64 [1])."""

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (mask,) = types
        if mask.dtype is not DType.BOOL or mask.rank != 1:
            raise VerifyError(f"positions of {mask}", expected="a bool vector")
        return (TensorType(DType.I64, mask.shape), TensorType(DType.I64, (1,)))

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        found = np.flatnonzero(args[0])
        return (np.pad(found, (0, args[0].size - found.size)), np.array([found.size]))


@dataclass(frozen=True)
class Sort(Op):
    """The order that sorts the last axis, stable, as I64 indices; NaN counts as the largest number."""

    descending: bool = False

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = types
        if x.rank < 1 or x.dtype not in SORTABLE:
            raise VerifyError(f"sort of {x}", expected=f"an axis, and one of {', '.join(d.value for d in SORTABLE)}")
        return (TensorType(DType.I64, x.shape),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x = np.asarray(args[0])
        if not self.descending:
            return (np.argsort(x, axis=-1, kind="stable"),)
        # descending and stable: ranks of distinct values, negated
        ranks = np.unique(x, return_inverse=True)[1].reshape(x.shape)
        return (np.argsort(-ranks, axis=-1, kind="stable"),)


@dataclass(frozen=True)
class Suppress(Op):
    """Greedy non-maximum suppression of each class of each batch.

    Operands (boxes F32 [B, N, 4], scores F32 [B, C, N], most I64 scalar, overlap F32 scalar, least F32 scalar): boxes in
    descending order of scores above `least` are taken, at most `most`, unless one taken before overlaps (intersection over
    union) by more than `overlap`. Boxes are two corners (y, x, y, x), or center, width and height if `center`.
    Results: (boxes taken I64 [B, C, N], the first `count` mean something, count I64 [B, C]).
    """

    center: bool = False

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        boxes, scores, most, overlap, least = types
        fits = boxes.rank == scores.rank == 3 and boxes.dtype is scores.dtype is overlap.dtype is least.dtype is DType.F32
        if not fits or boxes.shape[2] != 4 or most.dtype is not DType.I64 or any(t.numel != 1 for t in (most, overlap, least)):
            raise VerifyError(f"suppress of {boxes} by {scores}", expected="boxes f32 [B, N, 4], scores f32 [B, C, N], scalars")
        return (TensorType(DType.I64, scores.shape), TensorType(DType.I64, scores.shape[:2]))

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        boxes, scores = args[0], args[1]
        most, overlap, least = int(args[2].ravel()[0]), np.float32(args[3].ravel()[0]), np.float32(args[4].ravel()[0])
        taken = np.zeros(scores.shape, np.int64)
        count = np.zeros(scores.shape[:2], np.int64)
        for b, c in np.ndindex(*scores.shape[:2]):
            row: list[int] = []
            for i in np.argsort(-scores[b, c], kind="stable"):
                if len(row) >= most or not scores[b, c, i] > least:
                    break
                if not any(_overlap(boxes[b, i], boxes[b, j], self.center) > overlap for j in row):
                    row.append(int(i))
            taken[b, c, : len(row)], count[b, c] = row, len(row)
        return taken, count


def _overlap(a: np.ndarray, b: np.ndarray, center: bool) -> np.float32:
    """Intersection over union, 0 for boxes without area."""
    (a0, a1), (b0, b1) = (_corners(x, center) for x in (a, b))
    inter = np.prod(np.maximum(np.minimum(a1, b1) - np.maximum(a0, b0), np.float32(0)), dtype=np.float32)
    areas = np.prod(a1 - a0, dtype=np.float32), np.prod(b1 - b0, dtype=np.float32)
    union = areas[0] + areas[1] - inter
    return np.float32(inter / union) if min(*areas) > 0 and union > 0 else np.float32(0)


def _corners(x: np.ndarray, center: bool) -> tuple[np.ndarray, np.ndarray]:
    if center:
        half = x[2:] * np.float32(0.5)
        return x[:2] - half, x[:2] + half
    return np.minimum(x[:2], x[2:]), np.maximum(x[:2], x[2:])
