"""RecurrentKernel to CUDA: a block keeps the state of a few batch rows and runs all their steps."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import CodegenError
from ...ir import Dim, DType, ceildiv
from ..gates import Gates
from ..kernel import RecurrentKernel, bytes_of
from .emitted import PLACEHOLDER, Emitted, Launch, named
from .render import render
from .scalars import CudaScalars, Term, storage
from .writer import Params, operand_pointers

CELLS = ("lstm", "gru", "rnn")
SHARED_LIMIT = 48 << 10  # bytes of state that stay in shared memory; more lies in device memory, which caches hold
MANY_ROWS = 256  # batches from here on put several rows into a block, which then share what is read of R


@dataclass(frozen=True, slots=True)
class RecurrentSchedule:
    """`rows` batch rows in a block of `threads`, whose `slices` share k."""

    threads: int
    rows: int
    slices: int
    in_shared: bool

    def state(self, hidden: int, gates: int) -> int:
        """Elements of a block's state: h, c, reset, and the sums of each slice."""
        return self.rows * hidden * (3 + gates * self.slices)


@dataclass(frozen=True)
class RecurrentParameters:
    """recurrent.cu.j2"""

    name: str
    cell: str
    type: str
    threads: int
    rows: int
    slices: int
    in_shared: bool
    state: int
    hidden: int
    gates: int
    width: int
    together: str
    place: str
    reversed: tuple[bool, ...]
    two_stage: bool
    first_columns: str
    fma: str
    steps: str
    batch: str
    y_step: str
    y_direction: str
    y_batch: str
    parameters: list[str]
    prologue: list[str]
    reset_lines: list[str]
    reset_value: str
    gate_lines: list[str]
    new_h: str
    new_c: str


def schedule_recurrent(kernel: RecurrentKernel) -> RecurrentSchedule:
    """Threads for all columns, up to 1024; where columns are few, slices of k fill the block."""
    gates, hidden = kernel.gate_count, kernel.hidden
    columns = gates * hidden
    threads = 1024 if columns > 512 else 512
    slices = 1
    while slices < 8 and 2 * slices * columns <= threads and hidden >= 8 * slices:
        slices *= 2
    rows = 4 if isinstance(kernel.batch, int) and kernel.batch >= MANY_ROWS else 1
    itemsize = kernel.operands[0].dtype.itemsize
    plan = RecurrentSchedule(threads, rows, slices, True)
    fits = plan.state(hidden, gates) * itemsize <= SHARED_LIMIT
    return plan if fits else RecurrentSchedule(threads, rows, 1, False)


class _Statements:
    """Values of gates as named statements."""

    def __init__(self, dtype: DType) -> None:
        self.dtype, self.ops, self.lines, self.count = dtype, CudaScalars(), list[str](), 0

    def call(self, fn: str, *args: Term) -> Term:
        out = self.ops.call(fn, *args)
        self.count += 1
        name = f"g{self.count}"
        self.lines.append(f"const {'bool' if out.dtype is DType.BOOL else storage(out.dtype)} {name} = {out.text};")
        return Term(name, out.dtype)

    def const(self, value: float) -> Term:
        return self.ops.const(value, self.dtype)

    def given(self, text: str) -> Term:
        return Term(text, self.dtype)


@dataclass(frozen=True)
class _Cell:
    """What an element of the state becomes: statements, and the terms that they leave the reset gate and the next h and c in."""

    reset_lines: list[str]
    reset: Term
    lines: list[str]
    h: Term
    c: Term


def _cell(kernel: RecurrentKernel, dtype: DType) -> _Cell:
    out, n = _Statements(dtype), kernel.gate_count
    gates = Gates(kernel, out.call, out.const)
    xs = {q: out.given(f"x[{q} * H + j]") for q in range(n)}
    hs = {q: out.given(f"total(r, {q} * H + j)") for q in range(n)}
    rb = {q: out.given(f"bias[{q} * H + j]") for q in range(n)}
    old_h, old_c = out.given("h[i]"), out.given("c[i]")
    reset_lines: list[str] = []
    reset, c = Term("0", dtype), Term("0", dtype)
    if len(kernel.gate_groups) > 1:
        reset = gates.reset(xs, hs, rb, old_h)
        reset_lines, out.lines = out.lines, []
    match kernel.cell:
        case "lstm":
            h, c = gates.lstm(xs, hs, rb, old_c, [out.given(f"peephole[{q} * H + j]") for q in range(3)])
        case "gru":
            h = gates.gru(xs, hs, rb, old_h)
        case _:
            h = gates.rnn(xs, hs, rb)
    return _Cell(reset_lines, reset, out.lines, h, c)


def emit_recurrent(kernel: RecurrentKernel) -> Emitted:
    """Raises CodegenError for cells and element types that cannot be emitted."""
    dtype = kernel.operands[0].dtype
    if kernel.cell not in CELLS:
        raise CodegenError(f"recurrent cell {kernel.cell!r}", expected="lstm, gru or rnn")
    if dtype not in (DType.F32, DType.F64) or kernel.operands[1].dtype is not dtype:
        raise CodegenError(f"recurrent {kernel.cell} on {dtype.value}", expected="f32 or f64")
    plan, params, n, hidden = schedule_recurrent(kernel), Params(), kernel.gate_count, kernel.hidden
    cell, t, name = _cell(kernel, dtype), storage(dtype), params.name
    pointers = operand_pointers(kernel.operands)
    state = plan.state(hidden, n)
    if not plan.in_shared:
        pointers.append(f"{t}* __restrict__ space")
    two_stage = len(kernel.gate_groups) > 1
    together, place = _places(kernel)
    values = RecurrentParameters(
        name=PLACEHOLDER,
        cell=kernel.cell,
        type=t,
        threads=plan.threads,
        rows=plan.rows,
        slices=plan.slices,
        in_shared=plan.in_shared,
        state=state,
        hidden=hidden,
        gates=n,
        width=kernel.block,
        together=together,
        place=place,
        reversed=kernel.directions,
        two_stage=two_stage,
        first_columns="2 * H" if two_stage else "COLUMNS",
        fma="fmaf" if dtype is DType.F32 else "fma",
        steps=name(kernel.steps),
        batch=name(kernel.batch),
        y_step=name(kernel.y_step),
        y_direction=name(kernel.y_direction),
        y_batch=name(kernel.y_batch),
        parameters=pointers + params.signature(),
        prologue=params.prologue(),
        reset_lines=cell.reset_lines,
        reset_value=cell.reset.text,
        gate_lines=cell.lines,
        new_h=cell.h.text,
        new_c=cell.c.text,
    )
    source, symbol = named(render("recurrent.cu.j2", values))
    blocks = ceildiv(kernel.batch, plan.rows) * len(kernel.directions)
    spaces: tuple[Dim, ...] = () if plan.in_shared else (blocks * state * dtype.itemsize,)
    operands = tuple(range(len(kernel.operands) + len(spaces)))
    launch = Launch(source, symbol, operands, tuple(params.dims), blocks, plan.threads, state * dtype.itemsize if plan.in_shared else 0)
    flops = 2 * kernel.steps * kernel.batch * hidden * hidden * n * len(kernel.directions)
    return Emitted((launch,), flops, bytes_of(kernel.operands), spaces)


def _places(kernel: RecurrentKernel) -> tuple[str, str]:
    """Where the columns of `gate` lie in a block of R: how many gates are side by side, and where its first row starts,
    in columns of a block."""
    together, place, before = [], [], 0
    for group in kernel.gate_groups:
        together += [str(len(group))] * len(group)
        place += [f"{before} * H + {i}" for i in range(len(group))]
        before += len(group)

    def choose(values: list[str]) -> str:
        *others, last = values
        return "".join(f"gate == {q} ? {v} : " for q, v in enumerate(others)) + last

    return choose(together), choose(place)
