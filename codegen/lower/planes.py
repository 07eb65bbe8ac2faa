"""Filters of few channels that are planes, as loops over taps."""

from __future__ import annotations

from ...ir import Node, Value
from ...ir.ops import PlaneConv
from ..expr import Reduced
from ..kernel import Reduction
from .builder import KernelBuilder, computed, convert, fn, number
from .moves import guarded
from .rows import finish_rows
from .state import Lowering


def emit_planes(lw: Lowering, node: Node, op: PlaneConv, root: Value) -> None:
    """Store `root`, computed from the result of `node` in the same kernel."""
    x, w = node.inputs
    images, filters, *outer, line = node.out.shape
    each = filters // op.groups
    # neighbours along the last axis but one are computed together: filters that read the same pixels
    k = KernelBuilder((images, op.groups, *outer, each, line), w.shape[1:])
    n, g, *rows, o, column = k.parallel
    channel, *taps = k.reduced
    out, filter_ = (*rows, column), g * each + o
    pixels = [i * s + t * d - lo for i, s, t, d, lo in zip(out, op.strides, taps, op.dilations, op.pads_lo, strict=True)]
    dtype = computed(node.out.dtype)
    zero = number(0.0 if dtype.is_float else 0, computed(x.dtype))
    e = convert(guarded(lw, k, x, (n, g * w.shape[1] + channel, *pixels), range(2, len(x.shape)), zero), dtype)
    tap = convert(lw.read(k, w, (filter_, *k.reduced)), dtype)
    finish_rows(lw, k, node, root, [Reduction("sum", fn("mul", e, tap))], (n, filter_, *out), lambda: Reduced(0, dtype=dtype))
