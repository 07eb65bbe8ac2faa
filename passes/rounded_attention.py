"""Attention between products in bfloat16 or bytes rounds its operands to bfloat16: queries, keys and values that such products computed.

Bytes have lost more of them by then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..ir import DType, Elementwise, Graph, Node, Value
from ..ir.ops import Attention, Concat, DotConv, DotMatMul, Expand, Gather, IntegerConv, IntegerMatMul, Reshape, Slice, Transpose
from .base import Pass, PassContext

_CARRIES = (Elementwise, Concat, Expand, Gather, Reshape, Slice, Transpose)


@dataclass(frozen=True)
class RoundedAttention(Pass):
    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        if not any(isinstance(n.op, Attention) for n in graph.nodes):
            return graph
        found: set[Value] = set()  # results of such products, and what is made of them
        for node in graph.nodes:
            if _is_product(node) or (isinstance(node.op, _CARRIES) and any(v in found for v in node.inputs)):
                found.update(node.outputs)

        def visit(node: Node, ins: tuple[Value, ...]) -> tuple[Value, ...] | None:
            if not isinstance(node.op, Attention) or node.op.rounded or not all(v in found for v in node.inputs[:3]):
                return None
            return Node.make(replace(node.op, rounded=True), ins, node.loc).outputs

        return graph.rewrite(visit)


def _is_product(node: Node) -> bool:
    if isinstance(node.op, (DotMatMul, DotConv)):
        return node.inputs[0].dtype is DType.BF16
    return isinstance(node.op, (IntegerMatMul, IntegerConv))
