"""A product with a matrix of equal rows, or of equal columns, is a sum and an outer product: nothing has to write that matrix out.

matmul(x[m, k], expand(r[1, n] → [k, n]))  →  sum(x, k)[m, 1] · r
matmul(expand(c[m, 1] → [m, k]), y[k, n])  →  c · sum(y, k)[1, n]
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import DType, Graph, Node, Value
from ..ir.ops import Expand, MatMul, Mul, Reduce
from .base import Pass, PassContext, apply


@dataclass(frozen=True)
class RepeatedMatrices(Pass):
    """Runs where constants have folded: what is still an `Expand` is computed, or too large to be stored."""

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        def visit(node: Node, ins: tuple[Value, ...]) -> tuple[Value, ...] | None:
            if node.op != MatMul() or node.out.dtype not in (DType.F32, DType.F64):
                return None
            a, b = ins
            if len(a.shape) < 2 or len(b.shape) < 2:
                return None
            if (row := _one(b, -2)) is not None:
                y = apply(Mul(), _sum(a, -1, node), row, loc=node.loc)
            elif (column := _one(a, -1)) is not None:
                y = apply(Mul(), column, _sum(b, -2, node), loc=node.loc)
            else:
                return None
            return (y if y.shape == node.out.shape else apply(Expand(node.out.shape), y, loc=node.loc),)

        return graph.rewrite(visit)


def _one(v: Value, axis: int) -> Value | None:
    """What v repeats along that axis, of which it has one."""
    if not isinstance(v.node.op, Expand):
        return None
    x = v.node.inputs[0]
    return x if len(x.shape) >= 2 and x.shape[axis] == 1 else None


def _sum(v: Value, axis: int, node: Node) -> Value:
    return apply(Reduce("sum", (len(v.shape) + axis,), True), v, loc=node.loc)
