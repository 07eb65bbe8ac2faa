"""Tree ensembles of ai.onnx.ml as attributes have them: one format before TreeEnsemble, and its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import NodeProto

from .....errors import OnnxImportError
from ...context import ImportContext
from .tree_tables import EQ, GT, GTE, LEAF, LEQ, LT, NEQ, Branch, Nodes, member_of

_MODES = {"BRANCH_LEQ": LEQ, "BRANCH_LT": LT, "BRANCH_GTE": GTE, "BRANCH_GT": GT, "BRANCH_EQ": EQ, "BRANCH_NEQ": NEQ, "LEAF": LEAF}
_NEW_MODES = (LEQ, LT, GTE, GT, EQ, NEQ)
_MEMBER = len(_NEW_MODES)


@dataclass(frozen=True)
class Forest:
    """The trees, and what their leaves weigh: `weight[k]` of target `target[k]` for those who reach node `leaf[k]`."""

    nodes: Nodes
    leaf: np.ndarray
    target: np.ndarray
    weight: np.ndarray


def numbers(ctx: ImportContext, node: NodeProto, name: str, default: Any = ()) -> np.ndarray:
    """An attribute that comes as floats, or as a tensor under the name with `_as_tensor`."""
    tensor = ctx.attr(node, f"{name}_as_tensor", None)
    return np.asarray(tensor if tensor is not None else ctx.attr(node, name, default), np.float64).reshape(-1)


def _uneven(ctx: ImportContext, node: NodeProto) -> OnnxImportError:
    return OnnxImportError(f"{node.op_type}: attributes of different lengths", expected="one entry a node or leaf", loc=", ".join(ctx.loc))


def legacy_forest(ctx: ImportContext, node: NodeProto, prefix: str) -> Forest:
    """Of TreeEnsembleRegressor and TreeEnsembleClassifier: one list of nodes, which tree and node ids tell apart.

    `prefix` "target" or "class" names the attributes of the leaves. Raises OnnxImportError.
    """
    names = ("treeids", "nodeids", "truenodeids", "falsenodeids", "featureids", "missing_value_tracks_true")
    trees, keys, yes, no, features, missing = (ctx.integers(node, f"nodes_{name}") for name in names)
    texts, values = ctx.attr(node, "nodes_modes", ()), numbers(ctx, node, "nodes_values")
    missing = missing if missing.size else np.zeros_like(keys)
    owners, leaves, targets = (ctx.integers(node, f"{prefix}_{name}") for name in ("treeids", "nodeids", "ids"))
    weights = numbers(ctx, node, f"{prefix}_weights")
    of_nodes, of_leaves = (trees, keys, texts, yes, no, features, values, missing), (owners, leaves, targets, weights)
    if any(len({len(column) for column in columns}) != 1 for columns in (of_nodes, of_leaves)):
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


def first_weights(forest: Forest) -> Forest:
    """One weight of each leaf: the first that is listed."""
    first = np.sort(np.unique(forest.leaf, return_index=True)[1])
    return replace(forest, leaf=forest.leaf[first], target=forest.target[first], weight=forest.weight[first])


def ensemble_forest(ctx: ImportContext, node: NodeProto) -> Forest:
    """Of TreeEnsemble: inner nodes and leaves apart, thresholds and weights as tensors, sets of values to compare with.

    Raises OnnxImportError.
    """
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
        """Where a node or leaf is in one list, leaves behind the nodes."""
        limit = np.where(is_leaf != 0, leaves, count)
        return np.where((at >= 0) & (at < limit), at + np.where(is_leaf != 0, count, 0), -1)

    def behind(array: np.ndarray, fill: float) -> np.ndarray:
        return np.append(array, np.full(leaves, fill, array.dtype))

    yes, no = (behind(places(at, of), -1) for at, of in ((yes, yes_leaf), (no, no_leaf)))
    table = Nodes(behind(np.append(_NEW_MODES, EQ)[modes], LEAF), behind(features, 0), behind(splits.astype(np.float64), 0), yes, no,
                  behind(missing != 0, False), places(roots, np.zeros_like(roots)))  # fmt: skip
    return Forest(_with_sets(table, np.nonzero(modes == _MEMBER)[0], members), count + np.arange(leaves), targets_of, weights)


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


def _sets(members: np.ndarray) -> Iterator[tuple[float, ...]]:
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
