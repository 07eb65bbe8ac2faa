"""Checks of indices: their least and greatest are compared with the limits before anything reads by them."""

from __future__ import annotations

from ...ir import DType, Node, lower
from ...ir.ops import Within
from ..expr import Reduced
from ..kernel import Reduction
from ..plan import Expect
from ..simplify import Affine
from .builder import KernelBuilder, View, convert
from .state import Lowering


def emit_within(lw: Lowering, node: Node) -> None:
    op, (x,) = node.op, node.inputs
    assert isinstance(op, Within)
    view = lw.view(x)
    if lw.options.checks:
        _check(lw, node, op, view)
    if node.out in lw.outputs:
        lw.copy(x, lw.place(node.out), node.loc)
        lw.views[node.out] = lw.place(node.out)
    else:
        lw.views[node.out] = view


def _check(lw: Lowering, node: Node, op: Within, view: View) -> None:
    places = len(op.lo)
    axes = range(len(view.shape) - (places > 1))
    walked = [a for a in axes if view.strides[a] != 0 or lower(view.shape[a]) <= 0]  # repeated elements need one look
    last = (view.shape[-1],) if places > 1 else (1,)
    k = KernelBuilder(last, tuple(view.shape[a] for a in walked) or (1,))
    index = [Affine({})] * len(view.shape)
    for a, i in zip(walked, k.reduced, strict=False):
        index[a] = i
    if places > 1:
        index[-1] = k.parallel[0]
    e = convert(k.load(view, index), DType.I64)
    found = lw.storage.add("arena", DType.I64, (*last, 2))
    ends = [k.store(found, (k.parallel[0], Affine({}, i)), Reduced(i, dtype=DType.I64)) for i in range(2)]
    lw.loop(k, [Reduction("min", e), Reduction("max", e)], ends, node.loc)
    for place, (lo, hi) in enumerate(zip(op.lo, op.hi, strict=True)):
        lw.steps.append(Expect(found.buffer, place, lo, hi, node.loc))
