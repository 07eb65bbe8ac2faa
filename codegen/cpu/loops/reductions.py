"""Reductions of a loop nest: the walk over the reduce axes, accumulators in registers, long sums in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ....ir import Dim, DType, prod, upper
from ...affine import Affine
from ...kernel import COMBINE, Reduction
from .. import llvm_ir as ir
from ..build import I32, I64, vec
from ..math.functions import Functions
from ..math.lanes import compute
from .accesses import Scope
from .schedule import UNROLL_POINTS, UNROLL_WORK
from .short_rows import ShortRowUnits
from .spill import Spill

_NEUTRAL = {"sum": 0, "prod": 1, "and": 1, "or": 0}
_OWN_PART = 8  # terms of the inner loops that make a part of their own
Body = Callable[[list[Scope], list[Any]], list[Any]]


@dataclass(frozen=True)
class Parts:
    """How a long sum is cut: accumulators start again from `neutral` and are added up by `combine`.

    The rounding error of n float32 terms in one accumulator grows with n; in parts of c terms with c + n / c.
    """

    neutral: list[Any]
    combine: Callable[[list[Any], list[Any]], list[Any]]


class Reductions(ShortRowUnits):
    """Points, and what walks the reduce axes from one."""

    spill: Spill | None = None
    work: int = 1  # vector operations of the costliest value in a reduce loop
    bounds: dict[int, tuple[Any, Any]] | None = None  # of the reduce axes, when they are cut at a border
    cuts: tuple[tuple[Affine, ...], ...] | None = None
    taps_known: bool = False  # the last reduce axis is unrolled whatever its size
    shifts: frozenset[int] = frozenset()  # stages of maxima that may leave out what is not a number

    def _child(self, s: Scope, extra: dict[int, Any], lanes: int | None = None, mask: Any = None, shift: int = 0) -> Scope:
        if lanes is None:
            return Scope({**s.axes, **extra}, s.lanes, s.mask, s.reduced, {}, s.shift, s.ahead)
        return Scope({**s.axes, **extra}, lanes, mask, s.reduced, {}, shift, s.ahead)

    def _reduce_space(self, scopes: list[Scope], carried: list[Any], body: Body, parts: Parts | None = None) -> list[Any]:
        """Run body over the reduce axes; `parts`, if given, keeps the chains of additions short."""
        if self.columns_of is not None:
            for column in self.columns_of:
                carried = body([column], carried)
            return carried
        k, b, n = self.k, self.b, len(self.k.axes)
        axes = [n + j for j in range(len(k.reduce_axes)) if n + j != self.plan.axis]
        cut = self.bounds or {}
        inner = [a for a in axes if a not in cut] if self.parallel else []
        most, least = min(UNROLL_POINTS, UNROLL_WORK // (self.work * len(scopes))), int(self.taps_known)
        while len(inner) > least and upper(prod(k.reduce_axes[a - n] for a in inner)) > most:
            inner = inner[1:]
        inner = [a for a in inner if isinstance(k.reduce_axes[a - n], int)]
        lanes = 1 if self.parallel or self.plan.axis < 0 else self.plan.width * self.plan.group
        if upper(prod(k.reduce_axes)) <= self.plan.chain * lanes:
            parts = None

        def nest(depth: int, extra: dict[int, Any], values: list[Any]) -> list[Any]:
            if depth == len(axes):
                return self._vector_reduce([self._child(s, extra) for s in scopes], values, body, parts)
            a = axes[depth]
            if a in inner:
                for i in range(int(k.reduce_axes[a - n])):
                    values = nest(depth + 1, {**extra, a: b.i64(i)}, values)
                return values
            first, stop = (b.i64(0), self.dim(k.reduce_axes[a - n])) if a not in cut else cut[a]
            inside = upper(prod(k.reduce_axes[a - n + 1 :])) // lanes
            fresh = parts if inside >= _OWN_PART else None

            def step(i: Any, v: list[Any]) -> list[Any]:
                if fresh is None:
                    return nest(depth + 1, {**extra, a: i}, v)
                return fresh.combine(v, nest(depth + 1, {**extra, a: i}, fresh.neutral))

            return self._in_parts(first, stop, 1, values, step, parts, k.reduce_axes[a - n])

        return nest(0, {}, carried)

    def _in_parts(self, first: Any, stop: Any, step: int, carried: list[Any], body: Any, parts: Parts | None, size: Dim) -> list[Any]:
        """A loop from first to stop; in blocks of `chain` steps, added up, when it can be longer than that."""
        b, block = self.b, self.plan.chain * step
        if parts is None or upper(size) <= block:
            return b.loop(first, stop, b.i64(step), carried, body)

        def one(i: Any, v: list[Any]) -> list[Any]:
            end = b.smin(b.ir.add(i, b.i64(block)), stop)
            return parts.combine(v, b.loop(i, end, b.i64(step), parts.neutral, body))

        return b.loop(first, stop, b.i64(block), carried, one)

    def _vector_reduce(self, scopes: list[Scope], carried: list[Any], body: Body, parts: Parts | None) -> list[Any]:
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
                return body([self._child(scope, {axis: i}, w, None, j * w) for j in range(step // w)], v)

            end = b.ir.sub(stop, b.i64(step - 1))
            count = b.ir.udiv(b.ir.sub(stop, first), b.i64(step))
            values = self._in_parts(first, end, step, values, inner, parts, size)
            return b.ir.add(first, b.ir.mul(count, b.i64(step))), values

        if not isinstance(size, int) or size >= g * w:
            at, carried = run(g * w, at, carried)
        if isinstance(size, int):  # what is left goes to accumulators of its own, which do not wait for each other
            left = size % (g * w)
            at = b.i64(size - left)
            rest = [self._child(scope, {axis: at}, w, None, first) for first in range(0, left - w + 1, w)]
            if left % w:
                rest.append(self._child(scope, {axis: at}, w, b.below(b.i64(left % w), w), left - left % w))
            return body(rest, carried) if rest else carried
        at, carried = run(w, at, carried)
        before = b.ir.block
        with b.ir.if_then(b.ir.icmp_signed("<", at, stop)):
            tail = body([self._child(scope, {axis: at}, w, b.below(b.ir.sub(stop, at), w))], carried)
            inside = b.ir.block
        return [b.merge((old, before), (new, inside)) for old, new in zip(carried, tail, strict=True)]

    def _stage(self, number: int, stage: Reduction, scopes: list[Scope]) -> list[Any]:
        dtype = stage.value.dtype
        if self.cuts is not None:
            facts = self.cuts[number]
            bounds = self._bounds(facts, scopes[0].axes)
            self.bounds = {a: x for a, x in bounds.items() if any(a in f[1] for f in facts)}
        if stage.fn.startswith("arg"):
            return self._arg_stage(stage, scopes)
        vector_reduce = self.plan.axis >= len(self.k.axes)
        lanes = self.plan.width if vector_reduce else scopes[0].lanes
        math = Functions(self.b, lanes, self.target)
        join = partial(self._greater if number in self.shifts else self._joined, COMBINE[stage.fn], dtype)
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
                acc[j] = join(acc[j], x)
            return acc

        def combine(x: list[Any], y: list[Any]) -> list[Any]:
            return [join(*pair) for pair in zip(x, y, strict=True)]

        parts = Parts(carried, combine) if stage.fn == "sum" and dtype.is_float else None
        out = self._reduce_space(scopes, carried, body, parts)
        if not vector_reduce:
            return out
        total = out[0]
        for other in out[1:]:
            total = join(total, other)
        return [self._horizontal(total, join)]

    def _joined(self, fn: str, dtype: DType, x: Any, y: Any) -> Any:
        """`x` was joined before: what a maximum compares with itself is y, which waits for nothing."""
        return Functions(self.b, x.type.count, self.target).call(fn, [y, x] if fn in ("max", "min") else [x, y], [dtype, dtype])

    def _greater(self, _fn: str, _dtype: DType, x: Any, y: Any) -> Any:
        """One instruction; y where one of them is not a number."""
        return self.b.ir.select(self.b.ir.fcmp_ordered(">", x, y), x, y)

    def _horizontal(self, x: Any, join: Callable[[Any, Any], Any]) -> Any:
        """Combine lanes pairwise down to one."""
        lanes = x.type.count
        while lanes > 1:
            lanes //= 2
            index = [ir.Constant(vec(I32, lanes), list(range(start, start + lanes))) for start in (0, lanes)]
            undef = ir.Constant(x.type, ir.Undefined)
            lo, hi = (self.b.ir.shuffle_vector(x, undef, i) for i in index)
            x = join(lo, hi)
        return x

    def _arg_stage(self, stage: Reduction, scopes: list[Scope]) -> list[Any]:
        """Best value and its linear index, carried together; the first of equals wins, a NaN wins over all.

        Where no element is better than the worst value there is, all are equal, and the first index, 0, is theirs.
        """
        k, n, b = self.k, len(self.k.axes), self.b
        dtype = stage.value.dtype
        along = self.plan.axis >= n  # lanes are neighbours of the row, else of different rows
        lanes, count = (self.plan.width, self.plan.group) if along else (scopes[0].lanes, len(scopes))
        math = Functions(b, lanes, self.target)
        index_type = DType.I32 if upper(prod(k.reduce_axes)) < 1 << 31 else DType.I64  # half as many registers
        element = math.type(index_type).element
        worst = math.const(self._neutral("max" if stage.fn == "argmax" else "min", dtype), dtype)
        carried = [worst] * count + [math.const(0, index_type)] * count

        def body(inner: list[Scope], acc: list[Any]) -> list[Any]:
            best, where = list(acc[:count]), list(acc[count:])
            for j, s in enumerate(inner):
                x = self.value(stage.value, s, True)
                linear: Any = b.i64(0)
                for r, size in enumerate(k.reduce_axes):
                    linear = b.ir.add(b.ir.mul(linear, self.dim(size)), s.axes[n + r])
                index = b.splat(linear if index_type is DType.I64 else b.ir.trunc(linear, element), lanes)
                if along:
                    steps = ir.Constant(vec(element, lanes), [s.shift + lane for lane in range(lanes)])
                    index = b.ir.add(index, steps)
                better = self._wins(stage.fn, math, dtype, x, best[j])
                if along and s.mask is not None:
                    better = b.ir.and_(better, s.mask)
                best[j] = b.ir.select(better, x, best[j])
                where[j] = b.ir.select(better, index, where[j])
            return best + where

        out = self._reduce_space(scopes, carried, body)
        found = [self._first_best(stage.fn, dtype, list(zip(out[:count], out[count:], strict=True)))] if along else out[count:]
        return found if index_type is DType.I64 else [b.ir.sext(x, vec(I64, x.type.count)) for x in found]

    def _wins(self, fn: str, math: Functions, dtype: DType, x: Any, best: Any) -> Any:
        """Lanes in which x is strictly better than the best so far."""
        if not dtype.is_float:
            return math.call("gt" if fn == "argmax" else "lt", [x, best], [dtype, dtype])
        i = self.b.ir
        better = i.fcmp_unordered(">" if fn == "argmax" else "<", x, best)  # or a NaN is among them
        return i.and_(better, i.not_(i.fcmp_unordered("uno", best, best)))

    def _first_best(self, fn: str, dtype: DType, parts: list[tuple[Any, Any]]) -> Any:
        """The index of the best of all lanes of (value, index) vectors, as one lane."""
        b = self.b

        def better_of(x: tuple[Any, Any], y: tuple[Any, Any]) -> tuple[Any, Any]:
            math = Functions(b, x[0].type.count, self.target)
            tie = b.ir.and_(b.ir.icmp_signed("<", y[1], x[1]), b.ir.not_(self._wins(fn, math, dtype, x[0], y[0])))
            take = b.ir.or_(self._wins(fn, math, dtype, y[0], x[0]), tie)
            return b.ir.select(take, y[0], x[0]), b.ir.select(take, y[1], x[1])

        best = parts[0]
        for part in parts[1:]:
            best = better_of(best, part)
        while best[0].type.count > 1:
            best = better_of(self._half(best, 0), self._half(best, 1))
        return best[1]

    def _half(self, vectors: tuple[Any, Any], which: int) -> tuple[Any, Any]:
        lanes = vectors[0].type.count // 2
        index = ir.Constant(vec(I32, lanes), list(range(which * lanes, (which + 1) * lanes)))
        low, high = (self.b.ir.shuffle_vector(x, ir.Constant(x.type, ir.Undefined), index) for x in vectors)
        return low, high

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
