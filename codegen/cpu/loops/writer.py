"""The code of a loop kernel: which unit comes next, and which of its windows are cut by a border."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...expr import DimParam, postorder
from ..build import PTR
from ..float_mode import flush_subnormals
from ..target import CpuTarget
from .ahead import ahead
from .form import Form
from .lines import Lines
from .recurrence import ROOM
from .spans import Spans
from .transpose import Turn, Weave
from .units import units_of
from .windows import Cuts


class _Piece(NamedTuple):
    """Of the vector axis or a tile: blocks from the one of this number on; many: how many, if several are walked as one."""

    number: Any
    many: Any = None


class Writer(Spans):
    """Writes a kernel in its form; what `units` it has is known from the beginning."""

    def __init__(self, form: Form, target: CpuTarget) -> None:
        super().__init__(form, target)
        k, plan, n = self.k, self.plan, len(self.k.axes)
        self.units = units_of(k, form, self.lines)
        if self.lines is not None or (plan.columns > 1 and not self.units.blocked):
            self.column_axis = self.units.outer[-1]
        if not isinstance(self.tile, Turn) and plan.axis >= 0:
            down = self.sweeps or (self.running is not None and self.parallel)  # the reduce axes are walked around the vector axis
            outer = list(self.units.outer)
            around = [*outer, *(n + j for j in range(len(k.reduce_axes)))] if down else outer
            self.ahead = ahead(k, plan.axis, around, target.streams and not down)

    def write(self) -> None:
        b, k, units = self.b, self.k, self.units
        for i in range(len(k.operands)):
            self.pointers.append(b.load(PTR, b.at(self.bufs, b.i64(i), PTR), 8))
        # every symbolic size is read before the entry block is closed
        for d in (*k.axes, *k.reduce_axes, *(e.dim for e in postorder(k.roots) if isinstance(e, DimParam)), self.units.count):
            if not isinstance(d, int) and d not in self.sizes:
                self.sizes[d] = b.param(self.dims, self.params.add(d))

        # powers of what is far below the greatest: subnormal, beside a sum of 1 at least
        restore = flush_subnormals(b, self.target) if self.shifts else None

        def unit(u: Any) -> Any:
            if self.lines is not None:
                self._lines(u, self.lines)
                return b.ir.add(u, b.i64(1))
            axes: dict[int, Any] = {}
            number = rest = u
            if units.blocked and units.outer:
                number, rest = self._split(u, units.blocks)
            for i in reversed(units.counted):
                if i == units.outer[0]:
                    axes[i] = rest
                else:
                    axes[i], rest = self._split(rest, k.axes[i])
            if units.joins:
                many = self._neighbours(u, number)
                self._single(_Piece(number, many), axes)
                return b.ir.add(u, many)
            piece = _Piece(number)
            if self.column_axis < 0:
                self._each_walked(piece, axes, units.walked)
                return b.ir.add(u, b.i64(1))
            columns = self.plan.columns
            spare = [b.ir.sub(self.end, u), b.ir.sub(self.dim(k.axes[self.column_axis]), axes[self.column_axis])]
            room = b.ir.sub(b.smin(*spare), b.i64(columns))
            cut = None if self.windows is None else self.windows.across(self.column_axis)
            if self.windows is not None:
                guards = self.windows.facts if cut is None else self.windows.along(self.column_axis)
                room = b.ir.or_(room, self._inside(guards, axes, columns))
            fits = b.ir.icmp_signed(">=", room, b.i64(0))
            with b.ir.if_else(fits) as (then, otherwise):
                with then:
                    self._several(piece, axes, cut)
                with otherwise:
                    self._single(piece, axes)
            return b.ir.add(u, b.ir.select(fits, b.i64(columns), b.i64(1)))

        b.walk(self.begin, self.end, unit)
        if restore is not None:
            restore()
        if isinstance(self.tile, Turn) and self.tile.past:
            b.ir.fence()
        b.ir.ret_void()

    def _each_walked(self, piece: _Piece, axes: dict[int, Any], walked: tuple[int, ...]) -> None:
        """All outer indices of a unit."""
        if not walked:
            self._single(piece, axes)
            return

        def one(i: Any, _: list[Any]) -> list[Any]:
            self._each_walked(piece, {**axes, walked[0]: i}, walked[1:])
            return []

        self.b.loop(self.b.i64(0), self.dim(self.k.axes[walked[0]]), self.b.i64(1), [], one)

    def _lines(self, u: Any, found: Lines) -> None:
        axes: dict[int, Any] = {}
        block, rest = self._split(u, found.blocks)
        band, rest = self._split(rest, found.bands)
        for i in reversed(self.units.outer[:-2]):
            axes[i], rest = self._split(rest, self.k.axes[i])
        whole = self.k
        self.k = whole if self.windows is None else self.windows.inside
        self._line_unit(found, axes, self.units.outer[-2], band, block)
        self.k = whole

    def _several(self, piece: _Piece, axes: dict[int, Any], cut: Cuts | None) -> None:
        """Columns whose windows are inside along their axis; `cut`: what may cut them along others."""
        b, whole, columns = self.b, self.k, self.plan.columns
        self.together, self.k = columns, whole if self.windows is None else self.windows.inside
        if cut is None:
            self._unit(piece, axes)
        else:
            inside = self._inside(tuple(f for facts in cut for f in facts), axes, 1)
            with b.ir.if_else(b.ir.icmp_signed(">=", inside, b.i64(0))) as (then, otherwise):
                with then:
                    self._unit(piece, axes)
                with otherwise:
                    self.cuts = cut
                    assert self.windows is not None
                    self.k = self.windows.bounded
                    self._unit(piece, axes)
        self.k, self.together, self.cuts, self.bounds = whole, 1, None, None

    def _single(self, piece: _Piece, axes: dict[int, Any]) -> None:
        """One outer index: inside of all borders, or cut at them."""
        b = self.b
        if self.windows is None:
            self._unit(piece, axes)
            return
        whole, win = self.k, self.windows
        with b.ir.if_else(b.ir.icmp_signed(">=", self._inside(win.facts, axes, 1), b.i64(0))) as (then, otherwise):
            with then:
                self.k = win.inside
                self._unit(piece, axes)
            with otherwise:
                self.cuts, self.k = win.cuts, whole if win.cuts is None else win.bounded
                if self.row is None:
                    self.bounds = self._bounds((), axes)  # loops, so that the rare case stays small
                self._unit(piece, axes)
        self.k, self.cuts, self.bounds = whole, None, None

    def _unit(self, piece: _Piece, axes: dict[int, Any]) -> None:
        b, k = self.b, self.k
        if isinstance(self.tile, Turn):
            self._turned(self.tile, piece.number, axes)
        elif isinstance(self.tile, Weave):
            self._woven(self.tile, piece.number, axes)
        elif not self.parallel:
            self._point(axes, None, 1, 1, None)
        elif self.row is not None and not self.units.blocked:
            self._row(self.row, axes)
        elif self.units.blocked:
            size, block = k.axes[self.plan.axis], self.plan.block
            start = b.ir.mul(piece.number, b.i64(block))
            length = b.i64(block) if piece.many is None else b.ir.mul(piece.many, b.i64(block))
            stop = b.smin(b.ir.add(start, length), self.dim(size))
            whole = piece.many is None and isinstance(size, int) and size % block == 0
            self._swept(axes, start, stop, block if whole else None)
        else:
            size = k.axes[self.plan.axis]
            self._swept(axes, b.i64(0), self.dim(size), size if isinstance(size, int) else None)

    def _neighbours(self, u: Any, number: Any) -> Any:
        """How many blocks of a line are walked as one: all that the call has, and that `ROOM` holds where lines stay."""
        b, i = self.b, self.b.ir
        count = b.smin(i.sub(self.end, u), i.sub(self.dim(self.units.blocks), number))
        if not self.plan.by_lines:
            return count
        line = self.plan.block * max(self.k.operands[s.operand].dtype.itemsize for s in self.k.stores)
        return b.smin(count, b.i64(ROOM // line))
