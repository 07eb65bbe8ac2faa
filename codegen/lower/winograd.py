"""Which convolutions are computed by minimal filtering, with which tile: the cheapest by an estimate, or none."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from ...ir import Const, Dim, DType, Node
from ...ir.ops import Conv
from ..packing import Deferred, pack_b, packed_size
from ..winograd import outputs, positions, transform_weights


@dataclass(frozen=True, slots=True)
class ConvCosts:
    """What the estimate assumes of a machine, in multiply-adds of one core (about 10 ps each with 512-bit vectors).

    step: of one transform step (a multiply-add of one value, with its share of loads and stores). weight: of reading one
    transformed weight from the outer caches. unknown: size of a spatial axis that is not known at compile time. gain:
    estimated speed-up below which direct summation stays. `cached`: elements of weights that stay in a core's cache.
    """

    step: float = 4.8
    weight: float = 26.0
    unknown: int = 56
    gain: float = 1.05
    cached: int = 1 << 18


def choose_tile(node: Node, costs: ConvCosts) -> tuple[int, int] | None:
    """Outputs of a tile along the two spatial axes (a missing first one counts as 1), or None for direct summation."""
    op = node.op
    if not isinstance(op, Conv) or not isinstance(node.inputs[1].node.op, Const) or node.inputs[1].dtype is not DType.F32:
        return None
    *kernel, c, n = (int(d) for d in node.inputs[1].shape)
    if op.groups != 1 or len(kernel) > 2 or any(d != 1 for d in (*op.strides, *op.dilations)):
        return None
    kernel = [1] * (2 - len(kernel)) + kernel
    images = _size(node.out.shape[0], 1)
    out = [1] * (3 - len(node.out.shape[:-1])) + [_size(d, costs.unknown) for d in node.out.shape[1:-1]]
    if min(images, *out, c, n) <= 0:
        return None
    best, direct = None, _direct(images, out, kernel, c, n, costs)
    least = direct / costs.gain
    for tile in itertools.product(*(outputs(r) for r in kernel)):
        if positions(tile, kernel) == math.prod(kernel):
            continue
        cost = _filtered(images, out, kernel, c, n, (tile[0], tile[1]), costs)
        if cost < least:
            best, least = (tile[0], tile[1]), cost
    return best


def packed_weights(w: np.ndarray, tile: tuple[int, int], panel: int) -> Deferred:
    """[*kernel, C, O] -> flat [⌈O/panel⌉, positions, C, panel] of transformed weights, zero padded."""
    *kernel, c, o = w.shape
    kernel = [1] * (2 - len(kernel)) + kernel
    rows = positions(tile, kernel) * c  # positions and channels are the rows of one matrix
    return Deferred(
        w.dtype,
        int(packed_size(rows, o, panel)),
        lambda out: pack_b(transform_weights(w.reshape(*kernel, c, o), tile).reshape(rows, o), panel, out=out),
    )


def _size(d: Dim, unknown: int) -> int:
    return d if isinstance(d, int) else unknown


def _direct(images: int, out: list[int], kernel: list[int], c: int, n: int, costs: ConvCosts) -> float:
    taps = math.prod(kernel)
    work = 1.1 * images * math.prod(out) * taps * c * _padded(n)
    return max(work, _weights(taps * c * n, costs))


def _filtered(images: int, out: list[int], kernel: list[int], c: int, n: int, tile: tuple[int, int], costs: ConvCosts) -> float:
    tiles = images * math.prod(-(-o // m) for o, m in zip(out, tile, strict=True))
    sizes = [m + r - 1 for m, r in zip(tile, kernel, strict=True)]
    products = math.prod(sizes)
    # an axis of n points takes 2n steps a line, of n in all for the input; the output has m lines left for the second axis
    into = 2 * products * sum(s > 1 for s in sizes) * _padded(c)
    back = 2 * (sizes[0] * sizes[1] + tile[0] * sizes[1]) * _padded(n)
    blocks = -(-tiles // 48)
    products_work = max(tiles, 4) * products * c * _padded(n)
    weights = _weights(products * c * n, costs) * blocks
    # partly hidden behind the products
    return max(products_work, weights) + 0.25 * min(products_work, weights) + costs.step * tiles * (into + back)


def _padded(n: int) -> int:
    return -(-n // 16) * 16


def _weights(elements: int, costs: ConvCosts) -> float:
    return costs.weight * max(0, elements - costs.cached)
