"""Interpolation of images along one axis after the other, where vectors run along an axis that changes.

At once, each pixel gathers taps × taps elements. Along rows alone it gathers `taps`, for fewer pixels than there will be in the end,
and what is left adds whole rows. Only for CPUs: what lies between goes through memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..ir import Dim, DType, Graph, Node, Value
from ..ir.ops import Cast, Resize
from .base import Pass, PassContext, apply

_SPARSE = 6  # pixels of a row that vectors interpolate in the time of two gathers


@dataclass(frozen=True)
class SeparateResizes(Pass):
    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        def visit(node: Node, ins: tuple[Value, ...]) -> Sequence[Value] | None:
            op = node.op
            if not isinstance(op, Resize) or op.mode == "nearest" or op.coord_mode == "tf_crop_and_resize":
                return None
            (x,) = ins
            last = x.type.rank - 1
            changed = [a for a in range(last + 1) if _changes(op, a, x.shape[a])]
            if not x.dtype.is_float or len(changed) < 2 or changed[-1] != last:
                return None
            rest, smaller = changed[:-1], any(_shrinks(op, a, x.shape[a]) for a in changed)
            if smaller and op.mode == "linear" and not op.antialias and not _gathers(op.sizes[last], x.shape[last]):
                return None  # four taps of few pixels
            order = (rest, [last]) if smaller else ([last], rest)  # fewer pixels first
            y = x if x.dtype.itemsize >= 4 else apply(Cast(DType.F32), x, loc=node.loc)
            for axes in order:
                y = _along(op, y, axes, node.loc)
            return [y if y.dtype is x.dtype else apply(Cast(x.dtype), y, loc=node.loc)]

        return graph.rewrite(visit)


def _changes(op: Resize, axis: int, n: Dim) -> bool:
    return op.sizes[axis] != n or op.scales[axis] not in (None, 1.0)


def _shrinks(op: Resize, axis: int, n: Dim) -> bool:
    scale, size = op.scales[axis], op.sizes[axis]
    return scale < 1 if scale is not None else isinstance(size, int) and isinstance(n, int) and size < n


def _gathers(size: Dim, n: Dim) -> bool:
    """Whether pixels come from no equal distances, and not from so far apart that interpolating whole rows costs more than two gathers."""
    return isinstance(size, int) and isinstance(n, int) and n % size != 0 and n < _SPARSE * size


def _along(op: Resize, x: Value, axes: Sequence[int], loc: tuple[str, ...]) -> Value:
    sizes = tuple(op.sizes[a] if a in axes else n for a, n in enumerate(x.shape))
    scales = tuple(op.scales[a] if a in axes else 1.0 for a in range(x.type.rank))
    return apply(replace(op, sizes=sizes, scales=scales), x, loc=loc)
