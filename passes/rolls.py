"""A roll, as exporters write it: concat(x[s:], x[:s])   →   pad<wrap>(x) by −s and s

One index function takes the place of two copies: what reads a rolled tensor reads through it. Where the last axis is rolled, copies in
vectors stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir import Dim, Graph, Node, Value, const, lower
from ..ir.ops import Concat, Pad, Slice
from .base import Pass, PassContext, apply


@dataclass(frozen=True)
class Rolls(Pass):
    """For devices that compute indices beside loads. Runs last: other passes know concatenations better."""

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        def visit(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
            if not isinstance(node.op, Concat) or len(inputs) != 2 or node.op.axis == len(inputs[0].shape) - 1:
                return None
            axis = node.op.axis
            shift = _shift(inputs[0], inputs[1], axis)
            if shift is None:
                return None
            x = inputs[0].node.inputs[0]
            before: tuple[Dim, ...] = tuple(-shift if a == axis else 0 for a in range(len(x.shape)))
            after: tuple[Dim, ...] = tuple(shift if a == axis else 0 for a in range(len(x.shape)))
            return (apply(Pad(before, after, "wrap"), x, const(np.zeros((), x.dtype.np), x.dtype), loc=node.loc),)

        return graph.rewrite(visit)


def _shift(first: Value, second: Value, axis: int) -> Dim | None:
    """s, if the values are x[s:] and x[:s] along the axis."""
    a, b = first.node.op, second.node.op
    if not (isinstance(a, Slice) and isinstance(b, Slice)) or first.node.inputs[0] is not second.node.inputs[0]:
        return None
    shape = first.node.inputs[0].shape
    shift, d = a.starts[axis], shape[axis]
    others = [i for i in range(len(shape)) if i != axis]
    whole = all(op.starts[i] == 0 and op.sizes[i] == shape[i] for op in (a, b) for i in others)
    rolled = a.sizes[axis] == d - shift and b.starts[axis] == 0 and b.sizes[axis] == shift
    return shift if whole and rolled and lower(d) > 0 and all(s == 1 for s in (*a.steps, *b.steps)) else None
