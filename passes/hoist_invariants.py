"""Products that give the same in every iteration of a Loop are computed once, before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..ir import Const, Graph, Input, Node, Trait, Value
from ..ir.graph import symbols_in
from ..ir.ops import Concat, Conv, ConvTranspose, IntegerMatMul, Loop, MatMul, Reduce, Reshape, Slice, Transpose
from .base import Pass, PassContext

# What is worth a value of its own, computed even if the loop never runs. Nothing of this can fail, whatever the data are.
_PRODUCTS = (MatMul, IntegerMatMul, Conv, ConvTranspose, Reduce)
_MOVES = (Reshape, Transpose, Slice, Concat)


@dataclass(frozen=True)
class HoistInvariants(Pass):
    """Attention decoders project the image's features in each step; the region of a Loop then reads the projection."""

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        return graph.rewrite(lambda node, inputs: _hoisted(node, inputs) if isinstance(node.op, Loop) else None)


def _hoisted(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    op = node.op
    assert isinstance(op, Loop)
    first = 2 + op.n_state
    outside: dict[Value, Value] = dict(zip(op.body.inputs[first:], inputs[first:], strict=True))
    roots = [] if op.body.limits else _roots(op.body, set(outside))  # sizes may only fit where the loop does not run
    if not roots:
        return None
    for inner in _needed(op.body, roots):
        if inner.out not in outside:
            operands = tuple(outside[v] for v in inner.inputs)
            outside[inner.out] = Node.make(inner.op, operands, inner.loc).out
    formals = {root.node: Node.make(Input(root.type), (), root.node.loc).out for root in roots}
    body = op.body.rewrite(lambda inner, ins: (formals[inner],) if inner in formals else None)
    names = tuple(f"hoisted{len(op.body.inputs) + k}" for k in range(len(formals)))
    body = replace(body, inputs=(*body.inputs, *formals.values()), input_names=(*body.input_names, *names))
    operands = (*inputs, *(outside[root] for root in roots))
    return Node.make(replace(op, body=body), operands, node.loc).outputs


def _roots(body: Graph, captured: set[Value]) -> list[Value]:
    """The last invariant values, as seen from the captures, that cost a product."""
    changing = {s.symbol for s in body.sizes}
    same, costly = set(captured), set[Value]()
    for node in body.nodes:
        if isinstance(node.op, Const):
            same.add(node.out)
        elif len(node.types) == 1 and _may_move(node) and all(v in same for v in node.inputs) and not symbols_in(node) & changing:
            same.add(node.out)
            if isinstance(node.op, _PRODUCTS) or any(v in costly for v in node.inputs):
                costly.add(node.out)
    read = {v for node in body.nodes if not (len(node.types) == 1 and node.out in same) for v in node.inputs}
    return [v for v in costly if v in read or v in body.outputs]


def _may_move(node: Node) -> bool:
    return isinstance(node.op, (*_PRODUCTS, *_MOVES)) or Trait.ELEMENTWISE in node.op.traits


def _needed(body: Graph, roots: Sequence[Value]) -> list[Node]:
    """The nodes behind values, operands first."""
    wanted = {root.node for root in roots}
    for node in reversed(body.nodes):
        if node in wanted:
            wanted.update(v.node for v in node.inputs)
    return [node for node in body.nodes if node in wanted]
