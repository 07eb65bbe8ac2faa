"""A point of a loop nest: the value of any expression there, in all lanes of a vector or in one if all are the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ....errors import CodegenError
from ....ir import DType
from ...affine import axes_of
from ...expr import Axis, Bits, Call, Cast, DimParam, E, Guarded, Load, Num, Param, Quantizing, Reduced, Table, Ticks, clamped, quantizing
from ...kernel import LoopKernel
from .. import llvm_ir as ir
from ..build import I32, I64, vec
from ..math.functions import Functions
from ..tabulated import add_table, looked_up
from ..target import CpuTarget
from .accesses import Accesses, Scope
from .schedule import LoopSchedule

_FAR = 1 << 30  # further out than any lane of a vector reaches


class Points(Accesses):
    """Evaluates expressions of one kernel into one function."""

    def __init__(self, k: LoopKernel, plan: LoopSchedule, target: CpuTarget) -> None:
        super().__init__(k, plan, target)
        # results of reductions that are the same for all lanes, and what follows from them
        mark = 1 << 20
        marked = axes_of(k.roots, frozenset({mark}))
        self.uniform_results: set[int] = set()
        if not self.parallel:
            self.uniform_results = {i for i, axes in marked.items() if mark in axes and plan.axis not in axes}
        self.columns_of: list[Scope] | None = None  # while short rows are written: a scope for each place of the row
        self.tables: dict[tuple[int, ...], int] = {}  # where they are among the sizes

    def value(self, root: E, s: Scope, wide: bool = False) -> Any:
        """root at a point: one lane if it does not vary along the vector axis (unless `wide`), else s.lanes lanes."""
        order = self._order(root, s)
        for e in order:
            s.memo[id(e), False] = self._evaluate(e, s)
        x = s.memo[id(root), False]
        if wide and s.lanes > 1 and x.type.count == 1:
            x = self._widen(x, s.lanes)
        return x

    def _order(self, root: E, s: Scope) -> list[E]:
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
            kids: Sequence[E] = e.args if isinstance(e, Call) else (e.arg,) if isinstance(e, Cast | Bits | Table) else ()
            stack.extend((c, False) for c in reversed(kids))
        return order

    def _narrow(self, x: Any) -> Any:
        """One lane of a value that is the same in all."""
        if x.type.count == 1:
            return x
        return self.b.splat(self.b.ir.extract_element(x, ir.Constant(I32, 0)), 1)

    def _evaluate(self, e: E, s: Scope) -> Any:
        b = self.b
        lanes = s.lanes if self.varies(e, s) else 1
        math = Functions(b, lanes, self.target)
        match e:
            case Num(value=v):
                return math.const(v, e.dtype)
            case Param():
                return self.number(e, lanes)
            case DimParam(dim=d):
                return b.splat(self.dim(d), 1)
            case Ticks():  # AArch64 lets programs read the steady counter only
                name = "llvm.readcyclecounter" if self.target.is_x86 else "llvm.readsteadycounter"
                return b.splat(b.call(name, I64), 1)
            case Axis(index=i):
                x = b.splat(s.axes[i], lanes)
                shift = s.shift if i == self.plan.axis else s.ahead if i == self.column_axis else 0
                return b.ir.add(x, b.iota(lanes, shift)) if lanes > 1 or shift else x
            case Reduced(stage=i):
                return s.reduced[i]
            case Load():
                return self._load(e, s, lanes, math)
            case Guarded():
                return self._guarded(e, s)
            case Bits(arg=a, source=source):
                return math.bits(self._widen(s.memo[id(a), False], lanes), source, e.dtype)
            case Table(arg=a):
                return self._looked_up(e, self._widen(s.memo[id(a), False], lanes))
            case Cast() if (q := quantizing(e)) is not None:
                return b.ir.trunc(self._quantized(e, q, s, lanes), math.type(e.dtype))
            case Cast(arg=a):
                x = self._widen(s.memo[id(a), False], lanes)
                return math.convert(x, e.dtype) if clamped(a, e.dtype) else math.cast(x, a.dtype, e.dtype)
            case Call(fn="div", args=(x, y)) if e.dtype.is_float and self._same_divisor(y, lanes):
                over = s.memo[id(y), False]  # one division for all; ≤ 1.5 ULP
                one = Functions(b, over.type.count, self.target)
                inverse = one.call("div", [one.const(1.0, y.dtype), over], [y.dtype, y.dtype])
                return math.call("mul", [self._widen(s.memo[id(x), False], lanes), self._widen(inverse, lanes)], [e.dtype] * 2)
            case Call(fn="div", args=(x, y)) if lanes > 1 and e.dtype is DType.F32 and self.target.fma and not self.varies(y, s):
                inverse = self.number(self.derived.inverse(y), lanes) if isinstance(y, Param) else None
                return math.divide(self._widen(s.memo[id(x), False], lanes), self._narrow(s.memo[id(y), False]), inverse)
            case Call(fn=fn, args=args):
                got = [self._widen(s.memo[id(a), False], lanes) for a in args]
                return math.call(fn, got, [a.dtype for a in args])
        raise CodegenError(f"{type(e).__name__} in a loop kernel")

    def _quantized(self, e: E, q: Quantizing, s: Scope, lanes: int) -> Any:
        math, x, by, over, zero = Functions(self.b, lanes, self.target), q.x, None, None, q.zero
        if isinstance(x, Call) and x.fn == "div" and lanes > 1 and self.target.fma and not self.varies(x.args[1], s) and _bounds(x.args[1]):
            x, by = x.args
            over = self._narrow(s.memo[id(by), False])
        if (by is None or isinstance(by, Num | Param)) and (ends := self.derived.ends_of(e, q, by)) is not None:
            inverse = self.number(self.derived.inverse(by), lanes) if isinstance(by, Param) else None
            least, greatest, bits = (self.number(n, lanes) for n in ends)
            return math.quantize_within(self._widen(s.memo[id(x), False], lanes), least, greatest, bits, over, inverse)
        offset = math.cast(self._widen(s.memo[id(zero), False], lanes), zero.dtype, DType.I32) if isinstance(zero, E) else zero
        return math.quantize(self._widen(s.memo[id(x), False], lanes), offset, q.low, q.high, over)

    def _looked_up(self, e: Table, x: Any) -> Any:
        if e.values not in self.tables:
            self.tables[e.values] = add_table(self.params, e)
        return looked_up(self.b, self.dims, self.tables[e.values], x)

    def _same_divisor(self, e: E, lanes: int) -> bool:
        """Whether all lanes, or all columns of a short row, are divided by it: what reductions gave."""
        return (lanes > 1 and id(e) in self.uniform_results) or (self.columns_of is not None and self._same_along_row(e))

    def _same_along_row(self, e: E) -> bool:
        """A result of the reduction of a short row, or what follows from it."""
        return self.plan.axis in self.depends[id(e)] and len(self.k.axes) not in self.depends[id(e)]

    def _guarded(self, e: Guarded, s: Scope) -> Any:
        """The body evaluated with a mask of the lanes that are inside."""
        b, axis = self.b, self.plan.axis
        mask: Any = None
        for constant, coefficients in e.facts:
            step = coefficients[axis]
            assert isinstance(step, int)
            value, extra = self.linear((constant, coefficients), s.axes, s.shift, s.ahead)
            first = b.ir.add(value, b.i64(extra))
            first = b.ir.trunc(b.smax(b.smin(first, b.i64(_FAR)), b.i64(-_FAR)), I32)
            lanes = ir.Constant(vec(I32, s.lanes), [step * lane for lane in range(s.lanes)])
            holds = b.ir.icmp_signed(">=", b.ir.add(b.splat(first, s.lanes), lanes), ir.Constant(lanes.type, None))
            mask = holds if mask is None else b.ir.and_(mask, holds)
        inner = mask if s.mask is None else b.ir.and_(mask, s.mask)
        x = self.value(e.body, Scope(s.axes, s.lanes, inner, s.reduced, {}, s.shift, s.ahead), True)
        if _plain_zero(e.other) and isinstance(e.body, Load) and self._stride(e.body.offset, s) == 1:
            return x  # a load with a mask gives zeros already
        return b.ir.select(mask, x, self._widen(self.value(e.other, s), s.lanes))


def _plain_zero(e: E) -> bool:
    """The number 0, but not −0."""
    return isinstance(e, Num) and not e.value and (not e.dtype.is_float or math.copysign(1.0, e.value) > 0)


def _bounds(step: E) -> bool:
    """Whether both ends of a range of 16 bits are finite in such steps."""
    return not isinstance(step, Num) or abs(float(step.value)) < 2.0**111
