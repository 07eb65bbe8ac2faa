"""A long reduction to few elements is one of parts, which threads share, and one of what these give.

reduce(x[n, h, w, c], axes h w)  →  reduce(reduce(x[n, p, h/p, w, c], axes h/p w), axis p)

The parts depend on sizes, never on the number of threads. What threads computed next to each other they also add up: so the mean of
many channels over an image, which threads could share by channels, is one of parts of the image, too. Each thread has the pixels of its
part in its own cache, and still has them alone for what comes next; lines that another core holds cost several times as much.

A norm of few long rows, as of an image with all of its channels, is its means and what elements do with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..ir import DType, Graph, Node, Value
from ..ir.ops import Add, Div, LayerNorm, Mul, Reduce, Reshape, RMSNorm, Sqrt, Sub
from .base import Pass, PassContext, apply, like, scalar_of

_KINDS = ("sum", "mean", "max", "min")  # those of parts of equal size are reduced in the same way
_FEWEST = 4  # parts
_OF_IMAGE = (8, 6, 4, 2, 7, 5, 3)  # parts of an image, the best first: an even number is as much for each of two threads


@dataclass(frozen=True)
class LongReductions(Pass):
    """For targets that share results out, not terms: all of a sum to one element is one thread's otherwise.

    Args:
        least: elements of a part, which are to be worth handing it out.
        most: parts.
        lanes: neighbouring results that one thread computes anyway.
        units: so many groups of results need no parts.
        rows: elements of all rows of a norm that is taken apart.
        pixels: elements of a part of an image, of which a thread would else read half in another core's cache.
    """

    least: int = 1 << 13
    most: int = 16
    lanes: int = 64
    units: int = 8
    rows: int = 1 << 16
    pixels: int = 1 << 12

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        cut: dict[Reshape, dict[Value, Value]] = {}  # several reductions of one value read the same parts

        def visit(node: Node, ins: tuple[Value, ...]) -> tuple[Value, ...] | None:
            op = node.op
            if isinstance(op, LayerNorm | RMSNorm) and node.out.dtype in (DType.F32, DType.F64):
                return self._norm(op, ins, node)
            if not isinstance(op, Reduce) or op.kind not in _KINDS or node.out.dtype not in (DType.F32, DType.F64):
                return None
            return self._parted(op, ins[0], node, cut)

        return graph.rewrite(visit)

    def _norm(self, op: LayerNorm | RMSNorm, ins: tuple[Value, ...], node: Node) -> tuple[Value, ...] | None:
        """Fewer rows than threads could share, with means by parts."""
        x, scale, *bias = ins
        lead, row, loc = x.shape[: op.axis], x.shape[op.axis :], node.loc
        length = math.prod(d if isinstance(d, int) else 0 for d in row)  # rows of unknown length stay
        rows = math.prod(d if isinstance(d, int) else 1 for d in lead)
        wanted = range(min(self.most, rows * length // self.least), _FEWEST - 1, -1)
        parts = next((p for p in wanted if length % p == 0), 0)
        if not parts or rows >= _FEWEST or rows * length < self.rows:
            return None
        wide = apply(Reshape((*lead, parts, length // parts)), x, loc=loc)

        def mean(value: Value) -> Value:
            return apply(Reduce("mean", (op.axis,), True), apply(Reduce("mean", (op.axis + 1,), True), value, loc=loc), loc=loc)

        def centred() -> Value:
            return wide if middle is None else apply(Sub(), wide, middle, loc=loc)

        middle = mean(wide) if isinstance(op, LayerNorm) else None
        square = mean(apply(Mul(), centred(), centred(), loc=loc))
        deviation = apply(Sqrt(), apply(Add(), square, like(x, op.epsilon), loc=loc), loc=loc)
        y = apply(Mul(), centred(), apply(Div(), like(x, 1), deviation, loc=loc), loc=loc)
        y = apply(Reshape(x.shape), y, loc=loc)
        y = y if scalar_of(scale) == 1 else apply(Mul(), y, scale, loc=loc)
        return (apply(Add(), y, bias[0], loc=loc) if bias and scalar_of(bias[0]) != 0 else y,)

    def _parted(self, op: Reduce, x: Value, node: Node, cut: dict[Reshape, dict[Value, Value]]) -> tuple[Value, ...] | None:
        sizes = [d if isinstance(d, int) else 1 for d in x.shape]  # unknown ones may be 1
        kept = math.prod(d for a, d in enumerate(sizes) if a not in op.axes)
        groups = kept if len(sizes) - 1 in op.axes else -(-kept // self.lanes)
        total = math.prod(sizes)
        if groups < self.units:
            wanted: Iterable[int] = range(min(self.most, total // self.least), _FEWEST - 1, -1)
        elif len(sizes) - 1 not in op.axes and math.prod(sizes[: min(op.axes, default=0)]) == 1:
            wanted = [p for p in _OF_IMAGE if total >= p * self.pixels]
        else:
            return None
        found = ((a, p) for a in op.axes for p in wanted if isinstance(x.shape[a], int) and sizes[a] and sizes[a] % p == 0)
        axis, parts = next(found, (0, 0))
        if not parts:
            return None
        loc = node.loc
        parting = Reshape((*x.shape[:axis], parts, sizes[axis] // parts, *x.shape[axis + 1 :]))
        same = cut.setdefault(parting, {})
        wide = same[x] if x in same else same.setdefault(x, apply(parting, x, loc=loc))
        few = apply(Reduce(op.kind, tuple(a + (a >= axis) for a in op.axes), True), wide, loc=loc)
        result = apply(Reduce(op.kind, (axis,), True), few, loc=loc)
        return (apply(Reshape(node.out.shape), result, loc=loc),)
