"""Which convolutions are computed by minimal filtering, with which tile: the cheapest by an estimate, or none."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np

from ...ir import Const, Dim, DType, Node, evaluate, lower, symbols_of, upper
from ...ir.ops import Conv
from ..kernel import ConvGeometry
from ..packing import LANES, Deferred, pack_b, packed_size, whole_vectors
from ..winograd import outputs, positions, transform_weights
from .contraction import merged_groups

Tile = tuple[int, int, int]
_AXES = 3
_SUMS = 8  # vectors that multiply-adds need to be busy: two at a time, each of which takes four cycles


@dataclass(frozen=True, slots=True)
class ConvCosts:
    """What the estimate assumes of a machine, in multiply-adds of one core (about 10 ps each with two 512-bit vectors a cycle; see
    `conv_costs`).

    step: of one transform step (a multiply-add of one value, with its share of loads and stores). weight: of reading one
    transformed weight from the outer caches, up to `near` of them, `far`: of one more, from memory. unknown: what symbols of
    spatial axes are taken as, so that maps are the smaller the more strides lie before them. gain: estimated speed-up below which
    direct summation stays. lanes: what columns of products are rounded up to. `cached`: elements of weights that stay in a core's
    cache. `unit`: bytes of image tiles that share one pass over the weights, `tiles` of them at most.
    """

    step: float = 4.8
    weight: float = 26.0
    far: float = 60.0
    near: int = 1 << 22
    unit: int = 3 << 20
    tiles: int = 48
    unknown: int = 256
    gain: float = 1.05
    gain_of_groups: float = 1.2
    cached: int = 1 << 18
    lanes: int = LANES

    def rounded(self, channels: int) -> int:
        return -(-channels // self.lanes) * self.lanes


def conv_costs(multiply_adds: int) -> ConvCosts:
    """Of a core that makes so many float32 multiply-adds in a cycle. Where they take twice as long (17 ps on Zen 4), memory costs half
    as many, and so do transforms, which are loads, stores and sums mostly. Of 45 convolutions measured there (docs/kernels.md), all tiles
    each, those chosen so take 1.01 of the time of the fastest; with the costs of two vectors a cycle 1.06."""
    return ConvCosts() if multiply_adds >= 32 else ConvCosts(step=2.0, weight=12.0, far=12.0, cached=0, lanes=8)


def choose_tile(node: Node, costs: ConvCosts) -> Tile | None:
    """Outputs of a tile along three spatial axes (missing ones come first and are of one pixel), or None for direct summation."""
    found = cheapest_tile(node, costs)
    if found is None or not isinstance(node.op, Conv):
        return None
    tile, speedup = found
    return tile if speedup > (costs.gain if node.op.groups == 1 else costs.gain_of_groups) else None


def cheapest_tile(node: Node, costs: ConvCosts) -> tuple[Tile, float] | None:
    """The tile by which minimal filtering takes least, and how many times as long direct summation takes, by the estimate; None where
    it does not serve."""
    op = node.op
    if not isinstance(op, Conv) or not isinstance(node.inputs[1].node.op, Const) or node.inputs[1].dtype is not DType.F32:
        return None
    *kernel, c, n = (int(d) for d in node.inputs[1].shape)
    if len(kernel) > _AXES or any(s != 1 for s in op.strides):
        return None
    groups, n = op.groups, n // max(1, op.groups)
    if groups > 1 and (c % LANES or merged_groups(node) > 1):
        return None
    missing = [1] * (_AXES - len(kernel))
    kernel, dilations = missing + kernel, (*missing, *op.dilations)
    images_ = node.out.shape[0] if isinstance(node.out.shape[0], int) else 1
    out = missing + [_size(d, costs.unknown) for d in node.out.shape[1:-1]]
    if min(images_, *out, c, n) <= 0:
        return None
    best, least = None, math.inf
    for z, y, x in itertools.product(*(outputs(r) for r in kernel)):
        if positions((z, y, x), kernel) == math.prod(kernel):
            continue
        lines = [-(-o // d) for o, d in zip(out, dilations, strict=True)]
        tiles = images_ * math.prod(d * -(-o // m) for o, d, m in zip(lines, dilations, (z, y, x), strict=True))
        cost = _filtered(tiles, kernel, c, n, groups, (z, y, x), costs)
        if cost < least:
            best, least = (z, y, x), cost
    return None if best is None else (best, _direct(images_, out, kernel, c, n, groups, costs) / least)


def three_axes(conv: ConvGeometry) -> ConvGeometry:
    """The same with axes of one pixel in front. Planes that a kernel of one tap does not connect become images."""
    n = _AXES - len(conv.kernel)
    ones, zeros = (1,) * n, (0,) * n
    all_of = ConvGeometry((*ones, *conv.spatial), (*ones, *conv.out_spatial), (*ones, *conv.kernel), (*ones, *conv.strides),
                          (*zeros, *conv.pads_lo), (*ones, *conv.dilations))  # fmt: skip
    if all_of.kernel[0] != 1 or all_of.pads_lo[0] != 0 or all_of.spatial[0] != all_of.out_spatial[0]:
        return all_of
    return replace(all_of, spatial=(1, *all_of.spatial[1:]), out_spatial=(1, *all_of.out_spatial[1:]), dilations=(1, *all_of.dilations[1:]))


def images(node: Node, conv: ConvGeometry) -> Dim:
    """Images of a convolution with such three axes: planes may be some."""
    batch, *out = node.out.shape[:-1]
    return batch * out[0] if len(out) == _AXES and conv.out_spatial[0] == 1 else batch


def packed_weights(w: np.ndarray, tile: Tile, panel: int, groups: int = 1) -> Deferred:
    """[*kernel, C/groups, O] -> flat [groups, ⌈O/groups/panel⌉, positions, C/groups, panel] of transformed weights, zero padded."""
    *kernel, c, o = w.shape
    kernel = [1] * (_AXES - len(kernel)) + kernel
    rows = positions(tile, kernel) * c  # positions and channels are the rows of one matrix

    def write(out: np.ndarray) -> None:
        done = transform_weights(w.reshape(*kernel, c, o), tile).reshape(rows, groups, o // groups)
        pack_b(done.transpose(1, 0, 2), panel, out=out)

    return Deferred(w.dtype, groups * int(packed_size(rows, o // groups, panel)), write)


def _size(d: Dim, unknown: int) -> int:
    """What a size is likely to be."""
    return d if isinstance(d, int) else min(max(evaluate(d, dict.fromkeys(symbols_of([d]), unknown)), lower(d), 1), upper(d))


def _direct(images: int, out: list[int], kernel: list[int], c: int, n: int, groups: int, costs: ConvCosts) -> float:
    taps = math.prod(kernel)
    work = 1.1 * images * math.prod(out) * taps * groups * c * costs.rounded(n)
    return max(work, _weights(taps * groups * c * n, costs))


def _filtered(tiles: int, kernel: list[int], c: int, n: int, groups: int, tile: Tile, costs: ConvCosts) -> float:
    sizes = [m + r - 1 for m, r in zip(tile, kernel, strict=True)]
    products = math.prod(sizes)
    # an axis of n points takes 2n steps a line, of n in all for the input; the output has fewer lines left for each further axis
    into = 2 * products * sum(s > 1 for s in sizes) * whole_vectors(c)
    left = [math.prod(tile[:axis]) * math.prod(sizes[axis:]) for axis in range(_AXES)]
    back = 2 * sum(left if sizes[0] > 1 else left[1:]) * whole_vectors(n)
    blocks = -(-tiles // max(1, min(costs.tiles, costs.unit // (4 * products * (groups * c + 64)))))
    rows = max(tiles, 4, _SUMS * LANES // costs.rounded(n))  # fewer sums at a time wait for each other
    products_work = rows * products * groups * c * costs.rounded(n)
    weights = _weights(products * groups * c * n, costs) * blocks
    # partly hidden behind the products
    return max(products_work, weights) + 0.25 * min(products_work, weights) + costs.step * tiles * groups * (into + back)


def _weights(elements: int, costs: ConvCosts) -> float:
    return costs.weight * max(0, min(elements, costs.near) - costs.cached) + costs.far * max(0, elements - costs.near)
