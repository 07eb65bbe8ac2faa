"""The last stage: a plan and its compiled kernels become the parts of a module (manifest, code, weights)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..codegen.cpu.emitted import Emitted
from ..codegen.plan import Bind, Branch, Buffer, Carry, Expect, HostOperand, HostStep, Plan, PlanStep, Repeat, Step
from ..errors import CodegenError
from ..ir import Dim, DType, dim_max, floordiv, prod, symbols_of
from ..ir.dims import Expr, Sym
from ..runtime import artifact, memory
from ..runtime.artifact import Parts
from ..runtime.dimexpr import LIMIT, DimExpr
from ..runtime.manifest import CALL, CLEAR, EXPECT, FORMAT, INCREMENT, JUMP, JUMP_IF_FALSE, JUMP_IF_GE, TEAM_CALL, YIELD
from .constants import Packed, behind, pack_constants

CHUNK_COST = 20_000  # scalar operations that pay for handing a chunk to another thread (about a microsecond)
ROUND_COST = 60_000  # scalar operations between two barriers that pay for meeting there
TEAM_COST = 500_000  # and all in all, for waiting until a team has come together


@dataclass(frozen=True, slots=True)
class Call:
    """One instruction that runs `symbol` on buffers of the plan (None: those of the step) with sizes `dims`.

    On CPUs `units` are shared out in chunks of at least `grain`; on GPUs they are the blocks of a grid, and `grain` has a bit
    for each architecture of the target, its PTX last, whose devices make the call.
    """

    symbol: str
    buffers: tuple[int, ...] | None
    dims: tuple[Dim, ...]
    units: Dim
    grain: Dim
    op: int = CALL


@dataclass(frozen=True, slots=True)
class Code:
    """What a step becomes: its calls in order, and its cost."""

    calls: tuple[Call, ...]
    flops: Dim
    bytes: Dim


def cpu_code(e: Emitted) -> Code:
    """The call of a CPU kernel, cut so that threads are worth it."""
    op, grain = CALL, _units(CHUNK_COST, e.unit_cost)
    if e.rounds is not None:
        op = TEAM_CALL
        grain = dim_max(_units(ROUND_COST, e.unit_cost), _units(TEAM_COST, e.unit_cost * e.rounds))
    return Code((Call(e.symbol, None, e.dims, e.units, grain, op),), e.flops, e.bytes)


def assemble(
    plan: Plan,
    steps: Mapping[int, Code],
    join: Callable[[Sequence[str]], bytes],
    target: Mapping[str, Any],
    equal: Sequence[tuple[Dim, Dim]] = (),
    packed: Packed | None = None,
    before: Parts | None = None,
    functions: Sequence[str] = (),
) -> Parts:
    """Parts of the module that runs `plan`.

    Args:
        steps: code of each step, by id() of the step (branches and loops included).
        join: the machine code of functions, given by symbol in the order of their numbers, as one block.
        target: what the manifest says of the machine.
        packed: what `pack_constants(plan)` gave, if it ran already.
        equal: pairs of dims that the model needs to be equal; checked when sizes are bound.
        before: the module to which this program is added, for sizes that the other one takes as equal and are not.
        functions: symbols of its functions, in the order of their numbers.

    Raises CodegenError when the plan contradicts itself.
    """
    roots = [_root(plan.buffers, i) for i in range(len(plan.buffers))]
    dims = _Dims()
    code = _Linker(plan, steps, roots, dims, {symbol: i for i, symbol in enumerate(functions)})
    code.emit(plan.steps)
    ranges = code.live
    known = symbols_of(d for b in plan.buffers if b.kind == "input" for d in b.shape) | code.bound
    packed = packed or pack_constants(plan)
    if before is not None:
        packed = behind(before.weights, [(b.place, b.size) for b in before.manifest.buffers if b.kind == "const"], packed)
    weights, spans = packed.block, packed.spans
    buffers = []
    for i, b in enumerate(plan.buffers):
        size = dims.slot(prod(b.shape) * b.dtype.itemsize)
        root, shift = roots[i]
        if b.kind == "const":
            buffers.append({"kind": "const", "offset": spans[i][0], "size": spans[i][1]})
        elif b.kind == "alias":
            buffers.append({"kind": "alias", "bytes": size, "of": root, "shift": dims.slot(shift * b.dtype.itemsize)})
        elif b.kind in ("arena", "given"):
            first, last = ranges.get(i, (0, 0))
            buffers.append({"kind": b.kind, "bytes": size, "first": first, "last": last})
        else:
            buffers.append({"kind": b.kind, "bytes": size, "index": b.index})
    unused = {i for i, b in enumerate(plan.buffers) if b.kind == "arena" and i not in ranges}
    for i in unused:  # storage nobody touches takes no room
        buffers[i]["bytes"] = dims.slot(0)
    sizes = sorted({dims.slot(d) for b in plan.buffers for d in b.shape if isinstance(d, Expr)})
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "mlc": __version__,
        "target": dict(target),
        "inputs": _tensors(plan.buffers, "input", plan.input_names, plan.input_dtypes),
        "outputs": _tensors(plan.buffers, "output", plan.output_names, plan.output_dtypes),
        "buffers": buffers,
        "program": code.words,
        "steps": code.steps,
        "sizes": sizes,
        "equal": [[dims.slot(a), dims.slot(b)] for a, b in equal if symbols_of((a, b)) <= known],
        "dims": dims.exprs,
    }
    limits = [m for m in plan.limits if symbols_of(m.dims) <= known]
    if limits:
        manifest["limits"] = [[*map(dims.slot, m.dims), m.loc] for m in limits]
    if code.expected:
        manifest["expected"] = [" + ".join(loc) for loc in code.expected]
    if packed.streamed:
        manifest["streamed"] = packed.streamed
    if plan.strings:
        manifest["strings"] = list(plan.strings)
    symbols = dims.symbols(d for b in plan.buffers for d in b.shape)
    manifest["symbols"] = [{"name": s.name, "lo": max(0, s.lo), "hi": min(2**62, s.hi)} for s in symbols if s.name not in code.bound]
    if code.handlers:
        bounds = {s.name: (max(-(2**62), s.lo), min(2**62, s.hi)) for s in symbols}
        manifest["handlers"] = [code.handler(h, bounds) for h in code.handlers]
    if not manifest["symbols"]:
        manifest["layout"] = _layout(buffers, dims)
    if before is not None:
        manifest = {**before.manifest.raw, "general": manifest}
    return artifact.make(manifest, join(list(code.functions)), weights)


def _units(cost: int, of_one: Dim) -> Dim:
    """Units that cost that much together, 1 at least."""
    return dim_max(1, floordiv(cost, dim_max(1, of_one)))


def dim_expr(dim: Dim) -> DimExpr:
    """A dim as JSON."""
    if isinstance(dim, int):
        return int(dim)
    total: DimExpr = 0
    for mono, c in dim.terms:
        term: DimExpr = c
        for factor in mono:
            if isinstance(factor, Sym):
                f: DimExpr = ["sym", factor.name]
            elif factor.fn == "mod":
                a, b = (dim_expr(x) for x in factor.args)
                f = ["add", a, ["mul", -1, ["mul", b, ["floordiv", a, b]]]]
            elif factor.fn == "stretch":  # the larger of two dims of which one is 1, or 0 if the other one is
                a, b = (dim_expr(x) for x in factor.args)
                f = ["mul", ["max", a, b], ["min", 1, ["min", a, b]]]
            else:
                f = [factor.fn, *(dim_expr(x) for x in factor.args)]
            term = f if term == 1 else ["mul", term, f]
        total = term if total == 0 else ["add", total, term]
    return total


class _Dims:
    """The slot table, each dim once."""

    def __init__(self) -> None:
        self.exprs: list[DimExpr] = []
        self._slots: dict[Dim, int] = {}

    def slot(self, dim: Dim) -> int:
        if dim not in self._slots:
            if any(abs(c) > LIMIT for c in ([dim] if isinstance(dim, int) else [c for _, c in dim.terms])):
                raise CodegenError(f"a tensor of {dim} bytes or elements", expected="2^62 at most", remedy="Check the model's shapes.")
            self._slots[dim] = len(self.exprs)
            self.exprs.append(dim_expr(dim))
        return self._slots[dim]

    def symbols(self, more: Iterable[Dim]) -> list[Sym]:
        found: dict[str, Sym] = {}
        stack: list[Dim] = [*self._slots, *more]
        while stack:
            d = stack.pop()
            for mono, _ in d.terms if isinstance(d, Expr) else ():
                for f in mono:
                    if isinstance(f, Sym):
                        found[f.name] = f
                    else:
                        stack.extend(f.args)
        return [found[n] for n in sorted(found)]


@dataclass
class _Linker:
    """Program words, and the span of program positions in which each arena buffer holds a value."""

    plan: Plan
    code: Mapping[int, Code]
    roots: list[tuple[int, Dim]]
    dims: _Dims
    functions: dict[str, int]  # numbers by symbol, grown as calls are met

    def __post_init__(self) -> None:
        self.words: list[int] = []
        self.steps: list[dict[str, Any]] = []
        self.live: dict[int, tuple[int, int]] = {}
        self._loops: list[tuple[int, int]] = []  # (start, end) words
        self.handlers: list[Bind | Carry | HostStep] = []
        self.expected: list[tuple[str, ...]] = []  # where the node is that an EXPECT is for
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
                case Bind() | Carry() | HostStep():
                    touched += [(len(self.words), self.roots[b][0]) for b in self._yield(item)]
                case Expect():
                    touched.append((len(self.words), self.roots[item.buffer][0]))
                    if not self.expected or self.expected[-1] != item.loc:
                        self.expected.append(item.loc)
                    limits = self.dims.slot(item.lo), self.dims.slot(item.hi)
                    self.words += [EXPECT, len(self.expected) - 1, item.buffer, item.k, *limits]
                case _End():
                    self._loops.append((item.start, len(self.words)))
                    self.words += [INCREMENT, item.counter, JUMP, item.start]
        self._ranges(touched)

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

    def _yield(self, item: Bind | Carry | HostStep) -> list[int]:
        """The instruction; returns the buffers that its handler touches."""
        self.words += [YIELD, len(self.handlers)]
        self.handlers.append(item)
        if isinstance(item, Carry):
            return [item.source, item.target]
        if isinstance(item, HostStep):
            for o in (*item.reads, *item.writes):
                for d in o.shape:
                    self.dims.slot(d)
            return [b for o in (*item.reads, *item.writes) for b in (o.buffer, o.shape_buffer) if b >= 0]
        self.bound |= {symbol for symbol, _, _ in item.sizes}
        return [buffer for _, buffer, _ in item.sizes]

    def handler(self, item: Bind | Carry | HostStep, bounds: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
        """The handler in the manifest; `bounds` of symbols."""
        if isinstance(item, Carry):
            return {"kind": "carry", "source": item.source, "target": item.target, "move": item.move}
        if isinstance(item, HostStep):
            reads, writes = ([self._operand(o) for o in os] for os in (item.reads, item.writes))
            return {"kind": "host", "call": item.call, "attributes": dict(item.attributes), "reads": reads, "writes": writes,
                    "loc": list(item.loc)}  # fmt: skip
        return {"kind": "bind", "sizes": [[s, buffer, index, *bounds.get(s, (0, 2**62))] for s, buffer, index in item.sizes]}

    def _operand(self, o: HostOperand) -> list[Any]:
        return [o.buffer, o.dtype.value, [self.dims.slot(d) for d in o.shape], o.shape_buffer]

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


def _root(buffers: Sequence[Buffer], i: int) -> tuple[int, Dim]:
    """(buffer that owns the memory, shift in elements) of a possibly repeated alias."""
    shift: Dim = 0
    seen = 0
    dtype = buffers[i].dtype
    while buffers[i].kind == "alias":
        shift = shift + buffers[i].shift
        i, seen = buffers[i].of, seen + 1
        if not 0 <= i < len(buffers) or seen > len(buffers) or buffers[i].dtype.itemsize != dtype.itemsize:
            raise CodegenError(f"buffer {i} is aliased in a circle, with another element size, or does not exist")
    return i, shift


def _tensors(buffers: Sequence[Buffer], kind: str, names: tuple[str, ...], dtypes: Sequence[DType] = ()) -> list[dict[str, Any]]:
    by_index = {b.index: b for b in buffers if b.kind == kind}
    if sorted(by_index) != list(range(len(names))):
        raise CodegenError(f"{kind} buffers {sorted(by_index)}", expected=f"one for each of {len(names)} names")
    shown = dtypes or [by_index[i].dtype for i in range(len(names))]
    return [
        {"name": n, "dtype": d.value, "shape": [dim_expr(x) for x in by_index[i].shape]}
        for i, (n, d) in enumerate(zip(names, shown, strict=True))
    ]


def _layout(buffers: list[dict[str, Any]], dims: _Dims) -> dict[str, Any]:
    arena = [i for i, b in enumerate(buffers) if b["kind"] == "arena" and isinstance(dims.exprs[b["bytes"]], int)]
    ranges = [memory.Range(_static(dims.exprs[buffers[i]["bytes"]]), buffers[i]["first"], buffers[i]["last"]) for i in arena]
    layout = memory.plan(ranges, effort=20_000)
    offsets = [0] * len(buffers)
    for i, at in zip(arena, layout.offsets, strict=True):
        offsets[i] = at
    return {"offsets": offsets, "total": layout.total}


def _static(expr: DimExpr) -> int:
    assert isinstance(expr, int)
    return expr
