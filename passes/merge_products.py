"""Products with constant matrices that read the same rows, and are heads of attention in the end, become one.

    q, k, v = matmul(x, wq) + bq, matmul(x, wk) + bk, matmul(x, wv) + bv   →   slices of matmul(x, [wq wk wv]) + [bq bk bv]

A device with many multiprocessors has more to do in one kernel, and launches fewer. Only for attention: it reads its operands where
they lie in wider rows; others would have to be copied out, but for keys and values that join those of a cache, which is a copy anyway.
These become one without the queries where the queries alone are rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..ir import Const, Elementwise, Graph, Node, Value, const
from ..ir.ops import Attention, Cast, Concat, MatMul, Reshape, Slice, Transpose
from .base import Pass, PassContext, apply, const_of

_MOVES = (Reshape, Transpose)


@dataclass
class _Group:
    """Chains of equal operations, each from one of the products on."""

    chains: list[list[Node]]
    parts: list[Value] = field(default_factory=list)  # what the ends of the chains become

    def build(self, x: Value) -> None:
        """The one chain, from the value that all products read on."""
        merged = x
        for level in zip(*self.chains, strict=True):
            first = level[0]
            inputs = [merged if i == _running(first) else _joined(level, i) for i in range(len(first.inputs))]
            merged = apply(first.op, *inputs, loc=tuple(dict.fromkeys(name for n in level for name in n.loc)))
        start = 0
        for chain in self.chains:
            shape = chain[-1].out.shape
            width = shape[-1]
            assert isinstance(width, int)
            starts = (*(0 for _ in shape[1:]), start)
            self.parts.append(apply(Slice(starts, shape, tuple(1 for _ in shape)), merged, loc=chain[-1].loc))
            start += width


@dataclass(frozen=True)
class MergeProducts(Pass):
    """Runs last, behind all choices of precision: products of different types stay apart."""

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        starts: dict[Node, _Group] = {}
        ends: dict[Node, tuple[_Group, int]] = {}
        for group in _groups(graph):
            for i, chain in enumerate(group.chains):
                starts[chain[0]] = group
                ends[chain[-1]] = group, i

        def visit(node: Node, ins: tuple[Value, ...]) -> tuple[Value, ...] | None:
            if node in starts and not starts[node].parts:
                starts[node].build(ins[0])
            if node in ends:
                group, i = ends[node]
                return (group.parts[i],)
            return None

        return graph.rewrite(visit) if starts else graph


def _groups(graph: Graph) -> list[_Group]:
    """Products of the same value by matrices of weights, in the order of the graph."""
    found: dict[tuple[object, ...], list[list[Node]]] = {}
    heads: set[Node] = set()  # products that attention itself reads
    cached: set[Node] = set()  # those that join what attention reads
    for node in graph.nodes:
        if (
            isinstance(node.op, MatMul)
            and len(node.inputs[1].shape) == 2
            and [isinstance(v.node.op, Const) for v in node.inputs] == [False, True]
        ):
            chain, end = _chain(graph, node)
            if end is not None:
                if isinstance(end.op, Attention):
                    heads.add(node)
                elif _read_by_attention(graph, end):
                    cached.add(node)
                rest = tuple((n.op, _running(n), tuple(v.dtype for v in n.inputs)) for n in chain)
                found.setdefault((node.inputs[0], rest), []).append(chain)
    several = (
        chains
        for chains in found.values()
        if len(chains) > 1 and (any(c[0] in heads for c in chains) or all(c[0] in cached for c in chains))
    )
    return [_Group(chains) for chains in several if _joinable(chains)]


def _chain(graph: Graph, product: Node) -> tuple[list[Node], Node | None]:
    """The product and what is pointwise behind it, of constants besides; and the attention or concatenation that moves alone lead to."""
    chain, node = [product], product
    while True:
        users = graph.uses.get(node.out, ())
        if node.out in graph.kept or len(users) != 1 or len(users[0].types) != 1:
            return chain, None
        node = users[0]
        if isinstance(node.op, Attention):
            return chain, node
        if isinstance(node.op, Elementwise) and node.out.shape == product.out.shape and chain[-1].out in node.inputs:
            others = [v for v in node.inputs if v != chain[-1].out]
            if len(others) != len(node.inputs) - 1 or any(const_of(v) is None for v in others):
                return chain, None
            chain.append(node)
        elif isinstance(node.op, _MOVES):
            return chain, _behind_moves(graph, node)
        else:
            return chain, None


def _behind_moves(graph: Graph, node: Node) -> Node | None:
    while isinstance(node.op, _MOVES):
        users = graph.uses.get(node.out, ())
        if node.out in graph.kept or len(users) != 1:
            return None
        node = users[0]
    return node if isinstance(node.op, Attention | Concat) else None


def _read_by_attention(graph: Graph, joined: Node) -> bool:
    """Whether attention reads what a concatenation of heads makes, itself or rounded."""
    if len(joined.out.shape) != 4 or not isinstance(joined.op, Concat) or joined.op.axis != 2:
        return False
    users = graph.uses.get(joined.out, ())
    return any(isinstance(n.op, Attention) for u in users for n in (graph.uses.get(u.out, ()) if isinstance(u.op, Cast) else (u,)))


def _running(node: Node) -> int:
    """Which operand is not constant."""
    return next(i for i, v in enumerate(node.inputs) if not isinstance(v.node.op, Const))


def _joinable(chains: list[list[Node]]) -> bool:
    """Whether the constants of each level can stand side by side, or are the same for all."""
    for level in zip(*chains, strict=True):
        for i in range(len(level[0].inputs)):
            if i != _running(level[0]) and not _side_by_side(level, i):
                first, *others = (const_of(n.inputs[i]) for n in level)
                if first is None or not all(a is not None and np.array_equal(a, first) for a in others):
                    return False
    return all(isinstance(c[-1].out.shape[-1], int) for c in chains)


def _side_by_side(level: Sequence[Node], i: int) -> bool:
    """Whether operand i has an element for each column."""
    shapes = [n.inputs[i].shape for n in level]
    whole = all(s and s[-1] == n.out.shape[-1] for s, n in zip(shapes, level, strict=True))
    return whole and len({s[:-1] for s in shapes}) == 1


def _joined(level: Sequence[Node], i: int) -> Value:
    if not _side_by_side(level, i):
        return level[0].inputs[i]
    return const(np.concatenate([a for n in level if (a := const_of(n.inputs[i])) is not None], axis=-1))
