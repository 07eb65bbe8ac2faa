"""Handlers of ai.onnx.ml tree ensembles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto

from ...errors import OnnxImportError
from ...ir import DType, Value
from ...ir import ops as O
from .compose import Build, required
from .context import HandlerTable, ImportContext
from .ml_scores import class_labels, one_score, post_transform, rows_of, two_labels
from .trees import LEAF, Branch, MalformedTree, Tables, Tree, flatten, member_of

_MODES = {f"BRANCH_{m}": m for m in ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ")} | {"LEAF": LEAF}
_NEW_MODES = ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ", "MEMBER")
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_MOST_WEIGHTS = 1 << 27  # numbers in a table of the weights of leaves


def _numbers(ctx: ImportContext, node: NodeProto, name: str, default: Any = ()) -> np.ndarray:
    """An attribute that comes as floats, or as a tensor under the name with `_as_tensor`."""
    tensor = ctx.attr(node, f"{name}_as_tensor", None)
    return np.asarray(tensor if tensor is not None else ctx.attr(node, name, default), np.float64).reshape(-1)


def _uneven(ctx: ImportContext, node: NodeProto) -> OnnxImportError:
    return OnnxImportError(f"{node.op_type}: attributes of different lengths", expected="one entry a node or leaf", loc=", ".join(ctx.loc))


def _parse(ctx: ImportContext, node: NodeProto, prefix: str) -> list[Tree]:
    """Trees of the operators before TreeEnsemble; `prefix` "target" or "class" names the attributes of the leaves."""
    trees, nodes, modes = (ctx.attr(node, f"nodes_{name}", ()) for name in ("treeids", "nodeids", "modes"))
    yes, no, features = (ctx.attr(node, f"nodes_{name}", ()) for name in ("truenodeids", "falsenodeids", "featureids"))
    values = _numbers(ctx, node, "nodes_values")
    missing = ctx.attr(node, "nodes_missing_value_tracks_true", ()) or (0,) * len(nodes)
    owners, keys, targets = (ctx.attr(node, f"{prefix}_{name}", ()) for name in ("treeids", "nodeids", "ids"))
    weights = _numbers(ctx, node, f"{prefix}_weights")
    if len({len(c) for c in (trees, nodes, modes, yes, no, features, values, missing)}) != 1:
        raise OnnxImportError(
            f"{node.op_type}: attributes of nodes of different lengths", expected="one entry a node", loc=", ".join(ctx.loc)
        )
    if len({len(c) for c in (owners, keys, targets, weights)}) != 1:
        raise _uneven(ctx, node)
    given: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for owner, key, target, weight in zip(owners, keys, targets, weights.tolist(), strict=True):
        given.setdefault((owner, key), []).append((target, weight))
    found: dict[int, dict[int, Branch]] = {}
    roots: dict[int, int] = {}
    columns = zip(trees, nodes, modes, yes, no, features, values.tolist(), missing, strict=True)
    for tree, key, mode, a, b, feature, value, nan in columns:
        if mode not in _MODES:
            raise ctx.unsupported(f"{node.op_type}: node mode {mode!r}")
        roots.setdefault(tree, key)
        if mode == "LEAF":
            branch = Branch(LEAF, weights=tuple(given.get((tree, key), ())))
        else:
            branch = Branch(_MODES[mode], feature, value, a, b, bool(nan))
        found.setdefault(tree, {})[key] = branch
    return [(roots[t], found[t]) for t in found]


class _Forest:
    """The sums of an ensemble over rows of x."""

    def __init__(self, ctx: ImportContext, node: NodeProto, x: Value, trees: list[Tree], targets: int, dtype: DType) -> None:
        self.ctx, self.node, self.targets, self.dtype = ctx, node, targets, dtype
        self.b = Build(ctx)
        self.trees = trees
        width = x.shape[1]
        used = max((b.feature for _, nodes in trees for b in nodes.values()), default=0)
        if any(b.feature < 0 for _, nodes in trees for b in nodes.values()) or (isinstance(width, int) and used >= width):
            raise OnnxImportError(f"{node.op_type}: feature {used} of {width}", expected="features of the input", loc=", ".join(ctx.loc))
        if not isinstance(width, int):
            raise ctx.unsupported(f"{node.op_type} of {x.type}, whose number of features is unknown")
        try:
            self.tables = flatten(trees, width, x.dtype.np)
        except MalformedTree as e:
            raise OnnxImportError(f"{node.op_type}: {e}", expected="trees", loc=", ".join(ctx.loc)) from None
        for t in self.tables:
            if any(not 0 <= i < targets for w in t.weights for i, _ in w):
                raise OnnxImportError(f"{node.op_type}: a target beyond {targets}", expected="fewer", loc=", ".join(ctx.loc))
        self.x = self._both_signs(x, width)

    def _both_signs(self, x: Value, width: int) -> Value:
        """x, −x, or both beside each other, as the tables need."""
        own = any(f < width for t in self.tables for f, c in self._inner(t))
        turned = any(f >= width for t in self.tables for f, c in self._inner(t))
        if not turned:
            return x
        minus = self.b.emit(O.Neg(), x)
        if own:
            return self.b.concat(1, x, minus)
        for t in self.tables:
            t.feature = [max(f - width, 0) for f in t.feature]
        return minus

    @staticmethod
    def _inner(t: Tables) -> list[tuple[int, int]]:
        return [(f, c) for i, (f, c) in enumerate(zip(t.feature, t.child, strict=True)) if c != i]

    def _table(self, t: Tables) -> list[Value]:
        const = self.ctx.const
        return [
            const(np.asarray(t.feature, np.int32)),
            const(np.asarray(t.threshold, self.x.dtype.np)),
            const(np.asarray(t.child, np.int32)),
        ]

    def totals(self, kind: str) -> Value:
        """[N, targets]: sums, least or greatest weights."""
        parts = []
        for t in self.tables:
            single = all(len(w) <= 1 for w in t.weights)
            owners = self._owners(t) if single else None
            parts.append(self._by_target(t, owners, kind) if owners is not None else self._by_leaf(t, kind))
        total = parts[0]
        for p in parts[1:]:
            total = {"sum": self.b.add, "min": self.b.min, "max": self.b.max}[kind](total, p)
        return total

    def _owners(self, t: Tables) -> list[int] | None:
        """The target of each tree, if its leaves have only one."""
        if self.targets == 1:
            return [0] * len(t.members)
        owners = []
        for i in t.members:
            found = {w[0][0] for b in self.trees[i][1].values() if (w := b.weights)}
            if len(found) > 1:
                return None
            owners.append(found.pop() if found else 0)
        return owners

    def _by_target(self, t: Tables, owners: list[int], kind: str) -> Value:
        """Trees sorted by target; missing ones are leaves of a neutral value."""
        neutral = {"sum": 0.0, "min": np.inf, "max": -np.inf}[kind]
        value = [w[0][1] if w else 0.0 for w in t.weights]
        values = np.asarray([value[i] for i in t.leaf] + [neutral], self.dtype.np)
        t.add()
        most = max(owners.count(k) for k in range(self.targets))
        most += most % 2  # an even number can be halved
        root = np.full((self.targets, most), len(values) - 1, np.int32)
        used = [0] * self.targets
        for r, k in zip(t.root, owners, strict=True):
            root[k, used[k]] = r
            used[k] += 1
        return self.b.emit(O.TreeSum(t.depth, kind), self.x, self.ctx.const(root), *self._table(t), self.ctx.const(values))

    def _by_leaf(self, t: Tables, kind: str) -> Value:
        """Numbers of leaves, and a row of weights for each."""
        if len(t.weights) * self.targets > _MOST_WEIGHTS:
            raise self.ctx.unsupported(f"{self.node.op_type} with {len(t.weights)} leaves of {self.targets} targets")
        neutral = {"sum": 0.0, "min": np.inf, "max": -np.inf}[kind]
        rows = np.full((len(t.weights), self.targets), neutral, self.dtype.np)
        for w, i in t.weights.items():
            for k, weight in w:
                rows[i, k] = (0 if rows[i, k] == neutral else rows[i, k]) + weight
        root = self.ctx.const(np.asarray(t.root, np.int32))
        leaves = self.b.emit(O.TreeLeaves(t.depth), self.x, root, *self._table(t), self.ctx.const(np.asarray(t.leaf, np.int32)))
        return self.b.reduce(kind, self.b.emit(O.Gather(0), self.ctx.const(rows), leaves), [1], False)


def _with_base(b: Build, total: Value, base: np.ndarray) -> Value:
    return b.add(total, b.const(base, total.dtype)) if base.size else total


def regressor(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x = rows_of(ctx, required(ctx, node, ins, 1)[0])
    b, targets = Build(ctx), int(ctx.attr(node, "n_targets", 1))
    trees, kind = _parse(ctx, node, "target"), str(ctx.attr(node, "aggregate_function", "SUM"))
    if kind not in _AGGREGATES or not trees:
        raise ctx.unsupported(f"{node.op_type} of {len(trees)} trees by {kind}")
    total = _Forest(ctx, node, x, trees, targets, DType.F32).totals("sum" if kind == "AVERAGE" else kind.lower())
    if kind == "AVERAGE":
        total = b.div(total, float(len(trees)))
    total = _with_base(b, total, _numbers(ctx, node, "base_values"))
    return [post_transform(ctx, b, str(ctx.attr(node, "post_transform", "NONE")), total)]


def classifier(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """The label of the best class, and scores of every class."""
    x = rows_of(ctx, required(ctx, node, ins, 1)[0])
    b, labels = Build(ctx), class_labels(ctx, node)
    count, trees, base = len(labels), _parse(ctx, node, "class"), _numbers(ctx, node, "base_values")
    transform = str(ctx.attr(node, "post_transform", "NONE"))
    if not trees or base.size not in (0, 1, count):
        raise ctx.unsupported(f"{node.op_type} of {len(trees)} trees with {base.size} base values for {count} classes")
    ids = {int(i) for i in ctx.attr(node, "class_ids", ())}
    if count == 2:
        positive = bool((_numbers(ctx, node, "class_weights") >= 0).all())
        return _two_classes(ctx, node, x, trees, labels, ids, base, transform, positive)
    total = _with_base(b, _Forest(ctx, node, x, trees, count, DType.F32).totals("sum"), base)
    best = b.emit(O.ArgReduce("argmax", 1, False), total)
    return [b.emit(O.Gather(0), ctx.const(labels), best), post_transform(ctx, b, transform, total)]


def _two_classes(ctx: ImportContext, node: NodeProto, x: Value, trees: list[Tree], labels: np.ndarray, ids: set[int],
                 base: np.ndarray, transform: str, positive: bool) -> list[Value]:  # fmt: skip
    """onnxruntime's rules for two classes, by which of them leaves have weights of: a class without any scores 0.

    With weights of the first class only (and not two base values), they count for the second: its score is a probability
    where no weight is negative, and else one of the two signs.
    """
    b, n = Build(ctx), x.shape[0]
    if len(ids) == 1:
        trees = [(r, {k: _first_class(v) for k, v in nodes.items()}) for r, nodes in trees]
    total = _Forest(ctx, node, x, trees, len(ids), DType.F32).totals("sum")
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


def _first_class(node: Branch) -> Branch:
    """Weights of the only class as weights of target 0."""
    return Branch(node.mode, node.feature, node.value, node.yes, node.no, node.nan_yes, tuple((0, w) for _, w in node.weights))


def ensemble(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """TreeEnsemble: inner nodes and leaves apart, thresholds and weights as tensors, sets of values to compare with."""
    x = required(ctx, node, ins, 1)[0]
    b, targets = Build(ctx), int(ctx.attr(node, "n_targets", 1))
    modes, splits, members = (np.asarray(ctx.attr(node, n, ())).reshape(-1) for n in ("nodes_modes", "nodes_splits", "membership_values"))
    features = ctx.attr(node, "nodes_featureids")
    yes, no = ctx.attr(node, "nodes_truenodeids"), ctx.attr(node, "nodes_falsenodeids")
    yes_leaf, no_leaf = ctx.attr(node, "nodes_trueleafs"), ctx.attr(node, "nodes_falseleafs")
    missing = ctx.attr(node, "nodes_missing_value_tracks_true", None) or (0,) * len(modes)
    weights = np.asarray(ctx.attr(node, "leaf_weights")).reshape(-1).tolist()
    targets_of = ctx.attr(node, "leaf_targetids")
    if len({len(c) for c in (modes, splits, features, yes, no, yes_leaf, no_leaf, missing)}) != 1 or len(weights) != len(targets_of):
        raise _uneven(ctx, node)
    sets = _sets(members)
    nodes: dict[Any, Branch] = {
        ("leaf", i): Branch(LEAF, weights=((t, w),)) for i, (t, w) in enumerate(zip(targets_of, weights, strict=True))
    }
    for i, mode in enumerate(modes.tolist()):
        if not 0 <= mode < len(_NEW_MODES):
            raise ctx.unsupported(f"TreeEnsemble: node mode {mode}")
        a, c = ("leaf" if yes_leaf[i] else "node", yes[i]), ("leaf" if no_leaf[i] else "node", no[i])
        if _NEW_MODES[mode] == "MEMBER":
            nodes["node", i] = member_of(features[i], next(sets, ()), a, c, bool(missing[i]))
        else:
            nodes["node", i] = Branch(_NEW_MODES[mode], features[i], float(splits[i]), a, c, bool(missing[i]))
    trees: list[Tree] = [(("node", r), nodes) for r in ctx.attr(node, "tree_roots")]
    kind = int(ctx.attr(node, "aggregate_function", 1))
    if not 0 <= kind < len(_AGGREGATES) or not trees:
        raise ctx.unsupported(f"TreeEnsemble of {len(trees)} trees by aggregate function {kind}")
    name = _AGGREGATES[kind]
    total = _Forest(ctx, node, x, [_own(t) for t in trees], targets, x.dtype).totals("sum" if name == "AVERAGE" else name.lower())
    if name == "AVERAGE":
        total = b.div(total, float(len(trees)))
    names = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
    return [post_transform(ctx, b, names[int(ctx.attr(node, "post_transform", 0))], total)]


def _own(tree: Tree) -> Tree:
    """The nodes that the root reaches."""
    root, nodes = tree
    found: dict[Any, Branch] = {}
    queue: list[Any] = [root]
    for key in queue:
        branch = key if isinstance(key, Branch) else nodes.get(key)
        if branch is None or key in found:
            continue
        found[key] = branch
        if branch.mode != LEAF:
            queue += [branch.yes, branch.no]
    return root, found


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
