"""Tree ensembles of ONNX as the tables of `ir/ops/trees.py`.

Every comparison becomes "s·x > t, and a NaN goes left": x ≤ t is −x > the number before −t, and so on, so that all rows are
walked by one rule. Nodes are laid out breadth first, the children of a node side by side.
"""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

LEAF = "LEAF"
_INVERSE = {"LEQ": "GT", "GT": "LEQ", "LT": "GTE", "GTE": "LT"}
_LEAST = 2.0**-149  # the least positive float32
_DEPTHS = (0, 2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256)  # trees of a table are walked as deep as the deepest
Weights = tuple[tuple[int, float], ...]


class Branch(NamedTuple):
    """A node of one tree. `yes` and `no`, where it leads, are nodes or their keys; a NaN goes to `yes` if `nan_yes`."""

    mode: str  # "LEQ", "LT", "GTE", "GT", "EQ", "NEQ", or LEAF
    feature: int = 0
    value: float = 0.0
    yes: Any = None
    no: Any = None
    nan_yes: bool = False
    weights: Weights = ()  # (target, weight) of a leaf


Tree = tuple[Any, Mapping[Any, Branch]]  # key of the root, and nodes by key


class MalformedTree(ValueError):
    """Nodes that do not make a tree."""


@dataclass
class Tables:
    """Nodes of the trees numbered `members`, walked in `depth` steps; feature f ≥ `features` stands for −x[f − features].

    `leaf` is the position in `weights` of what a leaf gives.
    """

    depth: int
    members: list[int]
    root: list[int] = field(default_factory=list)
    feature: list[int] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    child: list[int] = field(default_factory=list)
    leaf: list[int] = field(default_factory=list)
    weights: dict[Weights, int] = field(default_factory=dict)

    def add(self, count: int = 1) -> int:
        """Room for nodes side by side, leaves of the empty weights for now; the position of the first."""
        first = len(self.child)
        self.feature += [0] * count
        self.threshold += [np.inf] * count
        self.child += range(first, first + count)
        self.leaf += [0] * count
        return first


def flatten(trees: Sequence[Tree], features: int, dtype: np.dtype) -> list[Tables]:
    """Tables, trees of about the same depth together. Raises MalformedTree for nodes that are missing, or reached twice."""
    expanded = [(root, {k: _simple(b) for k, b in nodes.items()}) for root, nodes in trees]
    depths = [_depth(root, nodes) for root, nodes in expanded]
    groups: dict[int, list[int]] = defaultdict(list)
    for i, depth in enumerate(depths):
        groups[next(d for d in (*_DEPTHS, depth) if d >= depth)].append(i)
    tables = []
    for _, members in sorted(groups.items()):
        t = Tables(max(depths[i] for i in members), members)
        t.weights[()] = 0
        for i in members:
            _lay_out(t, *expanded[i], features, dtype)
        tables.append(t)
    return tables


def _simple(b: Branch) -> Branch:
    """Equality by two inequalities: greater, or else less, is not equal. A NaN differs from every number."""
    if b.mode not in ("EQ", "NEQ"):
        return b
    yes, no, nan_yes = (b.yes, b.no, b.nan_yes) if b.mode == "EQ" else (b.no, b.yes, False)
    less = Branch("LT", b.feature, b.value, no, yes)
    return Branch("GT", b.feature, b.value, no, less, not nan_yes)


def member_of(feature: int, values: Sequence[float], yes: Any, no: Any, nan_yes: bool) -> Branch:
    """x in a set, as a chain of equalities."""
    chain = no
    for value in reversed(values):
        chain = _simple(Branch("EQ", feature, value, yes, chain, nan_yes))
    return chain if isinstance(chain, Branch) else Branch("GT", feature, np.inf, yes, no, nan_yes)


def _resolve(nodes: Mapping[Any, Branch], key: Any) -> Branch:
    if isinstance(key, Branch):
        return key
    if key not in nodes:
        raise MalformedTree(f"node {key} is missing")
    return nodes[key]


def _depth(root: Any, nodes: Mapping[Any, Branch]) -> int:
    """Steps to the deepest leaf."""
    depth, level = 0, [_resolve(nodes, root)]
    limit = 4 * len(nodes) + 64
    while True:
        below = {id(c): c for b in level if b.mode != LEAF for c in (_resolve(nodes, b.yes), _resolve(nodes, b.no))}
        if not below:
            return depth
        depth += 1
        if depth > limit:
            raise MalformedTree("nodes lead back to themselves")
        level = list(below.values())


def _lay_out(t: Tables, root: Any, nodes: Mapping[Any, Branch], features: int, dtype: np.dtype) -> None:
    start = t.add()
    t.root.append(start)
    queue = [(start, _resolve(nodes, root))]
    done: dict[int, int] = {}
    for at, node in queue:
        if node.mode == LEAF:
            t.leaf[at] = t.weights.setdefault(node.weights, len(t.weights))
        elif id(node) in done:  # reached from two places: its children are shared
            known = done[id(node)]
            t.feature[at], t.threshold[at], t.child[at] = t.feature[known], t.threshold[known], t.child[known]
        else:
            done[id(node)] = at
            first = t.add(2)
            left_is_yes = _compare(t, at, node, first, features, dtype)
            yes, no = _resolve(nodes, node.yes), _resolve(nodes, node.no)
            queue += [(first, yes if left_is_yes else no), (first + 1, no if left_is_yes else yes)]


def _compare(t: Tables, at: int, node: Branch, first: int, features: int, dtype: np.dtype) -> bool:
    """Set feature, threshold and children of a node; whether "yes" is the left child, where a NaN goes."""
    value = _rounded(node.value, dtype)
    mode, inverse = node.mode, node.nan_yes  # s·x > threshold means "yes", or "no" where a NaN goes to "yes"
    if inverse:
        mode = _INVERSE[mode]
    sign, threshold = (1, value) if mode in ("GT", "GTE") else (-1, -value)
    if mode in ("GTE", "LEQ"):
        threshold = _before(threshold, dtype)
    t.feature[at] = node.feature if sign > 0 else node.feature + features
    t.threshold[at], t.child[at] = threshold, first
    return node.nan_yes


def _rounded(value: float, dtype: np.dtype) -> float:
    return value if dtype == np.float64 else struct.unpack("f", struct.pack("f", value))[0]


def _before(value: float, dtype: np.dtype) -> float:
    """The greatest number of the type below a value of it."""
    if dtype == np.float64 or not math.isfinite(value):
        return math.nextafter(value, -math.inf)
    if value == 0:
        return -_LEAST
    bits = struct.unpack("i", struct.pack("f", value))[0]
    return struct.unpack("f", struct.pack("i", bits - 1 if value > 0 else bits + 1))[0]
