"""Products with weights of few bits take 16-bit activations as they are, on devices whose tensor cores multiply those.

groupedmatmul(cast<f32>(x16), …)  →  groupedmatmul(x16, …)
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import DType, Graph, Node, Value
from ..ir.ops import Cast, GroupedMatMul
from .base import Pass, PassContext, apply

_SIXTEEN = (DType.F16, DType.BF16)


@dataclass(frozen=True)
class GroupedActivations(Pass):
    """`dtype`: what float32 activations are rounded to; None leaves them."""

    dtype: DType | None = None

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        def narrowed(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
            if not isinstance(node.op, GroupedMatMul) or inputs[0].dtype is not DType.F32:
                return None
            x = inputs[0]
            if isinstance(x.node.op, Cast) and x.node.inputs[0].dtype in _SIXTEEN:
                x = x.node.inputs[0]
            elif self.dtype is not None:
                x = apply(Cast(self.dtype), x, loc=node.loc)
            else:
                return None
            return (apply(node.op, x, *inputs[1:], loc=node.loc),)

        return graph.rewrite(narrowed)
