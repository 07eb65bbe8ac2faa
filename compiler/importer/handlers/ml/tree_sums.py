"""Sums of the weights of the leaves that rows of x reach, by target: a forest as ops of `ir/ops/trees.py`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import NodeProto

from .....errors import OnnxImportError
from .....ir import DType, Value
from .....ir import ops as O
from ...compose import Build
from ...context import ImportContext
from .forest import Forest
from .tree_tables import Asked, MalformedTree, Tables, flatten

_NEUTRAL = {"sum": 0.0, "min": np.inf, "max": -np.inf}
_COMBINED = {"sum": np.add, "min": np.minimum, "max": np.maximum}
_MOST_WEIGHTS = 1 << 27  # numbers in a table of the weights of leaves


class LeafSums:
    """The sums of a forest over rows of x [N, features]; `dtype` is theirs. Raises OnnxImportError where the forest does not fit x."""

    def __init__(self, ctx: ImportContext, node: NodeProto, x: Value, forest: Forest, targets: int, dtype: DType) -> None:
        self.ctx, self.node, self.targets, self.dtype = ctx, node, targets, dtype
        self.b = Build(ctx)
        self.forest = forest
        width, features = x.shape[1], forest.nodes.feature
        used = int(features.max(initial=0))
        if (features < 0).any() or (isinstance(width, int) and used >= width):
            raise OnnxImportError(f"{node.op_type}: feature {used} of {width}", expected="features of the input", loc=", ".join(ctx.loc))
        if not isinstance(width, int):
            raise ctx.unsupported(f"{node.op_type} of {x.type}, whose number of features is unknown")
        if ((forest.target < 0) | (forest.target >= targets)).any():
            raise OnnxImportError(f"{node.op_type}: a target beyond {targets}", expected="fewer", loc=", ".join(ctx.loc))
        try:
            self.tables = flatten(forest.nodes, width, x.dtype.np)
        except MalformedTree as e:
            raise OnnxImportError(f"{node.op_type}: {e}", expected="trees", loc=", ".join(ctx.loc)) from None
        self.x = self._both_signs(x, width)

    def _both_signs(self, x: Value, width: int) -> Value:
        """x, −x, or both beside each other, as the tables need."""
        used = [t.feature[t.inner] for t in self.tables]
        if not any((f >= width).any() for f in used):
            return x
        minus = self.b.emit(O.Neg(), x)
        if any((f < width).any() for f in used):
            return self.b.concat(1, x, minus)
        self.tables = [replace(t, feature=np.maximum(t.feature - width, 0)) for t in self.tables]
        return minus

    def _table(self, t: Tables, more: int = 0) -> list[Value]:
        """Features, thresholds and children, with `more` leaves behind them."""
        const, size = self.ctx.const, len(t.child)
        return [
            const(np.append(t.feature, np.zeros(more)).astype(np.int32)),
            const(np.append(t.threshold, np.full(more, np.inf)).astype(self.x.dtype.np)),
            const(np.append(t.child, np.arange(size, size + more)).astype(np.int32)),
        ]

    def _asked(self, t: Tables, asked: Asked, tree: np.ndarray) -> list[Value]:
        """Rows, the same turned, and the nodes of some trees; −1: one whose nodes all answer by "left"."""
        const, none = self.ctx.const, np.full((len(asked.entry), 1), -1)
        entry, mask = np.append(asked.entry, none, 1)[:, tree], np.append(asked.mask, none.astype(asked.mask.dtype), 1)[:, tree]
        threshold = np.where(entry < 0, np.inf, t.threshold[entry]).astype(self.x.dtype.np)
        turned = self.b.emit(O.Transpose((1, 0)), self.x)
        return [self.x, turned, const(np.where(entry < 0, 0, t.feature[entry]).astype(np.int32)), const(threshold), const(mask)]

    def totals(self, kind: str) -> Value:
        """[N, targets]: sums, least or greatest weights.

        One group of trees goes on from where the last one ended: votes of equal weights then round as they do in onnxruntime, which
        matters where classes have as many.
        """
        single = np.bincount(self.forest.leaf, minlength=1).max() <= 1
        total, rest = None, []
        for t in self.tables:
            owners = self._owners(t) if single else None
            if owners is None:
                rest.append(t)
            else:
                total = self._by_target(t, owners, kind, total)
        if rest:
            leaves = self._by_leaf(rest, kind)
            total = leaves if total is None else {"sum": self.b.add, "min": self.b.min, "max": self.b.max}[kind](total, leaves)
        assert total is not None
        if kind == "sum":
            return total
        missing = self.b.emit(O.Equal(), total, self.b.const(_NEUTRAL[kind], total.dtype))  # no leaf has weights of the target
        return self.b.where(missing, self.b.const(0, total.dtype), total)

    def _owners(self, t: Tables) -> np.ndarray | None:
        """The target of each tree, if its leaves have only one."""
        if self.targets == 1:
            return np.zeros(len(t.root), np.int64)
        target = np.full(len(self.forest.nodes.mode), -1)
        target[self.forest.leaf] = self.forest.target
        of_entry = np.where(t.inner, -1, np.append(target, [-1] * (int(t.node.max()) + 1 - len(target)))[t.node])
        tree = np.searchsorted(t.root, np.arange(len(t.node)), side="right") - 1  # entries of a tree lie together
        high, low = np.full(len(t.root), -1), np.full(len(t.root), self.targets)
        np.maximum.at(high, tree, of_entry)
        np.minimum.at(low, tree, np.where(of_entry < 0, self.targets, of_entry))
        one = (low == self.targets) | (low == high)
        return np.maximum(high, 0) if one.all() else None

    def _by_target(self, t: Tables, owners: np.ndarray, kind: str, start: Value | None) -> Value:
        """Trees sorted by target; missing ones are leaves of a neutral value."""
        neutral = _NEUTRAL[kind]
        value = np.zeros(int(t.node.max()) + 1 + len(self.forest.nodes.mode))
        value[self.forest.leaf] = self.forest.weight
        values = np.append(np.where(t.inner, 0, value[t.node]), neutral).astype(self.dtype.np)
        counts = np.bincount(owners, minlength=self.targets)
        most = int(counts.max())
        most += most % 2  # an even number can be halved
        tree = np.full((self.targets, most), -1)
        for k in range(self.targets):
            tree[k, : counts[k]] = np.nonzero(owners == k)[0]
        first = () if start is None else (start,)
        if t.asked is not None:
            leaf = np.append(t.asked.leaf, np.full((len(t.asked.leaf), 1), len(values) - 1), 1)[:, tree]
            return self.b.emit(O.AskedTreeSum(kind), *self._asked(t, t.asked, tree), self.ctx.const(values[leaf]), *first)
        root = np.append(t.root, len(values) - 1)[tree].astype(np.int32)
        return self.b.emit(O.TreeSum(t.depth, kind), self.x, self.ctx.const(root), *self._table(t, 1), self.ctx.const(values), *first)

    def _by_leaf(self, tables: list[Tables], kind: str) -> Value:
        """Numbers of leaves, and a row of weights for each."""
        neutral = _NEUTRAL[kind]
        nodes, row = np.unique(self.forest.leaf, return_inverse=True)
        if (len(nodes) + 1) * self.targets > _MOST_WEIGHTS:
            raise self.ctx.unsupported(f"{self.node.op_type} with {len(nodes)} leaves of {self.targets} targets")
        rows = np.full((len(nodes) + 1, self.targets), neutral)
        _COMBINED[kind].at(rows, (row + 1, self.forest.target), self.forest.weight)
        rows, same = np.unique(rows, axis=0, return_inverse=True)
        found = []
        for t in tables:
            row_of = np.zeros(int(t.node.max()) + 1 + len(self.forest.nodes.mode), np.int64)  # by node; row 0: no weights
            row_of[nodes] = np.arange(1, len(nodes) + 1)
            leaf = same.reshape(-1)[np.where(t.inner, 0, row_of[t.node])].astype(np.int32)
            if t.asked is not None:
                asked = self._asked(t, t.asked, np.arange(len(t.root)))
                found.append(self.b.emit(O.AskedTreeLeaves(), *asked, self.ctx.const(leaf[t.asked.leaf])))
                continue
            root = self.ctx.const(t.root.astype(np.int32))
            found.append(self.b.emit(O.TreeLeaves(t.depth), self.x, root, *self._table(t), self.ctx.const(leaf)))
        leaves = self.b.concat(1, *found) if len(found) > 1 else found[0]
        if kind != "sum" or self.dtype is DType.F64:
            weights = self.ctx.const(rows.astype(self.dtype.np))
            return self.b.reduce(kind, self.b.emit(O.Gather(0), weights, leaves), [1], False)
        # Sums of as many equal votes have to be equal in whatever order: in 53 bits those of float32 numbers do not round.
        weights = self.ctx.const(rows.astype(self.dtype.np).astype(np.float64))
        return self.b.cast(self.b.reduce(kind, self.b.emit(O.Gather(0), weights, leaves), [1], False), self.dtype)
