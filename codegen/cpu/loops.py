"""LoopKernel to LLVM: explicit vectors along one axis, everything uniform along it in single lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llvmlite import ir

from ...errors import CodegenError
from ...ir import Dim, DType, ceildiv, is_static, prod, upper
from ..affine import Affine, affine, axes_of, postorder, stride_along
from ..expr import Axis, Call, Cast, DimParam, E, Load, Num, Reduced
from ..kernel import LoopKernel, Reduction, Store
from .build import I1, I8, I32, I64, PTR, Builder, Params, mangle, storage, vec
from .emitted import PLACEHOLDER, Emitted, named
from .functions import Functions
from .lanes import compute
from .loop_schedule import UNROLL_POINTS, LoopSchedule, merge_axes, roots, schedule
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
    nodes = len(postorder(roots(kernel)))
    points = max_dim(prod(kernel.reduce_axes) * max(1, len(kernel.stages)))
    per_unit = writer.elements_per_unit * points
    total = prod(kernel.axes) * points
    moved: Dim = 0
    for o in kernel.operands:
        moved = moved + o.numel * o.dtype.itemsize
    return Emitted(text, symbol, tuple(writer.params.dims), writer.units, per_unit * max(1, nodes // max(1, plan.width)),
                   total * sum(isinstance(e, Call) and e.dtype.is_float for e in postorder(roots(kernel))), moved)  # fmt: skip


def max_dim(d: Dim) -> Dim:
    return 1 if d == 0 else d


@dataclass
class _Scope:
    """Values of axes at a point of the loop nest, and what was computed there."""

    axes: dict[int, Any]  # axis -> I64 (for the vector axis: its first lane)
    lanes: int
    mask: Any  # <lanes x i1>, or None
    reduced: list[Any]
    memo: dict[tuple[int, bool], Any]
    shift: int = 0  # added to the vector axis


class _Writer:
    def __init__(self, k: LoopKernel, plan: LoopSchedule, target: CpuTarget, tile: Turn | None) -> None:
        self.k, self.plan, self.target, self.tile = k, plan, target, tile
        self.params = Params()
        self.module = ir.Module("")
        fn = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [PTR, PTR, I64, I64]), PLACEHOLDER)
        self.b = Builder(fn)
        self.bufs, self.dims, self.begin, self.end = fn.args
        self.parallel = plan.axis >= 0 and plan.axis < len(k.axes)
        self.spill = None if self.parallel else spill(k)
        if self.spill is not None:
            k = self.k = self.spill.kernel
        self.sizes: dict[Dim, Any] = {}
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
        reduced_axes = frozenset({plan.axis}) if self.parallel else frozenset()
        self.depends = axes_of(roots(k), reduced_axes)
        # results of reductions that are the same for all lanes, and what follows from them
        mark = 1 << 20
        marked = axes_of(roots(k), frozenset({mark}))
        self.uniform_results: set[int] = set()
        if not self.parallel:
            self.uniform_results = {i for i, axes in marked.items() if mark in axes and plan.axis not in axes}
        self.pointers: list[Any] = []
        self.forms: dict[int, Affine | None] = {}
        self.strides: dict[int, Dim | None] = {}
        self.sums: dict[Any, Any] = {}
        self.bounds: dict[int, tuple[Any, Any]] | None = None
        self.cuts: tuple[tuple[Affine, ...], ...] | None = None
        self.windows = windows(k, plan.axis) if self.parallel and is_static(k.reduce_axes) else None
        if self.windows is not None:
            self.depends |= axes_of(roots(self.windows.inside), reduced_axes)

    # sizes ---------------------------------------------------------------------------------------------------------
    def dim(self, d: Dim) -> Any:
        """A dim as an I64: a literal, or read from the table in the entry block."""
        if isinstance(d, int):
            return self.b.i64(d)
        if d not in self.sizes:
            with self.b.ir.goto_block(self.b.entry):
                self.sizes[d] = self.b.param(self.dims, self.params.add(d))
        return self.sizes[d]

    def write(self) -> None:
        b, k = self.b, self.k
        for i in range(len(k.operands)):
            self.pointers.append(b.load(PTR, b.at(self.bufs, b.i64(i), PTR), 8))
        # every symbolic size is read before the entry block is closed
        for d in (*k.axes, *k.reduce_axes, *(e.dim for e in postorder(roots(k)) if isinstance(e, DimParam)), self.units):
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
            scopes = [_Scope({**outer, tile.write: at, tile.read: rows[j]}, n, None, [], {}) for j in range(n)]
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
            scopes.append(_Scope(axes, lanes, mask, [], {}, g * w))
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

            def each(inner: list[_Scope], _: list[Any]) -> list[Any]:
                for scope in inner:
                    for store in per_element:
                        self._store(store, scope)
                return []

            self._reduce_space(scopes, [], each)

    def _child(self, s: _Scope, extra: dict[int, Any], lanes: int | None = None, mask: Any = None, shift: int = 0) -> _Scope:
        if lanes is None:
            return _Scope({**s.axes, **extra}, s.lanes, s.mask, s.reduced, {}, s.shift)
        return _Scope({**s.axes, **extra}, lanes, mask, s.reduced, {}, shift)

    def _reduce_space(
        self, scopes: list[_Scope], carried: list[Any], body: Callable[[list[_Scope], list[Any]], list[Any]]
    ) -> list[Any]:
        """Run body over the reduce axes (the vector axis, if one of them, is handled by the caller through `body`)."""
        k, b, n = self.k, self.b, len(self.k.axes)
        axes = [n + j for j in range(len(k.reduce_axes)) if n + j != self.plan.axis]
        inner = axes if self.bounds is None and self.parallel else []
        while inner and upper(prod(k.reduce_axes[a - n] for a in inner)) > UNROLL_POINTS:
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

    def _vector_reduce(
        self, scopes: list[_Scope], carried: list[Any], body: Callable[[list[_Scope], list[Any]], list[Any]]
    ) -> list[Any]:
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

    def _stage(self, number: int, stage: Reduction, scopes: list[_Scope]) -> list[Any]:
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

        def body(inner: list[_Scope], acc: list[Any]) -> list[Any]:
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

    def _arg_stage(self, stage: Reduction, scopes: list[_Scope]) -> list[Any]:
        """Best value and its linear index, carried together; the first of equals wins, a NaN wins over all."""
        k, n, b = self.k, len(self.k.axes), self.b
        dtype = stage.value.dtype
        math = Functions(b, scopes[0].lanes, self.target)
        worst = math.const(self._neutral("max" if stage.fn == "argmax" else "min", dtype), dtype)
        count = len(scopes)
        carried = [worst] * count + [math.const(-1, DType.I64)] * count

        def body(inner: list[_Scope], acc: list[Any]) -> list[Any]:
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

    # expressions -----------------------------------------------------------------------------------------------------
    def varies(self, e: E, s: _Scope) -> bool:
        return s.lanes > 1 and self.plan.axis in self.depends[id(e)]

    def value(self, root: E, s: _Scope, wide: bool = False) -> Any:
        """root at a point: one lane if it does not vary along the vector axis (unless `wide`), else s.lanes lanes."""
        order = self._order(root, s)
        for e in order:
            s.memo[id(e), False] = self._evaluate(e, s)
        x = s.memo[id(root), False]
        if wide and s.lanes > 1 and x.type.count == 1:
            x = self._widen(x, s.lanes)
        return x

    def _order(self, root: E, s: _Scope) -> list[E]:
        """Nodes to evaluate; the offset of a load is evaluated by the load itself."""
        seen: set[int] = set()
        order: list[E] = []
        stack: list[tuple[E, bool]] = [(root, False)]
        while stack:
            e, done = stack.pop()
            if done:
                order.append(e)
                continue
            if id(e) in seen or (id(e), False) in s.memo:
                continue
            seen.add(id(e))
            stack.append((e, True))
            kids: Sequence[E] = e.args if isinstance(e, Call) else (e.arg,) if isinstance(e, Cast) else ()
            stack.extend((c, False) for c in reversed(kids))
        return order

    def _widen(self, x: Any, lanes: int) -> Any:
        if x.type.count == lanes:
            return x
        if isinstance(x, ir.Constant):
            return ir.Constant(vec(x.type.element, lanes), list(x.constant) * lanes)
        return self.b.splat(self.b.ir.extract_element(x, ir.Constant(I32, 0)), lanes)

    def _evaluate(self, e: E, s: _Scope) -> Any:
        b = self.b
        lanes = s.lanes if self.varies(e, s) else 1
        math = Functions(b, lanes, self.target)
        match e:
            case Num(value=v):
                return math.const(v, e.dtype)
            case DimParam(dim=d):
                return b.splat(self.dim(d), 1)
            case Axis(index=i):
                x = b.splat(s.axes[i], lanes)
                shift = s.shift if i == self.plan.axis else 0
                return b.ir.add(x, b.iota(lanes, shift)) if lanes > 1 or shift else x
            case Reduced(stage=i):
                return s.reduced[i]
            case Load():
                return self._load(e, s, lanes, math)
            case Cast(arg=a):
                return math.cast(self._widen(s.memo[id(a), False], lanes), a.dtype, e.dtype)
            case Call(fn="div", args=(x, y)) if lanes > 1 and e.dtype.is_float and id(y) in self.uniform_results:
                # one division per row; ≤ 1.5 ULP
                one = Functions(b, 1, self.target)
                inverse = one.call("div", [one.const(1.0, y.dtype), s.memo[id(y), False]], [y.dtype, y.dtype])
                return math.call("mul", [self._widen(s.memo[id(x), False], lanes), self._widen(inverse, lanes)], [e.dtype] * 2)
            case Call(fn=fn, args=args):
                got = [self._widen(s.memo[id(a), False], lanes) for a in args]
                return math.call(fn, got, [a.dtype for a in args])
        raise CodegenError(f"{type(e).__name__} in a loop kernel")

    def form(self, offset: E) -> Affine | None:
        if id(offset) not in self.forms:
            self.forms[id(offset)] = affine(offset)
        return self.forms[id(offset)]

    def _stride(self, offset: E, s: _Scope) -> int | None:
        """Elements per lane when constant: 0, or known; None for a gather."""
        if not self.varies(offset, s):
            return 0
        if id(offset) not in self.strides:
            self.strides[id(offset)] = stride_along(offset, self.plan.axis)
        k = self.strides[id(offset)]
        return k if isinstance(k, int) else None

    def scalar(self, e: E, s: _Scope) -> Any:
        """An I64 at the first lane: every axis is taken at its (first) value."""
        first = _Scope(s.axes, 1, None, s.reduced, s.memo if s.lanes == 1 else {}, s.shift)
        x = self.value(e, first)
        return self.b.ir.extract_element(x, ir.Constant(I32, 0))

    def linear(self, form: Affine, axes: dict[int, Any], shift: int = 0) -> tuple[Any, int]:
        """An affine form as (I64 value, constant to add). Values are shared within a block."""
        b = self.b
        rest: tuple[Dim, ...] = () if isinstance(form[0], int) else (form[0],)
        constant = form[0] if isinstance(form[0], int) else 0
        terms: list[tuple[Any, Dim]] = []
        for axis, c in form[1].items():
            if axis == self.plan.axis and shift:
                if isinstance(c, int):
                    constant += c * shift
                else:
                    rest += (c * shift,)
            at = axes[axis]
            if isinstance(at, ir.Constant):
                if isinstance(c, int):
                    constant += c * at.constant
                elif at.constant:
                    rest += (c * at.constant,)
            elif c != 0:
                terms.append((at, c))
        key = (id(b.ir.block), rest, tuple((id(v), c) for v, c in terms))
        if key not in self.sums:
            total: Any = None
            for t in [*(self.dim(d) for d in rest), *(v if c == 1 else b.ir.mul(v, self.dim(c)) for v, c in terms)]:
                total = t if total is None else b.ir.add(total, t)
            self.sums[key] = (b.i64(0) if total is None else total, b.ir.block, terms)
        return self.sums[key][0], constant

    def address(self, operand: int, offset: E, s: _Scope) -> Any:
        """Of the element at the first lane."""
        b, t, base = self.b, storage(self.k.operands[operand].dtype), self.pointers[operand]
        form = self.form(offset)
        if form is None:
            return b.at(base, self.scalar(offset, s), t)
        value, constant = self.linear(form, s.axes, s.shift)
        key = (id(b.ir.block), operand, id(value))
        if key not in self.sums:
            self.sums[key] = (b.at(base, value, t), value)
        at = self.sums[key][0]
        return b.at(at, b.i64(constant), t) if constant else at

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

    def _load(self, e: Load, s: _Scope, lanes: int, math: Functions) -> Any:
        b = self.b
        dtype = self.k.operands[e.operand].dtype
        t, base = storage(dtype), self.pointers[e.operand]
        align = dtype.itemsize
        stride = self._stride(e.offset, s)
        if stride == 0 or lanes == 1:
            one = Functions(b, 1, self.target)
            return one.from_storage(b.splat(b.load(t, self.address(e.operand, e.offset, s), align), 1), dtype)
        wide = vec(t, lanes)
        if stride == 1:
            at = self.address(e.operand, e.offset, s)
            raw = b.load(wide, at, align) if s.mask is None else b.masked_load(wide, at, s.mask, align)
            return math.from_storage(raw, dtype)
        if self.target.masked and dtype.itemsize >= 4:  # a gather instruction
            pointers = self._lane_pointers(e.operand, e.offset, s, lanes)
            name = f"llvm.masked.gather.{mangle(wide)}.{mangle(pointers.type)}"
            mask = s.mask if s.mask is not None else ir.Constant(vec(I1, lanes), [1] * lanes)
            raw = b.call(name, wide, pointers, ir.Constant(I32, align), mask, ir.Constant(wide, None))
            return math.from_storage(raw, dtype)
        index = self._lane_offsets(e.offset, s, lanes)
        raw = ir.Constant(wide, ir.Undefined)
        for lane in range(lanes):
            at = ir.Constant(I32, lane)
            raw = b.ir.insert_element(raw, b.load(t, b.at(base, b.ir.extract_element(index, at), t), align), at)
        return math.from_storage(raw, dtype)

    def _lane_offsets(self, offset: E, s: _Scope, lanes: int) -> Any:
        """An offset per lane; masked lanes point at element 0, which exists."""
        index = self._widen(self.value(offset, s), lanes)
        return index if s.mask is None else self.b.ir.select(s.mask, index, ir.Constant(index.type, None))

    def _lane_pointers(self, operand: int, offset: E, s: _Scope, lanes: int) -> Any:
        """A pointer per lane: a constant stride from the first lane, or an offset each."""
        b, t = self.b, storage(self.k.operands[operand].dtype)
        stride = self._stride(offset, s)
        if stride is None:
            out = b.at(self.pointers[operand], self._widen(self.value(offset, s), lanes), t)
        else:
            steps = ir.Constant(vec(I64, lanes), [stride * lane for lane in range(lanes)])
            out = b.at(self.address(operand, offset, s), steps, t)
        out.type = vec(PTR, lanes)  # llvmlite types every getelementptr as one pointer
        return out

    def _store(self, store: Store, s: _Scope, value: Any = None) -> None:
        b, dtype = self.b, self.k.operands[store.operand].dtype
        lanes = s.lanes
        math = Functions(b, lanes, self.target)
        x = math.to_storage(self._widen(self.value(store.value, s) if value is None else value, lanes), dtype)
        guard = None if store.guard is None else self._widen(self.value(store.guard, s), lanes)
        if lanes == 1:
            at = self.address(store.operand, store.offset, s)
            single = b.ir.extract_element(x, ir.Constant(I32, 0))
            if guard is None:
                b.ir.store(single, at, align=dtype.itemsize)
                return
            with b.ir.if_then(b.ir.extract_element(guard, ir.Constant(I32, 0))):
                b.ir.store(single, at, align=dtype.itemsize)
            return
        mask = s.mask if guard is None else guard if s.mask is None else b.ir.and_(guard, s.mask)
        if self._stride(store.offset, s) != 1:
            pointers = self._lane_pointers(store.operand, store.offset, s, lanes)
            if mask is None:
                mask = ir.Constant(vec(I1, lanes), [1] * lanes)
            name = f"llvm.masked.scatter.{mangle(x.type)}.{mangle(pointers.type)}"
            b.call(name, ir.VoidType(), x, pointers, ir.Constant(I32, dtype.itemsize), mask)
            return
        at = self.address(store.operand, store.offset, s)
        if mask is None:
            b.ir.store(x, at, align=dtype.itemsize)
        else:
            b.masked_store(x, at, mask, dtype.itemsize)


__all__ = ["I8", "emit_loop"]
