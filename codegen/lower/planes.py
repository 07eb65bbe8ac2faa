"""Filters of single planes, as loops over taps."""

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
    k = KernelBuilder(node.out.shape, w.shape[1:])
    n, c, *out = k.parallel
    pixels = [o * s + t * d - lo for o, s, t, d, lo in zip(out, op.strides, k.reduced, op.dilations, op.pads_lo, strict=True)]
    dtype = computed(node.out.dtype)
    zero = number(0.0 if dtype.is_float else 0, computed(x.dtype))
    e = convert(guarded(lw, k, x, (n, c, *pixels), range(2, len(x.shape)), zero), dtype)
    tap = convert(lw.read(k, w, (c, *k.reduced)), dtype)
    finish_rows(lw, k, node, root, [Reduction("sum", fn("mul", e, tap))], k.parallel, lambda: Reduced(0, dtype=dtype))
