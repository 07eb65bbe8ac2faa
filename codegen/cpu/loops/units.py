"""How the parallel axes of a loop are cut into units of work, which threads share."""

from __future__ import annotations

from dataclasses import dataclass

from ....ir import Dim, ceildiv, lower, prod, upper
from ...kernel import LoopKernel
from .form import Form
from .lines import Lines
from .schedule import LoopSchedule
from .transpose import Turn, Weave

_FEW = 32  # fewer outer indices than this would leave threads idle
_VECTORS = 64  # of a unit of several short rows


@dataclass(frozen=True, slots=True)
class Units:
    """A unit has one index of each `counted` outer axis and all of the `walked` ones behind them, or `Lines`.

    count: of units; elements: of one; blocks: so many units has one outer index, `blocked`: each has a part of the vector axis or of
    a tile, not all; joins: neighbouring blocks of a line are walked as one.
    """

    outer: tuple[int, ...]
    counted: tuple[int, ...]
    walked: tuple[int, ...]
    count: Dim
    elements: Dim
    blocks: Dim
    blocked: bool
    joins: bool


def units_of(k: LoopKernel, form: Form, lines: Lines | None) -> Units:
    """Of the kernel as it is written, which keeps more than the form's if that spills."""
    plan, tile, n = form.schedule, form.tile, len(k.axes)
    parallel = 0 <= plan.axis < n
    taken = {tile.read, tile.write} if tile is not None else {plan.axis} if parallel else set()
    outer = tuple(i for i in range(n) if i not in taken)
    around = prod(k.axes[i] for i in outer)
    last = k.axes[plan.axis] if parallel else 1
    # units of one outer index each, cut further along the vector axis where those are few
    blocks: Dim = 1
    elements = nonzero(last)
    if tile is not None:
        blocks, elements = tile.units(k.axes)
    elif plan.by_lines or (parallel and (not outer or (upper(around) < _FEW and upper(last) >= 2 * plan.block))):
        blocks, elements = ceildiv(last, plan.block), plan.block
    blocked = tile is not None or not outer or blocks != 1
    joins = plan.by_lines or (tile is None and parallel and blocked and plan.block < plan.width * plan.group)
    several = form.short is None and lines is None and plan.columns == 1
    counted = _counted(k, plan, tile, outer, last) if several and parallel and blocks == 1 else len(outer)
    count = prod(k.axes[i] for i in outer[:counted]) * blocks
    elements = elements * prod(k.axes[i] for i in outer[counted:])
    if lines is not None:
        count = prod(k.axes[i] for i in outer[:-2]) * lines.bands * lines.blocks
        elements = lines.rows * k.axes[lines.column] * lines.block
    return Units(outer, outer[:counted], outer[counted:], count, elements, blocks, blocked, joins)


def nonzero(d: Dim) -> Dim:
    return 1 if d == 0 else d


def _counted(k: LoopKernel, plan: LoopSchedule, tile: Turn | Weave | None, outer: tuple[int, ...], row: Dim) -> int:
    """How many of the outer axes number the units: not the last ones where rows are so short that finding out which one comes next
    takes as long as one of them."""
    if k.reduce_axes or isinstance(tile, Turn):
        return len(outer)
    size = ceildiv(row, plan.width) if tile is None else row * k.axes[tile.write]
    for n in range(len(outer) - 1, 0, -1):
        size = size * k.axes[outer[n]]
        if upper(size) > _VECTORS or lower(prod(k.axes[i] for i in outer[:n])) < _FEW:
            return n + 1
    return 1
