"""Reductions of short rows that lie side by side: each lane takes a row, and registers turn rows into columns and back.

A vector along a row of ten elements leaves lanes empty, and its horizontal end costs more than the row. Here sixteen rows are
reduced by nine operations, and one logarithm or division serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ....ir import lower, upper
from ...affine import affine
from ...expr import Load, postorder
from ...kernel import LoopKernel, Store
from ...running import running
from .. import llvm_ir as ir
from ..build import I1, storage, vec
from ..math.functions import Functions
from ..shuffles import every, shuffle, turned, unwoven, woven
from ..target import CpuTarget
from .accesses import Scope
from .points import Points
from .schedule import LoopSchedule, lane_bytes
from .windows import windows

_LONGEST = 32  # elements of a row: as many values are live at a time
_LEAST = 5  # elements of rows that are only reduced
_WOVEN = 8  # up to here whole vectors are read and taken apart, instead of rows
_BLOCK = 8  # vectors of a unit


@dataclass(frozen=True)
class ShortRows:
    """Vectors of `lanes` rows of `size` elements along `axis`; `loads` are of elements of the rows."""

    axis: int
    size: int
    lanes: int
    loads: tuple[Load, ...]

    @property
    def schedule(self) -> LoopSchedule:
        return LoopSchedule(self.axis, self.lanes, 1, _BLOCK * self.lanes)


def short_rows(k: LoopKernel, target: CpuTarget) -> ShortRows | None:
    """None unless rows along the only reduce axis follow each other along a parallel axis, and everything else is cheap there."""
    n = len(k.axes)
    if not k.stages or len(k.reduce_axes) != 1 or running(k) is not None or any(s.guard is not None for s in k.stores):
        return None
    (size,) = k.reduce_axes
    lanes = target.vector_bits // (8 * lane_bytes(k))
    if not isinstance(size, int) or not 2 <= size <= _LONGEST or lanes < 4:
        return None
    elementwise = any(s.per_element for s in k.stores)
    if size < _LEAST and not elementwise:  # a vector axis along the rows does as well
        return None
    for a, count in enumerate(k.axes):
        if k.inward or upper(count) < 2 * lanes or (isinstance(count, int) and lower(count) < 2 * lanes):
            continue
        loads = _row_loads(k, a, size)
        stored = all(_form(s.offset, a, n) == ((size, 1) if s.per_element else (1, 0)) for s in k.stores)
        if loads and stored and windows(k, a) is None:
            return ShortRows(a, size, lanes, loads)
    return None


def _form(offset: Any, axis: int, n: int) -> tuple[Any, Any] | None:
    form = affine(offset)
    return None if form is None else (form[1].get(axis, 0), form[1].get(n, 0))


def _row_loads(k: LoopKernel, axis: int, size: int) -> tuple[Load, ...] | None:
    """None where some load is neither of the rows nor of what is side by side, or the same, along the axis."""
    n = len(k.axes)
    found = []
    for e in postorder(k.roots):
        if not isinstance(e, Load):
            continue
        form = _form(e.offset, axis, n)
        if form == (size, 1) and k.operands[e.operand].dtype.itemsize <= 8:
            found.append(e)
        elif form is None or form[0] not in (0, 1):
            return None
    return tuple(found)


class ShortRowUnits(Points):
    """What a vector of short rows does."""

    short: ShortRows | None = None

    def _rows(self, plan: ShortRows, outer: dict[int, Any], start: Any, count: Any, stages: Callable[[list[Scope]], None]) -> None:
        """`lanes` rows from `start`, or the first `count` of them; `stages` reduces them, in all columns."""
        b, k, n = self.b, self.k, len(self.k.axes)
        mask = None if count is None else b.below(count, plan.lanes)
        scope = Scope({**outer, plan.axis: start}, plan.lanes, mask, [], {})
        columns = [replace(scope, axes={**scope.axes, n: b.i64(c)}, memo={}) for c in range(plan.size)]
        for e in plan.loads:
            dtype = k.operands[e.operand].dtype
            math = Functions(b, plan.lanes, self.target)
            read = self._woven_rows if plan.size <= _WOVEN else self._turned_rows
            for s, x in zip(columns, read(plan, e, columns, count), strict=True):
                s.memo[id(e), False] = math.from_storage(x, dtype)
        self.columns_of = columns
        stages([scope])
        for store in k.stores:
            if not store.per_element:
                self._store(store, scope)
        results = [(store, [self._result(store, s) for s in columns]) for store in k.stores if store.per_element]
        self.columns_of = None
        for store, values in results:  # behind all loads: a result may lie where an operand does
            write = self._write_woven if plan.size <= _WOVEN else self._write_turned
            write(plan, store, columns, values, count)

    def _result(self, store: Store, s: Scope) -> Any:
        dtype = self.k.operands[store.operand].dtype
        return Functions(self.b, s.lanes, self.target).to_storage(self.value(store.value, s, True), dtype)

    # up to a few elements: whole vectors ------------------------------------------------------------------------------
    def _limits(self, plan: ShortRows, count: Any) -> list[Any]:
        """By vector of the rows: the mask of the elements that are there, or None."""
        b, lanes = self.b, plan.lanes
        if count is None:
            return [None] * plan.size
        total = b.ir.mul(count, b.i64(plan.size))
        return [b.below(total, lanes, j * lanes) for j in range(plan.size)]

    def _woven_rows(self, plan: ShortRows, e: Load, columns: list[Scope], count: Any) -> list[Any]:
        b, lanes, size = self.b, plan.lanes, plan.size
        dtype = self.k.operands[e.operand].dtype
        t, at, pieces = storage(dtype), self.address(e.operand, e.offset, columns[0]), []
        for j, mask in enumerate(self._limits(plan, count)):
            here = b.at(at, b.i64(j * lanes), t)
            wide = vec(t, lanes)
            pieces.append(b.load(wide, here, dtype.itemsize) if mask is None else b.masked_load(wide, here, mask, dtype.itemsize))
        if size & (size - 1) == 0:
            return unwoven(b, pieces)
        return [every(b, pieces, [j * lanes - c for j in range(size)], size) for c in range(size)]

    def _write_woven(self, plan: ShortRows, store: Store, columns: list[Scope], values: list[Any], count: Any) -> None:
        b, dtype = self.b, self.k.operands[store.operand].dtype
        at = self.address(store.operand, store.offset, columns[0])
        for j, (x, mask) in enumerate(zip(woven(b, values), self._limits(plan, count), strict=True)):
            here = b.at(at, b.i64(j * plan.lanes), storage(dtype))
            if mask is None:
                b.ir.store(x, here, align=dtype.itemsize)
            else:
                b.masked_store(x, here, mask, dtype.itemsize)

    # longer ones: row by row ------------------------------------------------------------------------------------------
    def _turned_rows(self, plan: ShortRows, e: Load, columns: list[Scope], count: Any) -> list[Any]:
        b, dtype = self.b, self.k.operands[e.operand].dtype
        found: dict[int, Any] = {}
        for first, depth in _blocks(plan):
            t, rows = vec(storage(dtype), depth), []
            for r in range(plan.lanes):
                s = columns[first]
                if count is None:
                    s = replace(s, shift=r)
                else:  # the last one again, instead of rows that are not there
                    row = b.smin(b.i64(r), b.ir.sub(count, b.i64(1)))
                    s = replace(s, axes={**s.axes, plan.axis: b.ir.add(s.axes[plan.axis], row)})
                at = self.address(e.operand, e.offset, s)
                whole = first + depth <= plan.size
                rows.append(
                    b.load(t, at, dtype.itemsize) if whole else b.masked_load(t, at, _first(plan.size - first, depth), dtype.itemsize)
                )
            found |= {first + c: x for c, x in enumerate(turned(b, rows))}
        return [found[c] for c in range(plan.size)]

    def _write_turned(self, plan: ShortRows, store: Store, columns: list[Scope], values: list[Any], count: Any) -> None:
        b, lanes = self.b, plan.lanes
        rows: list[list[tuple[int, Any]]] = [[] for _ in range(lanes)]
        for first, depth in _blocks(plan):
            block = [*values[first : first + depth]]
            block += block[:1] * (depth - len(block))
            for start in range(0, lanes, depth):
                square = [x if depth == lanes else shuffle(b, x, x, range(start, start + depth)) for x in block]
                for r, x in enumerate(turned(b, square)):
                    rows[start + r].append((first, x))
        for r, parts in enumerate(rows):
            if count is None:
                self._write_row(plan, store, columns, parts, r)
                continue
            with b.ir.if_then(b.ir.icmp_signed("<", b.i64(r), count)):
                self._write_row(plan, store, columns, parts, r)

    def _write_row(self, plan: ShortRows, store: Store, columns: list[Scope], parts: list[tuple[int, Any]], row: int) -> None:
        b, size = self.b, self.k.operands[store.operand].dtype.itemsize
        for first, x in parts:
            at = self.address(store.operand, store.offset, replace(columns[first], shift=row))
            depth = x.type.count
            if first + depth <= plan.size:
                b.ir.store(x, at, align=size)
            else:
                b.masked_store(x, at, _first(plan.size - first, depth), size)


def _blocks(plan: ShortRows) -> list[tuple[int, int]]:
    """(first, depth) of the squares that a row is cut into; one at its end overlaps, or only sticks out where the row is shorter."""
    whole = [(at, plan.lanes) for at in range(0, plan.size - plan.lanes + 1, plan.lanes)]
    rest = plan.size - len(whole) * plan.lanes
    depth = max(4, 1 << (rest - 1).bit_length()) if rest else 0
    return [*whole, (max(0, plan.size - depth), depth)] if rest else whole


def _first(count: int, lanes: int) -> Any:
    return ir.Constant(vec(I1, lanes), [int(lane < count) for lane in range(lanes)])
