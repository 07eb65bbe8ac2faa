"""Products of float16 on machines without instructions for them: float32 products of the same numbers."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import DType, Graph, Node, Value, const, evaluate, prod, symbols_of
from ..ir.ops import Cast, Conv, MatMul
from .base import Pass, PassContext, apply, const_of

_FEW_ROWS = 4  # or that may be so few: they read weights for so little work that half of the bytes are worth converting them each time


@dataclass(frozen=True)
class WideProducts(Pass):
    """Convert the constant weights of float16 products at compile time, and activations where they are made, not in every product.

    Products of few rows (decoding) stay. Sums were float32 before; results are rounded to float16 as they were.
    """

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        def widened(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
            if type(node.op) not in (MatMul, Conv) or node.out.dtype is not DType.F16:
                return None
            weights, rows = const_of(inputs[1]), node.out.shape[:-1]
            fewest = evaluate(prod(rows), dict.fromkeys(symbols_of(rows), 1))
            if weights is None or (isinstance(node.op, MatMul) and fewest <= _FEW_ROWS):
                return None
            x = apply(Cast(DType.F32), inputs[0], loc=node.loc)
            w = const(weights.astype(DType.F32.np), loc=inputs[1].node.loc)
            return (apply(Cast(DType.F16), apply(node.op, x, w, loc=node.loc), loc=node.loc),)

        return graph.rewrite(widened)
