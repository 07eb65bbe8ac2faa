"""How a loop kernel runs: which axis is the vector, how wide."""

from __future__ import annotations

from dataclasses import dataclass

from ....errors import ScheduleError
from ....ir import COMPARISONS, Dim, DType, is_static, prod
from ...affine import affine, stride_along
from ...expr import Axis, Bits, Call, Cast, DimParam, E, Load, Num, postorder
from ...kernel import LoopKernel
from ...running import running
from ..target import CpuTarget
from .recurrence import vectors
from .windows import windows

UNROLL_POINTS = 64  # reduce spaces up to this size are unrolled,
_WINDOW_FNS = ("sum", "max", "min")
_COLUMNS = 4  # points of a window sum computed together: 3 are measurably slower, 6 no faster
UNROLL_WORK = 640  # unless that makes more vector operations than this: compile time grows with them
SHORTEST = 4  # fewer elements are not worth a vector axis
_END = 8.0  # cycles to add up the lanes of a vector
MOST_APART = 8  # a stride up to which whole lines are loaded and shuffled, instead of gathered
_GATHERED = 4  # scalar operations in the time that an element is gathered in
_LONG = 20_000  # cycles of a unit, some µs, which are worth another thread
_CHEAP = frozenset({"add", "sub", "mul", "min", "max", "neg", "abs", "and_", "or_", "xor", "not_", "select", "sqrt", "div", "fma"})


@dataclass(frozen=True, slots=True)
class LoopSchedule:
    """axis: the vector axis (parallel axes first, then reduce axes), −1 for scalar code; width: lanes;
    group: vectors per iteration; block: elements of a unit when the vector axis is the only parallel one;
    chain: terms that one accumulator of a sum takes before it is added to another (see `reductions.Parts`);
    columns: neighbours along the last other parallel axis that are computed together, sharing what they load;
    by_lines: running sums go on from lines of memory (see `recurrence.vectors`)."""

    axis: int
    width: int
    group: int
    block: int
    chain: int = 256
    columns: int = 1
    by_lines: bool = False


@dataclass(frozen=True, slots=True)
class LoopHints:
    """Choices that replace those of the rules; 0: none does. choice: the next best vector axis, and so on; group, block: as above."""

    choice: int = 0
    group: int = 0
    block: int = 0


NO_HINTS = LoopHints()


_OPEN_FILL = 0.75  # of a symbolic axis, which may be short: a known one is preferred where it costs about the same


def work(root: E) -> int:
    """Vector operations of a value, roughly."""
    return sum(
        (1 if e.fn in _CHEAP or e.fn in COMPARISONS else 16) if isinstance(e, Call) else 1
        for e in postorder([root])
        if isinstance(e, Bits | Call | Load | Cast) and e.dtype is not DType.I64
    )


def schedule(k: LoopKernel, target: CpuTarget, hints: LoopHints = NO_HINTS) -> LoopSchedule:
    """Rules in order; the last always applies. Raises ScheduleError for hints that the kernel cannot have."""
    n = len(k.axes)
    width = target.vector_bits // (8 * lane_bytes(k))
    if (found := running(k)) is not None:
        axis, group, lines = vectors(k, found, width)
        return LoopSchedule(axis, width, group, width * group, by_lines=lines)
    candidates = _Costs(k, width).candidates()
    if not candidates:
        return LoopSchedule(-1, 1, 1, 256 if not k.reduce_axes else 8)
    if not 0 <= hints.choice < len(candidates) or not 0 <= hints.group <= 16 or hints.block < 0:
        raise ScheduleError(f"{hints}", expected=f"one of {len(candidates)} vector axes, and sizes from 1")
    axis = -sorted(candidates)[hints.choice][1]
    columns, together = _columns(k, axis)
    most = 2 if not k.stages or columns * 4 > target.vector_registers // 2 else 4  # accumulators leave room for what they share
    size = k.axes[axis] if axis < n else k.reduce_axes[axis - n]
    group = most
    if k.stages and isinstance(size, int) and axis < n and len(k.axes) > 1 and size // width % most:
        group = next((g for g in (4, 3, 2) if g <= most and size // width % g == 0), most)
    if together and isinstance(points := prod(k.reduce_axes), int):
        group = max(1, min(group, UNROLL_WORK // (3 * columns * max(1, points))))
    group = hints.group or group
    if axis < n:
        width = fitting(width, size)
    block = hints.block or (_unit(k, axis, width, most) if k.stages else max(1024, width * most))
    return LoopSchedule(axis, width, group, block, columns=columns)


def _unit(k: LoopKernel, axis: int, width: int, most: int) -> int:
    """Elements of a unit of reductions: those of a group of vectors, fewer if they take long, so that threads can share few elements."""
    points, values = prod(k.reduce_axes), postorder([s.value for s in k.stages])
    costs = _Costs(k, width)
    cycles = sum(costs.access(e.offset, axis, True) for e in values if isinstance(e, Load)) + sum(work(s.value) for s in k.stages)
    while isinstance(points, int) and most > 1 and most * points * cycles > _LONG:
        most //= 2
    return width * most


def operations(k: LoopKernel, plan: LoopSchedule) -> int:
    """Of scalars, for one point: lanes share one, but of what is gathered each takes some."""
    nodes = postorder(k.roots)
    shared = max(1, len(nodes) // max(1, plan.width))
    if not 0 <= plan.axis < len(k.axes):
        return shared
    costs = _Costs(k, plan.width)
    return shared + _GATHERED * sum(isinstance(e, Load) and costs.access(e.offset, plan.axis, True) > plan.width for e in nodes)


def fitting(width: int, size: Dim) -> int:
    """Lanes of a vector for rows of `size` elements: longer ones would touch more lines for nothing."""
    while width > SHORTEST and isinstance(size, int) and size <= width // 2:
        width //= 2
    return width


class _Costs:
    """What it costs to make each axis the vector of `width` lanes."""

    def __init__(self, k: LoopKernel, width: int) -> None:
        self.k, self.width = k, width
        self._strides: dict[tuple[int, int], Dim | None] = {}
        self._views: list[object] = []  # keeps expressions alive that `_strides` has the ids of

    def candidates(self) -> list[tuple[float, int]]:
        """Cost and −axis of each that can be it: parallel axes, and the last one of reductions."""
        k, n = self.k, len(self.k.axes)
        found: list[tuple[float, int]] = []
        for axis, size in enumerate(k.axes):
            if k.inward and (k.reduce_axes or axis < n - 1):
                continue
            if not _too_short(size) and all(self._stride(s.offset, axis) != 0 for s in k.stores):
                found.append((self._cost(axis, size, False), -axis))
        if k.stages and k.reduce_axes:
            axis, size = n + len(k.reduce_axes) - 1, k.reduce_axes[-1]
            terms = prod(k.reduce_axes)
            end = _END * self.width / terms if isinstance(terms, int) and terms else 0.5
            if not _too_short(size) and not any(s.per_element and self._stride(s.offset, axis) == 0 for s in k.stores):
                found.append((self._cost(axis, size, True) + end, -axis))
        return found

    def _cost(self, axis: int, size: Dim, per_element: bool) -> float:
        """Cycles per full vector of results, short axes filling theirs badly."""
        k = self.k
        inner = windows(k, axis) if axis < len(k.axes) and is_static(k.reduce_axes) else None
        self._views.append(inner)
        loads = [e for e in postorder((k if inner is None else inner.inside).roots) if isinstance(e, Load)]
        stores = [s.offset for s in k.stores if s.per_element or not per_element]
        fill = min(1.0, size / self.width) if isinstance(size, int) else _OPEN_FILL
        return (sum(self.access(e.offset, axis, True) for e in loads) + sum(self.access(o, axis) for o in stores)) / fill

    def access(self, offset: E, axis: int, load: bool = False) -> float:
        """Cycles to move a vector, roughly: a gather costs an access per lane, a short stride one per vector that it touches."""
        step = self._stride(offset, axis)
        if not isinstance(step, int):
            return 1.2 * self.width
        if load and (step == -1 or 2 <= step <= MOST_APART):
            return min(self.width, 2.0 * abs(step))
        return {0: 0.3, 1: 1.0}.get(step, self.width)

    def _stride(self, offset: E, axis: int) -> Dim | None:
        key = id(offset), axis
        if key not in self._strides:
            self._strides[key] = stride_along(offset, axis, None if axis < len(self.k.axes) else 0)
        return self._strides[key]


def _too_short(size: Dim) -> bool:
    return isinstance(size, int) and size < SHORTEST


def _columns(k: LoopKernel, axis: int) -> tuple[int, bool]:
    """Several where points along the last outer axis share what one window reads: weights, or elements of overlapping windows.

    And whether it is only elements, all of which are then to be read before the next vector."""
    n = len(k.axes)
    others = [i for i in range(n) if i != axis]
    if axis >= n or not others or not is_static(k.reduce_axes) or len(k.stages) != 1 or k.stages[0].fn not in _WINDOW_FNS:
        return 1, False
    inner = windows(k, axis)
    forms = [affine(e.offset) for e in postorder([(k if inner is None else inner.inside).stages[0].value]) if isinstance(e, Load)]
    last, size = others[-1], k.axes[others[-1]]
    moving = [f[1] for f in forms if f is not None and any(a >= n for a in f[1])]
    weights = any(last not in f for f in moving) and k.stages[0].fn == "sum"
    overlap = any(f.get(axis) == 1 and f.get(a, 0) == f.get(last) for f in moving for a in f if a >= n)
    if not (weights or overlap) or (isinstance(size, int) and size < _COLUMNS):
        return 1, False
    return _COLUMNS, overlap and not any(f.get(axis) == 1 and last not in f for f in moving)


def lane_bytes(k: LoopKernel) -> int:
    """Bytes of a lane: 8 where all is 64-bit, 1 or 2 for kernels on nothing larger, else 4."""
    sizes = {o.dtype.itemsize for o in k.operands}
    if sizes == {8}:
        return 8
    values = [e.dtype for e in postorder(k.roots) if not isinstance(e, Axis | DimParam | Num)]
    inner = {d.itemsize for d in values if d is not DType.I64}
    index_values = any(v.dtype is DType.I64 for v in [*(s.value for s in k.stages), *(s.value for s in k.stores)])
    return min(4, max(sizes | inner)) if not index_values else 4
