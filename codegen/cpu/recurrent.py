"""RecurrentKernel → LLVM IR: a team of threads, each with its share of the hidden columns, which meet after every time step.

A unit is a few vectors of hidden columns (all their gates), for a few batch rows of one direction: its product h·R stays in
registers until the gates take it. A thread does the same units in every step, so that its share of R stays in its cache.
The state is kept twice, for odd and even steps: a step reads all of one and writes its columns of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...errors import CodegenError
from ...ir import Dim, DType, ceildiv, dim_max, floordiv
from ..gates import Gates
from ..kernel import RecurrentKernel, bytes_of
from . import llvm_ir as ir
from .build import I8, I32, I64, PTR, Builder, Params, storage, vec
from .emitted import PLACEHOLDER, Emitted, named
from .math.functions import Functions
from .recurrent_schedule import NO_HINTS, RecurrentHints, RecurrentSchedule, schedule_recurrent
from .target import CpuTarget

_UNROLL = 4
_LINE = 64  # bytes
_NEAR_BYTES = 1 << 18  # of the inputs of all gates and steps, which then wait in the second-level cache
X, R, BIAS, H0, C0, PEEPHOLE, LENGTHS, Y, H_N, C_N, STATE = range(11)
_BARRIER = ir.FunctionType(ir.VoidType(), [I64])


def emit_recurrent(kernel: RecurrentKernel, target: CpuTarget, hints: RecurrentHints = NO_HINTS) -> Emitted:
    """Raises CodegenError for element types or activations that cannot be emitted, ScheduleError for hints that do not suit."""
    return _Emitter(kernel, schedule_recurrent(kernel, target, hints), target).emit()


@dataclass(frozen=True, slots=True)
class _Unit:
    """Direction, first hidden column, and batch rows (each clamped to the last one); all but their number at run time.

    `follows`: whether other columns come next (i1), how far from these (I64), and this unit's number among those of these columns.
    """

    direction: Any
    column: Any
    rows: list[Any]
    follows: tuple[Any, Any, Any]


class _Emitter:
    def __init__(self, kernel: RecurrentKernel, schedule: RecurrentSchedule, target: CpuTarget) -> None:
        self.kernel, self.schedule, self.target = kernel, schedule, target
        self.dtype = kernel.operands[X].dtype
        self.element = storage(self.dtype)
        self.vector = vec(self.element, schedule.lanes)
        self.params = Params()
        sizes: dict[str, Dim] = {
            "steps": kernel.steps, "batch": kernel.batch, "hidden": kernel.hidden, "width": kernel.width,
            "y_step": kernel.y_step, "y_batch": kernel.y_batch, "y_direction": kernel.y_direction,
        }  # fmt: skip
        self.slots = {name: self.params.add(dim) for name, dim in sizes.items()}
        self.gate_count = kernel.gate_count
        self.masked = kernel.hidden % kernel.block != 0
        self.span = schedule.vectors * schedule.lanes  # hidden columns of a unit
        inputs = kernel.operands[X].numel * self.dtype.itemsize
        self.far = not isinstance(inputs, int) or inputs > _NEAR_BYTES
        self.direction: Any = None  # the present one; the first of those that run at once

    def emit(self) -> Emitted:
        k, s = self.kernel, self.schedule
        module = ir.Module()
        fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR, PTR, I64, I64, PTR]), PLACEHOLDER)
        b = self.b = Builder(fn)
        i = b.ir
        bufs, dims, part, parts, barrier = fn.args
        self.p = p = b.params(dims, self.slots)
        self.buffers = b.operands(bufs, len(k.operands))
        self.sums = b.alloca(self.vector, b.i64(self.gate_count * s.rows * s.vectors))
        math = Functions(b, s.lanes, self.target)
        logistic = math.logistic if self.dtype is DType.F32 else None
        self.gates = Gates(k, lambda fn, *x: math.call(fn, x, [self.dtype] * len(x)), lambda v: math.const(v, self.dtype), logistic)
        self.strips = i.udiv(i.add(p["width"], b.i64(self.span - 1)), b.i64(self.span))
        whole = i.udiv(p["batch"], b.i64(s.rows))
        self.groups = (i.add(whole, i.urem(p["batch"], b.i64(s.rows))) if s.single
                       else i.udiv(i.add(p["batch"], b.i64(s.rows - 1)), b.i64(s.rows)))  # fmt: skip
        self.whole = whole
        at_once = len(k.directions) if s.together else 1
        # One thread gains nothing from both directions at once, and keeps R of one of them nearer.
        several = i.select(i.icmp_signed("==", parts, b.i64(1)), b.i64(1), b.i64(at_once))
        self.few = i.icmp_unsigned("<", parts, b.i64(s.enough)) if s.share else None
        units = i.mul(i.mul(self.groups, self.strips), several)
        self.begin, self.end = (i.udiv(i.mul(units, q), parts) for q in (part, i.add(part, b.i64(1))))

        def step(s: Any, _: list[Any]) -> Sequence[Any]:
            odd = i.and_(s, b.i64(1))
            for stage in range(len(k.gate_groups)):
                self._units(odd, partial(self._step, s=s, odd=odd, stage=stage))
                i.call_through(_BARRIER, barrier, [parts])
            return ()

        def sequence(d: Any, _: list[Any]) -> Sequence[Any]:
            self.direction = d
            self._units(b.i64(0), partial(self._states, copy=self._start))
            i.call_through(_BARRIER, barrier, [parts])
            b.loop(b.i64(0), p["steps"], b.i64(1), [], step)
            self._units(b.i64(0), partial(self._states, copy=self._finish))
            return ()

        b.loop(b.i64(0), i.udiv(b.i64(len(k.directions)), several), b.i64(1), [], sequence)
        i.ret_void()
        text, symbol = named(str(module))
        strips, rows = ceildiv(k.width, self.span), s.rows
        groups = floordiv(k.batch, rows) + k.batch % rows if s.single else ceildiv(k.batch, rows)
        mean_rows = dim_max(1, floordiv(k.batch, dim_max(1, groups))) if s.single else rows
        one = 2 * k.hidden * self.gate_count
        return Emitted(text, symbol, tuple(self.params.dims), groups * strips * at_once, one * mean_rows * self.span,
                       k.steps * k.batch * one * k.hidden * len(k.directions), bytes_of(k.operands),
                       k.steps * len(k.gate_groups) * floordiv(len(k.directions), at_once))  # fmt: skip

    # units -----------------------------------------------------------------------------------------------------------
    def _units(self, backward: Any, body: Callable[[_Unit], None]) -> None:
        """This part's units. Steps alternate in direction: of what is larger than the cache, the part read last is there."""
        b, i, s, p = self.b, self.b.ir, self.schedule, self.p
        odd = i.trunc(backward, ir.IntType(1))

        def one(x: Any, _: list[Any]) -> Sequence[Any]:
            x = i.select(odd, i.sub(i.add(self.begin, self.end), i.add(x, b.i64(1))), x)
            outer, inner = (self.groups, self.strips) if s.by_rows else (self.strips, self.groups)
            rest, low = i.udiv(x, inner), i.urem(x, inner)
            group, strip = (i.urem(rest, outer), low) if s.by_rows else (low, i.urem(rest, outer))
            direction = i.add(self.direction, i.udiv(rest, outer))
            column = b.smin(i.mul(strip, b.i64(self.span)), i.sub(p["width"], b.i64(self.span)))
            last = i.sub(p["batch"], b.i64(1))
            first = i.mul(group, b.i64(s.rows))
            onward = i.select(odd, b.i64(-1), b.i64(1))
            turn = i.select(odd, i.sub(i.sub(self.groups, b.i64(1)), group), group)
            follows = i.icmp_unsigned("<", i.add(strip, onward), self.strips), onward, turn

            def rows(first: Any, count: int) -> _Unit:
                return _Unit(direction, column, [b.smin(i.add(first, b.i64(r)), last) for r in range(count)], follows)

            if not s.single:
                body(rows(first, s.rows))
                return ()
            with i.if_else(i.icmp_signed("<", group, self.whole)) as (several, alone):
                with several:
                    body(rows(first, s.rows))
                with alone:
                    over = i.sub(group, self.whole)
                    body(rows(i.add(i.mul(self.whole, b.i64(s.rows)), over), 1))
            return ()

        b.loop(self.begin, self.end, b.i64(1), [], one)

    def _each(self, unit: _Unit, body: Callable[[Any, Any, Any, Any], None]) -> None:
        """body(batch row, column, mask, n) for the n-th vector of the unit; the mask leaves columns past `hidden` out."""
        b, i, vectors = self.b, self.b.ir, self.schedule.vectors
        count = vectors * len(unit.rows)
        table = b.alloca_entry(I64, len(unit.rows))
        for r, row in enumerate(unit.rows):
            i.store(row, b.at(table, b.i64(r), I64))

        def one(n: Any, _: list[Any]) -> Sequence[Any]:
            row = b.load(I64, b.at(table, i.udiv(n, b.i64(vectors)), I64), 8)
            j = i.add(unit.column, i.mul(i.urem(n, b.i64(vectors)), b.i64(self.schedule.lanes)))
            mask = b.below(i.sub(self.p["hidden"], j), self.schedule.lanes) if self.masked else None
            body(row, j, mask, n)
            return ()

        b.loop(b.i64(0), b.i64(count), b.i64(1), [], one)

    # state: per region [direction][batch][width]; two regions each of h and c (LSTM), or reset∘h and sums of z (GRU)
    def _region(self, number: Any, direction: Any, row: Any) -> Any:
        i, p = self.b.ir, self.p
        plane = i.add(i.mul(number, self.b.i64(len(self.kernel.directions))), direction)
        return self.b.at(self.buffers[STATE], i.mul(i.add(i.mul(plane, p["batch"]), row), p["width"]), self.element)

    def _states(self, unit: _Unit, copy: Callable[[int, Any, Any, Any, Any, Any], None]) -> None:
        p, i = self.p, self.b.ir

        def one(row: Any, j: Any, mask: Any, _: Any) -> None:
            outer = i.mul(i.add(i.mul(unit.direction, p["batch"]), row), p["hidden"])
            for which in range(2 if self.kernel.cell == "lstm" else 1):
                copy(which, outer, unit.direction, row, j, mask)

        self._each(unit, one)

    def _start(self, which: int, outer: Any, direction: Any, row: Any, j: Any, mask: Any) -> None:
        source = self.b.at(self.buffers[(H0, C0)[which]], outer, self.element)
        self._put(self._region(self.b.i64(2 * which), direction, row), j, self._get(source, j, mask), None)

    def _finish(self, which: int, outer: Any, direction: Any, row: Any, j: Any, mask: Any) -> None:
        i = self.b.ir
        number = i.add(i.and_(self.p["steps"], self.b.i64(1)), self.b.i64(2 * which))
        to = self.b.at(self.buffers[(H_N, C_N)[which]], outer, self.element)
        self._put(to, j, self._get(self._region(number, direction, row), j, None), mask)

    # one step ----------------------------------------------------------------------------------------------------------
    def _step(self, unit: _Unit, s: Any, odd: Any, stage: int) -> None:
        b, i, k = self.b, self.b.ir, self.kernel
        group = k.gate_groups[stage]
        source = odd if stage == 0 else b.i64(2)
        if self.far:
            self._expect(unit, s, stage)
        acc = self._product(unit, group, [self._region(source, unit.direction, r) for r in unit.rows])
        count = len(unit.rows) * self.schedule.vectors
        for n, value in enumerate(acc):  # [gate][row][vector], by gate where the gates look for them
            i.store(value, b.at(self.sums, b.i64(group[n // count] * count + n % count), self.vector), align=64)
        t = self._time(unit.direction, s)

        def one(row: Any, j: Any, mask: Any, n: Any) -> None:
            hs = {q: b.load(self.vector, b.at(self.sums, i.add(n, b.i64(q * count)), self.vector), 64) for q in group}
            length = i.sext(b.load(I32, b.at(self.buffers[LENGTHS], row, I32), 4), I64)
            with i.if_else(i.icmp_signed("<", t, length)) as (live, over):
                with live:
                    self._gates(unit.direction, t, row, j, mask, odd, hs, stage)
                with over:
                    if stage == len(k.gate_groups) - 1:
                        self._stay(unit.direction, t, row, j, mask, odd)

        self._each(unit, one)

    def _expect(self, unit: _Unit, s: Any, stage: int) -> None:
        """Ask for what gates read and write while the product runs: a vector of each row, for which the processor asks nothing ahead."""
        b, i, p, k = self.b, self.b.ir, self.p, self.kernel
        t = self._time(unit.direction, s)
        for row in unit.rows:
            at = i.add(i.mul(i.add(i.mul(t, p["batch"]), row), b.i64(len(k.directions))), unit.direction)
            for v in range(self.schedule.vectors):
                j = i.add(unit.column, b.i64(v * self.schedule.lanes))
                for q in self._needed(stage):
                    start = i.mul(i.add(i.mul(at, b.i64(self.gate_count)), b.i64(q)), p["hidden"])
                    b.prefetch(b.at(self.buffers[X], i.add(start, j), self.element))
                if stage == len(k.gate_groups) - 1:
                    b.prefetch(b.at(self._result(unit.direction, t, row), j, self.element), write=True)

    def _needed(self, stage: int) -> Sequence[int]:
        """Gates that the inputs of a stage are read of."""
        return range(self.gate_count) if len(self.kernel.gate_groups) == 1 else (1,) if stage == 0 else (0, 2)

    def _time(self, direction: Any, s: Any) -> Any:
        i, b = self.b.ir, self.b
        backward = i.sub(i.sub(self.p["steps"], b.i64(1)), s)
        match self.kernel.directions:
            case (False,):
                return s
            case (True,):
                return backward
            case (first, _):
                second = i.icmp_unsigned("!=", direction, b.i64(0))
                return i.select(second, s, backward) if first else i.select(second, backward, s)
        raise CodegenError(f"{len(self.kernel.directions)} directions", expected="1 or 2")

    def _gates(self, direction: Any, t: Any, row: Any, j: Any, mask: Any, odd: Any, hs: dict[int, Any], stage: int) -> None:
        b, p, i, k = self.b, self.p, self.b.ir, self.kernel
        at = i.add(i.mul(i.add(i.mul(t, p["batch"]), row), b.i64(len(k.directions))), direction)

        def read(operand: int, outer: Any, gates: int, gate: int) -> Any:
            start = i.mul(i.add(i.mul(outer, b.i64(gates)), b.i64(gate)), p["hidden"])
            return self._get(b.at(self.buffers[operand], start, self.element), j, mask)

        two_stage = len(k.gate_groups) > 1
        if two_stage and stage == 1:
            hs = {**hs, 0: self._get(self._region(b.i64(3), direction, row), j, None)}
        xs, rb = ({q: read(o, outer, self.gate_count, q) for q in self._needed(stage)} for o, outer in ((X, at), (BIAS, direction)))
        old = self._get(self._region(odd, direction, row), j, None)
        if two_stage and stage == 0:
            self._put(self._region(b.i64(2), direction, row), j, self.gates.reset(xs, hs, rb, old), None)
            self._put(self._region(b.i64(3), direction, row), j, hs[0], None)
            return
        even = i.xor(odd, b.i64(1))
        if k.cell == "lstm":
            c = self._get(self._region(i.add(odd, b.i64(2)), direction, row), j, None)
            new, c = self.gates.lstm(xs, hs, rb, c, [read(PEEPHOLE, direction, 3, q) for q in range(3)])
            self._put(self._region(i.add(even, b.i64(2)), direction, row), j, c, None)
        else:
            new = self.gates.gru(xs, hs, rb, old) if k.cell == "gru" else self.gates.rnn(xs, hs, rb)
        self._put(self._region(even, direction, row), j, new, None)
        self._put(self._result(direction, t, row), j, new, mask)

    def _stay(self, direction: Any, t: Any, row: Any, j: Any, mask: Any, odd: Any) -> None:
        """Past the length of a row its state stays, and Y is zero."""
        b, i = self.b, self.b.ir
        even = i.xor(odd, b.i64(1))
        for first in (0, 2) if self.kernel.cell == "lstm" else (0,):
            old, new = (self._region(i.add(x, b.i64(first)), direction, row) for x in (odd, even))
            self._put(new, j, self._get(old, j, None), None)
        self._put(self._result(direction, t, row), j, ir.Constant(self.vector, None), mask)

    def _result(self, direction: Any, t: Any, row: Any) -> Any:
        i, p = self.b.ir, self.p
        at = i.add(i.mul(t, p["y_step"]), i.add(i.mul(row, p["y_batch"]), i.mul(direction, p["y_direction"])))
        return self.b.at(self.buffers[Y], at, self.element)

    def _product(self, unit: _Unit, group: tuple[int, ...], sources: list[Any]) -> list[Any]:
        """Σ_k source[row][k] · R[k][gate][column], as [gate][row][vector]."""
        b, i, p, k, s = self.b, self.b.ir, self.p, self.kernel, self.schedule
        blocks = i.mul(unit.direction, i.udiv(p["width"], b.i64(k.block)))
        size = i.mul(p["hidden"], b.i64(self.gate_count * k.block))
        inside = i.mul(p["hidden"], b.i64(group[0] * k.block))
        pitch = len(group) * k.block
        starts = []
        for v in range(s.vectors):
            column = i.add(unit.column, b.i64(v * s.lanes))
            block = i.add(blocks, i.udiv(column, b.i64(k.block)))
            at = i.add(i.add(i.mul(block, size), inside), i.urem(column, b.i64(k.block)))
            starts.append(b.at(self.buffers[R], at, self.element))

        ahead = (
            self._ahead(unit, starts, i.mul(size, b.i64(s.vectors)), i.mul(p["hidden"], b.i64(pitch * self.dtype.itemsize)))
            if s.share
            else None
        )

        def rows(at: Any, acc: list[Any], count: int) -> list[Any]:
            acc = list(acc)
            if ahead is not None and count > 1:
                ahead(at, pitch * self.dtype.itemsize, count)
            here = [b.at(start, i.mul(at, b.i64(pitch)), self.element) for start in starts]
            for u in range(count):
                xs = [b.splat(self._scalar(source, i.add(at, b.i64(u))), s.lanes) for source in sources]
                for q in range(len(group)):
                    weights = [self._get(h, b.i64(u * pitch + q * k.block), None) for h in here]
                    for r, x in enumerate(xs):
                        for v, w in enumerate(weights):
                            n = (q * len(sources) + r) * s.vectors + v
                            acc[n] = b.fma(x, w, acc[n], self.target.fma)
            return acc

        acc = [ir.Constant(self.vector, None)] * (len(group) * len(sources) * s.vectors)
        main = i.and_(p["hidden"], b.i64(-_UNROLL))
        acc = b.loop(b.i64(0), main, b.i64(_UNROLL), acc, lambda at, acc: rows(at, acc, _UNROLL))
        if k.hidden % _UNROLL:
            acc = b.loop(main, p["hidden"], b.i64(1), acc, lambda at, acc: rows(at, acc, 1))
        return acc

    def _ahead(self, unit: _Unit, starts: Sequence[Any], apart: Any, size: Any) -> Callable[[Any, int, int], None]:
        """Of R for the columns that come next, `apart` elements from `starts`, each unit of these columns asks for its part of `size`
        bytes: else the first of them would wait for memory, and the others leave it idle."""
        b, i, share = self.b, self.b.ir, self.schedule.share
        more, onward, turn = unit.follows
        early = i.and_(i.and_(self.few, more), i.icmp_unsigned("<", turn, b.i64(1 << share)))
        part = i.mul(turn, i.lshr(size, b.i64(share)))
        bases = [b.at(b.at(start, i.mul(onward, apart), self.element), part, I8) for start in starts]

        def ask(at: Any, pitch: int, count: int) -> None:
            with i.if_then(early):
                here = i.lshr(i.mul(at, b.i64(pitch)), b.i64(share))
                for base in bases:
                    for line in range(0, max(_LINE, count * pitch >> share), _LINE):
                        b.prefetch(b.at(base, i.add(here, b.i64(line)), I8), 2)

        return ask

    # memory ------------------------------------------------------------------------------------------------------------
    def _scalar(self, base: Any, at: Any) -> Any:
        return self.b.load(self.element, self.b.at(base, at, self.element), self.dtype.itemsize)

    def _get(self, base: Any, j: Any, mask: Any) -> Any:
        at = self.b.at(base, j, self.element)
        if mask is None:
            return self.b.load(self.vector, at, self.dtype.itemsize)
        return self.b.masked_load(self.vector, at, mask, self.dtype.itemsize)

    def _put(self, base: Any, j: Any, value: Any, mask: Any) -> None:
        at = self.b.at(base, j, self.element)
        if mask is None:
            self.b.ir.store(value, at, align=self.dtype.itemsize)
        else:
            self.b.masked_store(value, at, mask, self.dtype.itemsize)
