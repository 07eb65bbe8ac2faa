"""LoopKernel to LLVM: explicit vectors along one axis, everything uniform along it in single lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from ...errors import CodegenError
from ...ir import Dim, DType, ceildiv, prod
from ..affine import affine, axes_of, postorder
from ..expr import Axis, Call, Cast, DimParam, E, Load, Num, Reduced
from ..kernel import LoopKernel, Reduction, Store
from .build import I8, I32, I64, PTR, Builder, Params, storage, vec
from .emitted import PLACEHOLDER, Emitted, named
from .functions import Functions
from .lanes import compute
from .loop_schedule import LoopSchedule, merge_axes, roots, schedule, unrolled
from .target import CpuTarget

_NEUTRAL = {"sum": 0, "prod": 1, "and": 1, "or": 0}
_COMBINE = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "and": "and_", "or": "or_"}


def emit_loop(kernel: LoopKernel, target: CpuTarget) -> Emitted:
    """Emit a loop kernel. Raises CodegenError for an element type or function the CPU backend lacks."""
    kernel = merge_axes(kernel)
    plan = schedule(kernel, target)
    writer = _Writer(kernel, plan, target)
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


class _Writer:
    def __init__(self, k: LoopKernel, plan: LoopSchedule, target: CpuTarget) -> None:
        self.k, self.plan, self.target = k, plan, target
        self.params = Params()
        self.module = ir.Module("")
        fn = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [PTR, PTR, I64, I64]), PLACEHOLDER)
        self.b = Builder(fn)
        self.bufs, self.dims, self.begin, self.end = fn.args
        self.parallel = plan.axis >= 0 and plan.axis < len(k.axes)
        self.sizes: dict[Dim, Any] = {}
        n = len(k.axes)
        self.outer = [i for i in range(n) if not (self.parallel and i == plan.axis)]
        last = k.axes[plan.axis] if self.parallel else 1
        self.blocked = not self.outer and (self.parallel or n == 0)
        if plan.axis < 0 and n == 1 or (not self.parallel and n >= 1):
            self.blocked = False
        if self.blocked and self.parallel:
            self.units: Dim = ceildiv(last, plan.block)
            self.elements_per_unit: Dim = plan.block
        else:
            self.units = prod(k.axes[i] for i in self.outer)
            self.elements_per_unit = max_dim(last)
        reduced_axes = frozenset({plan.axis}) if self.parallel else frozenset()
        self.depends = axes_of(roots(k), reduced_axes)
        self.pointers: list[Any] = []

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
            rest = u
            for i in reversed(self.outer):
                if i == self.outer[0]:
                    axes[i] = rest
                else:
                    size = self.dim(k.axes[i])
                    axes[i] = b.ir.urem(rest, size)
                    rest = b.ir.udiv(rest, size)
            if not self.parallel:
                self._point(axes, None, 1, 1, None)
            elif self.blocked:
                start = b.ir.mul(u, b.i64(self.plan.block))
                stop = b.smin(b.ir.add(start, b.i64(self.plan.block)), self.dim(k.axes[self.plan.axis]))
                self._span(axes, start, stop, None)
            else:
                size_dim = k.axes[self.plan.axis]
                self._span(axes, b.i64(0), self.dim(size_dim), size_dim if isinstance(size_dim, int) else None)
            return []

        b.loop(self.begin, self.end, b.i64(1), [], unit)
        b.ir.ret_void()

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
        b, axis, w = self.b, self.plan.axis, self.plan.width
        scopes = []
        for g in range(group):
            axes = dict(outer)
            if start is not None:
                axes[axis] = b.ir.add(start, b.i64(g * w)) if g else start
            scopes.append(_Scope(axes, lanes, mask, [], {}))
        for number, stage in enumerate(self.k.stages):
            results = self._stage(stage, scopes)
            for s, r in zip(scopes, results, strict=True):
                s.reduced.append(r)
            del number
        per_point = [s for s in self.k.stores if not s.per_element]
        for scope in scopes:
            for store in per_point:
                self._store(store, scope)
        per_element = [s for s in self.k.stores if s.per_element]
        if per_element:
            self._reduce_space(scopes, [], lambda inner, _: [self._store(s, x) for x in inner for s in per_element] and [])

    def _child(self, s: _Scope, extra: dict[int, Any], lanes: int | None = None, mask: Any = None) -> _Scope:
        return _Scope({**s.axes, **extra}, s.lanes if lanes is None else lanes, s.mask if lanes is None else mask, s.reduced, {})

    def _reduce_space(
        self, scopes: list[_Scope], carried: list[Any], body: Callable[[list[_Scope], list[Any]], list[Any]]
    ) -> list[Any]:
        """Run body over the reduce axes (the vector axis, if one of them, is handled by the caller through `body`)."""
        k, b, n = self.k, self.b, len(self.k.axes)
        axes = [n + j for j in range(len(k.reduce_axes)) if n + j != self.plan.axis]
        if unrolled(k) and self.parallel:
            points: list[dict[int, Any]] = [{}]
            for a in axes:
                size = k.reduce_axes[a - n]
                assert isinstance(size, int)
                points = [{**p, a: b.i64(i)} for p in points for i in range(size)]
            for p in points:
                carried = body([self._child(s, p) for s in scopes], carried)
            return carried

        def nest(depth: int, extra: dict[int, Any], values: list[Any]) -> list[Any]:
            if depth == len(axes):
                return self._vector_reduce([self._child(s, extra) for s in scopes], values, body)
            a = axes[depth]
            return b.loop(
                b.i64(0), self.dim(k.reduce_axes[a - n]), b.i64(1), values, lambda i, v: nest(depth + 1, {**extra, a: i}, v)
            )

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
                subs = [self._child(scope, {axis: b.ir.add(i, b.i64(j * w)) if j else i}, w) for j in range(step // w)]
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

    def _stage(self, stage: Reduction, scopes: list[_Scope]) -> list[Any]:
        dtype = stage.value.dtype
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
                return b.ir.add(x, b.iota(lanes)) if lanes > 1 else x
            case Reduced(stage=i):
                return s.reduced[i]
            case Load():
                return self._load(e, s, lanes, math)
            case Cast(arg=a):
                return math.cast(self._widen(s.memo[id(a), False], lanes), a.dtype, e.dtype)
            case Call(fn=fn, args=args):
                got = [self._widen(s.memo[id(a), False], lanes) for a in args]
                return math.call(fn, got, [a.dtype for a in args])
        raise CodegenError(f"{type(e).__name__} in a loop kernel")

    def _stride(self, offset: E, s: _Scope) -> int | None:
        """Elements per lane when constant: 0, or known; None for a gather."""
        if not self.varies(offset, s):
            return 0
        form = affine(offset)
        if form is None:
            return None
        k = form[1].get(self.plan.axis, 0)
        return k if isinstance(k, int) else None

    def scalar(self, e: E, s: _Scope) -> Any:
        """An I64 at the first lane: every axis is taken at its (first) value."""
        first = _Scope(s.axes, 1, None, s.reduced, s.memo if s.lanes == 1 else {})
        x = self.value(e, first)
        return self.b.ir.extract_element(x, ir.Constant(I32, 0))

    def _load(self, e: Load, s: _Scope, lanes: int, math: Functions) -> Any:
        b = self.b
        dtype = self.k.operands[e.operand].dtype
        t, base = storage(dtype), self.pointers[e.operand]
        align = dtype.itemsize
        stride = self._stride(e.offset, s)
        if stride == 0 or lanes == 1:
            one = Functions(b, 1, self.target)
            return one.from_storage(b.splat(b.load(t, b.at(base, self.scalar(e.offset, s), t), align), 1), dtype)
        wide = vec(t, lanes)
        if stride == 1:
            at = b.at(base, self.scalar(e.offset, s), t)
            raw = b.load(wide, at, align) if s.mask is None else b.masked_load(wide, at, s.mask, align)
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

    def _store(self, store: Store, s: _Scope) -> None:
        b, dtype = self.b, self.k.operands[store.operand].dtype
        t, base = storage(dtype), self.pointers[store.operand]
        lanes = s.lanes
        math = Functions(b, lanes, self.target)
        x = math.to_storage(self._widen(self.value(store.value, s), lanes), dtype)
        guard = None if store.guard is None else self._widen(self.value(store.guard, s), lanes)
        if lanes == 1:
            at = b.at(base, self.scalar(store.offset, s), t)
            single = b.ir.extract_element(x, ir.Constant(I32, 0))
            if guard is None:
                b.ir.store(single, at, align=dtype.itemsize)
                return
            with b.ir.if_then(b.ir.extract_element(guard, ir.Constant(I32, 0))):
                b.ir.store(single, at, align=dtype.itemsize)
            return
        at = b.at(base, self.scalar(store.offset, s), t)
        mask = s.mask if guard is None else guard if s.mask is None else b.ir.and_(guard, s.mask)
        if mask is None:
            b.ir.store(x, at, align=dtype.itemsize)
        else:
            b.masked_store(x, at, mask, dtype.itemsize)


__all__ = ["I8", "emit_loop"]
