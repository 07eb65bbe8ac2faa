"""What a node needs of symbolic dims that types alone do not settle: pairs that have to be equal when sizes are bound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...ir import Dim, Expr, Node, Op, Shape, Trait, Value, dim_stretch, prod, upper
from ...ir import ops as O


def constraints(node: Node) -> Iterator[tuple[Dim, Dim]]:
    """Pairs of different dims, at least one symbolic, that have to agree for the node to be legal."""
    types = [v.type for v in node.inputs]
    match node.op:
        case O.Reshape(shape):
            yield from _differing(types[0].numel, prod(shape))
        case O.Stretch(shape):
            for d, e in zip(types[0].shape, shape, strict=True):
                if d != e and d != 1:
                    yield (d - e) * (d - 1), 0
        case O.Concat(axis):
            for t in types:
                for i, (a, b) in enumerate(zip(t.shape, node.types[0].shape, strict=True)):
                    if i != axis:
                        yield from _differing(a, b)
        case O.MatMul() | O.IntegerMatMul() | O.Conv() | O.IntegerConv() | O.ConvTranspose():
            for i, axis, size in contracted(node.op, node.inputs):
                yield from _differing(types[i].shape[axis], size)
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


def assumptions(node: Node) -> Iterator[tuple[Dim, Dim]]:
    """Pairs of dims that broadcast if they are equal, or if one of them is 1; the node takes them as equal."""
    if isinstance(node.op, O.Attention) and len(node.inputs) > _ATTENTION_MASK:
        yield from _broadcast(node.inputs[_ATTENTION_MASK].shape, _scores(node.inputs))
    for v, axes in _broadcasting(node.op, node.inputs):
        yield from _broadcast(v.shape[: len(v.shape) - axes], node.types[0].shape[: node.types[0].rank - axes])


_ATTENTION_MASK = 3


def _scores(inputs: Sequence[Value]) -> Shape:
    q, k = (v.shape for v in inputs[:2])
    return (*q[:3], k[2])


def stretched(op: Op, inputs: Sequence[Value]) -> Iterator[tuple[int, Shape]]:
    """Operands that have to be stretched, and to what, so that sizes which may be 1 when the model runs are equal."""
    if isinstance(op, O.Attention) and len(inputs) > _ATTENTION_MASK:
        shape = inputs[_ATTENTION_MASK].shape
        aligned = zip(shape, _scores(inputs)[4 - len(shape) :], strict=True)
        wide = [d if d == 1 else e for d, e in aligned]
        if tuple(wide) != shape:
            yield _ATTENTION_MASK, tuple(wide)
    sides = [(v.shape[: len(v.shape) - axes], axes) for v, axes in _broadcasting(op, inputs)]
    for i, (shape, axes) in enumerate(sides):
        wide = list(shape)
        for other, _ in sides:
            for at in range(1, 1 + min(len(wide), len(other))):
                if wide[-at] != 1:
                    wide[-at] = dim_stretch(wide[-at], other[-at])
        if tuple(wide) != shape:
            yield i, (*wide, *inputs[i].shape[len(inputs[i].shape) - axes :])


def narrowed(op: Op, inputs: Sequence[Value]) -> Iterator[tuple[int, Shape]]:
    """Operands with sizes that are 1 if they are not 0, and their shapes with 1 there, where others may be longer."""
    sides = [(v.shape[: len(v.shape) - axes], axes) for v, axes in _broadcasting(op, inputs)]
    if isinstance(op, O.Expand):
        sides.append((op.shape, 0))
    for i, (shape, axes) in enumerate(sides[: len(inputs)]):
        narrow = list(shape)
        for at in range(1, 1 + len(narrow)):
            if narrow[-at] != 1 and upper(narrow[-at]) == 1 and any(upper(s[-at]) > 1 for s, _ in sides if at <= len(s)):
                narrow[-at] = 1
        if tuple(narrow) != shape:
            yield i, (*narrow, *inputs[i].shape[len(inputs[i].shape) - axes :])


def _broadcasting(op: Op, inputs: Sequence[Value]) -> Sequence[tuple[Value, int]]:
    """Operands whose axes broadcast together, all but so many of the last."""
    if Trait.ELEMENTWISE in op.traits:
        return [(v, 0) for v in inputs]
    match op:
        case O.Expand():
            return [(inputs[0], 0)]
        case O.MatMul():
            return [(v, 2) for v in inputs[:2]]
        case O.IntegerMatMul():
            return [(v, 2) for v in inputs[:2]]
    return []


def contracted(op: Op, inputs: Sequence[Value]) -> Iterator[tuple[int, int, Dim]]:
    """(operand, axis, what its size has to be) of dims that are summed over together with those of the other operand."""
    if len(inputs) < 2:
        return
    x, w = (v.shape for v in inputs[:2])
    match op:
        case O.MatMul() | O.IntegerMatMul() if min(len(x), len(w)) > 1:
            yield 0, -1, w[-2]
            yield 1, -2, x[-1]
        case O.Conv() | O.IntegerConv():
            yield 0, -1, w[-2] * op.groups
            if op.groups == 1:
                yield 1, -2, x[-1]
        case O.ConvTranspose():
            yield 0, -1, w[-1]
            yield 1, -1, x[-1]


def _broadcast(shape: Shape, result: Shape) -> Iterator[tuple[Dim, Dim]]:
    if shape:
        for a, b in zip(shape, result[-len(shape) :], strict=True):
            if a != 1:
                yield from _differing(a, b)


def _differing(a: Dim, b: Dim) -> Iterator[tuple[Dim, Dim]]:
    if a != b and (isinstance(a, Expr) or isinstance(b, Expr)):
        yield a, b
