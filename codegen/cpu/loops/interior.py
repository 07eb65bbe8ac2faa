"""Maps whose indices are affine on most of a last axis of any size (pads): that stretch gets loops without the choices.

What a pad makes of an index is a chain of min, max and remainders, which would be gathered, and a choice. Where the axis has a known
size, `segments.py` computes them; where it has none, each is a fact that is affine along the axis, as those of windows are.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir import DType
from ...affine import affine, axes_of, stride_along
from ...expr import Call, E, Load, Num, postorder, rebuilt
from ...kernel import LoopKernel
from ..target import CpuTarget
from .rewrite import transform
from .schedule import LoopSchedule, schedule
from .windows import Fact, difference, facts_of

_NOTHING: Fact = 0, {}


@dataclass(frozen=True)
class Interior:
    """`kernel` does what the whole kernel does at points where all facts hold: `along` the vector axis, and `across` it (of other axes)."""

    kernel: LoopKernel
    along: tuple[Fact, ...]
    across: tuple[Fact, ...]
    schedule: LoopSchedule


def interior(k: LoopKernel, target: CpuTarget) -> Interior | None:
    """None where the last axis has a known size, or no load becomes regular along it."""
    if k.stages or k.reduce_axes or not k.axes or any(s.guard is not None for s in k.stores):
        return None
    axis = len(k.axes) - 1
    if isinstance(k.axes[axis], int):
        return None  # what `segments.py` declines is short
    depends = axes_of(k.roots)
    facts: list[Fact] = []

    def known(e: Call, kids: tuple[E, ...]) -> tuple[E, list[Fact]] | None:
        """What a choice is, and the facts that make it so; None where it is not decided by some that are affine."""
        if e.fn == "select":
            found = facts_of(kids[0])
            return None if found is None else (kids[1], found)
        x, y = (affine(a) if a.dtype is DType.I64 else None for a in kids)
        if x is None or y is None:
            return None
        if e.fn in ("div", "mod"):
            return None if y[1] else (Num(0) if e.fn == "div" else kids[0], [difference(x, _NOTHING), difference(y, x, 1)])
        if (axis in x[1]) == (axis in y[1]):
            return None
        if axis in y[1]:
            x, y, kids = y, x, (kids[1], kids[0])
        return kids[0], [difference(y, x) if e.fn == "min" else difference(x, y)]

    def change(e: E, kids: tuple[E, ...]) -> E:
        decided = isinstance(e, Call) and e.fn in ("select", "min", "max", "div", "mod") and len(e.args) > 1 and axis in depends[id(e)]
        if decided and isinstance(e, Call) and (e.fn == "select" or e.dtype is DType.I64):
            choice = known(e, kids)
            if choice is not None and any(axis in f[1] for f in choice[1]) and all(isinstance(f[1].get(axis, 1), int) for f in choice[1]):
                facts.extend(f for f in choice[1] if f not in facts)
                return choice[0]
        new = rebuilt(e, kids)
        if isinstance(new, Call) and new.dtype is DType.I64:
            form = affine(new)
            if form is not None and not any(form[1].values()) and isinstance(form[0], int):
                return Num(form[0])
            if new.fn == "div" and isinstance(kids[0], Num) and kids[0].value == 0:
                return Num(0)
        return new

    kernel = transform(k, change, k.axes, ())
    if not facts or _irregular(kernel, axis) >= _irregular(k, axis):
        return None
    plan = schedule(kernel, target)
    if plan.axis != axis:
        return None
    return Interior(kernel, tuple(f for f in facts if axis in f[1]), tuple(f for f in facts if axis not in f[1]), plan)


def _irregular(k: LoopKernel, axis: int) -> int:
    return sum(stride_along(e.offset, axis) is None for e in postorder(k.roots) if isinstance(e, Load))
