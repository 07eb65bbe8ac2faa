"""Rotary embedding as one kernel, which reads each element once and stores two results for each of its points."""

from __future__ import annotations

from ...ir import Node, Value, floordiv
from ...ir.ops import Rotary
from ..expr import E
from ..simplify import Affine
from .builder import KernelBuilder, fn
from .moves import broadcast_index
from .state import Lowering


def emit_rotary(lw: Lowering, node: Node) -> None:
    """The driver calls it for every `Rotary`."""
    assert isinstance(node.op, Rotary)
    x, cos, sin = node.inputs
    half = floordiv(x.shape[-1], 2)
    to = lw.place(node.out)
    k = KernelBuilder((*x.shape[:-1], half))
    *lead, j = k.index

    def at(column: Affine) -> tuple[Affine, ...]:
        return (*lead, column)

    def factor(v: Value, column: Affine) -> E:
        index = broadcast_index(at(j if v.shape[-1] == half else column), v.shape)
        return lw.read(k, v, index)

    first, second = j, j + half
    low, high = lw.read(k, x, at(first)), lw.read(k, x, at(second))
    y1 = fn("sub", fn("mul", low, factor(cos, first)), fn("mul", high, factor(sin, first)))
    y2 = fn("add", fn("mul", high, factor(cos, second)), fn("mul", low, factor(sin, second)))
    lw.loop(k, [], [k.store(to, at(first), y1), k.store(to, at(second), y2)], node.loc)
    lw.views[node.out] = to
