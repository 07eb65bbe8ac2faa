"""Tree ensembles of ONNX as the tables of `ir/ops/trees.py`, by whole arrays of nodes: ensembles have millions.

Every comparison becomes "s·x > t, and a NaN goes left": x ≤ t is −x > the number before −t, and so on, so that all rows are
walked by one rule. Nodes of a tree are laid out breadth first, the children of a node side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

LEQ, LT, GTE, GT, EQ, NEQ, LEAF = range(7)
_INVERSE = np.array([GT, GTE, LT, LEQ, NEQ, EQ, LEAF])
_DEPTHS = (0, 2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256)  # trees of a table are walked as deep as the deepest
_LEAVES = (32, 64)  # of trees all of whose nodes are asked: bits of a word
_NODES_A_STEP = 8  # asking so many takes as long as a step of a walk, one row with another
_VECTOR = 16  # trees
_DEEPEST = 4096  # steps; each is code


class MalformedTree(ValueError):
    """Nodes that do not make a tree."""


@dataclass(frozen=True)
class Nodes:
    """Nodes of all trees, one entry each: `yes` and `no` are where a comparison leads, −1 for a node that does not exist.

    A NaN goes to `yes` where `nan_yes`. `roots` has a node for each tree.
    """

    mode: np.ndarray
    feature: np.ndarray
    value: np.ndarray
    yes: np.ndarray
    no: np.ndarray
    nan_yes: np.ndarray
    roots: np.ndarray

    def replaced(self, at: Sequence[int], more: Sequence[Branch]) -> Nodes:
        """The nodes numbered `at` replaced by the first of `more`, and the others behind the present ones."""
        columns = {name: np.asarray([getattr(b, name) for b in more]) for name in Branch.__dataclass_fields__}
        out = {}
        for name, new in columns.items():
            old = getattr(self, name).copy()
            old[list(at)] = new[: len(at)]
            out[name] = np.concatenate([old, new[len(at) :].astype(old.dtype)])
        return replace(self, **out)


@dataclass(frozen=True)
class Branch:
    """One of `Nodes`."""

    mode: int
    feature: int
    value: float
    yes: int
    no: int
    nan_yes: bool


@dataclass(frozen=True)
class Asked:
    """Of trees all of whose nodes are asked (see `ir/ops/trees.py`): their inner entries and masks [most, trees], and the entries
    [leaves, trees] of their leaves from the left. Trees of fewer nodes have entries of −1."""

    entry: np.ndarray
    mask: np.ndarray
    leaf: np.ndarray


@dataclass(frozen=True)
class Tables:
    """Nodes of some trees, walked in `depth` steps; feature f ≥ `features` stands for −x[f − features].

    `node` is which of `Nodes` an entry was.
    """

    depth: int
    root: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    child: np.ndarray
    node: np.ndarray

    asked: Asked | None = None

    @property
    def inner(self) -> np.ndarray:
        """Which entries compare."""
        return self.child != np.arange(len(self.child))


def flatten(nodes: Nodes, features: int, dtype: np.dtype) -> list[Tables]:
    """Tables, trees of about the same depth together. Raises MalformedTree for nodes that are missing, or reached from below."""
    nodes = _without_equality(nodes)
    depths, leaves = _depths(nodes)
    bits = np.searchsorted(_LEAVES, leaves)
    few = (bits < len(_LEAVES)) & (leaves <= _NODES_A_STEP * depths)
    group = np.where(few, -1 - bits, _by_depth(depths, ~few))
    compare = _comparisons(nodes, features, dtype)
    found = []
    for g in np.unique(group):
        members = np.nonzero(group == g)[0]
        tables = _lay_out(nodes, compare, members, int(depths[members].max()))
        found.append(replace(tables, asked=_asked(tables, int(leaves[members].max()))) if g < 0 else tables)
    return found


def _by_depth(depths: np.ndarray, walked: np.ndarray) -> np.ndarray:
    """A group for each tree: those of about the same depth. Few trees do not fill vectors, and go together with others."""
    steps = np.array(sorted({*_DEPTHS, *depths[depths > _DEPTHS[-1]].tolist()}))
    group = np.searchsorted(steps, depths)
    found = np.unique(group[walked])[::-1].tolist()
    for deeper, g in pairwise(found):
        trees, more = (walked & (group == i) for i in (g, deeper))
        if min(trees.sum(), more.sum()) < _VECTOR and 4 * depths[more].max() <= 5 * depths[trees].max():
            group[more] = g
    return group


def _asked(t: Tables, leaves: int) -> Asked | None:
    """None for nodes that are reached from several places."""
    inner = np.nonzero(t.inner)[0]
    trees, left = len(t.root), t.child[inner]
    if len(np.unique(left)) < len(left) or len(t.child) != 2 * len(inner) + trees:
        return None
    below = np.ones(len(t.child), np.int64)  # leaves; children lie behind their parents, level by level
    first = np.zeros(len(t.child), np.int64)  # the leftmost of them
    levels, at = [], t.root[t.inner[t.root]]
    while at.size:
        levels.append(at)
        at = np.stack([t.child[at], t.child[at] + 1]).ravel()
        at = at[t.inner[at]]
    for at in reversed(levels):
        below[at] = below[t.child[at]] + below[t.child[at] + 1]
    for at in levels:
        first[t.child[at]] = first[at]
        first[t.child[at] + 1] = first[at] + below[t.child[at]]
    clear = ((np.uint64(1) << below[left].astype(np.uint64)) - np.uint64(1)) << first[inner].astype(np.uint64)  # at most 63 at the left
    tree = np.searchsorted(t.root, np.arange(len(t.child)), side="right") - 1
    count = np.bincount(tree[inner], minlength=trees)
    place = np.arange(len(inner)) - (np.cumsum(count) - count)[tree[inner]]
    entry = np.full((max(1, int(count.max())), trees), -1)
    mask, leaf = np.full(entry.shape, -1), np.zeros((leaves, trees), np.int64)
    entry[place, tree[inner]], mask[place, tree[inner]] = inner, (~clear).view(np.int64)
    ends = np.nonzero(~t.inner)[0]
    leaf[first[ends], tree[ends]] = ends
    return Asked(entry, mask.astype(np.int32 if leaves <= 32 else np.int64), leaf)


def _without_equality(nodes: Nodes) -> Nodes:
    """Equality by two inequalities: greater, or else less, is not equal. A NaN differs from every number."""
    at = np.nonzero((nodes.mode == EQ) | (nodes.mode == NEQ))[0]
    if not at.size:
        return nodes
    first, second = [], []
    for k, i in enumerate(at.tolist()):
        same = nodes.mode[i] == EQ
        yes, no = (nodes.yes[i], nodes.no[i]) if same else (nodes.no[i], nodes.yes[i])
        nan_yes = bool(nodes.nan_yes[i]) if same else False
        less = len(nodes.mode) + k
        first.append(Branch(GT, nodes.feature[i], nodes.value[i], no, less, not nan_yes))
        second.append(Branch(LT, nodes.feature[i], nodes.value[i], no, yes, False))
    return nodes.replaced(at.tolist(), [*first, *second])


def member_of(b: Branch, values: Sequence[float], place: Callable[[Branch], int]) -> Branch:
    """x in a set, as a chain of equalities whose later links get their numbers from `place`."""
    if not values:
        return replace(b, mode=GT, value=np.inf)
    no = b.no
    for value in reversed(values[1:]):
        no = place(Branch(EQ, b.feature, value, b.yes, no, b.nan_yes))
    return Branch(EQ, b.feature, values[0], b.yes, no, b.nan_yes)


def _depths(nodes: Nodes) -> tuple[np.ndarray, np.ndarray]:
    """Steps to the deepest leaf of each tree, and how many leaves it has."""
    depths, leaves = np.zeros(len(nodes.roots), np.int64), np.zeros(len(nodes.roots), np.int64)
    tree, at, seen = np.arange(len(nodes.roots)), nodes.roots, 0
    for depth in range(_DEEPEST + 1):
        if (at < 0).any():
            raise MalformedTree("a node is missing")
        inner = nodes.mode[at] != LEAF
        leaves += np.bincount(tree[~inner], minlength=len(leaves))
        tree, at = tree[inner], at[inner]
        if not at.size:
            return depths, leaves
        depths[tree] = depth + 1
        seen += at.size
        tree, at = np.concatenate([tree, tree]), np.concatenate([nodes.yes[at], nodes.no[at]])
        if seen > len(nodes.mode):  # some are reached from several places
            tree, at = np.unique(np.stack([tree, at]), axis=1)
    raise MalformedTree(f"nodes lead back to themselves, or {_DEEPEST} steps down")


def _comparisons(nodes: Nodes, features: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Features and thresholds of all nodes: s·x > threshold means "yes", or "no" where a NaN goes to "yes"."""
    with np.errstate(over="ignore"):
        value = nodes.value.astype(dtype)
    mode = np.where(nodes.nan_yes, _INVERSE[nodes.mode], nodes.mode)
    turned = (mode == LEQ) | (mode == LT)
    threshold = np.where(turned, -value, value)
    closed = (mode == GTE) | (mode == LEQ)
    with np.errstate(over="ignore"):
        threshold = np.where(closed, np.nextafter(threshold, dtype.type(-np.inf)), threshold)
    return np.where(turned, nodes.feature + features, nodes.feature), threshold


def _lay_out(nodes: Nodes, compare: tuple[np.ndarray, np.ndarray], members: np.ndarray, depth: int) -> Tables:
    """Level by level over all trees at once; then the entries of a tree are put together."""
    count = len(nodes.mode)
    place = np.full(count, -1)  # the entry whose children those of a node are
    at = nodes.roots[members]
    found, owners, children = [at], [members], []
    entry, owner, end = np.arange(len(at)), members, len(at)
    while at.size:
        child = entry.copy()
        inner = np.nonzero(nodes.mode[at] != LEAF)[0]
        new = inner[place[at[inner]] < 0]
        place[at[new[::-1]]] = new[::-1]  # the first of equal ones stays
        first = new[place[at[new]] == new]
        child[first] = end + 2 * np.arange(len(first))
        known = at[first]
        shared = np.setdiff1d(inner, first, assume_unique=True)
        place[known] = child[first]
        child[shared] = place[at[shared]]
        children.append(child)
        left, right = (
            np.where(nodes.nan_yes[known], *sides) for sides in ((nodes.yes[known], nodes.no[known]), (nodes.no[known], nodes.yes[known]))
        )
        at, owner = np.stack([left, right], 1).ravel(), np.repeat(owner[first], 2)
        entry = end + np.arange(len(at))
        end += len(at)
        found.append(at)
        owners.append(owner)
    node, child = np.concatenate(found), np.concatenate(children)
    order = np.argsort(np.concatenate(owners), kind="stable")
    new_place = np.empty(end, np.int64)
    new_place[order] = np.arange(end)
    node, child = node[order], new_place[child[order]]
    leaf = nodes.mode[node] == LEAF
    feature, threshold = (c[node] for c in compare)
    return Tables(
        depth, new_place[: len(members)], np.where(leaf, 0, feature), np.where(leaf, np.inf, threshold).astype(threshold.dtype),
        child, node,
    )  # fmt: skip
