"""The forms of a loop: by vectors along an axis, and what some kernels have beyond that."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...kernel import LoopKernel
from ..tabulated import tabulated
from ..target import CpuTarget
from .interior import Interior, interior
from .merge import merge_axes
from .periods import with_periods
from .row_windows import RowWindows, row_windows
from .schedule import NO_HINTS, LoopHints, LoopSchedule, schedule
from .segments import Segments, segments
from .short_rows import ShortRows, short_rows
from .transpose import Turn, Weave, moving
from .wider import wider
from .words import as_words


@dataclass(frozen=True, slots=True)
class Form:
    """How a kernel is walked. At most one of the others is given: `tile` is moved through registers; `short` rows lie side by side;
    `parts` along the vector axis, or what is `inner`, have simpler kernels than the whole; `row`: windows lie along the vector axis.
    """

    kernel: LoopKernel
    schedule: LoopSchedule
    tile: Turn | Weave | None = None
    short: ShortRows | None = None
    parts: Segments | None = None
    inner: Interior | None = None
    row: RowWindows | None = None


def form_of(kernel: LoopKernel, target: CpuTarget, hints: LoopHints) -> Form:
    """Of the kernel as it will be walked, with merged axes and cheaper expressions. Hints are for vectors along an axis only."""
    kernel = wider(tabulated(as_words(merge_axes(kernel)), target))
    for k in dict.fromkeys((kernel, with_periods(kernel))):
        if (tile := moving(k, target)) is not None:
            return Form(k, tile.schedule, tile=tile)
    if hints == NO_HINTS:
        if (short := short_rows(kernel, target)) is not None:
            return Form(kernel, short.schedule, short=short)
        if (parts := segments(kernel, target)) is not None:
            return Form(parts.kernel, parts.schedule, parts=parts)
        if (inner := interior(kernel, target)) is not None:
            return Form(kernel, inner.schedule, inner=inner)
    plan = schedule(kernel, target, hints)
    row = row_windows(kernel, plan, target)
    return Form(kernel, replace(plan, columns=1) if row is not None and row.joined else plan, row=row)
