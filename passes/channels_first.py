"""Windows at the border of a channels-first model: computed from the image as it is, instead of turning it channels last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..ir import Dim, Graph, Node, Value, const, prod
from ..ir.ops import Conv, MatMul, PlaneConv, Pool, Slice
from .base import Pass, PassContext, apply, before_transpose, behind_transpose, const_of, estimate, inverse, is_trivial, reshape, transpose
from .sink_transposes import SinkTransposes, moved_elements

_ROWS = 128  # output channels up to which the image is read in place; for more it is packed first, which moves it once
_COLUMNS = 64  # pixels that fill the vectors of a product
_CHANNELS = 16  # that fill a vector channels last; for fewer, planes are always better
_TAPS = 90  # of a window by stride, up to which planes are read about as quickly
_PLANES = 1.25  # time of a multiply-add on planes by that of a vector of columns, at most
_WRITTEN = 48  # terms of a sum on planes, all of which its code writes out, for which that is not long
_SMALL = 9  # taps of a window, up to which turning the image costs more than vectors that are not full
_ALONG = 8  # taps along a line, from which on vectors hold those of one window
_VECTOR = 16  # pixels
_FULL = 0.7
_LINE = 32  # pixels up to which a line is short,
_LONG = 5  # taps along it from which on they are many
_SUMMED = 72  # terms of a sum, up to which planes are read about as quickly as packed rows; of strides from 3 on fewer,
_SUMMED_WIDE, _SUMMED_APART = 48, 30  # without strides and with them, where there are more output channels than a vector has,
_SUMMED_FEW = {1: 640, 2: 72, 3: 100, 4: 576, 8: 288}  # or where there are few: four share what they read, and 2 and 3 are cheap
# as products of taps, too (`codegen/lower/scattered_taps.py`)


@dataclass(frozen=True)
class ChannelsFirst(Pass):
    """Where x comes transposed from [N, C, *S]: a 1×1 convolution is w^T [O, C] · x[N, C, S]; pooling treats planes as images of
    one channel; filters of short sums, depthwise ones among them, have an op of their own; pixels that
    strides skip are not turned. Only if less is moved then: between
    other convolutions, which want channels last, it is not. Windows of few channels into few are filters of planes there as well."""

    rounds: int = 6

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        return _few_channels(self._at_borders(graph, ctx), ctx)

    def _at_borders(self, graph: Graph, ctx: PassContext) -> Graph:
        packed = 0

        def first(node: Node, ins: tuple[Value, ...]) -> Sequence[Value] | None:
            nonlocal packed
            if not isinstance(node.op, Conv | Pool):
                return None
            rank = len(ins[0].shape)
            perm = (0, *range(2, rank), 1)
            x = transpose(ins[0], inverse(perm))
            turned = behind_transpose(ins[0]) and not is_trivial(perm, x.shape)
            y: Value | None = None
            alone = len(now.uses.get(node.inputs[0], ())) == 1
            if turned and alone and (seen := _pixels_read(node, x)) is not None:
                op, x = seen
                return [apply(op, transpose(x, perm), ins[1], loc=node.loc)]
            if isinstance(node.op, Pool):
                y = _pool(node, x) if turned else None
            elif turned and (y := _product(node, x)) is not None:
                columns = node.out.shape[-1]
                assert isinstance(columns, int)  # of a constant
                packed += estimate(prod(x.shape)) if columns > _ROWS else 0
            elif (turned and _is_depthwise(node)) or ((turned or x.shape[1] == 1) and _leaves_planes(now, node, inverse(perm))):
                y = _filters(node, x, ins[1])
                packed += 0 if y is None else _slower(node, x)
            return None if y is None else [transpose(y, perm)]

        before, now = moved_elements(graph), graph
        for _ in range(self.rounds):  # each brings the transposes behind the windows that it found
            new = now.rewrite(first)
            if new is now:
                break
            new = SinkTransposes().run(new, ctx)
            if (cost := moved_elements(new) + packed) > before:
                break
            now = new
            if cost < before:
                graph, before = now, cost
        return graph


def _few_channels(graph: Graph, ctx: PassContext) -> Graph:
    """Windows of few channels into few on planes, wherever they are, if what is turned then is less than what their vectors lost.
    Others stay: a border that moved with them would take layers along that are as quick channels last."""
    gained = 0

    def few(node: Node, ins: tuple[Value, ...]) -> Sequence[Value] | None:
        nonlocal gained
        gain = _unfilled(node)
        perm = (0, *range(2, len(node.out.shape)), 1)
        if not gain or (y := _filters(node, transpose(ins[0], inverse(perm)), ins[1])) is None:
            return None
        gained += gain
        return [transpose(y, perm)]

    planes = graph.rewrite(few)
    if planes is graph:
        return graph
    new = SinkTransposes().run(planes, ctx)
    return new if moved_elements(new) - gained < moved_elements(graph) else graph


def _pixels_read(node: Node, x: Value) -> tuple[Conv, Value] | None:
    """Of a convolution with strides where the kernel has one tap: the pixels that it reads, and what it then is."""
    op = node.op
    if type(op) is not Conv:
        return None
    kernel, out = node.inputs[1].shape[:-2], node.out.shape[1:-1]
    apart = [k == 1 and s > 1 and lo == 0 for k, s, lo in zip(kernel, op.strides, op.pads_lo, strict=True)]
    if not any(apart):
        return None
    sizes = tuple(o if a else n for a, o, n in zip(apart, out, x.shape[2:], strict=True))
    steps = tuple(s if a else 1 for a, s in zip(apart, op.strides, strict=True))
    if any(a and hi != 0 for a, hi in zip(apart, op.pads_hi, strict=True)):
        return None
    seen = apply(Slice((0,) * len(x.shape), (*x.shape[:2], *sizes), (1, 1, *steps)), x, loc=node.loc)
    return replace(op, strides=tuple(1 if a else s for a, s in zip(apart, op.strides, strict=True))), seen


def _product(node: Node, x: Value) -> Value | None:
    op = node.op
    if type(op) is not Conv or op.groups != 1 or (w := const_of(node.inputs[1])) is None:
        return None
    if any(k != 1 for k in w.shape[:-2]) or any(s != 1 for s in op.strides) or any((*op.pads_lo, *op.pads_hi)):
        return None
    images, channels, *spatial = x.shape
    pixels = prod(spatial)
    if isinstance(pixels, int) and pixels < _COLUMNS:
        return None
    n = w.shape[-1]
    weights = const(np.ascontiguousarray(w.reshape(-1, n).T), loc=node.loc)
    return reshape(apply(MatMul(), weights, reshape(x, (images, channels, pixels)), loc=node.loc), (images, n, *spatial))


def _is_depthwise(node: Node) -> bool:
    *_, each, outputs = node.inputs[1].shape
    return each == 1 and isinstance(node.op, Conv) and node.op.groups == outputs


def _leaves_planes(graph: Graph, node: Node, perm: tuple[int, ...]) -> bool:
    return node.out.shape[-1] == 1 or before_transpose(graph, node.out, perm)


def _filters(node: Node, x: Value, w: Value) -> Value | None:
    """Depthwise, or of short sums: those cost less than turning what they read and make."""
    op, (*kernel, each, _) = node.op, node.inputs[1].shape
    if type(op) is not Conv or not node.out.dtype.is_float:
        return None
    terms, taps, stride = prod((each, *kernel)), prod(kernel), max(op.strides)
    if not isinstance(terms, int) or not isinstance(taps, int):
        return None
    if _is_depthwise(node):
        if not _suits_planes(x.shape[1], node.out.shape[-2], taps, stride):
            return None
    else:
        outputs = node.inputs[1].shape[-1]
        if not isinstance(outputs, int) or outputs > _CHANNELS * op.groups:
            most = _SUMMED_WIDE if stride == 1 else _SUMMED_APART
        else:  # the fewer, the less of a vector of columns is filled
            most = _SUMMED if op.groups > 1 else _SUMMED_FEW.get(outputs, _SUMMED * _CHANNELS // outputs)
        if terms * max(1, stride - 1) > most or not _fills(node.out.shape[-2]):
            return None
    rank = len(kernel)
    planes = transpose(w, (rank + 1, rank, *range(rank)))
    return apply(op.of_kind(PlaneConv), x, planes, loc=node.loc)


def _slower(node: Node, x: Value) -> int:
    """What planes cost more than channels last, in elements moved: a depthwise window long taps at the borders of short lines."""
    op, line, channels = node.op, node.out.shape[-2], x.shape[1]
    assert isinstance(op, Conv)
    if channels == 1 and node.out.shape[-1] == 1:  # nothing is turned in either case, and a column alone fills no vector
        return -estimate(prod(x.shape))
    short = isinstance(line, int) and line <= _LINE and not (isinstance(channels, int) and channels < _CHANNELS)
    taps = node.inputs[1].shape[-3]
    if not short or not _is_depthwise(node) or max(op.strides) > 1 or not isinstance(taps, int) or taps < _LONG:
        return 0
    return 3 * estimate(prod(x.shape)) // 2


def _unfilled(node: Node) -> int:
    """What windows of few channels into few lose in vectors that those do not fill: multiply-adds, of which each is an element moved."""
    if type(node.op) is not Conv or node.op.groups > 1:
        return 0
    *kernel, channels, outputs = node.inputs[1].shape
    terms = prod((channels, *kernel))
    if not isinstance(outputs, int) or not isinstance(channels, int) or not isinstance(terms, int) or channels >= _CHANNELS:
        return 0
    if not channels < terms <= _WRITTEN:
        return 0
    return max(0, int(estimate(prod(node.out.shape[:-1])) * terms * (1 - _PLANES * outputs / _CHANNELS)))


def _pool(node: Node, x: Value) -> Value | None:
    op = node.op
    assert isinstance(op, Pool)
    taps = math.prod(op.kernel)
    apart = op.kernel == op.strides and (op.kernel[-1] >= _ALONG or (taps <= _SMALL and op.kernel[-1] < 4))  # each pixel is read once
    if not node.out.dtype.is_float or not (apart or _suits_planes(x.shape[1], node.out.shape[-2], taps, max(op.strides))):
        return None
    images, channels, *spatial = x.shape
    y = apply(op, reshape(x, (images * channels, *spatial, 1)), loc=node.loc)
    return reshape(y, (images, channels, *y.shape[1:-1]))


def _suits_planes(channels: Dim, line: Dim, taps: int, stride: int) -> bool:
    """Whether vectors along lines of planes do about as well as vectors of channels."""
    if isinstance(channels, int) and channels < _CHANNELS:
        return True
    full = _fills(line)
    return taps * stride <= _TAPS and (full or (taps <= _SMALL and not (isinstance(line, int) and line < _VECTOR)))


def _fills(line: Dim) -> bool:
    """Whether pixels of a line fill vectors well."""
    return line / (-(-line // _VECTOR) * _VECTOR) >= _FULL if isinstance(line, int) and line else True
