"""The walk along the vector axis of a loop: segments, the inside of an image and its border, groups of vectors, one vector."""

from __future__ import annotations

from typing import Any

from ....ir import is_static
from ...affine import stride_along
from ...kernel import LoopKernel
from ...running import running
from ..target import CpuTarget
from .accesses import Scope
from .form import Form
from .lines import lines
from .row_windows import RowUnits
from .running import RunningStores
from .schedule import work
from .segments import shortest
from .softmax import shifts
from .spill import spill
from .tiled import Tiled
from .windows import Fact, windows


class Spans(Tiled, RunningStores, RowUnits):
    """What a kernel in its form does from one point of the vector axis to another, with all other axes known.

    kernels: all that is written, which are the whole one and simpler ones for parts of the axis or the inside of an image; lines: how
    units walk windows by lines, or None; sweeps: stores one after another with nothing kept in between, so that lines of elements are
    stored whole, not a vector of them by all steps of the reduce axes.
    """

    def __init__(self, form: Form, target: CpuTarget) -> None:
        k, plan, tile = form.kernel, form.schedule, form.tile
        self.shifts = shifts(k)
        saved = spill(k) if plan.axis >= len(k.axes) or plan.axis < 0 else None
        super().__init__(k if saved is None else saved.kernel, plan, target)
        self.tile, self.short, self.inner, self.row, self.spill, k = tile, form.short, form.inner, form.row, saved, self.k
        self.running = None if plan.by_lines else running(k)
        if self.running is not None:
            self.depends |= self.dependence_of([self.running.element])
        self.parts = () if form.parts is None else form.parts.parts
        self.windows = windows(k, plan.axis) if self.parallel and is_static(k.reduce_axes) else None
        self.lines = None
        if self.parallel and tile is None and not self.parts and self.running is None and not plan.by_lines:
            self.lines = lines(k, plan.axis, plan.width, target)
        self.together = 1  # columns of the code being written
        variants = [part.kernel for part in self.parts] + ([] if self.inner is None else [self.inner.kernel])
        if self.windows is not None:
            variants += [self.windows.inside, self.windows.bounded]
        for variant in variants:
            self.depends |= self.dependence(variant)
        self.kernels = [k, *variants]
        inside = k if self.windows is None else self.windows.inside
        values = [x.value for x in inside.stages] + [x.value for x in inside.stores if x.per_element]
        self.work = max([1, 64 * any(x.fn.startswith("arg") for x in inside.stages), *(work(e) for e in values)])
        plain = tile is None and self.windows is None and self.running is None and self.lines is None and form.short is None
        whole = all(x.per_element and stride_along(x.offset, plan.axis) == 1 for x in k.stores)
        self.sweeps = plain and self.parallel and bool(k.reduce_axes) and not k.stages and whole

    def _inside(self, facts: tuple[Fact, ...], axes: dict[int, Any], columns: int) -> Any:
        """Not negative where every guard holds for the whole windows of `columns` points."""
        k = self.k
        box = {len(k.axes) + j: size - 1 for j, size in enumerate(k.reduce_axes) if isinstance(size, int)}
        ends = [0] if columns == 1 else [0, columns - 1]
        least = [self._minimum(_at(f, self.column_axis, end), axes, box) for f in facts for end in ends]
        fits = least[0] if least else self.b.i64(0)
        for x in least[1:]:
            fits = self.b.ir.or_(fits, x)  # the sign bit is set when any is negative
        return fits

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
                self._span(axes, first, end, part.stop - part.start if known == whole.axes[self.plan.axis] else None)
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


def _at(f: Fact, axis: int, by: int) -> Fact:
    """f at `by` further along the axis."""
    return f[0] + by * f[1].get(axis, 0), f[1]
