"""Products of places along an axis with one matrix are places of one product: it is read once, not once for each place.

matmul(x[:, 0], w), matmul(x[:, 1], w), …  →  y[:, 0], y[:, 1], … of y = matmul(x, w)

Recurrent layers that an exporter unrolled multiply the input of each step so.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from ..ir import DType, Graph, Node, Value, prod
from ..ir.ops import MatMul, Reshape, Slice
from .base import Pass, PassContext, apply, const_of, reshape, transpose


class _Place(NamedTuple):
    """x at one place along an axis, which is left out, or has size 1."""

    x: Value
    axis: int
    at: int


@dataclass(frozen=True)
class StackedProducts(Pass):
    """Runs where constants have folded, so that equal matrices are one value, and before transposes sink: it makes one."""

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        found: dict[tuple[Value, int, Value], list[tuple[Node, int]]] = defaultdict(list)
        for node in graph.nodes:
            if (place := _place_of(node)) is not None:
                found[place.x, place.axis, node.inputs[1]].append((node, place.at))
        stacks = [_Stack(products) for (_, axis, _), products in found.items() if _worth(products, axis)]
        stack_of = {node: stack for stack in stacks for node, _ in stack.products}

        def visit(node: Node, ins: tuple[Value, ...]) -> tuple[Value, ...] | None:
            return (stack_of[node].part(node, ins),) if node in stack_of else None

        return graph.rewrite(visit) if stacks else graph


def _place_of(node: Node) -> _Place | None:
    """The place that a product with a constant matrix reads."""
    if not isinstance(node.op, MatMul) or len(node.inputs) != 2 or node.out.dtype not in (DType.F32, DType.F64):
        return None
    a, w = node.inputs
    return _sliced(a) if const_of(w) is not None and w.type.rank == 2 and a.type.rank > 1 else None


def _sliced(a: Value) -> _Place | None:
    v = a.node.inputs[0] if isinstance(a.node.op, Reshape) else a
    op = v.node.op
    if not isinstance(op, Slice):
        return None
    x = v.node.inputs[0]
    cut = [i for i, (d, e) in enumerate(zip(x.shape, op.sizes, strict=True)) if d != e]
    if len(cut) != 1 or op.sizes[cut[0]] != 1 or any(s != 1 for i, s in enumerate(op.steps) if i != cut[0]):
        return None
    axis, rest = cut[0], tuple(d for i, d in enumerate(x.shape) if i != cut[0])
    at = op.starts[axis]
    if not isinstance(at, int) or len(rest) < 2 or a.shape not in (rest, op.sizes) or (a.shape == op.sizes and axis == len(rest)):
        return None
    return _Place(x, axis, at)


def _worth(products: list[tuple[Node, int]], axis: int) -> bool:
    """Whether there are several places, and most of those from the first to the last. Where places lie closest in memory, reading the
    matrix once has to save more than turning rows to lie so costs."""
    places = {at for _, at in products}
    if len(places) < 2 or 2 * len(places) < max(places) + 1 - min(places):
        return False
    product = products[0][0]
    x, rows, columns = product.inputs[0], prod(product.out.shape[:-1]), product.out.shape[-1]
    closest = axis == x.type.rank  # which leaves it out: a product does not sum over it
    return not (closest and isinstance(rows, int) and isinstance(columns, int)) or 2 * rows <= columns


class _Stack:
    def __init__(self, products: list[tuple[Node, int]]) -> None:
        self.products = products
        self.first = min(at for _, at in products)
        self.count = max(at for _, at in products) + 1 - self.first
        self._whole: Value | None = None

    def part(self, node: Node, ins: tuple[Value, ...]) -> Value:
        """The result of one of the products, from what its operands have become."""
        place = _sliced(ins[0])
        assert place is not None
        if self._whole is None:
            self._whole = self._product(place, ins[1])
        axis = min(place.axis, len(self._whole.shape) - 2)
        return reshape(_cut(self._whole, axis, place.at - self.first, 1, node.loc), node.out.shape)

    def _product(self, place: _Place, w: Value) -> Value:
        x, axis, _ = place
        loc = tuple(dict.fromkeys(name for node, _ in self.products for name in node.loc))
        if self.count != x.shape[axis]:
            x = _cut(x, axis, self.first, self.count, loc)
        last = len(x.shape) - 1
        if axis == last:
            x = transpose(x, (*range(last - 1), last, last - 1))
        return apply(MatMul(), x, w, loc=loc)


def _cut(x: Value, axis: int, start: int, size: int, loc: tuple[str, ...]) -> Value:
    starts = tuple(start if i == axis else 0 for i in range(len(x.shape)))
    sizes = tuple(size if i == axis else d for i, d in enumerate(x.shape))
    return apply(Slice(starts, sizes, (1,) * len(sizes)), x, loc=loc)
