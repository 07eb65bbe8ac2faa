"""Where intermediate tensors live: offsets in one arena, from sizes and live ranges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ALIGN = 64
_EFFORT = 2_000  # placements tried for a plan
_SPARE = 1 << 20  # bytes that a plan for other sizes may waste beside a quarter


class Range(NamedTuple):
    """A buffer that holds a value from step `first` to step `last`, both inclusive."""

    size: int
    first: int
    last: int


class Layout(NamedTuple):
    """Byte offsets, one per range (multiples of 64), and the bytes of the whole arena."""

    offsets: tuple[int, ...] | np.ndarray
    total: int


def align(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def live_bytes(ranges: Sequence[Range]) -> int:
    """The most bytes alive at once: no layout can be smaller."""
    delta: dict[int, int] = {}
    for r in ranges:
        size = align(r.size)
        delta[r.first] = delta.get(r.first, 0) + size
        delta[r.last + 1] = delta.get(r.last + 1, 0) - size
    now = peak = 0
    for step in sorted(delta):
        now += delta[step]
        peak = max(peak, now)
    return peak


def plan(ranges: Sequence[Range], effort: int = _EFFORT) -> Layout:
    """Greedy by size, each into the tightest gap between those already placed that live at the same time.

    While that misses the lower bound, other orders compete, first fixed ones, then ones that place what stuck out on top
    first; about `effort` placements in all. The smallest arena wins.
    """
    bound = live_bytes(ranges)
    n = len(ranges)
    orders = [
        lambda: sorted(range(n), key=lambda i: (-ranges[i].size, ranges[i].first, i)),
        lambda: sorted(range(n), key=lambda i: (-ranges[i].size * (1 + ranges[i].last - ranges[i].first), i)),
        lambda: sorted(range(n), key=lambda i: (ranges[i].first, -ranges[i].size, i)),
    ]
    best_order = order = orders[0]()
    best = layout = _place(ranges, order)
    for attempt in range(1, 1 + effort // (n + 1)):
        if best.total <= bound:
            break
        if attempt < len(orders):
            order = orders[attempt]()
        else:
            if attempt == len(orders):
                order, layout = best_order, best
            on_top = [i for i in range(n) if ranges[i].size and layout.offsets[i] + align(ranges[i].size) == layout.total]
            order = on_top + [i for i in order if i not in on_top]
        layout = _place(ranges, order)
        if layout.total < best.total:
            best, best_order = layout, order
    return best


class Planner:
    """Plans for one set of live ranges as sizes vary. A decoder grows its sizes with every run, so that a plan is made
    with room to grow once sizes keep changing, and serves as long as it wastes little."""

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        self.spans = spans
        steps = {step: i for i, step in enumerate(sorted({s for first, last in spans for s in (first, last + 1)}))}
        self._steps = len(steps)
        self._begin = np.array([steps[first] for first, _ in spans], np.int64)
        self._end = np.array([steps[last + 1] for _, last in spans], np.int64)
        self._known: list[tuple[np.ndarray, Layout]] = []  # what each buffer may hold, newest last
        self._misses = 0

    def plan(self, sizes: Sequence[int] | np.ndarray) -> Layout:
        """Offsets good for these sizes; at most about a quarter (and a megabyte) larger than a fresh plan."""
        need = _aligned(np.asarray(sizes, np.int64))
        for room, layout in reversed(self._known):
            # what is live at once takes a while to find, and allows for more than what is spare anyway
            if (need <= room).all() and (layout.total <= _SPARE or layout.total <= _limit(self._live(need))):
                return layout
        live = self._live(need)
        self._misses += 1
        if self._misses > 3:
            # Little is doubled: sizes may grow by one a run, and a plan takes longer than running a small model.
            room, effort = (2 * need, 0) if 2 * live <= _limit(live) else (_aligned(need + (need >> 3)), _EFFORT)
        else:
            room, effort = need, _EFFORT
        layout = plan([Range(s, *span) for s, span in zip(room.tolist(), self.spans, strict=True)], effort)
        layout = Layout(np.array(layout.offsets, np.int64), layout.total)
        self._known = [*self._known[-7:], (room, layout)]  # replaced as a whole: other threads may be reading it
        return layout

    def _live(self, sizes: np.ndarray) -> int:
        """`live_bytes` of sizes that are aligned."""
        delta = np.zeros(self._steps + 1, np.int64)
        np.add.at(delta, self._begin, sizes)
        np.subtract.at(delta, self._end, sizes)
        return int(delta.cumsum().max())


def _limit(live: int) -> int:
    """Bytes that an arena may have of which so many are live at once."""
    return live * 5 // 4 + _SPARE


def _aligned(sizes: np.ndarray) -> np.ndarray:
    return (sizes + (ALIGN - 1)) & -ALIGN


def _place(ranges: Sequence[Range], order: Sequence[int]) -> Layout:
    n = len(ranges)
    first, last, start, end = (np.zeros(n, np.int64) for _ in range(4))
    offsets = [0] * n
    count = total = 0
    for i in order:
        r = ranges[i]
        size = align(r.size)
        if not size:
            continue
        clash = ((first[:count] <= r.last) & (last[:count] >= r.first)).nonzero()[0]
        at = _best_fit(start[clash], end[clash], size) if clash.size else 0
        offsets[i] = at
        first[count], last[count], start[count], end[count] = r.first, r.last, at, at + size
        count += 1
        total = max(total, at + size)
    return Layout(tuple(offsets), total)


def _best_fit(start: np.ndarray, end: np.ndarray, size: int) -> int:
    """The tightest gap of at least `size` between the intervals, else after all of them."""
    order = start.argsort(kind="stable")
    top = np.maximum.accumulate(end[order])
    gap = start[order]
    gap[1:] -= top[:-1]
    fits = (gap >= size).nonzero()[0]
    if not fits.size:
        return int(top[-1])
    i = int(fits[gap[fits].argmin()])
    return int(top[i - 1]) if i else 0
