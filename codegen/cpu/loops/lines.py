"""Windows along lines of pixels whose channels are the lanes: what a line of taps needs stays in registers.

A tile is several neighbouring points of a line. For each line of taps it reads every element once and every weight once, and
adds the products to the points that they belong to. At the ends of a line the points are known, and so are the taps outside of
the image, which get no code; lines of taps outside of it are not walked. Rows follow each other within a vector of channels, so
that elements stay in the first-level cache until the last line of taps has read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ....ir import Dim, ceildiv, is_static, prod, upper
from ...affine import affine
from ...expr import Load, postorder
from ...kernel import COMBINE, LoopKernel
from ..math.functions import Functions
from ..target import CpuTarget
from .accesses import Scope
from .reductions import Reductions
from .windows import Fact, windows

_FNS = ("sum", "max", "min")
_MOST_POINTS = 16  # of a tile: more are no faster
_LEAST_POINTS = 4
_LEAST_TAPS = 5
_SHORT = 8  # points of a line for which fewer taps are enough
_MOST_CODE = 256  # products of a tile
_MOST_KNOWN = 2304  # and of all tiles of a line that have code of their own
_CHAIN = 256  # terms of one sum, beyond which rounding asks for parts
_BAND = 14  # rows that follow each other
_UNITS = 16  # wanted


@dataclass(frozen=True, slots=True)
class Lines:
    """What a unit does.

    column: the axis of points of a line; tap: the reduce axis along it; points: of a tile; tiles: of a line, the last one ends
    with it; facts: what must be ≥ 0 for a tap along the line to be inside; cuts: the same for lines of taps; order: of the
    products, (point, tap); apart: each line of taps is summed on its own, which keeps long sums precise; first, last: so many tiles at
    either end of the line have code of their own, as they reach over it. rows: of a band; block: lanes of a unit, of which there
    are `bands` · `blocks` for each point of the outer axes.
    """

    column: int
    tap: int
    points: int
    tiles: int
    facts: tuple[Fact, ...]
    cuts: tuple[Fact, ...]
    order: tuple[tuple[int, int], ...]
    apart: bool
    first: int
    last: int
    rows: int
    bands: Dim
    block: int
    blocks: int


@dataclass(frozen=True, slots=True)
class _Line:
    """Windows along a line of known size. Of Lines: column, tap, facts, cuts. reads: loads of the taps, of which one moves along the
    line; its elements are `along` apart from point to point, and `step` from tap to tap."""

    column: int
    tap: int
    facts: tuple[Fact, ...]
    cuts: tuple[Fact, ...]
    size: int
    taps: int
    lanes: int
    reads: int
    along: int
    step: int


@dataclass(frozen=True, slots=True)
class _Tiling:
    """Of a line. held: weights stay in registers for all points; points, tiles, first, last: as in Lines."""

    held: bool
    points: int
    tiles: int
    first: int
    last: int


def lines(k: LoopKernel, axis: int, width: int, target: CpuTarget) -> Lines | None:
    """None where the kernel, with vectors along `axis`, is no such thing."""
    line = _line(k, axis)
    # windows of three taps are bound by memory: neighbouring channels are better read one after the other
    if line is None or not 1 <= line.along <= line.step or (line.taps < _LEAST_TAPS and line.size > _SHORT):
        return None
    apart = k.stages[0].fn == "sum" and upper(prod(k.reduce_axes)) > _CHAIN
    tiling = _tiling(line, apart, target.vector_registers - 2)
    height = k.axes[[i for i in range(len(k.axes)) if i != axis][-2]]
    if tiling is None or height == 0:
        return None
    rows = _band(height)
    bands = ceildiv(height, rows)
    block = _block(line.lanes, width, bands)
    return Lines(
        column=line.column,
        tap=line.tap,
        points=tiling.points,
        tiles=tiling.tiles,
        facts=line.facts,
        cuts=line.cuts,
        order=_order(line, tiling),
        apart=apart,
        first=tiling.first,
        last=tiling.last,
        rows=rows,
        bands=bands,
        block=block,
        blocks=-(-line.lanes // block),
    )


def _line(k: LoopKernel, axis: int) -> _Line | None:
    n = len(k.axes)
    others = [i for i in range(n) if i != axis]
    simple = len(k.stages) == 1 and not any(s.per_element for s in k.stores) and is_static(k.reduce_axes) and bool(k.reduce_axes)
    if not simple or axis >= n or len(others) < 2 or k.stages[0].fn not in _FNS:
        return None
    column, tap = others[-1], n + len(k.reduce_axes) - 1
    size, taps, lanes = k.axes[column], k.reduce_axes[-1], k.axes[axis]
    if not isinstance(size, int) or not isinstance(lanes, int) or not isinstance(taps, int) or size < 2 or taps < 2:
        return None
    win = windows(k, axis)
    if win is not None and (win.lanes or win.cuts is None):
        return None
    facts = () if win is None else win.along(column)
    cuts = () if win is None or win.cuts is None else tuple(f for f in win.cuts[0] if column not in f[1])
    if any(set(f[1]) - {column, tap} or not isinstance(f[0], int) for f in facts) or any(tap in f[1] for f in cuts):
        return None
    found = _reads(k if win is None else win.inside, axis, column, tap)
    return None if found is None else _Line(column, tap, facts, cuts, size, taps, lanes, *found)


def _tiling(line: _Line, apart: bool, registers: int) -> _Tiling | None:
    """None where registers hold no tile worth the name, or lines would take too much code."""
    held = line.reads > 1 and not apart and line.taps <= registers // 2
    most = min((registers - line.taps if held else registers) // (2 if apart else 1), _MOST_POINTS, _MOST_CODE // line.taps)
    if most < min(line.size, _LEAST_POINTS):
        return None
    tiles = -(-line.size // most)
    points = -(-line.size // tiles)
    starts = [min(i * points, line.size - points) for i in range(tiles)]
    inside = [_inside(line, start, points) for start in starts]
    over = [i for i, n in enumerate(inside) if n < points * line.taps]
    first = max((i + 1 for i in over if 2 * i < tiles), default=min(1, tiles))
    last = max((tiles - i for i in over if 2 * i >= tiles), default=min(1, tiles - first))
    code = sum(inside[:first]) + sum(inside[tiles - last :])
    return None if code > _MOST_KNOWN else _Tiling(held, points, tiles, first, last)


def _inside(line: _Line, start: int, points: int) -> int:
    """Taps of a tile from that point on which are inside of the image."""
    at = ((p, t) for p in range(start, start + points) for t in range(line.taps))
    return sum(all(_at(f, line.column, p, line.tap, t) >= 0 for f in line.facts) for p, t in at)


def _order(line: _Line, tiling: _Tiling) -> tuple[tuple[int, int], ...]:
    """By element of the line where weights stay in registers, else by tap."""
    products = ((j, t) for j in range(tiling.points) for t in range(line.taps))
    return tuple(sorted(products, key=lambda x: (x[0] * line.along + x[1] * line.step, x[1]) if tiling.held else x[::-1]))


def _block(lanes: int, width: int, bands: Dim) -> int:
    """Lanes of a unit: with the bands, `_UNITS` units where there are as many vectors."""
    vectors = -(-lanes // width)
    wanted = min(vectors, max(1, _UNITS // bands)) if isinstance(bands, int) else 1
    return -(-vectors // wanted) * width


def _reads(k: LoopKernel, axis: int, column: int, tap: int) -> tuple[int, int, int] | None:
    """How many loads the taps have, and how far the elements of the one that moves along a line are apart: from point to point, from
    tap to tap."""
    forms = [affine(e.offset) for e in postorder([k.stages[0].value]) if isinstance(e, Load)]
    of_taps = [f[1] for f in forms if f is not None and any(a >= len(k.axes) for a in f[1])]
    if None in forms or any(f.get(axis) != 1 for f in of_taps):
        return None
    moving = [f for f in of_taps if column in f]
    if len(moving) != 1:
        return None
    along, step = moving[0].get(column), moving[0].get(tap)
    return (len(of_taps), along, step) if isinstance(along, int) and isinstance(step, int) else None


def _band(height: Dim) -> int:
    """How many rows follow each other: about `_BAND`, and as many in all bands; two bands at least where rows are not few."""
    if not isinstance(height, int):
        return _BAND
    return max(1, -(-height // (max(2, round(height / _BAND)) if height >= _BAND // 2 else 1)))


def _at(fact: Fact, column: int, point: int, tap: int, t: int) -> int:
    """A fact at a known point and tap."""
    constant, coefficients = fact
    value = constant + point * coefficients.get(column, 0) + t * coefficients.get(tap, 0)
    assert isinstance(value, int)
    return value


class LineUnits(Reductions):
    """The units of a kernel that `lines` describes; `self.k` is the kernel without guards."""

    def _line_unit(self, plan: Lines, outer: dict[int, Any], row: int, band: Any, block: Any) -> None:
        """`outer` has the axes before `row`."""
        b, k, w = self.b, self.k, self.plan.width
        first = b.ir.mul(band, b.i64(plan.rows))
        end = b.smin(b.ir.add(first, b.i64(plan.rows)), self.dim(k.axes[row]))
        lanes = k.axes[self.plan.axis]
        assert isinstance(lanes, int)
        start = b.ir.mul(block, b.i64(plan.block))
        stop = b.smin(b.ir.add(start, b.i64(plan.block)), b.i64(lanes))

        def vector(at: Any, mask: Any) -> None:
            def line(r: Any, _: list[Any]) -> list[Any]:
                self._line(plan, {**outer, row: r, self.plan.axis: at}, mask)
                return []

            b.loop(first, end, b.i64(1), [], line)

        def whole(at: Any, _: list[Any]) -> list[Any]:
            vector(at, None)
            return []

        last = b.i64(lanes // w * w)
        b.loop(start, b.smin(stop, last), b.i64(w), [], whole)
        if lanes % w:
            with b.ir.if_then(b.ir.icmp_signed(">", stop, last)):
                vector(last, b.below(b.i64(lanes % w), w))

    def _line(self, plan: Lines, axes: dict[int, Any], mask: Any) -> None:
        b = self.b
        size = self.k.axes[plan.column]
        assert isinstance(size, int)
        last = size - plan.points
        middle = plan.tiles - plan.last
        for i in (*range(plan.first), *range(middle, plan.tiles)):
            at = min(i * plan.points, last)
            self._tile(plan, {**axes, plan.column: b.i64(at)}, at, mask)
        if plan.first == middle:
            return

        def inner(at: Any, _: list[Any]) -> list[Any]:
            self._tile(plan, {**axes, plan.column: at}, None, mask)
            return []

        b.loop(b.i64(plan.first * plan.points), b.i64(middle * plan.points), b.i64(plan.points), [], inner)

    def _tile(self, plan: Lines, axes: dict[int, Any], known: int | None, mask: Any) -> None:
        """The points from axes[column] on, which is `known` at the ends of a line; elsewhere all taps along it are inside."""
        b, k, n = self.b, self.k, len(self.k.axes)
        (stage,) = k.stages
        dtype = stage.value.dtype
        scopes = [Scope(axes, self.plan.width, mask, [], {}, 0, j) for j in range(plan.points)]
        math = Functions(b, self.plan.width, self.target)
        taps = [
            (j, t) for j, t in plan.order
            if known is None or all(_at(f, plan.column, known + j, plan.tap, t) >= 0 for f in plan.facts)
        ]  # fmt: skip
        element, along, step = self._moving(plan)
        places = {j * along + t * step: (j, t) for j, t in taps}.values()  # each element of the line once
        bounds = self._bounds(plan.cuts, axes)
        walked = [n + i for i in range(len(k.reduce_axes)) if n + i != plan.tap]

        def nest(depth: int, at: dict[int, Any], sums: list[Any]) -> list[Any]:
            if depth < len(walked):
                low, high = bounds[walked[depth]]
                return b.loop(low, high, b.i64(1), sums, lambda i, v: nest(depth + 1, {**at, walked[depth]: i}, v))
            if mask is None:  # the next vector's elements: rows at the end of a band may be in another core's cache
                for j, t in places:
                    there = Scope({**axes, **at, plan.tap: b.i64(t)}, self.plan.width, None, [], {}, self.plan.width, j)
                    b.prefetch(self.address(element.operand, element.offset, there))
            of_line = list(start if plan.apart else sums)
            for j, t in taps:
                x = self.value(stage.value, self._child(scopes[j], {**at, plan.tap: b.i64(t)}), True)
                of_line[j] = self._joined(COMBINE[stage.fn], dtype, of_line[j], x)
            return [math.call("add", list(x), [dtype, dtype]) for x in zip(sums, of_line, strict=True)] if plan.apart else of_line

        start = [math.const(self._neutral(stage.fn, dtype), dtype)] * plan.points
        for s, x in zip(scopes, nest(0, {}, start), strict=True):
            s.reduced.append(x)
            for store in k.stores:
                self._store(store, s)

    def _moving(self, plan: Lines) -> tuple[Load, int, int]:
        """The load of the elements of a line, and how far they are apart from point to point and from tap to tap."""
        for e in postorder([self.k.stages[0].value]):
            if isinstance(e, Load) and (f := self.form(e.offset)) is not None and plan.column in f[1] and plan.tap in f[1]:
                along, step = f[1][plan.column], f[1][plan.tap]
                assert isinstance(along, int) and isinstance(step, int)
                return e, along, step
        raise AssertionError("`lines` found one")
