"""LoopKernel to LLVM: explicit vectors along one axis, everything uniform along it in single lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from llvmlite import ir

from ...ir import Dim, DType, ceildiv, is_static, prod, upper
from ..affine import Affine
from ..expr import Call, DimParam, postorder
from ..kernel import LoopKernel, Reduction
from .build import I32, PTR, storage, vec
from .emitted import Emitted, named
from .functions import Functions
from .lanes import compute
from .loop_schedule import UNROLL_POINTS, UNROLL_WORK, LoopSchedule, merge_axes, schedule, work
from .points import Points, Scope
from .spill import spill
from .target import CpuTarget
from .transpose import Turn, turn, turning
from .windows import windows

_FEW_UNITS = 32  # fewer outer indices than this would leave threads idle
_NEUTRAL = {"sum": 0, "prod": 1, "and": 1, "or": 0}
_COMBINE = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "and": "and_", "or": "or_"}


def emit_loop(kernel: LoopKernel, target: CpuTarget) -> Emitted:
    """Emit a loop kernel. Raises CodegenError for an element type or function the CPU backend lacks."""
    kernel = merge_axes(kernel)
    tile = turning(kernel, target)
    plan = schedule(kernel, target) if tile is None else LoopSchedule(tile.write, tile.lanes, 1, 0)
    writer = _Writer(kernel, plan, target, tile)
    writer.write()
    text, symbol = named(str(writer.module))
    nodes = len(postorder(kernel.roots))
    points = max_dim(prod(kernel.reduce_axes) * max(1, len(kernel.stages)))
    per_unit = writer.elements_per_unit * points
    total = prod(kernel.axes) * points
    moved: Dim = 0
    for o in kernel.operands:
        moved = moved + o.numel * o.dtype.itemsize
    return Emitted(text, symbol, tuple(writer.params.dims), writer.units, per_unit * max(1, nodes // max(1, plan.width)),
                   total * sum(isinstance(e, Call) and e.dtype.is_float for e in postorder(kernel.roots)), moved)  # fmt: skip


def max_dim(d: Dim) -> Dim:
    return 1 if d == 0 else d


class _Writer(Points):
    def __init__(self, k: LoopKernel, plan: LoopSchedule, target: CpuTarget, tile: Turn | None) -> None:
        saved = spill(k) if plan.axis >= len(k.axes) or plan.axis < 0 else None
        super().__init__(k if saved is None else saved.kernel, plan, target)
        self.tile, self.spill, k = tile, saved, self.k
        n = len(k.axes)
        taken = {tile.read, tile.write} if tile is not None else {plan.axis} if self.parallel else set()
        self.outer = [i for i in range(n) if i not in taken]
        outer = prod(k.axes[i] for i in self.outer)
        last = k.axes[plan.axis] if self.parallel else 1
        # units of one outer index each, cut further along the vector axis where those are few
        self.blocks: Dim = 1
        self.elements_per_unit: Dim = max_dim(last)
        if tile is not None:
            self.blocks, self.elements_per_unit = ceildiv(k.axes[tile.read], tile.lanes), last * tile.lanes
        elif self.parallel and (not self.outer or (upper(outer) < _FEW_UNITS and upper(last) >= 2 * plan.block)):
            self.blocks, self.elements_per_unit = ceildiv(last, plan.block), plan.block
        self.blocked = tile is not None or not self.outer or self.blocks != 1
        self.units: Dim = outer * self.blocks
        self.bounds: dict[int, tuple[Any, Any]] | None = None
        self.cuts: tuple[tuple[Affine, ...], ...] | None = None
        self.windows = windows(k, plan.axis) if self.parallel and is_static(k.reduce_axes) else None
        if self.windows is not None:
            self.depends |= self.dependence(self.windows.inside)
            k = self.windows.inside
        values = [x.value for x in k.stages] + [x.value for x in k.stores if x.per_element]
        self.work = max([1, *(work(e) for e in values)])
        self.work = max(self.work, 64 * any(x.fn.startswith("arg") for x in k.stages))

    def write(self) -> None:
        b, k = self.b, self.k
        for i in range(len(k.operands)):
            self.pointers.append(b.load(PTR, b.at(self.bufs, b.i64(i), PTR), 8))
        # every symbolic size is read before the entry block is closed
        for d in (*k.axes, *k.reduce_axes, *(e.dim for e in postorder(k.roots) if isinstance(e, DimParam)), self.units):
            if not isinstance(d, int) and d not in self.sizes:
                self.sizes[d] = b.param(self.dims, self.params.add(d))

        def unit(u: Any, _: list[Any]) -> list[Any]:
            axes: dict[int, Any] = {}
            rest = part = u
            if self.blocked and self.outer:
                part, rest = self._split(u, self.blocks)
            for i in reversed(self.outer):
                if i == self.outer[0]:
                    axes[i] = rest
                else:
                    axes[i], rest = self._split(rest, k.axes[i])
            if self.windows is None:
                self._unit(part, axes)
                return []
            whole, win = self.k, self.windows
            last = {len(k.axes) + j: size - 1 for j, size in enumerate(k.reduce_axes) if isinstance(size, int)}
            least = [self._minimum(f, axes, last) for f in win.facts]
            fits = least[0]
            for x in least[1:]:
                fits = b.ir.or_(fits, x)  # the sign bit is set when any is negative
            with b.ir.if_else(b.ir.icmp_signed(">=", fits, b.i64(0))) as (then, otherwise):
                with then:
                    self.k = win.inside
                    self._unit(part, axes)
                with otherwise:
                    self.cuts, self.k = win.cuts, whole if win.cuts is None else win.inside
                    self.bounds = self._bounds((), axes)  # loops, so that the rare case stays small
                    self._unit(part, axes)
            self.k, self.cuts, self.bounds = whole, None, None
            return []

        b.loop(self.begin, self.end, b.i64(1), [], unit)
        b.ir.ret_void()

    def _split(self, u: Any, size: Dim) -> tuple[Any, Any]:
        return self.b.ir.urem(u, self.dim(size)), self.b.ir.udiv(u, self.dim(size))

    def _unit(self, part: Any, axes: dict[int, Any]) -> None:
        b, k = self.b, self.k
        if self.tile is not None:
            self._tiles(self.tile, part, axes)
            return
        if not self.parallel:
            self._point(axes, None, 1, 1, None)
        elif self.blocked:
            size, block = k.axes[self.plan.axis], self.plan.block
            start = b.ir.mul(part, b.i64(block))
            stop = b.smin(b.ir.add(start, b.i64(block)), self.dim(size))
            self._span(axes, start, stop, block if isinstance(size, int) and size % block == 0 else None)
        else:
            size = k.axes[self.plan.axis]
            self._span(axes, b.i64(0), self.dim(size), size if isinstance(size, int) else None)

    def _tiles(self, tile: Turn, part: Any, outer: dict[int, Any]) -> None:
        """One strip of tiles: `lanes` elements along the read axis, all of the write axis."""
        b, k, n = self.b, self.k, tile.lanes
        long, across = self.dim(k.axes[tile.write]), self.dim(k.axes[tile.read])
        first = b.smin(b.ir.mul(part, b.i64(n)), b.ir.sub(across, b.i64(n)))
        rows = [b.ir.add(first, b.i64(j)) for j in range(n)]

        def body(i: Any, _: list[Any]) -> list[Any]:
            at = b.smin(i, b.ir.sub(long, b.i64(n)))
            scopes = [Scope({**outer, tile.write: at, tile.read: rows[j]}, n, None, [], {}) for j in range(n)]
            math = Functions(b, n, self.target)
            for e in tile.loads:
                dtype = k.operands[e.operand].dtype
                t = vec(storage(dtype), n)
                starts = [self.address(e.operand, e.offset, replace(scopes[0], shift=j)) for j in range(n)]
                read = [b.load(t, at, dtype.itemsize) for at in starts]
                for s, x in zip(scopes, turn(b, read), strict=True):
                    s.memo[id(e), False] = math.from_storage(x, dtype)
            for s in scopes:
                for store in k.stores:
                    self._store(store, s)
            return []

        b.loop(b.i64(0), long, b.i64(n), [], body)

    def _span(self, axes: dict[int, Any], start: Any, stop: Any, known: int | None) -> None:
        """The vector axis from start to stop: groups of vectors, single vectors, one masked vector."""
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
        if g > 1 and (known is None or known % (g * w) >= w):
            at = run(w, at)
        if known is None or known % w:
            with b.ir.if_then(b.ir.icmp_signed("<", at, stop)):
                self._point(axes, at, w, 1, b.below(b.ir.sub(stop, at), w))

    # one point (or group of vectors) of the parallel axes -----------------------------------------------------------
    def _point(self, outer: dict[int, Any], start: Any, lanes: int, group: int, mask: Any) -> None:
        axis, w = self.plan.axis, self.plan.width
        scopes = []
        for g in range(group):
            axes = dict(outer)
            if start is not None:
                axes[axis] = start
            scopes.append(Scope(axes, lanes, mask, [], {}, g * w))
        for number, stage in enumerate(self.k.stages):
            results = self._stage(number, stage, scopes)
            for s, r in zip(scopes, results, strict=True):
                s.reduced.append(r)
        per_point = [s for s in self.k.stores if not s.per_element]
        for scope in scopes:
            for store in per_point:
                self._store(store, scope)
        per_element = [s for s in self.k.stores if s.per_element]
        if per_element:

            def each(inner: list[Scope], _: list[Any]) -> list[Any]:
                for scope in inner:
                    for store in per_element:
                        self._store(store, scope)
                return []

            self._reduce_space(scopes, [], each)

    def _child(self, s: Scope, extra: dict[int, Any], lanes: int | None = None, mask: Any = None, shift: int = 0) -> Scope:
        if lanes is None:
            return Scope({**s.axes, **extra}, s.lanes, s.mask, s.reduced, {}, s.shift)
        return Scope({**s.axes, **extra}, lanes, mask, s.reduced, {}, shift)

    def _reduce_space(self, scopes: list[Scope], carried: list[Any], body: Callable[[list[Scope], list[Any]], list[Any]]) -> list[Any]:
        """Run body over the reduce axes (the vector axis, if one of them, is handled by the caller through `body`)."""
        k, b, n = self.k, self.b, len(self.k.axes)
        axes = [n + j for j in range(len(k.reduce_axes)) if n + j != self.plan.axis]
        inner = axes if self.bounds is None and self.parallel else []
        most = min(UNROLL_POINTS, UNROLL_WORK // (self.work * len(scopes)))
        while inner and upper(prod(k.reduce_axes[a - n] for a in inner)) > most:
            inner = inner[1:]
        inner = [a for a in inner if isinstance(k.reduce_axes[a - n], int)]

        def nest(depth: int, extra: dict[int, Any], values: list[Any]) -> list[Any]:
            if depth == len(axes):
                return self._vector_reduce([self._child(s, extra) for s in scopes], values, body)
            a = axes[depth]
            if a in inner:
                for i in range(k.reduce_axes[a - n]):  # type: ignore[arg-type]
                    values = nest(depth + 1, {**extra, a: b.i64(i)}, values)
                return values
            first, stop = (b.i64(0), self.dim(k.reduce_axes[a - n])) if self.bounds is None else self.bounds[a]
            return b.loop(first, stop, b.i64(1), values, lambda i, v: nest(depth + 1, {**extra, a: i}, v))

        return nest(0, {}, carried)

    def _vector_reduce(self, scopes: list[Scope], carried: list[Any], body: Callable[[list[Scope], list[Any]], list[Any]]) -> list[Any]:
        """The innermost reduce axis, in vectors, when the vector axis is a reduce axis; else just the body."""
        k, b, w, g = self.k, self.b, self.plan.width, self.plan.group
        axis, n = self.plan.axis, len(self.k.axes)
        if axis < n:
            return body(scopes, carried)
        (scope,) = scopes
        size = k.reduce_axes[axis - n]
        stop = self.dim(size)
        at = b.i64(0)

        def run(step: int, first: Any, values: list[Any]) -> tuple[Any, list[Any]]:
            def inner(i: Any, v: list[Any]) -> list[Any]:
                subs = [self._child(scope, {axis: i}, w, None, j * w) for j in range(step // w)]
                return [b.ir.add(i, b.i64(step)), *body(subs, v[1:])]

            out = b.loop(first, b.ir.sub(stop, b.i64(step - 1)), b.i64(step), [first, *values], inner)
            return out[0], out[1:]

        if not isinstance(size, int) or size >= g * w:
            at, carried = run(g * w, at, carried)
        if not isinstance(size, int) or size % (g * w) >= w:
            at, carried = run(w, at, carried)
        if not isinstance(size, int) or size % w:
            before = b.ir.block
            with b.ir.if_then(b.ir.icmp_signed("<", at, stop)):
                tail = body([self._child(scope, {axis: at}, w, b.below(b.ir.sub(stop, at), w))], carried)
                inside = b.ir.block
            merged = []
            for old, new in zip(carried, tail, strict=True):
                phi = b.ir.phi(old.type)
                phi.add_incoming(old, before)
                phi.add_incoming(new, inside)
                merged.append(phi)
            carried = merged
        return carried

    def _stage(self, number: int, stage: Reduction, scopes: list[Scope]) -> list[Any]:
        dtype = stage.value.dtype
        if self.cuts is not None:
            self.bounds = self._bounds(self.cuts[number], scopes[0].axes)
        if stage.fn.startswith("arg"):
            return self._arg_stage(stage, scopes)
        vector_reduce = self.plan.axis >= len(self.k.axes)
        lanes = self.plan.width if vector_reduce else scopes[0].lanes
        math = Functions(self.b, lanes, self.target)
        neutral = math.const(self._neutral(stage.fn, dtype), dtype)
        count = self.plan.group if vector_reduce else len(scopes)
        carried = [neutral] * count

        def body(inner: list[Scope], acc: list[Any]) -> list[Any]:
            acc = list(acc)
            for j, s in enumerate(inner):
                x = self.value(stage.value, s, True)
                if self.spill is not None and number == self.spill.stage:
                    self._store(self.k.stores[self.spill.store], s, x)
                if vector_reduce and s.mask is not None:
                    x = self.b.ir.select(s.mask, x, neutral)
                acc[j] = math.call(_COMBINE[stage.fn], [acc[j], x], [dtype, dtype])
            return acc

        out = self._reduce_space(scopes, carried, body)
        if not vector_reduce:
            return out
        total = out[0]
        for other in out[1:]:
            total = math.call(_COMBINE[stage.fn], [total, other], [dtype, dtype])
        return [self._horizontal(total, stage.fn, dtype)]

    def _horizontal(self, x: Any, fn: str, dtype: DType) -> Any:
        """Combine lanes pairwise down to one."""
        lanes = x.type.count
        while lanes > 1:
            lanes //= 2
            index = [ir.Constant(vec(I32, lanes), list(range(start, start + lanes))) for start in (0, lanes)]
            undef = ir.Constant(x.type, ir.Undefined)
            lo, hi = (self.b.ir.shuffle_vector(x, undef, i) for i in index)
            x = Functions(self.b, lanes, self.target).call(_COMBINE[fn], [lo, hi], [dtype, dtype])
        return x

    def _arg_stage(self, stage: Reduction, scopes: list[Scope]) -> list[Any]:
        """Best value and its linear index, carried together; the first of equals wins, a NaN wins over all."""
        k, n, b = self.k, len(self.k.axes), self.b
        dtype = stage.value.dtype
        math = Functions(b, scopes[0].lanes, self.target)
        worst = math.const(self._neutral("max" if stage.fn == "argmax" else "min", dtype), dtype)
        count = len(scopes)
        carried = [worst] * count + [math.const(-1, DType.I64)] * count

        def body(inner: list[Scope], acc: list[Any]) -> list[Any]:
            best, where = list(acc[:count]), list(acc[count:])
            for j, s in enumerate(inner):
                x = self.value(stage.value, s, True)
                linear: Any = b.i64(0)
                for r, size in enumerate(k.reduce_axes):
                    linear = b.ir.add(b.ir.mul(linear, self.dim(size)), s.axes[n + r])
                better = math.call("gt" if stage.fn == "argmax" else "lt", [x, best[j]], [dtype, dtype])
                first = b.ir.icmp_signed("<", where[j], math.const(0, DType.I64))
                better = b.ir.or_(better, first)
                if dtype.is_float:
                    nan = b.ir.and_(math.call("isnan", [x], [dtype]), b.ir.not_(math.call("isnan", [best[j]], [dtype])))
                    better = b.ir.or_(better, nan)
                best[j] = b.ir.select(better, x, best[j])
                where[j] = b.ir.select(better, b.splat(linear, s.lanes), where[j])
            return best + where

        return self._reduce_space(scopes, carried, body)[count:]

    @staticmethod
    def _neutral(fn: str, dtype: DType) -> float | int:
        if fn in _NEUTRAL:
            return _NEUTRAL[fn]
        dtype = compute(dtype)
        if dtype.is_float:
            return float("-inf") if fn == "max" else float("inf")
        if dtype is DType.BOOL:
            return 0 if fn == "max" else 1
        bits = dtype.itemsize * 8
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dtype.is_signed else (0, 2**bits - 1)
        return low if fn == "max" else high

    def _minimum(self, fact: Affine, axes: dict[int, Any], over: dict[int, int]) -> Any:
        """The least value of an affine form over the boxes [0, over[axis]]."""
        constant, coefficients = fact
        for a, last in over.items():
            c = coefficients.get(a, 0)
            if isinstance(c, int) and c < 0:
                constant = constant + c * last
        value, extra = self.linear((constant, {a: c for a, c in coefficients.items() if a not in over}), axes)
        return self.b.ir.add(value, self.b.i64(extra))

    def _bounds(self, facts: Sequence[Affine], axes: dict[int, Any]) -> dict[int, tuple[Any, Any]]:
        """Where all facts hold: [first, stop) of each reduce axis; every fact has one reduce axis."""
        b, n = self.b, len(self.k.axes)
        out = {n + j: (b.i64(0), self.dim(size)) for j, size in enumerate(self.k.reduce_axes)}
        zero = b.i64(0)
        for constant, coefficients in facts:
            (a,) = (x for x in coefficients if x >= n)
            d = coefficients[a]
            assert isinstance(d, int)
            value, extra = self.linear((constant, {x: c for x, c in coefficients.items() if x != a}), axes)
            first, stop = out[a]
            if d > 0:  # rest + d·r ≥ 0: r ≥ ⌈−rest / d⌉
                least = b.ir.udiv(b.ir.add(b.smax(b.ir.sub(b.i64(-extra), value), zero), b.i64(d - 1)), b.i64(d))
                out[a] = b.smax(first, least), stop
            else:  # r ≤ ⌊rest / −d⌋
                most = b.ir.udiv(b.smax(b.ir.add(value, b.i64(extra - d)), zero), b.i64(-d))
                out[a] = first, b.smin(stop, most)
        return out
