"""RecurrentKernel → LLVM IR: per step h·R by the contraction product, then gates in vectors. State rests on the stack.

A work unit is a few batch rows over all steps, so R is read once per step for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from ...errors import CodegenError
from ...ir import Dim, DType, ceildiv
from ..kernel import RecurrentKernel
from .build import I32, I64, PTR, Builder, Params, storage, vec
from .emitted import PLACEHOLDER, Emitted, named
from .gates import Gates
from .product import Product
from .target import CpuTarget

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
_SCRATCH_BYTES = 1 << 19  # stack that a unit may take
X, R, BIAS, H0, C0, PEEPHOLE, LENGTHS, Y, H_N, C_N = range(10)


@dataclass(frozen=True, slots=True)
class RecurrentSchedule:
    """`rows` batch rows in a unit; the product takes `vectors` × `lanes` columns at a time."""

    lanes: int
    vectors: int
    rows: int


def schedule_recurrent(kernel: RecurrentKernel, target: CpuTarget) -> RecurrentSchedule:
    dtype = kernel.operands[X].dtype
    if dtype not in (DType.F32, DType.F64) or kernel.operands[R].dtype is not dtype:
        raise CodegenError(f"recurrent {kernel.cell} on {dtype.value}", expected="f32 or f64")
    lanes = target.vector_bits // 8 // dtype.itemsize
    wide = target.vector_bits >= 512 or not target.is_x86
    row_bytes = (2 * GATES[kernel.cell] + 3) * kernel.hidden * dtype.itemsize
    limit = max(1, min(6 if wide else 4, _SCRATCH_BYTES // row_bytes))
    if isinstance(kernel.batch, int):
        rows = -(-kernel.batch // max(1, -(-kernel.batch // limit)))
    else:
        rows = min(4, limit)
    vectors = 4 if wide else 8 if rows == 1 else 4 if rows == 2 else 2
    while kernel.panel % (lanes * vectors):
        vectors //= 2
    if not vectors:
        raise CodegenError(f"panel of {kernel.panel} columns", expected=f"a multiple of {lanes} lanes")
    return RecurrentSchedule(lanes, vectors, max(1, rows))


def emit_recurrent(kernel: RecurrentKernel, target: CpuTarget) -> Emitted:
    """Raises CodegenError for element types or activations that cannot be emitted."""
    if kernel.cell not in GATES:
        raise CodegenError(f"recurrent cell {kernel.cell!r}", expected="lstm, gru or rnn")
    return _Emitter(kernel, schedule_recurrent(kernel, target), target).emit()


class _Emitter:
    def __init__(self, kernel: RecurrentKernel, schedule: RecurrentSchedule, target: CpuTarget) -> None:
        self.kernel, self.schedule, self.target = kernel, schedule, target
        self.dtype = kernel.operands[X].dtype
        self.element = storage(self.dtype)
        self.product = Product(self.dtype, self.dtype, schedule.lanes, kernel.panel, 4, kernel.hidden % 4 == 0, target)
        self.params = Params()
        sizes: dict[str, Dim] = {"steps": kernel.steps, "batch": kernel.batch, "hidden": kernel.hidden,
                                 "y_step": kernel.y_step, "y_batch": kernel.y_batch}  # fmt: skip
        self.slots = {name: self.params.add(dim) for name, dim in sizes.items()}
        self.gate_count = GATES[kernel.cell]

    def emit(self) -> Emitted:
        k = self.kernel
        module = ir.Module(name="kernel")
        fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR, PTR, I64, I64]), PLACEHOLDER)
        b = self.b = Builder(fn)
        bufs, dims, begin, end = fn.args
        self.p = {name: b.param(dims, at) for name, at in self.slots.items()}
        self.buffers = [b.load(PTR, b.at(bufs, b.i64(x), PTR), 8) for x in range(len(k.operands))]
        # Row lengths of the scratch: whole panels, and room for vectors that read across a gate's end.
        panel = self.kernel.panel
        i = b.ir

        def padded(n: Any) -> Any:
            return i.and_(i.add(n, b.i64(2 * panel - 1)), b.i64(-panel))

        self.width = padded(i.mul(self.p["hidden"], b.i64(self.gate_count)))
        self.state_width = padded(self.p["hidden"])
        rows = b.i64(self.schedule.rows)
        self.sums, self.late = (b.alloca(self.element, i.mul(self.width, rows)) for _ in range(2))
        self.h, self.c, self.reset = (b.alloca(self.element, i.mul(self.state_width, rows)) for _ in range(3))
        self.gates = Gates(k, b, self.schedule.lanes, self.target)
        b.loop(begin, end, b.i64(1), [], self._unit)
        i.ret_void()
        text, symbol = named(str(module))
        units = ceildiv(k.batch, self.schedule.rows)
        flops = 2 * k.steps * k.batch * k.hidden * k.hidden * self.gate_count
        size: Dim = 0
        for o in k.operands:
            size = size + o.numel * o.dtype.itemsize
        cost = 2 * k.steps * self.schedule.rows * k.hidden * k.hidden * self.gate_count
        return Emitted(text, symbol, tuple(self.params.dims), units, cost, flops, size)

    # one unit ------------------------------------------------------------------------------------------------------
    def _unit(self, unit: Any, _: list[Any]) -> Sequence[Any]:
        b, p, i = self.b, self.p, self.b.ir
        first = i.mul(unit, b.i64(self.schedule.rows))
        last = i.sub(p["batch"], b.i64(1))

        def batch_row(r: Any) -> Any:
            """Rows past the batch repeat its last one: they compute and store the same again."""
            return b.smin(i.add(first, r), last)

        def start(r: Any) -> None:
            for source, state in ((H0, self.h), (C0, self.c)):
                if source == C0 and self.kernel.cell != "lstm":
                    continue
                at = b.at(self.buffers[source], i.mul(batch_row(r), p["hidden"]), self.element)
                to = b.at(state, i.mul(r, self.state_width), self.element)
                self._columns(self._copier(at, to, load=True))

        def finish(r: Any) -> None:
            for state, result in ((self.h, H_N), (self.c, C_N)):
                if result == C_N and self.kernel.cell != "lstm":
                    continue
                at = b.at(state, i.mul(r, self.state_width), self.element)
                to = b.at(self.buffers[result], i.mul(batch_row(r), p["hidden"]), self.element)
                self._columns(self._copier(at, to, load=False))

        self._rows(start)

        def step(s: Any, _: list[Any]) -> Sequence[Any]:
            t = i.sub(i.sub(p["steps"], b.i64(1)), s) if self.kernel.reverse else s
            self._step(t, batch_row, i.trunc(s, ir.IntType(1)))
            return ()

        b.loop(b.i64(0), p["steps"], b.i64(1), [], step)
        self._rows(finish)
        return ()

    def _step(self, t: Any, batch_row: Callable[[Any], Any], odd: Any) -> None:
        b, p, i, k = self.b, self.p, self.b.ir, self.kernel
        two_stage = k.cell == "gru" and not k.linear_before_reset
        border = i.mul(p["hidden"], b.i64(2))
        total = i.mul(p["hidden"], b.i64(self.gate_count))
        self._multiply(self.h, self.sums, b.i64(0), border if two_stage else total, odd)
        if two_stage:  # R of the candidate multiplies reset ∘ h, so reset comes first
            self._rows(lambda r: self._row(t, r, batch_row(r), "reset"))
            self._multiply(self.reset, self.late, border, total, odd)
        self._rows(lambda r: self._row(t, r, batch_row(r), "update"))

    def _row(self, t: Any, r: Any, m: Any, phase: str) -> None:
        """Gates of one batch row at time t; past its length the state stays and Y is zero."""
        b, p, i = self.b, self.p, self.b.ir
        gates_row = i.mul(i.add(i.mul(t, p["batch"]), m), i.mul(p["hidden"], b.i64(self.gate_count)))
        x = b.at(self.buffers[X], gates_row, self.element)
        sums = b.at(self.sums, i.mul(r, self.width), self.element)
        late = b.at(self.late, i.mul(r, self.width), self.element)
        h, c, reset = (b.at(s, i.mul(r, self.state_width), self.element) for s in (self.h, self.c, self.reset))
        y = b.at(self.buffers[Y], i.add(i.mul(t, p["y_step"]), i.mul(m, p["y_batch"])), self.element)

        def load(base: Any, gate: int, j: Any, mask: Any) -> Any:
            return self._get(b.at(base, i.mul(p["hidden"], b.i64(gate)), self.element), j, mask)

        def live(j: Any, mask: Any) -> None:
            g = self.gates
            n = self.gate_count
            xs = [load(x, q, j, mask) for q in range(n)]
            hs = [load(late if self._late(q) else sums, q, j, None) for q in range(n)]
            rb = [load(self.buffers[BIAS], q, j, mask) for q in range(n)]
            old_h = self._get(h, j, None)
            if phase == "reset":
                self._put(reset, j, g.reset(xs, hs, rb, old_h), None)
                return
            if self.kernel.cell == "lstm":
                peephole = [load(self.buffers[PEEPHOLE], q, j, mask) for q in range(3)]
                new_h, new_c = g.lstm(xs, hs, rb, self._get(c, j, None), peephole)
                self._put(c, j, new_c, None)
            else:
                new_h = g.gru(xs, hs, rb, old_h) if self.kernel.cell == "gru" else g.rnn(xs, hs, rb)
            self._put(h, j, new_h, None)
            self._put(y, j, new_h, mask)

        length = i.sext(b.load(I32, b.at(self.buffers[LENGTHS], m, I32), 4), I64)
        zero = ir.Constant(vec(self.element, self.schedule.lanes), None)
        with i.if_else(i.icmp_signed("<", t, length)) as (then, other):
            with then:
                self._columns(live)
            with other:
                if phase == "update":
                    self._columns(lambda j, mask: self._put(y, j, zero, mask))

    def _late(self, gate: int) -> bool:
        return self.kernel.cell == "gru" and not self.kernel.linear_before_reset and gate == 2

    def _multiply(self, state: Any, out: Any, begin: Any, end: Any, backward: Any) -> None:
        """out[r][j] = Σ_k state[r][k] · R[k][j] for all strips that overlap columns [begin, end).

        Steps alternate in direction: when R is larger than the cache, the strips read last are still there.
        """
        b, s, i, p = self.b, self.schedule, self.b.ir, self.p
        strip, panel = s.lanes * s.vectors, self.kernel.panel
        zero = ir.Constant(self.product.vector, None)
        starts = [b.at(state, i.mul(self.state_width, b.i64(r)), self.element) for r in range(s.rows)]

        first = i.mul(i.udiv(begin, b.i64(strip)), b.i64(strip))
        last = i.mul(i.udiv(i.sub(end, b.i64(1)), b.i64(strip)), b.i64(strip))

        def one(column: Any, _: list[Any]) -> Sequence[Any]:
            column = i.select(backward, i.sub(i.add(first, last), column), column)
            inner = i.and_(column, b.i64(panel - 1)) if panel & (panel - 1) == 0 else i.urem(column, b.i64(panel))
            offset = i.add(i.mul(i.sub(column, inner), p["hidden"]), inner)
            columns = b.at(self.buffers[R], offset, self.element)
            acc = self.product.accumulate(b, p["hidden"], starts, columns, [zero] * (s.rows * s.vectors), s.vectors)
            for x, value in enumerate(acc):
                r, v = divmod(x, s.vectors)
                at = i.add(i.add(i.mul(self.width, b.i64(r)), column), b.i64(v * s.lanes))
                i.store(value, b.at(out, at, self.element), align=self.dtype.itemsize)
            return ()

        b.loop(first, end, b.i64(strip), [], one)

    # loops and memory ------------------------------------------------------------------------------------------------
    def _rows(self, body: Callable[[Any], None]) -> None:
        b = self.b
        if self.schedule.rows == 1:
            body(b.i64(0))
            return

        def row(r: Any, _: list[Any]) -> Sequence[Any]:
            body(r)
            return ()

        b.loop(b.i64(0), b.i64(self.schedule.rows), b.i64(1), [], row)

    def _columns(self, body: Callable[[Any, Any], None]) -> None:
        """body(j, mask) for j = 0, lanes, … < hidden; the last, partial vector has a mask, the others None."""
        b, lanes, i, hidden = self.b, self.schedule.lanes, self.b.ir, self.p["hidden"]
        whole = i.sub(hidden, b.i64(self.kernel.hidden % lanes))
        if self.kernel.hidden >= lanes:

            def vector(j: Any, _: list[Any]) -> Sequence[Any]:
                body(j, None)
                return ()

            b.loop(b.i64(0), whole, b.i64(lanes), [], vector)
        if self.kernel.hidden % lanes:
            body(whole, b.below(b.i64(self.kernel.hidden % lanes), lanes))

    def _copier(self, source: Any, to: Any, load: bool) -> Callable[[Any, Any], None]:
        """Copies operands to the state (`load`), whose rows have room for whole vectors, or back."""

        def copy(j: Any, mask: Any) -> None:
            self._put(to, j, self._get(source, j, mask if load else None), None if load else mask)

        return copy

    def _get(self, base: Any, j: Any, mask: Any) -> Any:
        t = vec(self.element, self.schedule.lanes)
        at = self.b.at(base, j, self.element)
        return self.b.load(t, at, self.dtype.itemsize) if mask is None else self.b.masked_load(t, at, mask, self.dtype.itemsize)

    def _put(self, base: Any, j: Any, value: Any, mask: Any) -> None:
        at = self.b.at(base, j, self.element)
        if mask is None:
            self.b.ir.store(value, at, align=self.dtype.itemsize)
        else:
            self.b.masked_store(value, at, mask, self.dtype.itemsize)
