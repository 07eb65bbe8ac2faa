"""What a node needs of symbolic dims that types alone do not settle: pairs that have to be equal when sizes are bound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...ir import Dim, Expr, Node, Op, Shape, Trait, Value, prod
from ...ir import ops as O


def constraints(node: Node) -> Iterator[tuple[Dim, Dim]]:
    """Pairs of different dims, at least one symbolic, that have to agree for the node to be legal."""
    types = [v.type for v in node.inputs]
    if Trait.ELEMENTWISE in node.op.traits:
        for t in types:
            yield from _broadcast(t.shape, node.types[0].shape)
        return
    match node.op:
        case O.Reshape(shape):
            yield from _differing(types[0].numel, prod(shape))
        case O.Expand(shape):
            yield from _broadcast(types[0].shape, shape)
        case O.Concat(axis):
            for t in types:
                for i, (a, b) in enumerate(zip(t.shape, node.types[0].shape, strict=True)):
                    if i != axis:
                        yield from _differing(a, b)
        case O.MatMul():
            yield from _differing(types[0].shape[-1], types[1].shape[-2])
            for t in types:
                yield from _broadcast(t.shape[:-2], node.types[0].shape[:-2])
        case O.Attention():
            q, k, v = (t.shape for t in types[:3])
            pairs = [(q[0], k[0]), (k[0], v[0]), (k[1], v[1]), (q[3], k[3]), (k[2], v[2])]
            if not (isinstance(q[1], int) and isinstance(k[1], int)):  # only static numbers of heads may be grouped
                pairs.append((q[1], k[1]))
            for a, b in pairs:
                yield from _differing(a, b)
        case O.Recurrent():
            batch = types[0].shape[1]
            for t, axis in zip(types[4:7], (0, 1, 1), strict=True):
                yield from _differing(t.shape[axis], batch)


def contracted(op: Op, inputs: Sequence[Value]) -> Iterator[tuple[int, int, int, int]]:
    """(operand, axis, other operand, axis) of dims that are summed over together."""
    match op:
        case O.MatMul() if all(v.type.rank > 1 for v in inputs[:2]):
            yield 0, -1, 1, -2
            yield 1, -2, 0, -1
        case O.ConvTranspose() if op.groups == 1:
            yield 0, -1, 1, -1


def _broadcast(shape: Shape, result: Shape) -> Iterator[tuple[Dim, Dim]]:
    if shape:
        for a, b in zip(shape, result[-len(shape) :], strict=True):
            if a != 1:
                yield from _differing(a, b)


def _differing(a: Dim, b: Dim) -> Iterator[tuple[Dim, Dim]]:
    if a != b and (isinstance(a, Expr) or isinstance(b, Expr)):
        yield a, b
