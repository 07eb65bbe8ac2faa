"""Maps whose indices are affine in pieces along the last axis (pads, tiles, shifted and joined rows): a loop for each long piece.

What a pad makes of an index is a chain of min, max and remainders, which would be gathered. Sizes being known, the index is
computed here for the whole axis, and where it walks in equal steps over a long stretch, those steps replace it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from ....ir import COMPARISONS, NUMPY, DType
from ...affine import affine, axes_of
from ...expr import Axis, Call, E, Load, Num, postorder, rebuilt
from ...kernel import LoopKernel
from ..target import CpuTarget
from .rewrite import transform
from .schedule import LoopSchedule, fitting, schedule

_LONGEST = 1 << 20  # elements of an axis that are looked at
_MOST = 12  # pieces that get a loop of their own; where there are more, long ones do
_SHORT = 4  # elements of a piece that may be long where they are few
_SHORTEST_AXIS = 8  # elements
_FILLED = 4  # lanes of a vector with a mask that pay for it
_LEAST = 8  # a long piece has one in so many of the elements
_LOGIC = frozenset({"and_", "or_", "not_"})


@dataclass(frozen=True)
class Segment:
    """[start, stop) along the last axis, where `kernel` does what the whole kernel does; `regular` if it walks in equal steps."""

    start: int
    stop: int
    kernel: LoopKernel
    regular: bool


@dataclass(frozen=True)
class Segments:
    """`kernel`, its last two axes joined if that helps, in parts; `schedule` is that of the longest one."""

    kernel: LoopKernel
    parts: tuple[Segment, ...]
    schedule: LoopSchedule


def segments(k: LoopKernel, target: CpuTarget) -> Segments | None:
    """None where no long stretch becomes simpler."""
    if k.stages or k.reduce_axes or not k.axes or any(s.guard is not None for s in k.stores):
        return None
    for kernel in (k, _joined(k)):
        parts = None if kernel is None else _parts(kernel)
        if kernel is not None and parts is not None:
            longest = max(parts, key=lambda p: p.regular * (p.stop - p.start))
            plan = schedule(longest.kernel, target)
            plan = replace(plan, width=fitting(plan.width, longest.stop - longest.start))
            filled = sum(p.stop - p.start for p in parts if p.regular and p.stop - p.start >= shortest(plan, target))
            if plan.axis == len(kernel.axes) - 1 and (longest.stop - longest.start >= 16 or 2 * filled >= parts[-1].stop):
                return Segments(kernel, parts, replace(plan, columns=1))
    return None


def shortest(plan: LoopSchedule, target: CpuTarget) -> int:
    """Elements of a piece that is worth vectors."""
    return min(plan.width, _FILLED) if target.masked else plan.width


def _joined(k: LoopKernel) -> LoopKernel | None:
    """The last two axes as one, which stores walk element by element; indices become quotients and remainders."""
    n = len(k.axes)
    if n < 2 or not isinstance(k.axes[n - 2], int) or not isinstance(size := k.axes[n - 1], int):
        return None
    forms = [affine(s.offset) for s in k.stores]
    if any(f is None or f[1].get(n - 1, 0) != 1 or f[1].get(n - 2, 0) != size for f in forms):
        return None
    both = Axis(n - 2)
    outer, inner = Call("div", (both, Num(size))), Call("mod", (both, Num(size)))

    def change(e: E, kids: tuple[E, ...]) -> E:
        return {n - 2: outer, n - 1: inner}.get(e.index, e) if isinstance(e, Axis) else rebuilt(e, kids)

    return transform(k, change, (*k.axes[: n - 2], k.axes[n - 2] * size), ())


def _parts(k: LoopKernel) -> tuple[Segment, ...] | None:
    axis, size = len(k.axes) - 1, k.axes[-1]
    if not isinstance(size, int) or not _SHORTEST_AXIS <= size <= _LONGEST:
        return None
    depends = axes_of(k.roots)
    offsets = [e.offset for e in postorder(k.roots) if isinstance(e, Load)] + [s.offset for s in k.stores]
    if all(affine(o) is not None for o in offsets):
        return None
    lines: dict[int, np.ndarray] = {}  # what an offset adds along the axis, or a condition is there
    rest: dict[int, list[tuple[str, E]]] = {}
    for o in offsets:
        own: list[tuple[str, E]] = []
        others: list[tuple[str, E]] = []
        for term in _terms(o):
            (own if depends[id(term[1])] == {axis} else others).append(term)
        values = [(sign, _along(e, axis, size)) for sign, e in own]
        if any(axis in depends[id(e)] for _, e in others) or any(v is None for _, v in values):
            return None
        lines[id(o)] = sum(((v if sign == "add" else -v) for sign, v in values if v is not None), np.zeros(size, np.int64))
        rest[id(o)] = others
    for e in postorder(k.roots):
        if isinstance(e, Call) and e.fn in COMPARISONS and depends[id(e)] == {axis} and e.args[0].dtype is DType.I64:
            truth = _along(e, axis, size)
            if truth is not None:
                lines[id(e)] = truth
    cuts = {0, size}
    for line in lines.values():
        found = (np.flatnonzero(np.diff(line)) + 1).tolist() if line.dtype == np.bool_ else _breaks(line, max(_MOST, size // _LEAST))
        if found is None:
            return None
        cuts.update(found)
    ends = sorted(cuts)
    pieces = list(itertools.pairwise(ends))
    few = len(pieces) <= _MOST
    long = [p for p in pieces if p[1] - p[0] >= (_SHORT if few else max(16, size // _LEAST))]
    if sum(stop - start for start, stop in long) * 2 < size:
        return None
    out: list[Segment] = []
    at = 0
    for start, stop in pieces if few else long:
        if at < start:
            out.append(Segment(at, start, k, False))
        out.append(Segment(start, stop, _simpler(k, axis, start, lines, rest), True))
        at = stop
    if at < size:
        out.append(Segment(at, size, k, False))
    return tuple(out)


def _terms(e: E) -> list[tuple[str, E]]:
    """e as a sum of terms, each "add" or "sub"."""
    out: list[tuple[str, E]] = []
    stack: list[tuple[str, E]] = [("add", e)]
    while stack:
        sign, x = stack.pop()
        if isinstance(x, Call) and x.fn in ("add", "sub"):
            stack += [(sign, x.args[0]), ("add" if (x.fn == "add") == (sign == "add") else "sub", x.args[1])]
        else:
            out.append((sign, x))
    return out


def _along(root: E, axis: int, size: int) -> np.ndarray | None:
    """root at every index of the axis; None if it depends on what is not known here."""
    known: dict[int, np.ndarray] = {}
    for e in postorder([root]):
        match e:
            case Axis(index=i) if i == axis:
                known[id(e)] = np.arange(size, dtype=np.int64)
            case Num(value=v) if e.dtype in (DType.I64, DType.BOOL):
                known[id(e)] = np.asarray(v, np.bool_ if e.dtype is DType.BOOL else np.int64)
            case Call(fn=fn, args=args) if e.dtype in (DType.I64, DType.BOOL):
                known[id(e)] = np.asarray(NUMPY.ops.call(fn, *(known[id(a)] for a in args)))
            case _:
                return None
    return np.broadcast_to(known[id(root)], (size,))


def _breaks(line: np.ndarray, most: int) -> list[int] | None:
    """Where stretches of equal steps start, from the left; None if there are more than `most`."""
    steps = np.diff(line)
    changes = np.flatnonzero(np.diff(steps)) + 1  # steps[i] differs from steps[i − 1]
    out: list[int] = []
    start = 0
    for i in changes.tolist():
        if i > start:  # element i + 1 does not continue what started at `start`
            start = i + 1
            out.append(start)
            if len(out) > most:
                return None
    return [s for s in out if s < line.size]


def _simpler(k: LoopKernel, axis: int, start: int, lines: dict[int, np.ndarray], rest: dict[int, list[tuple[str, E]]]) -> LoopKernel:
    """The kernel from `start` on, as far as all lines go on in equal steps."""

    def line(of: E) -> E:
        values = lines[id(of)]
        step = np.diff(values[start : start + 2]) if start + 1 < values.size else np.zeros(1, np.int64)
        origin = values[start : start + 1] - step * start  # arrays wrap around as the program does
        out: E = Call("add", (Call("mul", (Axis(axis), Num(int(step[0])))), Num(int(origin[0]))))
        for sign, term in rest[id(of)]:
            out = Call(sign, (out, term))
        return out

    def change(e: E, kids: tuple[E, ...]) -> E:
        if isinstance(e, Load) and id(e.offset) in lines:
            return Load(e.operand, line(e.offset), dtype=e.dtype)
        if id(e) in lines and e.dtype is DType.BOOL:
            return Num(bool(lines[id(e)][start]), dtype=DType.BOOL)
        if isinstance(e, Call) and e.fn == "select" and isinstance(kids[0], Num):
            return kids[1] if kids[0].value else kids[2]
        if isinstance(e, Call) and e.fn in _LOGIC and all(isinstance(c, Num) for c in kids):
            return Num(bool(NUMPY.ops.call(e.fn, *(np.bool_(c.value) for c in kids if isinstance(c, Num)))), dtype=DType.BOOL)
        return rebuilt(e, kids)

    new = transform(k, change, k.axes, ())
    return replace(new, stores=tuple(replace(s, offset=line(old.offset)) for s, old in zip(new.stores, k.stores, strict=True)))
