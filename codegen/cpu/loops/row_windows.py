"""Windows along rows whose neighbours are the lanes: elements are read once, as they lie, and taps are shuffles of them.

A tile is some vectors of points of a row. For each line of taps it reads the elements under them in vectors, the pieces; those outside
of the image are not read, which is known wherever a tile begins or ends with the row. Where nothing is done to elements but that they
are added up or compared (pooling), all lines of taps are joined first, and shuffled once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ....ir import is_static, prod
from ...affine import affine
from ...expr import Call, E, Load
from ...kernel import COMBINE, LoopKernel, Reduction
from .. import llvm_ir as ir
from ..build import I1, storage, vec
from ..math.functions import Functions
from ..shuffles import picked
from ..target import CpuTarget
from .accesses import Scope
from .lines import LineUnits
from .schedule import MOST_APART, LoopSchedule
from .windows import Fact, Windows, windows

_FNS = ("sum", "max", "min")
_MOST_TAPS = 32  # of a line, all of which get code
_MOST_TERMS = 256  # of a window: longer sums are taken in parts
_MOST_KNOWN = 8  # vectors of a row all of whose tiles have code of their own
_PIECES = 9  # of a tile, in registers
_LONGEST = 1 << 20  # points of a row, whose tiles are listed to write its code


@dataclass(frozen=True, slots=True)
class RowWindows:
    """A row of `size` points. step: elements from point to point; tap: the reduce axis along it, whose taps are `apart` elements from
    each other; facts: what must be ≥ 0 for an element to be inside, as (constant, sign of its place); joined: lines of taps are
    joined before they are shuffled; group: vectors of a tile."""

    step: int
    tap: int
    taps: int
    apart: int
    facts: tuple[tuple[int, int], ...]
    joined: bool
    size: int
    group: int

    def inside(self, place: int) -> bool:
        return all(constant + sign * place >= 0 for constant, sign in self.facts)

    def span(self, points: int) -> int:
        """Elements under so many neighbouring points."""
        return self.step * (points - 1) + self.apart * (self.taps - 1) + 1


@dataclass
class _Tile:
    """What is being written: vectors whose first points are `starts`, from where the tile begins, which is point `known` of its row, or
    any in the middle; pieces: by where their row of elements begins."""

    starts: list[int]
    known: int | None
    outside: Any  # vectors of what elements outside of the image are
    pieces: dict[Any, tuple[Any, dict[Any, Any]]]


def row_windows(k: LoopKernel, plan: LoopSchedule, target: CpuTarget) -> RowWindows | None:
    """None where the kernel, with the vectors of `plan`, is no such thing."""
    n, axis = len(k.axes), plan.axis
    if not target.masked or not 0 <= axis < n or len(k.stages) != 1 or any(s.per_element for s in k.stores) or plan.width < 2:
        return None
    (stage,), size = k.stages, k.axes[axis]
    if stage.fn not in _FNS or not isinstance(size, int) or not 2 <= size <= _LONGEST or not k.reduce_axes or not is_static(k.reduce_axes):
        return None
    tap, taps = n + len(k.reduce_axes) - 1, k.reduce_axes[-1]
    win = windows(k, axis)
    if not isinstance(taps, int) or not 2 <= taps <= _MOST_TAPS:
        return None
    if win is not None and (win.cuts is None or any(tap in f[1] for f in win.facts)):
        return None
    value = (k if win is None else win.inside).stages[0].value
    found = _apart(value, axis, tap)
    if found is None:
        return None
    step, apart = found
    facts = [] if win is None else [_of_place(f, axis, tap, step, apart) for f in win.lanes]
    known = tuple(f for f in facts if f is not None)
    joined = isinstance(value, Load)
    terms = prod(k.reduce_axes)
    if len(known) < len(facts) or not isinstance(terms, int) or (joined and terms > _MOST_TERMS):
        return None
    if not joined and stage.fn != "sum":
        return None
    return RowWindows(step, tap, taps, apart, known, joined, size, max(1, min(4, (_PIECES - 1) // step)) if joined else plan.group)


def _apart(value: E, axis: int, tap: int) -> tuple[int, int] | None:
    """How far the elements of a line of taps are apart from point to point and from tap to tap, if nothing else differs between points."""
    loads = value.args if isinstance(value, Call) and value.fn == "mul" else (value,)
    found = []
    for e in loads:
        form = affine(e.offset) if isinstance(e, Load) else None
        if form is None:
            return None
        if axis in form[1]:
            found.append((form[1][axis], form[1].get(tap)))
    if len(found) != 1:
        return None
    ((step, apart),) = found
    if not isinstance(step, int) or not isinstance(apart, int):
        return None
    return (step, apart) if 1 <= step <= MOST_APART and 1 <= apart <= MOST_APART else None


def _of_place(f: Fact, axis: int, tap: int, step: int, apart: int) -> tuple[int, int] | None:
    """A fact as one about the place of an element in its row."""
    constant, coefficients = f
    for sign in (1, -1):
        if isinstance(constant, int) and coefficients == {axis: sign * step, tap: sign * apart}:
            return constant, sign
    return None


class RowUnits(LineUnits):
    """The rows of a kernel that `row_windows` describes."""

    row: RowWindows | None = None
    written: _Tile | None = None
    windows: Windows | None
    together: int  # columns of the code being written

    def _row(self, plan: RowWindows, axes: dict[int, Any]) -> None:
        """All points of a row; `self.k` is the kernel without guards, or where those are that differ between lanes."""
        b, w = self.b, self.plan.width
        count = -(-plan.size // w)
        firsts = [max(0, min(i * w, plan.size - w)) for i in range(count)]
        tiles = [firsts[i : i + plan.group] for i in range(0, count, plan.group)]
        alike = [self._middle_tile(plan, t) for t in tiles]
        if count <= _MOST_KNOWN or sum(alike) < 2:
            alike = [False] * len(tiles)
        done = False
        for t, middle in zip(tiles, alike, strict=True):
            if not middle:
                self._row_tile(plan, {**axes, self.plan.axis: b.i64(t[0])}, [x - t[0] for x in t], t[0])
            elif not done:
                done = True
                same = [x for x, m in zip(tiles, alike, strict=True) if m]

                def one(at: Any, _: list[Any]) -> list[Any]:
                    self._row_tile(plan, {**axes, self.plan.axis: at}, [g * w for g in range(plan.group)], None)
                    return []

                b.loop(b.i64(same[0][0]), b.i64(same[-1][-1] + 1), b.i64(plan.group * w), [], one)

    def _middle_tile(self, plan: RowWindows, firsts: list[int]) -> bool:
        """Whether it is a whole one, with all of its elements inside."""
        w = self.plan.width
        whole = plan.size >= w and firsts == [firsts[0] + g * w for g in range(plan.group)] and firsts[0] % (plan.group * w) == 0
        return whole and all(plan.inside(plan.step * firsts[0] + e) for e in (0, plan.span(plan.group * w) - 1))

    def _row_tile(self, plan: RowWindows, axes: dict[int, Any], starts: list[int], known: int | None) -> None:
        b, w, win, k = self.b, self.plan.width, self.windows, self.k
        (stage,) = k.stages if win is None else win.inside.stages
        dtype = stage.value.dtype
        outside = Functions(b, w, self.target).const(self._neutral(stage.fn, dtype), dtype)
        mask = b.below(b.i64(plan.size), w) if plan.size < w else None
        scopes = [Scope(axes, w, None, [], {}, at, column) for column in range(self.together) for at in starts]
        self.written, self.taps_known = _Tile(starts, known, outside, {}), True
        if win is not None:
            self.k = win.inside
        results = self._joined_rows(plan, stage, scopes) if plan.joined else self._stage(0, stage, scopes)
        self.written, self.taps_known = None, False
        for s, r in zip(scopes, results, strict=True):
            s.reduced.append(r)
            s.mask = mask
            place = None if known is None else plan.step * (known + s.shift)
            inside = place is None or all(plan.inside(place + e) for e in (0, plan.span(w) - 1))
            self.k = k if win is None else win.inside if inside and k is win.inside else win.bounded
            for store in self.k.stores:
                self._store(store, s)
        self.k = k

    def _joined_rows(self, plan: RowWindows, stage: Reduction, scopes: list[Scope]) -> list[Any]:
        """Lines of taps joined as they lie, then all taps of each point."""
        b, k, n = self.b, self.k, len(self.k.axes)
        load, dtype = stage.value, stage.value.dtype
        assert isinstance(load, Load) and self.written is not None
        (columns,) = {s.ahead for s in scopes}
        cut = {} if self.cuts is None else self._bounds(self.cuts[0], scopes[0].axes)
        walked = [n + j for j in range(len(k.reduce_axes)) if n + j != plan.tap]
        pieces = self._pieces_at(plan)

        def nest(depth: int, extra: dict[int, Any], values: list[Any]) -> list[Any]:
            if depth == len(walked):
                s = Scope({**scopes[0].axes, **extra, plan.tap: b.i64(0)}, self.plan.width, None, [], {}, 0, columns)
                found = [self._piece(plan, load, s, at) for at in pieces]
                return [self._joined(COMBINE[stage.fn], dtype, old, x) for old, x in zip(values, found, strict=True)]
            a = walked[depth]
            if a not in cut:
                for i in range(int(k.reduce_axes[a - n])):
                    values = nest(depth + 1, {**extra, a: b.i64(i)}, values)
                return values
            first, stop = cut[a]
            return b.loop(first, stop, b.i64(1), values, lambda i, v: nest(depth + 1, {**extra, a: i}, v))

        joined = nest(0, {}, [self.written.outside] * len(pieces))
        cache: dict[Any, Any] = dict(zip(pieces, joined, strict=True))
        out = []
        for s in scopes:
            taps = [self._tap(plan, cache, plan.step * s.shift + plan.apart * t) for t in range(plan.taps)]
            total = taps[0]
            for x in taps[1:]:
                total = self._joined(COMBINE[stage.fn], dtype, total, x)
            out.append(total)
        return out

    def _load(self, e: Load, s: Scope, lanes: int, math: Functions) -> Any:
        """Of a line of taps, from its pieces."""
        tile, plan = self.written, self.row
        if tile is None or plan is None or lanes != self.plan.width or not isinstance(t := s.axes.get(plan.tap), ir.Constant):
            return super()._load(e, s, lanes, math)
        form = self.form(e.offset)
        if form is None or self.plan.axis not in form[1]:
            return super()._load(e, s, lanes, math)
        at = plan.step * s.shift + plan.apart * int(t.constant or 0)
        first = Scope({**s.axes, plan.tap: self.b.i64(0)}, lanes, None, [], {}, 0, s.ahead)
        if plan.step == 1 and all(self._there(plan, at)):  # unaligned loads are cheaper than shuffles beside multiply-adds
            return self._piece(plan, e, first, at)
        value, constant = self.linear(form, first.axes, 0, s.ahead)
        key = id(self.b.ir.block), e.operand, id(value), constant
        if key not in tile.pieces:
            tile.pieces[key] = value, {start: self._piece(plan, e, first, start) for start in self._pieces_at(plan)}
        return self._tap(plan, tile.pieces[key][1], at)

    def _pieces_at(self, plan: RowWindows) -> list[int]:
        """Where pieces begin: one after another, the last one ends with the tile."""
        assert self.written is not None
        w, span = self.plan.width, plan.span(self.written.starts[-1] + self.plan.width)
        return [max(0, min(i * w, span - w)) for i in range(-(-span // w))]

    def _piece(self, plan: RowWindows, e: Load, s: Scope, start: int) -> Any:
        """Elements from `start` on of the line of taps that begins at `s`."""
        b, w, tile = self.b, self.plan.width, self.written
        assert tile is not None
        dtype = self.k.operands[e.operand].dtype
        t, math = storage(dtype), Functions(b, w, self.target)
        there = self._there(plan, start)
        if not any(there):
            return tile.outside
        at = b.at(self.address(e.operand, e.offset, s), b.i64(start), t)
        if all(there):
            return math.from_storage(b.load(vec(t, w), at, dtype.itemsize), dtype)
        mask = ir.Constant(vec(I1, w), [int(x) for x in there])
        return b.ir.select(mask, math.from_storage(b.masked_load(vec(t, w), at, mask, dtype.itemsize), dtype), tile.outside)

    def _there(self, plan: RowWindows, start: int) -> list[bool]:
        """Which elements from `start` on are inside of the image, and under a point of the row."""
        tile, w = self.written, self.plan.width
        assert tile is not None
        if tile.known is None:
            return [True] * w
        first, last = plan.step * tile.known + start, plan.span(plan.size)
        return [p < last and plan.inside(p) for p in range(first, first + w)]

    def _tap(self, plan: RowWindows, pieces: dict[Any, Any], at: int) -> Any:
        """Every `step`th element from `at` on; elements of one remainder by `step` are gathered once, and shifted for further taps."""
        b, w, starts = self.b, self.plan.width, sorted(x for x in pieces if isinstance(x, int))
        if plan.step == 1:
            return picked(b, [pieces[x] for x in starts], starts, [at + lane for lane in range(w)])
        phase, first = at % plan.step, at // plan.step
        end = starts[-1] + w
        parts = []
        for number in dict.fromkeys((first // w, (first + w - 1) // w)):
            key = phase, number
            if key not in pieces:
                places = [phase + plan.step * (number * w + lane) for lane in range(w)]
                pieces[key] = picked(b, [pieces[x] for x in starts], starts, [p if p < end else None for p in places])
            parts.append((number * w, pieces[key]))
        return picked(b, [x for _, x in parts], [x for x, _ in parts], [first + lane for lane in range(w)])
