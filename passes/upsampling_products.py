"""Transposed convolutions whose windows do not overlap are products, so that they can be lowered to few bits as those are.

convtranspose(x[n, h, w, c], k×l filters at strides k, l)  →  x·w[c, k·l·o], its pixels dealt out to k by l squares
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import Graph, Node, Value, prod
from ..ir.ops import ConvTranspose, MatMul
from .base import Pass, PassContext, apply, const_of, reshape, transpose


@dataclass(frozen=True)
class UpsamplingProducts(Pass):
    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        def visit(node: Node, ins: tuple[Value, ...]) -> tuple[Value, ...] | None:
            op = node.op
            if not isinstance(op, ConvTranspose) or const_of(ins[1]) is None or not _is_disjoint(op, ins[1].shape[:-2]):
                return None
            return (_product(ins[0], ins[1], node),)

        return graph.rewrite(visit)


def _is_disjoint(op: ConvTranspose, kernel: tuple[object, ...]) -> bool:
    plain = op.groups == 1 and all(d == 1 for d in op.dilations)
    return plain and kernel == op.strides and not any((*op.pads_lo, *op.pads_hi, *op.output_padding))


def _product(x: Value, w: Value, node: Node) -> Value:
    batch, *spatial, channels = x.shape
    *kernel, outputs, _ = w.shape
    rank, width = len(kernel), prod(kernel) * outputs
    weights = transpose(reshape(w, (width, channels)), (1, 0))
    y = apply(MatMul(), x, weights, loc=node.loc)
    y = reshape(y, (batch, *spatial, *kernel, outputs))
    order = [axis for d in range(rank) for axis in (1 + d, 1 + rank + d)]
    return reshape(transpose(y, (0, *order, 1 + 2 * rank)), node.out.shape)
