"""Axes of a loop kernel that every operand walks as one become one."""

from __future__ import annotations

from ....ir import prod
from ...affine import affine
from ...expr import Axis, E, Load, Num, children, postorder, rebuilt
from ...kernel import LoopKernel
from .rewrite import transform


def merge_axes(k: LoopKernel) -> LoopKernel:
    """Drop parallel axes of size 1, and merge neighbours that every offset walks as one."""
    n = len(k.axes)
    with_next = _merging(k)
    if not any(with_next) and 1 not in k.axes:
        return k
    groups: list[list[int]] = []  # of axes that become one
    for i in range(n):
        if i and with_next[i - 1]:
            groups[-1].append(i)
        else:
            groups.append([i])
    groups = [g for g in groups if prod(k.axes[i] for i in g) != 1]
    number = {g[-1]: new for new, g in enumerate(groups)}
    shift = {n + j: len(groups) + j for j in range(len(k.reduce_axes))}
    inner = {i for g in groups for i in g[:-1]}

    def change(e: E, kids: tuple[E, ...]) -> E:
        if not isinstance(e, Axis):
            return rebuilt(e, kids)
        if e.index in shift:
            return Axis(shift[e.index])
        # A merged axis: the last one walks all elements, the others stay 0 (their stride is included).
        return Axis(number[e.index]) if e.index in number else Num(0) if e.index in inner or k.axes[e.index] == 1 else e

    return transform(k, change, tuple(prod(k.axes[i] for i in g) for g in groups), k.reduce_axes)


def _merging(k: LoopKernel) -> list[bool]:
    """Whether each parallel axis becomes one with the next."""
    everything = postorder(k.roots)
    offsets = [e.offset for e in everything if isinstance(e, Load)] + [s.offset for s in k.stores]
    forms = [affine(o) for o in offsets]
    inside_offsets = {id(x) for o in offsets for x in postorder([o])}
    # axes that bodies use themselves; one Axis object may be in an offset and in a body
    bodies = [c for e in everything if not isinstance(e, Load) and id(e) not in inside_offsets for c in (e, *children(e))]
    bodies += [*(x.value for x in k.stages), *(x.value for x in k.stores)]
    bodies += [e for f, o in zip(forms, offsets, strict=True) if f is None for e in postorder([o])]
    alone = {e.index for e in bodies if isinstance(e, Axis)}
    strides = [f[1] for f in forms if f is not None]
    return [
        i + 1 < len(k.axes) and alone.isdisjoint((i, i + 1)) and all(f.get(i, 0) == f.get(i + 1, 0) * k.axes[i + 1] for f in strides)
        for i in range(len(k.axes))
    ]
