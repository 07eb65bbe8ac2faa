"""1×1 convolutions at the border of a channels-first model: products of the weights with the image as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import Graph, Node, Value, const, prod
from ..ir.ops import Conv, MatMul, Transpose
from .base import Pass, PassContext, apply, const_of, estimate, is_trivial, reshape, transpose
from .sink_transposes import SinkTransposes, moved_elements

_ROWS = 128  # output channels up to which the image is read in place; for more it is packed first, which moves it once
_COLUMNS = 64  # pixels that fill the vectors of a product


@dataclass(frozen=True)
class ChannelsFirst(Pass):
    """conv(x[N, *S, C], w) = w^T [O, C] · x[N, C, S], where x comes transposed from [N, C, *S]. Only if less is moved then:
    between other convolutions, which want channels last, it is not."""

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        packed = 0

        def product(node: Node, ins: tuple[Value, ...]) -> Sequence[Value] | None:
            nonlocal packed
            if not _pointwise(node) or not isinstance(ins[0].node.op, Transpose):
                return None
            perm, x = ins[0].node.op.perm, ins[0].node.inputs[0]
            if perm != (0, *range(2, len(perm)), 1) or is_trivial(perm, x.shape):
                return None
            images, channels, *spatial = x.shape
            pixels = prod(spatial)
            if isinstance(pixels, int) and pixels < _COLUMNS:
                return None
            w = const_of(ins[1])
            assert w is not None
            n = w.shape[-1]
            weights = const(np.ascontiguousarray(w.reshape(-1, n).T), loc=node.loc)
            y = apply(MatMul(), weights, reshape(x, (images, channels, pixels)), loc=node.loc)
            packed += estimate(prod(x.shape)) if n > _ROWS else 0
            return [transpose(reshape(y, (images, n, *spatial)), perm)]

        new = graph.rewrite(product)
        if new is graph:
            return graph
        new = SinkTransposes().run(new, ctx)
        return new if moved_elements(new) + packed < moved_elements(graph) else graph


def _pointwise(node: Node) -> bool:
    op = node.op
    if type(op) is not Conv or const_of(node.inputs[1]) is None:
        return False
    whole = all(k == 1 for k in node.inputs[1].shape[:-2]) and all(s == 1 for s in op.strides)
    return whole and op.groups == 1 and not any((*op.pads_lo, *op.pads_hi))
