"""Constant folding: `reference` of pure nodes whose operands are all constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..ir import Const, DType, Expr, Graph, Input, Node, Trait, Value, const, symbols_of
from ..ir.ops import Expand, Within
from .base import Pass, PassContext


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Results above `max_bytes`, or much larger than what they are made from, stay computed.

    Args:
        max_bytes: upper limit of one folded result.
        free_bytes: results up to this size fold however small their operands are.
        max_growth: above `free_bytes`, how many times the operands' bytes a result may take.
    """

    max_bytes: int = 256 << 20
    free_bytes: int = 1 << 20
    max_growth: int = 8

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        whole = read_whole(graph)
        return graph.rewrite(lambda node, inputs: self.fold(node, inputs, node in whole))

    def fold(self, node: Node, inputs: tuple[Value, ...], whole: bool) -> Sequence[Value] | None:
        if isinstance(node.op, Within):
            return inputs if isinstance(op := inputs[0].node.op, Const) and node.op.known_of(op.data) else None
        if isinstance(node.op, (Const, Input)) or Trait.PURE not in node.op.traits:
            return None
        if not all(isinstance(v.node.op, Const) for v in inputs) or not self.small_enough(node, inputs, whole):
            return None
        attributes = [getattr(node.op, f.name) for f in fields(node.op)]
        if any(isinstance(a, (Graph, Expr)) or (isinstance(a, tuple) and symbols_of(a)) for a in attributes):
            return None
        arrays = node.op.reference(*(v.node.op.data for v in inputs if isinstance(v.node.op, Const)))
        return tuple(const(a, t.dtype, node.loc) for a, t in zip(arrays, node.types, strict=True))

    def small_enough(self, node: Node, inputs: tuple[Value, ...], whole: bool) -> bool:
        if any(not t.static or t.dtype is DType.STRING for t in node.types):
            return False
        size = sum(int(t.nbytes) for t in node.types if isinstance(t.nbytes, int))
        given = sum(int(v.type.nbytes) for v in inputs if isinstance(v.type.nbytes, int))
        if whole:
            return size <= self.max_bytes
        if isinstance(node.op, Expand):
            return size <= max(given, 256)  # its readers broadcast by themselves
        return size <= self.max_bytes and (size <= self.free_bytes or size <= self.max_growth * given)


def read_whole(graph: Graph) -> set[Node]:
    """Nodes whose elements some op (a contraction, say) reads as a matrix of its own, be it through data movement.

    Elementwise readers take a repeated constant as it is; these want it written out, once, at compile time, together with
    what is computed from constants alone, such as weights whose scales are spread over blocks.
    """
    constant: set[Node] = set()
    for node in graph.nodes:
        if isinstance(node.op, Const) or (Trait.PURE in node.op.traits and node.inputs and all(v.node in constant for v in node.inputs)):
            constant.add(node)
    found: set[Node] = set()
    for node in reversed(graph.nodes):
        plain = node.op.traits & {Trait.ELEMENTWISE, Trait.MOVE}
        if not plain or (node in found and (Trait.MOVE in node.op.traits or node in constant)):
            found.update(v.node for v in node.inputs)
    return found
