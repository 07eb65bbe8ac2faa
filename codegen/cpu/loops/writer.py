"""The code of a loop kernel: its units, and what lies in one along the vector axis."""

from __future__ import annotations

from typing import Any

from ....ir import Dim, ceildiv, is_static, lower, prod, upper
from ...affine import stride_along
from ...expr import DimParam, postorder
from ...kernel import LoopKernel
from ...running import running
from ..build import PTR
from ..float_mode import flush_subnormals
from ..target import CpuTarget
from .accesses import Scope
from .ahead import ahead
from .form import Form
from .lines import Lines, lines
from .recurrence import ROOM
from .row_windows import RowUnits
from .running import RunningStores
from .schedule import work
from .segments import shortest
from .softmax import shifts
from .spill import spill
from .tiled import Tiled
from .transpose import Turn, Weave
from .windows import Cuts, Fact, windows

_FEW_UNITS = 32  # fewer outer indices than this would leave threads idle
_VECTORS_OF_UNIT = 64  # of several short rows


def _moved(f: Fact, axis: int, by: int) -> Fact:
    """f at `by` further along the axis."""
    return f[0] + by * f[1].get(axis, 0), f[1]


def max_dim(d: Dim) -> Dim:
    return 1 if d == 0 else d


class Writer(Tiled, RunningStores, RowUnits):
    """Writes a kernel in its form; `units` of work and `elements_per_unit` are known from the beginning."""

    def __init__(self, form: Form, target: CpuTarget) -> None:
        k, plan, tile = form.kernel, form.schedule, form.tile
        self.shifts = shifts(k)
        saved = spill(k) if plan.axis >= len(k.axes) or plan.axis < 0 else None
        super().__init__(k if saved is None else saved.kernel, plan, target)
        self.tile, self.short, self.inner, self.spill, k = tile, form.short, form.inner, saved, self.k
        self.row = form.row
        self.running = None if plan.by_lines else running(k)
        if self.running is not None:
            self.depends |= self.dependence_of([self.running.element])
        self.parts = () if form.parts is None else form.parts.parts
        variants = [part.kernel for part in self.parts] + ([] if self.inner is None else [self.inner.kernel])
        n = len(k.axes)
        taken = {tile.read, tile.write} if tile is not None else {plan.axis} if self.parallel else set()
        self.outer = [i for i in range(n) if i not in taken]
        outer = prod(k.axes[i] for i in self.outer)
        last = k.axes[plan.axis] if self.parallel else 1
        # units of one outer index each, cut further along the vector axis where those are few
        self.blocks: Dim = 1
        self.elements_per_unit: Dim = max_dim(last)
        if tile is not None:
            self.blocks, self.elements_per_unit = tile.units(k.axes)
        elif plan.by_lines or (self.parallel and (not self.outer or (upper(outer) < _FEW_UNITS and upper(last) >= 2 * plan.block))):
            self.blocks, self.elements_per_unit = ceildiv(last, plan.block), plan.block
        self.lines = None
        if self.parallel and tile is None and not self.parts and self.running is None and not plan.by_lines:
            self.lines = lines(k, plan.axis, plan.width, target)
        self.blocked = tile is not None or not self.outer or self.blocks != 1
        self.joins = plan.by_lines or (tile is None and self.parallel and self.blocked and plan.block < plan.width * plan.group)
        self.joined: Any = None  # blocks that are walked as one
        counted = self._counted(last) if form.short is None and self.lines is None and plan.columns == 1 else len(self.outer)
        self.counted, self.walked = self.outer[:counted], self.outer[counted:]  # a unit has one index of each, and all
        self.elements_per_unit = self.elements_per_unit * prod(k.axes[i] for i in self.walked)
        self.units: Dim = prod(k.axes[i] for i in self.counted) * self.blocks
        if (found := self.lines) is not None:
            self.units = prod(k.axes[i] for i in self.outer[:-2]) * found.bands * found.blocks
            self.elements_per_unit = found.rows * k.axes[found.column] * found.block
        self.together = 1  # columns of the code being written
        if self.lines is not None or (plan.columns > 1 and not self.blocked):
            self.column_axis = self.outer[-1]
        self.windows = windows(k, plan.axis) if self.parallel and is_static(k.reduce_axes) else None
        if self.windows is not None:
            variants += [self.windows.inside, self.windows.bounded]
        for variant in variants:
            self.depends |= self.dependence(variant)
        inside = k if self.windows is None else self.windows.inside
        values = [x.value for x in inside.stages] + [x.value for x in inside.stores if x.per_element]
        self.work = max([1, 64 * any(x.fn.startswith("arg") for x in inside.stages), *(work(e) for e in values)])
        self.kernels = [self.k, *variants]
        # Stores one after another, with nothing kept in between: lines of elements are stored whole, not a vector of them by all steps.
        plain = tile is None and self.windows is None and self.running is None and self.lines is None and form.short is None
        whole = all(x.per_element and stride_along(x.offset, plan.axis) == 1 for x in k.stores)
        self.sweeps = plain and self.parallel and bool(k.reduce_axes) and not k.stages and whole
        if not isinstance(tile, Turn) and plan.axis >= 0:
            down = self.sweeps or (self.running is not None and self.parallel)  # the reduce axes are walked around the vector axis
            around = [*self.outer, *(n + j for j in range(len(k.reduce_axes)))] if down else self.outer
            self.ahead = ahead(k, plan.axis, around, target.streams and not down)

    def _counted(self, row: Dim) -> int:
        """How many of the outer axes number the units: not the last ones where rows are so short that finding out which one comes next
        takes as long as one of them."""
        k = self.k
        if k.reduce_axes or self.blocks != 1 or not self.parallel or isinstance(self.tile, Turn):
            return len(self.outer)
        size = ceildiv(row, self.plan.width) if self.tile is None else row * k.axes[self.tile.write]
        for n in range(len(self.outer) - 1, 0, -1):
            size = size * k.axes[self.outer[n]]
            if upper(size) > _VECTORS_OF_UNIT or lower(prod(k.axes[i] for i in self.outer[:n])) < _FEW_UNITS:
                return n + 1
        return 1

    def write(self) -> None:
        b, k = self.b, self.k
        for i in range(len(k.operands)):
            self.pointers.append(b.load(PTR, b.at(self.bufs, b.i64(i), PTR), 8))
        # every symbolic size is read before the entry block is closed
        for d in (*k.axes, *k.reduce_axes, *(e.dim for e in postorder(k.roots) if isinstance(e, DimParam)), self.units):
            if not isinstance(d, int) and d not in self.sizes:
                self.sizes[d] = b.param(self.dims, self.params.add(d))

        # powers of what is far below the greatest: subnormal, beside a sum of 1 at least
        restore = flush_subnormals(b, self.target) if self.shifts else None

        def unit(u: Any) -> Any:
            if self.lines is not None:
                self._lines(u, self.lines)
                return b.ir.add(u, b.i64(1))
            axes: dict[int, Any] = {}
            rest = part = u
            if self.blocked and self.outer:
                part, rest = self._split(u, self.blocks)
            for i in reversed(self.counted):
                if i == self.outer[0]:
                    axes[i] = rest
                else:
                    axes[i], rest = self._split(rest, k.axes[i])
            if self.joins:
                self.joined = self._neighbours(u, part)
                self._single(part, axes)
                return b.ir.add(u, self.joined)
            if self.column_axis < 0:
                self._each_walked(part, axes, self.walked)
                return b.ir.add(u, b.i64(1))
            columns = self.plan.columns
            spare = [b.ir.sub(self.end, u), b.ir.sub(self.dim(k.axes[self.column_axis]), axes[self.column_axis])]
            several = b.ir.sub(b.smin(*spare), b.i64(columns))
            cut = None if self.windows is None else self.windows.across(self.column_axis)
            if self.windows is not None:
                guards = self.windows.facts if cut is None else self.windows.along(self.column_axis)
                several = b.ir.or_(several, self._inside(guards, axes, columns))
            fits = b.ir.icmp_signed(">=", several, b.i64(0))
            with b.ir.if_else(fits) as (then, otherwise):
                with then:
                    self._several(part, axes, cut)
                with otherwise:
                    self._single(part, axes)
            return b.ir.add(u, b.ir.select(fits, b.i64(columns), b.i64(1)))

        b.walk(self.begin, self.end, unit)
        if restore is not None:
            restore()
        if isinstance(self.tile, Turn) and self.tile.past:
            b.ir.fence()
        b.ir.ret_void()

    def _each_walked(self, part: Any, axes: dict[int, Any], walked: list[int]) -> None:
        """All outer indices of a unit."""
        if not walked:
            self._single(part, axes)
            return

        def one(i: Any, _: list[Any]) -> list[Any]:
            self._each_walked(part, {**axes, walked[0]: i}, walked[1:])
            return []

        self.b.loop(self.b.i64(0), self.dim(self.k.axes[walked[0]]), self.b.i64(1), [], one)

    def _lines(self, u: Any, found: Lines) -> None:
        axes: dict[int, Any] = {}
        block, rest = self._split(u, found.blocks)
        band, rest = self._split(rest, found.bands)
        for i in reversed(self.outer[:-2]):
            axes[i], rest = self._split(rest, self.k.axes[i])
        whole = self.k
        self.k = whole if self.windows is None else self.windows.inside
        self._line_unit(found, axes, self.outer[-2], band, block)
        self.k = whole

    def _several(self, part: Any, axes: dict[int, Any], cut: Cuts | None) -> None:
        """Columns whose windows are inside along their axis; `cut`: what may cut them along others."""
        b, whole, columns = self.b, self.k, self.plan.columns
        self.together, self.k = columns, whole if self.windows is None else self.windows.inside
        if cut is None:
            self._unit(part, axes)
        else:
            inside = self._inside(tuple(f for facts in cut for f in facts), axes, 1)
            with b.ir.if_else(b.ir.icmp_signed(">=", inside, b.i64(0))) as (then, otherwise):
                with then:
                    self._unit(part, axes)
                with otherwise:
                    self.cuts = cut
                    assert self.windows is not None
                    self.k = self.windows.bounded
                    self._unit(part, axes)
        self.k, self.together, self.cuts, self.bounds = whole, 1, None, None

    def _inside(self, facts: tuple[Fact, ...], axes: dict[int, Any], columns: int) -> Any:
        """Not negative where every guard holds for the whole windows of `columns` points."""
        k = self.k
        box = {len(k.axes) + j: size - 1 for j, size in enumerate(k.reduce_axes) if isinstance(size, int)}
        ends = [0] if columns == 1 else [0, columns - 1]
        least = [self._minimum(_moved(f, self.column_axis, end), axes, box) for f in facts for end in ends]
        fits = least[0] if least else self.b.i64(0)
        for x in least[1:]:
            fits = self.b.ir.or_(fits, x)  # the sign bit is set when any is negative
        return fits

    def _single(self, part: Any, axes: dict[int, Any]) -> None:
        """One outer index: inside of all borders, or cut at them."""
        b = self.b
        if self.windows is None:
            self._unit(part, axes)
            return
        whole, win = self.k, self.windows
        with b.ir.if_else(b.ir.icmp_signed(">=", self._inside(win.facts, axes, 1), b.i64(0))) as (then, otherwise):
            with then:
                self.k = win.inside
                self._unit(part, axes)
            with otherwise:
                self.cuts, self.k = win.cuts, whole if win.cuts is None else win.bounded
                if self.row is None:
                    self.bounds = self._bounds((), axes)  # loops, so that the rare case stays small
                self._unit(part, axes)
        self.k, self.cuts, self.bounds = whole, None, None

    def _unit(self, part: Any, axes: dict[int, Any]) -> None:
        b, k = self.b, self.k
        if isinstance(self.tile, Turn):
            self._turned(self.tile, part, axes)
        elif isinstance(self.tile, Weave):
            self._woven(self.tile, part, axes)
        elif not self.parallel:
            self._point(axes, None, 1, 1, None)
        elif self.row is not None and not self.blocked:
            self._row(self.row, axes)
        elif self.blocked:
            size, block = k.axes[self.plan.axis], self.plan.block
            start = b.ir.mul(part, b.i64(block))
            length = b.i64(block) if self.joined is None else b.ir.mul(self.joined, b.i64(block))
            stop = b.smin(b.ir.add(start, length), self.dim(size))
            whole = self.joined is None and isinstance(size, int) and size % block == 0
            self._swept(axes, start, stop, block if whole else None)
        else:
            size = k.axes[self.plan.axis]
            self._swept(axes, b.i64(0), self.dim(size), size if isinstance(size, int) else None)

    def _neighbours(self, u: Any, part: Any) -> Any:
        """How many blocks of a line are walked as one: all that the call has, and that `ROOM` holds where lines stay."""
        b, i = self.b, self.b.ir
        count = b.smin(i.sub(self.end, u), i.sub(self.dim(self.blocks), part))
        if not self.plan.by_lines:
            return count
        line = self.plan.block * max(self.k.operands[s.operand].dtype.itemsize for s in self.k.stores)
        return b.smin(count, b.i64(ROOM // line))

    def _swept(self, axes: dict[int, Any], start: Any, stop: Any, known: int | None, reduced: int = 0) -> None:
        """The vector axis from start to stop; for each step of the reduce axes where those only store."""
        if not self.sweeps or reduced == len(self.k.reduce_axes):
            self._along(axes, start, stop, known)
            return

        def step(i: Any, _: list[Any]) -> list[Any]:
            self._swept({**axes, len(self.k.axes) + reduced: i}, start, stop, known, reduced + 1)
            return []

        self.b.loop(self.b.i64(0), self.dim(self.k.reduce_axes[reduced]), self.b.i64(1), [], step)

    def _along(self, axes: dict[int, Any], start: Any, stop: Any, known: int | None) -> None:
        """The vector axis from start to stop, in its segments; `known` as for `_span`."""
        b, whole = self.b, self.k
        if not self.parts:
            self._spans(axes, start, stop, known)
            return
        for part in self.parts:
            self.k = part.kernel
            first, end = b.smax(start, b.i64(part.start)), b.smin(stop, b.i64(part.stop))
            if part.regular and part.stop - part.start >= shortest(self.plan, self.target):
                self._span(axes, first, end, None if self.blocked else part.stop - part.start)
            else:
                self._one_by_one(axes, first, end)
        self.k = whole

    def _one_by_one(self, axes: dict[int, Any], start: Any, stop: Any) -> None:
        """Few elements, of which no vector is worth its code."""

        def body(i: Any, _: list[Any]) -> list[Any]:
            self._point(axes, i, 1, 1, None)
            return []

        self.b.loop(start, stop, self.b.i64(1), [], body)

    def _spans(self, axes: dict[int, Any], start: Any, stop: Any, known: int | None) -> None:
        """The vector axis from start to stop: whole vectors inside of the image, and those across its border."""
        win, w, whole = self.windows, self.plan.width, self.k
        if (found := self.inner) is not None:
            self._middle(axes, start, stop, *self._interior(found.along, axes, start, stop, found.across), found.kernel)
            self.k = whole
            return
        if win is None or not win.lanes or self.k is not win.inside:
            self._span(axes, start, stop, known)
            return
        self.k = win.bounded
        if known is not None and known <= 2 * w:  # hardly one of them is inside
            self._span(axes, start, stop, known)
            self.k = win.inside
            return
        self._middle(axes, start, stop, *self._interior(win.lanes, axes, start, stop), win.inside)

    def _middle(self, axes: dict[int, Any], start: Any, stop: Any, low: Any, high: Any, inside: LoopKernel) -> None:
        """Whole vectors of [low, high) by the kernel `inside`, and on both sides of them those of the present one."""
        b, i, w = self.b, self.b.ir, self.plan.width
        low = b.smin(i.add(start, self._whole(i.add(i.sub(low, start), b.i64(w - 1)))), stop)
        high = i.add(low, self._whole(b.smax(i.sub(high, low), b.i64(0))))

        def side(n: Any, _: list[Any]) -> list[Any]:
            first = i.icmp_unsigned("==", n, b.i64(0))
            end = i.select(first, low, stop)

            def body(at: Any, _: list[Any]) -> list[Any]:
                self._point(axes, at, w, 1, b.below(i.sub(end, at), w))
                return []

            b.loop(i.select(first, start, high), end, b.i64(w), [], body)
            return []

        b.loop(b.i64(0), b.i64(2), b.i64(1), [], side)
        self.k = inside
        self._span(axes, low, high, None, whole=True)

    def _whole(self, count: Any) -> Any:
        """Lanes of whole vectors."""
        return self.b.ir.and_(count, self.b.i64(-self.plan.width))

    def _interior(
        self, facts: tuple[Fact, ...], axes: dict[int, Any], start: Any, stop: Any, across: tuple[Fact, ...] = ()
    ) -> tuple[Any, Any]:
        """Between which points of the vector axis, within [start, stop], all facts hold for the whole window, and those `across` it."""
        b, i, k, axis = self.b, self.b.ir, self.k, self.plan.axis
        box = {len(k.axes) + j: size - 1 for j, size in enumerate(k.reduce_axes) if isinstance(size, int)}
        low, high, zero = start, stop, b.i64(0)
        for constant, coefficients in facts:
            step = coefficients[axis]
            assert isinstance(step, int)
            rest = self._minimum((constant, {a: c for a, c in coefficients.items() if a != axis}), axes, box)
            if step > 0:  # rest + step·v ≥ 0
                low = b.smax(low, i.udiv(i.add(b.smax(i.neg(rest), zero), b.i64(step - 1)), b.i64(step)))
            else:
                high = b.smin(high, i.udiv(b.smax(i.add(rest, b.i64(-step)), zero), b.i64(-step)))
        if across:
            high = i.select(i.icmp_signed(">=", self._inside(across, axes, 1), zero), high, start)
        return low, b.smax(high, start)

    def _span(self, axes: dict[int, Any], start: Any, stop: Any, known: int | None, whole: bool = False) -> None:
        """The vector axis from start to stop: groups of vectors, single vectors, one masked vector (none if these are `whole`)."""
        b, w, g = self.b, self.plan.width, self.plan.group

        def run(step: int, first: Any) -> Any:
            end = b.ir.sub(stop, b.i64(step - 1))

            def body(i: Any, _: list[Any]) -> list[Any]:
                self._point(axes, i, w, step // w, None)
                return [b.ir.add(i, b.i64(step))]

            return b.loop(first, end, b.i64(step), [first], body)[0]

        at = start
        if known is None or known >= g * w:
            at = run(g * w, at)
        if self.running is not None and g > 1:  # a vector alone would wait for itself as long as several
            if known is None or known % (g * w):
                left = b.ir.sub(stop, at)
                with b.ir.if_then(b.ir.icmp_signed("<", at, stop)):
                    self._point(axes, at, w, g, [b.below(b.ir.sub(left, b.i64(j * w)), w) for j in range(g)])
            return
        if g > 1 and (known is None or known % (g * w) >= w):
            at = run(w, at)
        if not whole and (known is None or known % w):
            left = b.ir.sub(stop, at)
            with b.ir.if_then(b.ir.icmp_signed("<", at, stop)):
                if self.short is not None:
                    self._rows(self.short, axes, at, left, self._all_stages)
                else:
                    self._point(axes, at, w, 1, b.below(left, w))

    def _all_stages(self, scopes: list[Scope]) -> None:
        for number, stage in enumerate(self.k.stages):
            results = self._stage(number, stage, scopes)
            for s, r in zip(scopes, results, strict=True):
                s.reduced.append(r)

    # one point (or group of vectors) of the parallel axes -----------------------------------------------------------
    def _point(self, outer: dict[int, Any], start: Any, lanes: int, group: int, mask: Any) -> None:
        """`mask`: one for all vectors, or a list of one for each."""
        axis, w = self.plan.axis, self.plan.width
        if self.short is not None:
            self._rows(self.short, outer, start, None, self._all_stages)
            return
        scopes = []
        for column in range(self.together):
            for g in range(group):
                axes = dict(outer)
                if start is not None:
                    axes[axis] = start
                own = mask[g] if isinstance(mask, list) else mask
                scopes.append(Scope(axes, lanes, own, [], {}, g * w, column))
        self._all_stages(scopes)
        per_point = [s for s in self.k.stores if not s.per_element]
        for scope in scopes:
            for store in per_point:
                self._store(store, scope)
        per_element = [s for s in self.k.stores if s.per_element]
        if self.running is not None:
            self._run_on(self.running, scopes)
        elif self.sweeps:
            for scope in scopes:
                for store in per_element:
                    self._store(store, scope)
        elif per_element:

            def each(inner: list[Scope], _: list[Any]) -> list[Any]:
                for scope in inner:
                    for store in per_element:
                        self._store(store, scope)
                return []

            self._reduce_space(scopes, [], each)
