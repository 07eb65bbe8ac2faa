"""Attention in 16 bits: what a device with kernels for it computes where layers are lowered to 16 bits too."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import DType, Graph, Node, Value
from ..ir.ops import Attention, Cast
from .base import Pass, PassContext, apply


@dataclass(frozen=True)
class LowerAttention(Pass):
    """Round q, k and v of float32 attention to `dtype`; masks stay as they are, and the result becomes float32 again."""

    dtype: DType

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        def lowered(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
            if not isinstance(node.op, Attention) or node.out.dtype is not DType.F32:
                return None
            heads = (apply(Cast(self.dtype), x, loc=node.loc) for x in inputs[:3])
            return (apply(Cast(DType.F32), apply(node.op, *heads, *inputs[3:], loc=node.loc), loc=node.loc),)

        return graph.rewrite(lowered)
