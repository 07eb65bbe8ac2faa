"""A convolution of few channels, as the first of most models, reads whole pieces of 16 bytes of an image whose pixels are made wide enough:

    conv(x[N, H, W, 3], w[7, 7, 3, O], strides 2)   →   conv(x'[N, H, W/2, 2·4], w'[7, 4, 2·4, O], strides (2, 1))

Channels of zeros, which weights of zeros meet, fill each pixel, and pixels next to each other become one as far as the stride goes. It is
for devices that load 16 bytes at a time into tensor cores, to which the products with zeros cost less than loads one by one: where rows
of A have 147 elements, 224 are 28 pieces. The image has to be written in another order anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..ir import DType, Graph, Node, Value, const
from ..ir.ops import Conv, Pad
from ..ir.ops.dot import DotConv
from .base import Pass, PassContext, apply, const_of, like, reshape

_PIECE = 16  # bytes


@dataclass(frozen=True)
class FewChannels(Pass):
    """Of elements of `types`. Runs behind all choices of precision."""

    types: frozenset[DType]

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        def visit(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
            op = node.op
            if type(op) not in (Conv, DotConv) or len(inputs) != 2 or not isinstance(op, Conv) or inputs[0].dtype not in self.types:
                return None
            return _widened(node, op, *inputs)

        return graph.rewrite(visit)


def _widened(node: Node, op: Conv, x: Value, weights: Value) -> Sequence[Value] | None:
    whole, w, channels = _PIECE // x.dtype.itemsize, const_of(weights), x.shape[-1]
    if w is None or not isinstance(channels, int) or channels % whole == 0 or op.groups != 1 or math.prod(w.shape[:-2]) == 1:
        return None
    *kernel, along, _, columns = w.shape
    width, out, before, stride = x.shape[-2], node.out.shape[-2], op.pads_lo[-1], op.strides[-1]
    fold, each = 1, -(-channels // whole) * whole
    if isinstance(width, int) and isinstance(out, int) and isinstance(before, int) and before >= 0 and op.dilations[-1] == 1:
        choices = [(f, -(-channels * f // whole) * whole // f) for f in range(1, stride + 1) if stride % f == 0 and whole % f == 0]
        fold, each = min(choices, key=lambda c: (-(-along // c[0]) * c[0] * c[1], -c[0]))
    taps = -(-along // fold)
    filled = np.pad(w, [(0, 0)] * len(kernel) + [(0, taps * fold - along), (0, each - channels), (0, 0)])
    wide = const(filled.reshape(*kernel, taps, fold * each, columns), loc=weights.node.loc)
    none = (0,) * (len(x.shape) - 2)
    if fold == 1:
        return (apply(op, _padded(x, none, 0, 0, each - channels, node), wide, loc=node.loc),)
    assert isinstance(width, int) and isinstance(out, int) and isinstance(before, int)
    first = before % fold  # pixels of zeros, so that windows begin with a pixel made of several
    pixels = -(-(width + first) // fold)
    image = _padded(x, none, first, pixels * fold - width - first, each - channels, node)
    image = reshape(image, (*x.shape[:-2], pixels, fold * each))
    behind = (out - 1) * (stride // fold) + taps - pixels - before // fold
    folded = replace(op, strides=(*op.strides[:-1], stride // fold), pads_lo=(*op.pads_lo[:-1], before // fold),
                     pads_hi=(*op.pads_hi[:-1], behind))  # fmt: skip
    return (apply(folded, image, wide, loc=node.loc),)


def _padded(x: Value, none: tuple[int, ...], first: int, last: int, channels: int, node: Node) -> Value:
    return apply(Pad((*none, first, 0), (*none, last, channels)), x, like(x, 0), loc=node.loc)
