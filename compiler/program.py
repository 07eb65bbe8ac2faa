"""The program of a module: what the steps of a plan become in the words that `runtime/native.ll` interprets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..codegen.cpu.emitted import Emitted
from ..codegen.plan import Append, Bind, Branch, Carry, Expect, HostOperand, HostStep, Plan, PlanStep, Repeat, Step
from ..errors import CodegenError
from ..ir import Dim, DType, Limit, dim_max, floordiv
from ..runtime.instructions import (
    CALL,
    CLEAR,
    EXPECT,
    INCREMENT,
    JUMP,
    JUMP_IF_FALSE,
    JUMP_IF_GE,
    REQUIRE,
    TAKING_CALL,
    TEAM_CALL,
    YIELD,
)
from .slots import Slots

CHUNK_COST = 20_000  # scalar operations that pay for handing a chunk to another thread (about a microsecond)
ROUND_COST = 60_000  # scalar operations between two barriers that pay for meeting there
TEAM_COST = 500_000  # and all in all, for waiting until a team has come together


@dataclass(frozen=True, slots=True)
class Call:
    """One instruction that runs `symbol` on buffers of the plan (None: those of the step) with sizes `dims`.

    On CPUs `units` are shared out in chunks of at least `grain`, one a thread if that is negative; on GPUs they are the blocks
    of a grid, and `grain` has a bit for each architecture of the target, its PTX last, whose devices make the call.
    """

    symbol: str
    buffers: tuple[int, ...] | None
    dims: tuple[Dim, ...]
    units: Dim
    grain: Dim
    op: int = CALL


@dataclass(frozen=True, slots=True)
class Code:
    """What a step becomes: its calls in order, and its cost. `parts`: symbols that these call."""

    calls: tuple[Call, ...]
    flops: Dim
    bytes: Dim
    parts: tuple[str, ...] = ()


def cpu_code(e: Emitted) -> Code:
    """The call of a CPU kernel, cut so that threads are worth it."""
    op, grain = CALL, dim_max(_units(CHUNK_COST, e.unit_cost), e.least)
    if e.takes:
        op = TAKING_CALL
    elif e.shared:
        grain = -grain
    if e.rounds is not None:
        op = TEAM_CALL
        grain = dim_max(_units(ROUND_COST, e.unit_cost), _units(TEAM_COST, e.unit_cost * e.rounds))
    return Code((Call(e.symbol, None, e.dims, e.units, grain, op),), e.flops, e.bytes, tuple(symbol for _, symbol in e.parts))


def _units(cost: int, of_one: Dim) -> Dim:
    """Units that cost that much together, 1 at least."""
    return dim_max(1, floordiv(cost, dim_max(1, of_one)))


@dataclass(frozen=True)
class _Patch:
    """Jumps (positions of their target words) that lead here."""

    words: list[int]


@dataclass(frozen=True)
class _Else:
    """Between the sides of a branch: jump to its `end`; the condition's jump (target word `skip`) leads behind that."""

    skip: int
    end: _Patch


@dataclass(frozen=True)
class _End:
    """The end of a loop body."""

    start: int
    counter: int


@dataclass
class Linker:
    """Writes the program (`words`) and what the manifest says of it: `steps` (for profiles), `functions` (numbers of symbols),
    `handlers` of what Python does, `expected` (nodes whose indices or sizes are compared), and `live`: the first and the last position at
    which each arena buffer holds a value.
    """

    plan: Plan
    code: Mapping[int, Code]
    roots: list[tuple[int, Dim]]
    dims: Slots
    functions: dict[str, int]  # numbers by symbol, grown as calls are met

    def __post_init__(self) -> None:
        self.words: list[int] = []
        self.steps: list[dict[str, Any]] = []
        self.live: dict[int, tuple[int, int]] = {}
        self._loops: list[tuple[int, int]] = []  # (start, end) words
        self.handlers: list[Bind | Carry | Append | HostStep] = []
        self.expected: list[tuple[str, ...]] = []  # where the nodes are that checks are for
        self.bound: set[str] = set()  # symbols that handlers bind

    def emit(self, steps: tuple[PlanStep, ...]) -> None:
        """All steps, without recursion: the stack holds steps and what closes a branch or loop."""
        touched: list[tuple[int, int]] = []  # (word, root buffer)
        stack: list[Any] = list(reversed(steps))
        while stack:
            item = stack.pop()
            match item:
                case Step():
                    touched += [(word, self.roots[b][0]) for word, b in self._calls(item)]
                case Branch():
                    touched.append((len(self.words), self.roots[item.cond][0]))
                    at = len(self.words)
                    self.words += [JUMP_IF_FALSE, item.cond, -1]
                    if item.orelse:
                        end = _Patch([])
                        stack += [end, *reversed(item.orelse), _Else(at + 2, end)]
                    else:
                        stack.append(_Patch([at + 2]))
                    stack += reversed(item.then)
                case _Else():
                    self.words += [JUMP, -1]
                    item.end.words.append(len(self.words) - 1)
                    self.words[item.skip] = len(self.words)
                case _Patch():
                    for word in item.words:
                        self.words[word] = len(self.words)
                case Repeat():
                    self.words += [CLEAR, item.counter]
                    start = len(self.words)
                    exits = []
                    if item.trips >= 0:
                        self.words += [JUMP_IF_GE, item.counter, item.trips, -1]
                        exits.append(len(self.words) - 1)
                    if item.cond >= 0:
                        self.words += [JUMP_IF_FALSE, item.cond, -1]
                        exits.append(len(self.words) - 1)
                    touched += [(start, self.roots[b][0]) for b in (item.counter, item.trips, item.cond) if b >= 0]
                    stack += [_Patch(exits), _End(start, item.counter), *reversed(item.body)]
                case Bind() | Carry() | Append() | HostStep():
                    touched += [(len(self.words), self.roots[b][0]) for b in self._yield(item)]
                case Expect():
                    touched.append((len(self.words), self.roots[item.buffer][0]))
                    limits = self.dims.slot(item.lo), self.dims.slot(item.hi)
                    self.words += [EXPECT, self._expectation(item.loc), item.buffer, item.k, *limits]
                case Limit():
                    self.words += [REQUIRE, self._expectation((item.loc,)), *map(self.dims.slot, item.dims)]
                case _End():
                    self._loops.append((item.start, len(self.words)))
                    self.words += [INCREMENT, item.counter, JUMP, item.start]
        self._ranges(touched)

    def _expectation(self, loc: tuple[str, ...]) -> int:
        """The number of a node that needs something checked."""
        if not self.expected or self.expected[-1] != loc:
            self.expected.append(loc)
        return len(self.expected) - 1

    def _calls(self, step: Step) -> list[tuple[int, int]]:
        """The instructions of a step; returns (word, buffer) for each buffer that one touches."""
        code = self.code[id(step)]
        if len(step.buffers) != len(step.kernel.operands):
            raise CodegenError(f"{len(step.buffers)} buffers for {len(step.kernel.operands)} operands", loc=", ".join(step.loc))
        for b, operand in zip(step.buffers, step.kernel.operands, strict=True):
            kind = self.plan.buffers[self.roots[b][0]].kind
            if operand.written and kind in ("const", "input"):
                raise CodegenError(f"a kernel writes the {kind} in buffer {b}", loc=", ".join(step.loc))
        self.steps.append({"word": len(self.words), "symbol": code.calls[0].symbol, "loc": list(step.loc),
                           "flops": self.dims.slot(code.flops), "bytes": self.dims.slot(code.bytes)})  # fmt: skip
        touched = []
        for call in code.calls:
            fn = self.functions.setdefault(call.symbol, len(self.functions))
            buffers = step.buffers if call.buffers is None else call.buffers
            touched += [(len(self.words), b) for b in buffers]
            slots = [self.dims.slot(d) for d in call.dims]
            self.words += [call.op, fn, len(buffers), len(slots), self.dims.slot(call.units), self.dims.slot(call.grain)]
            self.words += [*buffers, *slots]
        return touched

    def _yield(self, item: Bind | Carry | Append | HostStep) -> list[int]:
        """The instruction; returns the buffers that its handler touches."""
        self.words += [YIELD, len(self.handlers)]
        self.handlers.append(item)
        if isinstance(item, (Carry, Append)):
            return [item.source, item.target]
        if isinstance(item, HostStep):
            for o in (*item.reads, *item.writes):
                for d in o.shape:
                    self.dims.slot(d)
            return [b for o in (*item.reads, *item.writes) for b in (o.buffer, o.shape_buffer) if b >= 0]
        self.bound |= {symbol for symbol, _, _ in item.sizes}
        return [buffer for _, buffer, _ in item.sizes]

    def handler(self, item: Bind | Carry | Append | HostStep, bounds: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
        """The handler in the manifest; `bounds` of symbols."""
        if isinstance(item, Carry):
            return {"kind": "carry", "source": item.source, "target": item.target, "move": item.move}
        if isinstance(item, Append):
            return {"kind": "append", "source": item.source, "target": item.target}
        if isinstance(item, HostStep):
            reads, writes = ([self._operand(o) for o in os] for os in (item.reads, item.writes))
            return {"kind": "host", "call": item.call, "attributes": dict(item.attributes), "reads": reads, "writes": writes,
                    "loc": list(item.loc)}  # fmt: skip
        return {"kind": "bind", "sizes": [[s, buffer, index, *bounds.get(s, (0, 2**62))] for s, buffer, index in item.sizes]}

    def _operand(self, o: HostOperand) -> list[Any]:
        kind = o.strings if o.dtype is DType.STRING else o.dtype.value
        return [o.buffer, kind, [self.dims.slot(d) for d in o.shape], o.shape_buffer]

    def _ranges(self, touched: list[tuple[int, int]]) -> None:
        """First and last touch; what a loop touches lives through all of it, since iterations hand values on."""
        loops = sorted(self._loops, key=lambda s: (s[0], -s[1]))
        outermost: list[tuple[int, int]] = []
        for start, end in loops:
            if not outermost or start > outermost[-1][1]:
                outermost.append((start, end))
        k = 0
        for word, buffer in sorted(touched):
            while k < len(outermost) and outermost[k][1] < word:
                k += 1
            inside = k < len(outermost) and outermost[k][0] <= word
            first, last = outermost[k] if inside else (word, word)
            old = self.live.get(buffer, (first, last))
            self.live[buffer] = min(old[0], first), max(old[1], last)
