"""Convolutions into few channels as transposed ones: one product takes every pixel by all taps, and its results are added up where
they belong. Columns of a product come in whole vectors: a tap of one channel leaves 15 lanes of 16 empty, nine taps together leave 7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...ir import Const, DType, Graph, Node, Value, const
from ...ir.ops import Conv, ConvTranspose
from ..packing import whole_vectors
from .apply import apply


@dataclass(frozen=True, slots=True)
class ScatterCosts:
    """In multiply-adds: `column` of storing and adding one result of the product; `filtered` is what minimal filtering leaves of a
    sum over taps, up to `taps` of them along an axis. gain: estimated speed-up below which taps are summed."""

    column: float = 30
    filtered: float = 0.6
    taps: int = 5
    gain: float = 1.2


def scatter_taps(graph: Graph, costs: ScatterCosts) -> Graph:
    """Of float32 convolutions with constant weights, stride 1 and known pads, those for which it is cheaper."""

    def visit(node: Node, ins: tuple[Value, ...]) -> Sequence[Value] | None:
        op = node.op
        if type(op) is not Conv or op.groups != 1 or any(s != 1 for s in op.strides) or node.out.dtype is not DType.F32:
            return None
        weights = ins[1].node.op
        if not isinstance(weights, Const) or weights.data.dtype != np.float32 or not _pays(weights.data.shape, costs):
            return None
        kernel, rank = weights.data.shape[:-2], len(op.strides)
        lo, hi = (_cut_off(pads, op.dilations, kernel) for pads in (op.pads_lo, op.pads_hi))
        if lo is None or hi is None:
            return None
        turned = np.ascontiguousarray(np.flip(weights.data, tuple(range(rank))).swapaxes(-1, -2))
        transposed = ConvTranspose(op.strides, lo, hi, (0,) * rank, op.dilations)
        return [apply(transposed, node.loc, ins[0], const(turned, loc=node.loc))]

    return graph.rewrite(visit)


def _pays(shape: Sequence[int], costs: ScatterCosts) -> bool:
    *kernel, c, n = shape
    taps = math.prod(kernel)
    summed = c * taps * whole_vectors(n) * (costs.filtered if max(kernel) <= costs.taps else 1)
    return 0 < costs.gain * (c * whole_vectors(taps * n) + costs.column * taps * n) < summed


def _cut_off(pads: Sequence[object], dilations: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...] | None:
    """What the transposed convolution cuts off at one end, if the pads are known."""
    out = [(k - 1) * d - p for p, d, k in zip(pads, dilations, kernel, strict=True) if isinstance(p, int)]
    return tuple(out) if len(out) == len(pads) and min(out) >= 0 else None
