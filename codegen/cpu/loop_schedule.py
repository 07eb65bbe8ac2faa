"""How a loop kernel runs: which axes merge, which one is the vector, how wide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ...ir import Dim, prod
from ..affine import affine, axes_of, children, postorder
from ..expr import Axis, Call, Cast, E, Load, Num
from ..kernel import LoopKernel, Reduction
from .target import CpuTarget

UNROLL_POINTS = 32  # reduce spaces up to this size are unrolled


@dataclass(frozen=True, slots=True)
class LoopSchedule:
    """axis: the vector axis (parallel axes first, then reduce axes), −1 for scalar code; width: lanes;
    group: vectors per iteration; block: elements of a unit when the vector axis is the only parallel one."""

    axis: int
    width: int
    group: int
    block: int


def roots(k: LoopKernel) -> list[E]:
    """Every expression of a kernel."""
    out = [s.value for s in k.stages]
    for s in k.stores:
        out += [s.offset, s.value, *([s.guard] if s.guard is not None else [])]
    return out


def transform(k: LoopKernel, fn: Callable[[E, tuple[E, ...]], E], axes: tuple[Dim, ...], reduce_axes: tuple[Dim, ...]) -> LoopKernel:
    """Rebuild all expressions bottom-up through fn(node, new children)."""
    new: dict[int, E] = {}
    for e in postorder(roots(k)):
        new[id(e)] = fn(e, tuple(new[id(c)] for c in children(e)))

    def at(e: E) -> E:
        return new[id(e)]

    return replace(
        k, axes=axes, reduce_axes=reduce_axes,
        stages=tuple(Reduction(s.fn, at(s.value)) for s in k.stages),
        stores=tuple(replace(s, offset=at(s.offset), value=at(s.value), guard=None if s.guard is None else at(s.guard)) for s in k.stores),
    )  # fmt: skip


def rebuilt(e: E, kids: tuple[E, ...]) -> E:
    match e:
        case Call(fn=fn):
            return Call(fn, kids, dtype=e.dtype)
        case Cast():
            return Cast(kids[0], dtype=e.dtype)
        case Load(operand=o):
            return Load(o, kids[0], dtype=e.dtype)
    return e


def merge_axes(k: LoopKernel) -> LoopKernel:
    """Drop parallel axes of size 1, and merge neighbours that every offset walks as one."""
    n = len(k.axes)
    everything = postorder(roots(k))
    offsets = [e.offset for e in everything if isinstance(e, Load)] + [s.offset for s in k.stores]
    forms = [affine(o) for o in offsets]
    inside_offsets = {id(x) for o in offsets for x in postorder([o])}
    loose = {e.index for e in everything if isinstance(e, Axis) and id(e) not in inside_offsets}
    # an Axis object may be shared between an offset and a body: count direct uses by bodies
    for e in everything:
        if not isinstance(e, Load):
            loose |= {c.index for c in children(e) if isinstance(c, Axis) and id(e) not in inside_offsets}
    for f, o in zip(forms, offsets, strict=True):
        if f is None:
            loose |= {e.index for e in postorder([o]) if isinstance(e, Axis)}
    loose |= {e.index for e in [x.value for x in (*k.stages, *k.stores)] if isinstance(e, Axis)}
    mergeable = [
        i + 1 < n and i not in loose and i + 1 not in loose
        and all(f[1].get(i, 0) == f[1].get(i + 1, 0) * k.axes[i + 1] for f in forms if f is not None)
        for i in range(n)
    ]  # fmt: skip
    if not any(mergeable) and 1 not in k.axes:
        return k
    # groups of old axes that become one new axis
    groups: list[list[int]] = []
    for i in range(n):
        if groups and mergeable[i - 1] and i - 1 in groups[-1]:
            groups[-1].append(i)
        else:
            groups.append([i])
    groups = [g for g in groups if prod(k.axes[i] for i in g) != 1]
    number = {}
    for new_index, g in enumerate(groups):
        number[g[-1]] = new_index
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


def schedule(k: LoopKernel, target: CpuTarget) -> LoopSchedule:
    """Rules in order; the last always applies."""
    n = len(k.axes)
    narrow = all(o.dtype.itemsize == 8 for o in k.operands)
    width = target.vector_bits // (64 if narrow else 32)
    arg = any(s.fn.startswith("arg") for s in k.stages)
    loads = [e for e in postorder(roots(k)) if isinstance(e, Load)]
    block = 64 if k.reduce_axes else 1024

    def stride(offset: E, axis: int) -> Dim | None:
        form = affine(offset)
        if form is not None:
            return form[1].get(axis, 0)
        return 0 if axis not in axes_of([offset])[id(offset)] else None

    def cost(axis: int) -> float:
        """Cycles a vector spends on memory, roughly: a gather costs a load per lane."""
        return sum(0.3 if stride(e.offset, axis) == 0 else 1 if stride(e.offset, axis) == 1 else width for e in loads)

    def long(d: Dim) -> bool:
        return not isinstance(d, int) or d >= 4

    candidates: list[tuple[float, int]] = []
    if n and all(stride(s.offset, n - 1) == 1 for s in k.stores) and long(k.axes[-1]):
        fill = 1.0 if not isinstance(k.axes[-1], int) else min(1.0, k.axes[-1] / width)
        candidates.append((cost(n - 1) / fill, n - 1))
    if k.stages and k.reduce_axes and not arg and long(k.reduce_axes[-1]):
        last = n + len(k.reduce_axes) - 1
        if all(not s.per_element or stride(s.offset, last) == 1 for s in k.stores):
            d = k.reduce_axes[-1]
            fill = 1.0 if not isinstance(d, int) else min(1.0, d / (2 * width))
            candidates.append(((cost(last) + 0.5) / fill, last))
    if not candidates:
        return LoopSchedule(-1, 1, 1, 256 if not k.reduce_axes else 8)
    axis = min(candidates)[1]
    return LoopSchedule(axis, width, 4 if k.stages else 2, block)

