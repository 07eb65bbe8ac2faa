"""A convolution whose windows do not overlap and fill the image, as those that make patches of one, is a product:

    conv(x[N, H, W, C], w[p, q, C, O], strides p, q)   →   matmul(patches[N, H/p, W/q, p·q·C], w[p·q·C, O])

Patches are a transposition. Only of few channels, which a device that loads 16 bytes at a time would read one by one, again for each
tile of columns; of more it reads windows where they lie.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..ir import Graph, Node, Op, Value
from ..ir.ops import Conv, MatMul, Reshape, Transpose
from ..ir.ops.dot import DotConv, DotMatMul
from .base import Pass, PassContext, apply

_PIECE = 16  # bytes of channels that a convolution reads as well as a product does
_PRODUCTS: dict[type[Op], type[MatMul]] = {Conv: MatMul, DotConv: DotMatMul}


@dataclass(frozen=True)
class Patches(Pass):
    """Runs behind all choices of precision, and before transpositions are joined."""

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        def visit(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
            op, product = node.op, _PRODUCTS.get(type(node.op))
            if product is None or len(inputs) != 2 or not isinstance(op, Conv):
                return None
            x, w = inputs
            batch, *spatial, channels = x.shape
            kernel = w.shape[:-2]
            apart = op.strides == kernel and op.groups == 1 and all(d == 1 for d in op.dilations) and not any((*op.pads_lo, *op.pads_hi))
            sizes = [(s, k) for s, k in zip(spatial, kernel, strict=True) if isinstance(s, int) and isinstance(k, int) and s % k == 0]
            if not apart or len(sizes) != len(spatial) or not isinstance(channels, int) or channels * x.dtype.itemsize % _PIECE == 0:
                return None
            rank, depth = len(sizes), math.prod(k for _, k in sizes) * channels
            if depth == channels:
                return None

            def step(kind: Reshape | Transpose, value: Value) -> Value:
                return apply(kind, value, loc=node.loc)

            split = step(Reshape((batch, *(n for s, k in sizes for n in (s // k, k)), channels)), x)
            places, within = (tuple(range(first, 2 * rank + 1, 2)) for first in (1, 2))
            turned = step(Transpose((0, *places, *within, 2 * rank + 1)), split)
            patches = step(Reshape((batch, *(s // k for s, k in sizes), depth)), turned)
            return (apply(product(), patches, step(Reshape((depth, w.shape[-1])), w), loc=node.loc),)

        return graph.rewrite(visit)
