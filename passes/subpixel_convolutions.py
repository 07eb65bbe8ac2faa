"""Transposed convolutions as convolutions: of stride 1 with turned weights, else as sub-pixel convolutions.

Tap k adds to output pixel q·s + φ − lo, where k·d = t·s + φ, what pixel q − t of x gives: for each phase φ a convolution of x. One
convolution computes the phases as channels, which are then dealt out to squares of pixels (Shi et al., arXiv 1609.07009).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import Dim, Graph, Node, Value, ceildiv, const
from ..ir.ops import Conv, ConvTranspose, Pad, Slice
from .base import Pass, PassContext, apply, const_of, reshape, transpose

_LANES = 16  # a vector, which result channels fill


@dataclass(frozen=True)
class SubpixelConvolutions(Pass):
    """Of constant weights and static pads, where it is cheaper than a product of every pixel by all taps whose results are
    added up. Costs are in multiply-adds: `column` of storing and adding one result of that product, `spread` the same
    where a dilation lies across the stride, `pixel` of placing one result of the convolution; `filtered` is what
    minimal filtering leaves of a convolution of two axes, or three.
    """

    column: float = 50
    spread: float = 150
    pixel: float = 30
    filtered: float = 0.6

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        def visit(node: Node, ins: tuple[Value, ...]) -> Sequence[Value] | None:
            op = node.op
            if not isinstance(op, ConvTranspose) or (w := const_of(ins[1])) is None or not w.size:
                return None
            axes = [_Axis.of(op, d, w.shape[d], ins[0].shape[1 + d], node.out.shape[1 + d]) for d in range(len(op.strides))]
            known = [a for a in axes if a is not None]
            if len(known) < len(axes) or not self._pays(op, known, w):
                return None
            return [_rewritten(op, known, ins[0], w, node)]

        return graph.rewrite(visit)

    def _pays(self, op: ConvTranspose, axes: list[_Axis], w: np.ndarray) -> bool:
        if op.groups == 1 and all(a.disjoint for a in axes):  # a product already
            return False
        inputs, each, taps = w.shape[-1] // op.groups, w.shape[-2], math.prod(w.shape[:-2])
        results = each * math.prod(a.phases for a in axes)
        shrunk = self.filtered if op.groups == 1 and len(axes) >= 2 and all(1 < a.taps <= 5 for a in axes) else 1.0
        across = any(a.stride > 1 and a.dilation > 1 for a in axes)
        convolution = inputs * shrunk * math.prod(a.taps for a in axes) * _padded(results) + self.pixel * results
        product = inputs * _padded(taps * each) + (self.spread if across else self.column) * taps * each
        return convolution < product


def _padded(n: int) -> int:
    return -(-n // _LANES) * _LANES


@dataclass(frozen=True)
class _Axis:
    """One axis: `taps` and `phases` of the convolution, which starts at pixel −lo and makes `size` pixels for each phase; the
    result is [first, first + out) of those that the phases are dealt out to."""

    kernel: int
    taps: int
    phases: int
    stride: int
    dilation: int
    lo: int
    hi: Dim
    size: Dim
    first: int
    out: Dim
    disjoint: bool  # windows do not overlap, and all of them count

    @staticmethod
    def of(op: ConvTranspose, d: int, k: int, n: Dim, out: Dim) -> _Axis | None:
        s, dilation, lo = op.strides[d], op.dilations[d], op.pads_lo[d]
        if not isinstance(lo, int):
            return None
        taps = k if s == 1 else (k - 1) * dilation // s + 1
        phases = max(j * dilation % s for j in range(k)) + 1
        first, start = lo % s, lo // s
        size = ceildiv(first + out, s)
        reach = (taps - 1) * (dilation if s == 1 else 1)
        disjoint = k == s and dilation == 1 and lo == 0 and op.pads_hi[d] == 0 and op.output_padding[d] == 0
        return _Axis(k, taps, phases, s, dilation, reach - start, size + start - n, size, first, out, disjoint)

    def place(self, tap: int) -> tuple[int, int]:
        """(tap, phase) of the convolution that takes the weights of this tap."""
        t, phase = (tap, 0) if self.stride == 1 else divmod(tap * self.dilation, self.stride)
        return self.taps - 1 - t, phase


def _rewritten(op: ConvTranspose, axes: list[_Axis], x: Value, w: np.ndarray, node: Node) -> Value:
    rank, g = len(axes), op.groups
    dilations = tuple(a.dilation if a.stride == 1 else 1 for a in axes)
    conv = Conv((1,) * rank, tuple(a.lo for a in axes), tuple(a.hi for a in axes), dilations, g)
    y = apply(conv, x, const(_weights(w, axes, g), loc=node.loc), loc=node.loc)
    if all(a.stride == 1 for a in axes):
        return y
    batch, each = x.shape[0], w.shape[-2]
    y = reshape(y, (batch, *(a.size for a in axes), g, *(a.phases for a in axes), each))
    pixels = [axis for d in range(rank) for axis in (1 + d, 2 + rank + d)]
    y = transpose(y, (0, *pixels, 1 + rank, 2 + 2 * rank))
    if any(a.phases < a.stride for a in axes):  # phases without a tap
        rest = (0, *(m for a in axes for m in (0, a.stride - a.phases)), 0, 0)
        y = apply(Pad((0,) * len(rest), rest), y, const(np.zeros((), w.dtype)), loc=node.loc)
    y = reshape(y, (batch, *(a.size * a.stride for a in axes), g * each))
    if y.shape == node.out.shape:
        return y
    starts, sizes = (0, *(a.first for a in axes), 0), (batch, *(a.out for a in axes), g * each)
    return apply(Slice(starts, sizes, (1,) * (rank + 2)), y, loc=node.loc)


def _weights(w: np.ndarray, axes: list[_Axis], groups: int) -> np.ndarray:
    """[*K, O/groups, C] -> [*taps, C/groups, groups · phases · O/groups], zero where there is no tap."""
    each, c = w.shape[-2:]
    out = np.zeros((*(a.taps for a in axes), c // groups, groups, *(a.phases for a in axes), each), w.dtype)
    for tap in np.ndindex(*(a.kernel for a in axes)):
        places = [a.place(t) for a, t in zip(axes, tap, strict=True)]
        at: tuple[int | slice, ...] = (*(t for t, _ in places), slice(None), slice(None), *(phase for _, phase in places))
        out[at] = w[tap].reshape(each, groups, c // groups).transpose(2, 1, 0)
    return out.reshape(*out.shape[: len(axes) + 1], -1)
