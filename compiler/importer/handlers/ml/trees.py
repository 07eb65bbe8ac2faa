"""Handlers of ai.onnx.ml tree ensembles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import NodeProto

from .....errors import OnnxImportError
from .....ir import DType, Value
from .....ir import ops as O
from ...compose import Build, required
from ...context import HandlerTable, ImportContext
from .scores import class_labels, one_score, post_transform, rows_of, two_labels
from .tree_tables import EQ, GT, GTE, LEAF, LEQ, LT, NEQ, Asked, Branch, MalformedTree, Nodes, Tables, flatten, member_of

_MODES = {"BRANCH_LEQ": LEQ, "BRANCH_LT": LT, "BRANCH_GTE": GTE, "BRANCH_GT": GT, "BRANCH_EQ": EQ, "BRANCH_NEQ": NEQ, "LEAF": LEAF}
_NEW_MODES = (LEQ, LT, GTE, GT, EQ, NEQ)
_MEMBER = len(_NEW_MODES)
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_NEUTRAL = {"sum": 0.0, "min": np.inf, "max": -np.inf}
_MOST_WEIGHTS = 1 << 27  # numbers in a table of the weights of leaves


@dataclass(frozen=True)
class Forest:
    """The trees, and what their leaves weigh: `weight[k]` of target `target[k]` for those who reach node `leaf[k]`."""

    nodes: Nodes
    leaf: np.ndarray
    target: np.ndarray
    weight: np.ndarray


def _numbers(ctx: ImportContext, node: NodeProto, name: str, default: Any = ()) -> np.ndarray:
    """An attribute that comes as floats, or as a tensor under the name with `_as_tensor`."""
    tensor = ctx.attr(node, f"{name}_as_tensor", None)
    return np.asarray(tensor if tensor is not None else ctx.attr(node, name, default), np.float64).reshape(-1)


def _uneven(ctx: ImportContext, node: NodeProto) -> OnnxImportError:
    return OnnxImportError(f"{node.op_type}: attributes of different lengths", expected="one entry a node or leaf", loc=", ".join(ctx.loc))


def _parse(ctx: ImportContext, node: NodeProto, prefix: str) -> Forest:
    """Trees of the operators before TreeEnsemble; `prefix` "target" or "class" names the attributes of the leaves."""
    names = ("treeids", "nodeids", "truenodeids", "falsenodeids", "featureids", "missing_value_tracks_true")
    trees, keys, yes, no, features, missing = (ctx.integers(node, f"nodes_{name}") for name in names)
    texts, values = ctx.attr(node, "nodes_modes", ()), _numbers(ctx, node, "nodes_values")
    missing = missing if missing.size else np.zeros_like(keys)
    owners, leaves, targets = (ctx.integers(node, f"{prefix}_{name}") for name in ("treeids", "nodeids", "ids"))
    weights = _numbers(ctx, node, f"{prefix}_weights")
    if len({len(c) for c in (trees, keys, texts, yes, no, features, values, missing)}) != 1:
        raise OnnxImportError(
            f"{node.op_type}: attributes of nodes of different lengths", expected="one entry a node", loc=", ".join(ctx.loc)
        )
    if len({len(c) for c in (owners, leaves, targets, weights)}) != 1:
        raise _uneven(ctx, node)
    unknown = {m for m in set(texts) if m not in _MODES}
    if unknown:
        raise ctx.unsupported(f"{node.op_type}: node mode {min(unknown)!r}")
    modes = np.array([_MODES[m] for m in texts], np.int64)
    find = _Finder(trees, keys)
    first = np.full(len(find.trees), len(trees))
    np.minimum.at(first, np.searchsorted(find.trees, trees), np.arange(len(trees)))
    roots = np.sort(first)
    nodes = Nodes(modes, features, values, find(trees, yes), find(trees, no), missing != 0, find(trees[roots], keys[roots]))
    at = find(owners, leaves)
    held = (at >= 0) & (modes[at] == LEAF)
    return Forest(nodes, at[held], targets[held], weights[held])


class _Finder:
    """Numbers of nodes by tree and key, −1 for those that there are not; of equal ones the last."""

    def __init__(self, trees: np.ndarray, keys: np.ndarray) -> None:
        self.trees, self._keys = _distinct(trees), _distinct(keys)
        joined = self._joined(trees, keys)
        self._order = np.argsort(joined, kind="stable")
        self._sorted = joined[self._order]

    def _joined(self, trees: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """One number a pair, −1 for a tree or key that no node has."""
        places = []
        for known, wanted in ((self.trees, trees), (self._keys, keys)):
            dense = known.size > 0 and int(known[-1]) - int(known[0]) == known.size - 1  # then places are differences
            found = np.clip(wanted, known[0], known[-1]) - known[0] if dense else np.searchsorted(known, wanted)
            at = np.minimum(found, max(len(known) - 1, 0))
            places.append(np.where(known[at] == wanted, at, -1) if known.size else np.full(len(wanted), -1))
        tree, key = places
        return np.where((tree >= 0) & (key >= 0), tree * len(self._keys) + key, -1)

    def __call__(self, trees: np.ndarray, keys: np.ndarray) -> np.ndarray:
        joined = self._joined(trees, keys)
        at = np.searchsorted(self._sorted, joined, side="right") - 1
        there = (at >= 0) & (joined >= 0)
        there[there] = self._sorted[at[there]] == joined[there]
        return np.where(there, self._order[np.maximum(at, 0)] if self._order.size else -1, -1)


def _distinct(x: np.ndarray) -> np.ndarray:
    """Sorted; of numbers in a narrow range without sorting."""
    low, high = (int(x.min()), int(x.max())) if x.size else (0, -1)
    if high - low < 4 * x.size:
        return low + np.nonzero(np.bincount(x - low))[0]
    return np.unique(x)


class _Sums:
    """The sums of an ensemble over rows of x."""

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
        rows, given = np.zeros((len(nodes) + 1, self.targets)), np.zeros((len(nodes) + 1, self.targets), bool)
        np.add.at(rows, (row + 1, self.forest.target), self.forest.weight)
        given[row + 1, self.forest.target] = True
        rows, same = np.unique(np.where(given, rows, neutral), axis=0, return_inverse=True)
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


def _with_base(b: Build, total: Value, base: np.ndarray) -> Value:
    return b.add(total, b.const(base, total.dtype)) if base.size else total


def regressor(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x = rows_of(ctx, required(ctx, node, ins, 1)[0])
    b, targets = Build(ctx), int(ctx.attr(node, "n_targets", 1))
    forest, kind = _parse(ctx, node, "target"), str(ctx.attr(node, "aggregate_function", "SUM"))
    count = len(forest.nodes.roots)
    if kind not in _AGGREGATES or not count:
        raise ctx.unsupported(f"{node.op_type} of {count} trees by {kind}")
    total = _Sums(ctx, node, x, forest, targets, DType.F32).totals("sum" if kind == "AVERAGE" else kind.lower())
    if kind == "AVERAGE":
        total = b.div(total, float(count))
    total = _with_base(b, total, _numbers(ctx, node, "base_values"))
    return [post_transform(ctx, b, str(ctx.attr(node, "post_transform", "NONE")), total)]


def classifier(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """The label of the best class, and scores of every class."""
    x = rows_of(ctx, required(ctx, node, ins, 1)[0])
    b, labels = Build(ctx), class_labels(ctx, node)
    count, forest, base = len(labels), _parse(ctx, node, "class"), _numbers(ctx, node, "base_values")
    transform = str(ctx.attr(node, "post_transform", "NONE"))
    if not forest.nodes.roots.size or base.size not in (0, 1, count):
        raise ctx.unsupported(f"{node.op_type} of {len(forest.nodes.roots)} trees with {base.size} base values for {count} classes")
    ids = {int(i) for i in ctx.attr(node, "class_ids", ())}
    if count == 2:
        positive = bool((_numbers(ctx, node, "class_weights") >= 0).all())
        return _two_classes(ctx, node, x, forest, labels, ids, base, transform, positive)
    total = _with_base(b, _Sums(ctx, node, x, forest, count, DType.F32).totals("sum"), base)
    best = b.emit(O.ArgReduce("argmax", 1, False), total)
    return [b.emit(O.Gather(0), ctx.const(labels), best), post_transform(ctx, b, transform, total)]


def _two_classes(ctx: ImportContext, node: NodeProto, x: Value, forest: Forest, labels: np.ndarray, ids: set[int],
                 base: np.ndarray, transform: str, positive: bool) -> list[Value]:  # fmt: skip
    """onnxruntime's rules for two classes, by which of them leaves have weights of: a class without any scores 0.

    With weights of the first class only (and not two base values), they count for the second: its score is a probability
    where no weight is negative, and else one of the two signs.
    """
    b, n = Build(ctx), x.shape[0]
    if len(ids) == 1:
        forest = replace(forest, target=np.zeros_like(forest.target))  # weights of the only class
    total = _Sums(ctx, node, x, forest, len(ids), DType.F32).totals("sum")
    zero = b.expand(b.const(0, total.dtype), (n, 1))
    first = b.slice(total, 1, 0, 1) if 0 in ids else None
    second = b.slice(total, 1, len(ids) - 1, 1) if 1 in ids else None
    if base.size == 2 and second is not None:
        second = b.add(zero if first is None else first, float(base[1]))
        first = None if first is None else b.emit(O.Neg(), second)
    elif base.size and first is not None:
        first = b.add(first, float(base[0]))
    deciding = second if second is not None else first
    assert deciding is not None
    label = two_labels(ctx, b, deciding, labels, 0.5 if positive and len(ids) == 1 else 0.0, known=len(ids) == 1)
    if second is None and base.size < 2:
        return [label, one_score(b, deciding, transform, positive)]
    both = b.concat(1, zero if first is None else first, zero if second is None else second)
    return [label, post_transform(ctx, b, transform, both)]


def ensemble(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """TreeEnsemble: inner nodes and leaves apart, thresholds and weights as tensors, sets of values to compare with.

    float16 is compared and summed as float32.
    """
    given = required(ctx, node, ins, 1)[0]
    b, targets = Build(ctx), int(ctx.attr(node, "n_targets", 1))
    x = b.cast(given, DType.F32) if given.dtype is DType.F16 else given
    if not x.dtype.is_float:
        raise ctx.unsupported(f"TreeEnsemble of {given.type}")
    modes, splits, members = (np.asarray(ctx.attr(node, n, ())).reshape(-1) for n in ("nodes_modes", "nodes_splits", "membership_values"))
    columns = ("featureids", "truenodeids", "falsenodeids", "trueleafs", "falseleafs", "missing_value_tracks_true")
    features, yes, no, yes_leaf, no_leaf, missing = (ctx.integers(node, f"nodes_{name}") for name in columns)
    missing = missing if missing.size else np.zeros(len(modes), np.int64)
    weights = np.asarray(ctx.attr(node, "leaf_weights"), np.float64).reshape(-1)
    targets_of, roots = ctx.integers(node, "leaf_targetids"), ctx.integers(node, "tree_roots")
    if len({len(c) for c in (modes, splits, features, yes, no, yes_leaf, no_leaf, missing)}) != 1 or len(weights) != len(targets_of):
        raise _uneven(ctx, node)
    if ((modes < 0) | (modes > _MEMBER)).any():
        raise ctx.unsupported(f"TreeEnsemble: node mode {modes[(modes < 0) | (modes > _MEMBER)][0]}")
    count, leaves = len(modes), len(weights)

    def places(at: np.ndarray, is_leaf: np.ndarray) -> np.ndarray:
        """Leaves are behind the nodes."""
        limit = np.where(is_leaf != 0, leaves, count)
        return np.where((at >= 0) & (at < limit), at + np.where(is_leaf != 0, count, 0), -1)

    def behind(array: np.ndarray, fill: float) -> np.ndarray:
        return np.append(array, np.full(leaves, fill, array.dtype))

    yes, no = (behind(places(at, of), -1) for at, of in ((yes, yes_leaf), (no, no_leaf)))
    table = Nodes(behind(np.append(_NEW_MODES, EQ)[modes], LEAF), behind(features, 0), behind(splits.astype(np.float64), 0), yes, no,
                  behind(missing != 0, False), places(roots, np.zeros_like(roots)))  # fmt: skip
    forest = Forest(_with_sets(table, np.nonzero(modes == _MEMBER)[0], members), count + np.arange(leaves), targets_of, weights)
    kind = int(ctx.attr(node, "aggregate_function", 1))
    if not 0 <= kind < len(_AGGREGATES) or not roots.size:
        raise ctx.unsupported(f"TreeEnsemble of {len(roots)} trees by aggregate function {kind}")
    name = _AGGREGATES[kind]
    total = _Sums(ctx, node, x, forest, targets, x.dtype).totals("sum" if name == "AVERAGE" else name.lower())
    if name == "AVERAGE":
        total = b.div(total, float(len(roots)))
    names = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
    return [b.cast(post_transform(ctx, b, names[int(ctx.attr(node, "post_transform", 0))], total), given.dtype)]


def _with_sets(nodes: Nodes, at: np.ndarray, members: np.ndarray) -> Nodes:
    """Nodes that ask whether x is in a set as chains of comparisons."""
    sets, chains = _sets(members), []
    more: list[Branch] = []

    def place(b: Branch) -> int:
        more.append(b)
        return len(nodes.mode) + len(more) - 1

    for i in at.tolist():
        asked = Branch(EQ, int(nodes.feature[i]), 0.0, int(nodes.yes[i]), int(nodes.no[i]), bool(nodes.nan_yes[i]))
        chains.append(member_of(asked, next(sets, ()), place))
    return nodes.replaced(at.tolist(), [*chains, *more]) if chains else nodes


def _sets(members: np.ndarray) -> Any:
    """The sets of values, which NaNs separate."""
    current: list[float] = []
    for value in members.tolist():
        if value != value:
            yield tuple(current)
            current = []
        else:
            current.append(value)
    if current:
        yield tuple(current)


ML_TREE_HANDLERS: HandlerTable = {
    ("ai.onnx.ml::TreeEnsembleRegressor", 1): regressor,
    ("ai.onnx.ml::TreeEnsembleClassifier", 1): classifier,
    ("ai.onnx.ml::TreeEnsemble", 5): ensemble,
}
