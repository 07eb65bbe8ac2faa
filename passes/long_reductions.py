"""A long reduction to few elements is one of parts, which threads share, and one of what these give.

reduce(x[n, h, w, c], axes h w)  →  reduce(reduce(x[n, p, h/p, w, c], axes h/p w), axis p)

The parts depend on sizes, never on the number of threads. What threads computed next to each other they also add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..ir import DType, Graph, Node, Value
from ..ir.ops import Reduce, Reshape
from .base import Pass, PassContext, apply

_KINDS = ("sum", "mean", "max", "min")  # those of parts of equal size are reduced in the same way
_FEWEST = 4  # parts


@dataclass(frozen=True)
class LongReductions(Pass):
    """For targets that share results out, not terms: all of a sum to one element is one thread's otherwise.

    Args:
        least: elements of a part, which are to be worth handing it out.
        most: parts.
        lanes: neighbouring results that one thread computes anyway.
        units: so many groups of results need no parts.
    """

    least: int = 1 << 13
    most: int = 16
    lanes: int = 64
    units: int = 8

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        def visit(node: Node, ins: tuple[Value, ...]) -> tuple[Value, ...] | None:
            op = node.op
            if not isinstance(op, Reduce) or op.kind not in _KINDS or node.out.dtype not in (DType.F32, DType.F64):
                return None
            return self._parted(op, ins[0], node)

        return graph.rewrite(visit)

    def _parted(self, op: Reduce, x: Value, node: Node) -> tuple[Value, ...] | None:
        sizes = [d if isinstance(d, int) else 1 for d in x.shape]  # unknown ones may be 1
        kept = math.prod(d for a, d in enumerate(sizes) if a not in op.axes)
        groups = kept if len(sizes) - 1 in op.axes else -(-kept // self.lanes)
        room = min(self.most, math.prod(sizes) // self.least)
        found = ((a, p) for a in op.axes for p in range(room, _FEWEST - 1, -1) if isinstance(x.shape[a], int) and sizes[a] % p == 0)
        axis, parts = next(found, (0, 0))
        if groups >= self.units or not parts:
            return None
        loc = node.loc
        wide = apply(Reshape((*x.shape[:axis], parts, sizes[axis] // parts, *x.shape[axis + 1 :])), x, loc=loc)
        few = apply(Reduce(op.kind, tuple(a + (a >= axis) for a in op.axes), True), wide, loc=loc)
        result = apply(Reduce(op.kind, (axis,), True), few, loc=loc)
        return (apply(Reshape(node.out.shape), result, loc=loc),)
