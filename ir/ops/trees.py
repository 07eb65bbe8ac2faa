"""Decision trees as tables: every tree is walked the same number of steps, by gathers, or all of its nodes are asked.

Walking: node i of the table sends an element left to child[i], or right to child[i] + 1 where x[feature[i]] > threshold[i]; a NaN goes
left. A leaf has itself as its child and +∞ as its threshold, so that walking on stays there.

Asking all (C. Lucchese et al., QuickScorer, 2015): a tree's leaves are bits, the leftmost the lowest. A node whose answer is
"right" clears the bits of all leaves to its left; the lowest one that is left is where walking would end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import VerifyError
from ..dtypes import DType
from ..op import Op
from ..types import TensorType


def _walk(depth: int, x: np.ndarray, node: np.ndarray, feature: np.ndarray, threshold: np.ndarray, child: np.ndarray) -> np.ndarray:
    """Nodes reached from node[N, ...] by rows of x[N, F]."""
    row = np.arange(len(x)).reshape(-1, *(1,) * (node.ndim - 1))
    for _ in range(depth):
        node = child[node] + (x[row, feature[node]] > threshold[node])
    return node


def _check(op: Op, types: Sequence[TensorType], value: DType | None) -> None:
    x, root, feature, threshold, child, last = types
    fits = x.rank == 2 and x.dtype in (DType.F32, DType.F64) and threshold.dtype is x.dtype and value in (None, last.dtype)
    tables = all(t.rank == 1 for t in (feature, threshold, child, last))
    if not fits or not tables or any(t.dtype is not DType.I32 for t in (root, feature, child)):
        raise VerifyError(f"{op.name}: operands {', '.join(map(str, types))}", expected="x[N, F], i32 roots, and tables of nodes")


@dataclass(frozen=True)
class TreeSum(Op):
    """(x[N, F], root i32[K, T], feature i32, threshold, child i32, value f32|f64: tables of nodes, start [N, K]?) -> [N, K].

    The sum ("sum"), least ("min") or greatest ("max") of the values of the leaves that T trees reach in `depth` steps, and of
    `start`, which comes first: a sum over several groups of trees rounds as one over all trees does.
    """

    depth: int
    kind: str = "sum"

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        if self.kind not in ("sum", "min", "max"):
            raise VerifyError(f"treesum: kind {self.kind!r}", expected="sum, min or max")
        tables = types[:6]
        _check(self, tables, tables[-1].dtype if tables[-1].dtype.is_float else DType.F32)
        if types[1].rank != 2:
            raise VerifyError(f"treesum: roots {types[1]}", expected="[targets, trees]")
        out = TensorType(tables[-1].dtype, (types[0].shape[0], types[1].shape[0]))
        if list(types[6:]) not in ([], [out]):
            raise VerifyError(f"treesum: start {', '.join(map(str, types[6:]))}", expected=str(out))
        return (out,)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, root, feature, threshold, child, value, *first = args
        start = np.broadcast_to(root, (len(x), *root.shape))
        reached = value[_walk(self.depth, x, start, feature, threshold, child)]
        reached = np.concatenate([*(f[..., None] for f in first), reached], axis=2)
        return (getattr(reached, self.kind)(axis=2).astype(value.dtype),)


@dataclass(frozen=True)
class TreeLeaves(Op):
    """(x[N, F], root i32[T], feature i32, threshold, child i32, leaf i32: tables of nodes) -> i32[N, T]: numbers of leaves."""

    depth: int

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check(self, types, DType.I32)
        if types[1].rank != 1:
            raise VerifyError(f"treeleaves: roots {types[1]}", expected="[trees]")
        return (TensorType(DType.I32, (types[0].shape[0], types[1].shape[0])),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, root, feature, threshold, child, leaf = args
        start = np.broadcast_to(root, (len(x), *root.shape))
        return (leaf[_walk(self.depth, x, start, feature, threshold, child)],)


def _landed(x: np.ndarray, feature: np.ndarray, threshold: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The leaves I64[N, ...] that rows of x[N, F] land on, by nodes [J, ...]."""
    left = np.bitwise_and.reduce(np.where(x[:, feature] > threshold, mask, mask.dtype.type(-1)), axis=1)
    return np.log2(np.abs((left & -left).astype(np.float64))).astype(np.int64)


def _check_masks(op: Op, types: Sequence[TensorType]) -> None:
    x, turned, feature, threshold, mask, last = types
    asked = {feature.shape, threshold.shape, mask.shape}
    fits = x.rank == 2 and x.dtype in (DType.F32, DType.F64) and turned == TensorType(x.dtype, x.shape[::-1]) and threshold.dtype is x.dtype
    tables = feature.dtype is DType.I32 and mask.dtype in (DType.I32, DType.I64) and len(asked) == 1 and last.shape[1:] == feature.shape[1:]
    leaves = last.shape[0] if last.shape else None
    if not fits or not tables or not isinstance(leaves, int) or leaves > 8 * mask.dtype.itemsize:
        found = ", ".join(map(str, types))
        raise VerifyError(f"{op.name}: operands {found}", expected="x[N, F], x[F, N], tables of nodes, and as many leaves as bits")


@dataclass(frozen=True)
class AskedTreeSum(Op):
    """(x[N, F], the same [F, N], feature i32[J, K, T], threshold, mask i32|i64, value f32|f64[L, K, T], start [N, K]?) -> [N, K].

    As TreeSum, of trees of J nodes and up to L leaves.
    """

    kind: str = "sum"

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_masks(self, types[:6])
        value = types[5]
        if self.kind not in ("sum", "min", "max") or value.rank != 3 or not value.dtype.is_float:
            raise VerifyError(f"{self.name}: {self.kind} of {value}", expected="the sum, min or max of floats [leaves, targets, trees]")
        out = TensorType(value.dtype, (types[0].shape[0], value.shape[1]))
        if list(types[6:]) not in ([], [out]):
            raise VerifyError(f"{self.name}: start {', '.join(map(str, types[6:]))}", expected=str(out))
        return (out,)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, _, feature, threshold, mask, value, *first = args
        target, tree = np.indices(value.shape[1:])
        reached = value[_landed(x, feature, threshold, mask), target, tree]
        reached = np.concatenate([*(f[..., None] for f in first), reached], axis=2)
        return (getattr(reached, self.kind)(axis=2).astype(value.dtype),)


@dataclass(frozen=True)
class AskedTreeLeaves(Op):
    """(x[N, F], the same [F, N], feature i32[J, T], threshold, mask i32|i64, leaf i32[L, T]) -> i32[N, T]: numbers of leaves."""

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_masks(self, types)
        leaf = types[5]
        if leaf.rank != 2 or leaf.dtype is not DType.I32:
            raise VerifyError(f"{self.name}: leaves {leaf}", expected="i32[leaves, trees]")
        return (TensorType(DType.I32, (types[0].shape[0], leaf.shape[1])),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, _, feature, threshold, mask, leaf = args
        return (leaf[_landed(x, feature, threshold, mask), np.arange(leaf.shape[1])],)
