"""Attention in 16 bits: what a device with kernels for it computes where layers are lowered to 16 bits too."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import DType, Graph, Input, Node, Value
from ..ir.ops import Attention, Cast, Concat
from .base import Pass, PassContext, apply

FEW = 4  # queries up to which the time is that of reading keys and values once: rounding those of a cache first takes longer


@dataclass(frozen=True)
class LowerAttention(Pass):
    """Round q, k and v of float32 attention to `dtype`; masks stay as they are, and the result becomes float32 again.

    Not where keys or values join others, as those of a cache do, for a few queries: they would be read, rounded, written and read again.
    """

    dtype: DType

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        def lowered(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
            if not isinstance(node.op, Attention) or node.out.dtype is not DType.F32:
                return None
            rows = node.inputs[0].shape[-2]
            if isinstance(rows, int) and rows <= FEW and any(isinstance(v.node.op, Concat | Input) for v in node.inputs[1:3]):
                return None
            heads = (apply(Cast(self.dtype), x, loc=node.loc) for x in inputs[:3])
            return (apply(Cast(DType.F32), apply(node.op, *heads, *inputs[3:], loc=node.loc), loc=node.loc),)

        return graph.rewrite(lowered)
