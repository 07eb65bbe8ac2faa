"""Loop kernels with other expressions in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ....ir import Shape
from ...expr import E, children, postorder
from ...kernel import LoopKernel, Reduction


def transform(k: LoopKernel, fn: Callable[[E, tuple[E, ...]], E], axes: Shape, reduce_axes: Shape) -> LoopKernel:
    """Rebuild all expressions bottom-up through fn(node, new children)."""
    new: dict[int, E] = {}
    for e in postorder(k.roots):
        new[id(e)] = fn(e, tuple(new[id(c)] for c in children(e)))

    def at(e: E) -> E:
        return new[id(e)]

    return replace(
        k, axes=axes, reduce_axes=reduce_axes,
        stages=tuple(Reduction(s.fn, at(s.value)) for s in k.stages),
        stores=tuple(
            replace(s, offset=at(s.offset), value=at(s.value), guard=None if s.guard is None else at(s.guard))
            for s in k.stores
        ),
    )  # fmt: skip
