"""Backends: what becomes of a plan. Each emits, compiles, and makes a module of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..codegen.cpu import emit as cpu_emit
from ..codegen.cpu.dot.instructions import dot_kind, instruction
from ..codegen.cpu.emitted import Emitted
from ..codegen.cpu.parallel import CompilePool
from ..codegen.cpu.target import CpuTarget
from ..codegen.cpu.target import parse as parse_cpu
from ..codegen.expr import structure
from ..codegen.kernel import AttentionKernel, ContractKernel, GroupedKernel, IrregularKernel, Kernel, RecurrentKernel, WinogradKernel
from ..codegen.lower import LowerOptions
from ..codegen.lower.scattered_taps import ScatterCosts
from ..codegen.lower.winograd import ConvCosts
from ..codegen.plan import Branch, Buffer, Expect, Plan, PlanStep, Repeat, Step
from ..errors import TargetError
from ..ir import Dim, DType, dim_max
from ..ir.dims import floordiv
from ..passes.base import Runnable
from ..passes.grouped_activations import GroupedActivations
from ..passes.half_products import HalfProducts
from ..passes.long_reductions import LongReductions
from ..passes.merge_products import MergeProducts
from ..passes.pipelines import CLEAN
from ..passes.separate_resizes import SeparateResizes
from ..runtime import objects
from ..runtime.artifact import Parts
from .assemble import assemble
from .constants import Packed
from .program import Call, Code, cpu_code

if TYPE_CHECKING:
    from ..codegen.cuda.emitted import Form
    from ..codegen.cuda.target import CudaTarget
    from ..runtime.cuda.images import Image as CudaImage

_WALK = 12  # steps down a tree before asking whether any row still moves costs less than going on
_ATTENTION_UNITS = 8  # a few threads then have something to share out
_INNER_ROWS = 32  # beyond, turning B once is little beside the products
_SMALL = 24  # nodes of a graph whose kernels this process compiles before another one has started
_ALIGNED = (16, 8, 4, 2)  # alignments in bytes that kernels make use of
Done = Callable[[str], None]
Equal = Sequence[tuple[Dim, Dim]]


class Backend(Protocol):
    """Used as a context; `emitted` are by id() of a step of the plan."""

    target: Any

    @property
    def runs_here(self) -> bool:
        """Whether modules may be timed on this machine."""

    def __enter__(self) -> Backend: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def prepare(self, nodes: int) -> None:
        """Begin what takes time, for a graph of so many nodes."""

    def options(self, opt_level: int, exact: bool) -> LowerOptions: ...

    def attention(self, precision: str) -> DType | None:
        """The type that attention of float32, and what weights of few bits are multiplied by, are rounded to where layers are lowered
        to `precision`; None: they are not."""

    def passes(self, opt_level: int) -> tuple[Runnable, ...]:
        """What graphs go through for this target, behind all other passes."""

    def emit(self, plan: Plan) -> dict[int, Any]: ...

    def texts(self, emitted: Mapping[int, Any], known: Mapping[str, Any]) -> dict[str, str]:
        """Source text by symbol, of what is not compiled already, which is `known`."""

    def compile(self, texts: Mapping[str, str], done: Done) -> dict[str, Any]:
        """Machine code by symbol."""

    def parts(
        self, plan: Plan, emitted: Mapping[int, Any], compiled: Mapping[str, Any], equal: Equal, packed: Packed, before: Parts | None = None
    ) -> Parts: ...

    def dump(self, folder: Path, texts: Mapping[str, str], compiled: Mapping[str, Any]) -> None:
        """Sources and code into files."""

    def describe(self, emitted: Any) -> list[str]:
        """A line on each function of a step."""


def backend_of(target: str) -> Backend:
    """The backend that a target's text names. Raises TargetError."""
    match target.partition(":")[0].partition("+")[0]:
        case "cpu":
            return CpuBackend(parse_cpu(target))
        case "cuda":
            from ..codegen.cuda.target import parse
            from ..runtime.cuda.cupy_device import present_architecture

            return CudaBackend(parse(target, None if ":" in target else present_architecture()))
    raise TargetError(f"target {target!r}", expected="cpu, cpu:NAME, cuda or cuda:ARCH, such as cuda:sm_90a")


class CpuBackend:
    runs_here = True

    def __init__(self, target: CpuTarget) -> None:
        self.target = target
        self._pool = CompilePool(target)
        self._written: dict[object, Emitted] = {}  # by what they are built from: layers repeat, and so do programs

    def __enter__(self) -> CpuBackend:
        self._pool.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.__exit__(kind, error, trace)

    def prepare(self, nodes: int) -> None:
        if nodes > _SMALL:
            self._pool.start()

    def options(self, opt_level: int, exact: bool) -> LowerOptions:
        panel = self.target.lanes(4) * (4 if self.target.vector_registers == 32 else 2)  # columns of a register tile
        return LowerOptions(
            opt_level=opt_level,
            panel=max(16, panel),
            inner=_INNER_ROWS if opt_level > 0 else 0,
            diagonal=True,
            overwrite=opt_level > 0,
            planes=opt_level > 0,
            passes=opt_level > 0,
            prologue=opt_level > 0,
            attention_units=_ATTENTION_UNITS if opt_level > 0 else 0,
            checks=True,
            walk=_WALK,
            winograd=None if exact or opt_level == 0 else ConvCosts(),
            abreast=opt_level > 0,
            scatter=ScatterCosts() if opt_level > 0 else None,
        )

    def attention(self, precision: str) -> DType | None:
        return None

    def passes(self, opt_level: int) -> tuple[Runnable, ...]:
        how = instruction(dot_kind(DType.BF16, DType.BF16), self.target)
        halves = HalfProducts(dots=how != "lanes", split=how == "tiles")
        return (SeparateResizes(), halves, CLEAN, LongReductions()) if opt_level > 0 else ()

    def emit(self, plan: Plan) -> dict[int, Emitted]:
        return _emit_once(plan, lambda step: (kernel_key(step.kernel), lambda: self._emit(step.kernel)), self._written)

    def _emit(self, kernel: Kernel) -> Emitted:
        made = cpu_emit.emit(kernel, self.target)
        self._pool.offer(made.symbol, made.ir_text)
        return made

    def texts(self, emitted: Mapping[int, Emitted], known: Mapping[str, bytes]) -> dict[str, str]:
        return {e.symbol: e.ir_text for e in emitted.values() if e.symbol not in known}

    def compile(self, texts: Mapping[str, str], done: Done) -> dict[str, bytes]:
        return self._pool.compile(texts, done)

    def parts(
        self,
        plan: Plan,
        emitted: Mapping[int, Emitted],
        compiled: Mapping[str, bytes],
        equal: Equal,
        packed: Packed,
        before: Parts | None = None,
    ) -> Parts:
        code = {i: cpu_code(e) for i, e in emitted.items()}

        known = [] if before is None else [symbol for symbol, _ in objects.split(before.code)]

        def join(symbols: Sequence[str]) -> bytes:
            return objects.join([(s, compiled[s]) for s in symbols])

        return assemble(plan, code, join, self.target.manifest, equal, packed, before, known)

    def dump(self, folder: Path, texts: Mapping[str, str], compiled: Mapping[str, bytes]) -> None:
        for symbol, text in texts.items():
            (folder / f"{symbol}.ll").write_text(text)
        for symbol, code in compiled.items():
            (folder / f"{symbol}.o").write_bytes(code)

    def describe(self, emitted: Emitted) -> list[str]:
        return [f"{emitted.symbol} units={emitted.units}"]


@dataclass
class CudaBackend:
    """NVRTC compiles in this process, in threads: no GPU and no driver take part."""

    target: CudaTarget
    runs_here: ClassVar[bool] = False

    def __enter__(self) -> CudaBackend:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def prepare(self, nodes: int) -> None:
        from ..codegen.cuda.nvrtc import nvrtc

        nvrtc()  # fails before the work begins

    def options(self, opt_level: int, exact: bool) -> LowerOptions:
        from ..codegen.cuda.target import LOWERING

        return replace(LOWERING, opt_level=opt_level)

    def attention(self, precision: str) -> DType | None:
        return {"bf16": DType.BF16, "fp16": DType.F16}.get(precision)

    def passes(self, opt_level: int) -> tuple[Runnable, ...]:
        return (GroupedActivations(), *((MergeProducts(), CLEAN) if opt_level > 1 else ())) if opt_level > 0 else ()

    def emit(self, plan: Plan) -> dict[int, tuple[Form, ...]]:
        from ..codegen.cuda.emit import emit_forms

        def one(step: Step) -> tuple[object, Callable[[], tuple[Form, ...]]]:
            aligned = tuple(alignment(plan, b) for b in step.buffers)
            return (kernel_key(step.kernel), aligned), lambda: emit_forms(step.kernel, self.target, aligned)

        return _emit_once(plan, one, {})

    def texts(self, emitted: Mapping[int, tuple[Form, ...]], known: Mapping[str, CudaImage]) -> dict[str, str]:
        from ..codegen.cuda.counters import clearing

        every = [f for forms in emitted.values() for f in forms]
        _, first = clearing(every)
        every += [first] if first is not None else []
        self._launches = {k.symbol: k for f in every for k in f.emitted.launches}
        self._archs: dict[str, list[str]] = {s: [] for s in self._launches}
        for f in every:
            for k in f.emitted.launches:
                self._archs[k.symbol] += [a for a in f.archs if a not in self._archs[k.symbol]]
        have = {s: image.code.keys() for s, image in known.items()}
        return {s: k.source for s, k in self._launches.items() if not have.get(s, frozenset()) >= set(self._archs[s])}

    def archs(self, symbol: str) -> Sequence[str]:
        """What a kernel is compiled for: the architectures that have a step of which it is a part."""
        return self._archs[symbol]

    def compile(self, texts: Mapping[str, str], done: Done) -> dict[str, Any]:
        from ..codegen.cuda.compile import compile_all

        code = compile_all(texts, self.archs, done)
        return {s: self.image(s, code[s]) for s in texts}

    def image(self, symbol: str, code: Mapping[str, bytes]) -> CudaImage:
        """A kernel's code, and how it is launched."""
        from ..runtime.cuda.images import Image, MapSpec

        k = self._launches[symbol]

        def numbers(dims: Sequence[Dim]) -> tuple[int | tuple[int], ...]:
            return tuple(d if isinstance(d, int) else (len(k.operands) + k.dims.index(d),) for d in dims)

        maps = tuple(MapSpec(m.operand, m.itemsize, numbers(m.sizes), numbers(m.strides), m.box) for m in k.maps)
        return Image(k.threads, k.shared, code, maps)

    def parts(
        self,
        plan: Plan,
        emitted: Mapping[int, tuple[Form, ...]],
        compiled: Mapping[str, Any],
        equal: Equal,
        packed: Packed,
        before: Parts | None = None,
    ) -> Parts:
        from ..runtime.cuda import images

        plan, code = cuda_code(plan, emitted, self.target.all)

        known = [] if before is None else [symbol for symbol, _ in images.split(before.code)]

        def join(symbols: Sequence[str]) -> bytes:
            return images.join([(s, compiled[s]) for s in symbols])

        return assemble(plan, code, join, self.target.manifest, equal, packed, before, known)

    def dump(self, folder: Path, texts: Mapping[str, str], compiled: Mapping[str, Any]) -> None:
        for symbol, text in texts.items():
            (folder / f"{symbol}.cu").write_text(text)
        for symbol, image in compiled.items():
            for arch, data in image.code.items():
                (folder / f"{symbol}.{arch}.{'cubin' if arch.startswith('sm_') else 'ptx'}").write_bytes(data)

    def describe(self, emitted: tuple[Form, ...]) -> list[str]:
        out = []
        for f in emitted:
            where = f" on {', '.join(f.archs)}" if len(emitted) > 1 else ""
            out += [f"{k.symbol} blocks={k.blocks} threads={k.threads} shared={k.shared}{where}" for k in f.emitted.launches]
        return out


def cuda_code(plan: Plan, emitted: Mapping[int, tuple[Form, ...]], archs: Sequence[str]) -> tuple[Plan, dict[int, Code]]:
    """The plan with the workspaces of its steps as buffers and its checks at the end, and the calls of each step, each for some of
    `archs`. Counters are one buffer of all steps, which is cleared before the first of them."""
    from ..codegen.cuda.counters import BYTES, clearing

    def calls_of(f: Form, memory: Sequence[int]) -> tuple[Call, ...]:
        mask = sum(1 << archs.index(a) for a in f.archs)
        return tuple(Call(k.symbol, tuple(memory[o] for o in k.operands), k.dims, k.blocks, mask) for k in f.emitted.launches)

    buffers = list(plan.buffers)
    code: dict[int, Code] = {}
    count, clear = clearing(f for forms in emitted.values() for f in forms)
    counters = len(buffers)
    if clear is not None:
        buffers.append(Buffer("arena", DType.U8, (BYTES * count,)))
    cleared_at = _first_steps(plan, {i for i, forms in emitted.items() if any(f.emitted.counters for f in forms)})
    for step in steps_of(plan.steps):
        forms = emitted[id(step)]
        spaces = []
        for sizes in zip_longest(*(f.emitted.workspaces for f in forms), fillvalue=0):  # a device runs one of the forms
            spaces.append(len(buffers))
            buffers.append(Buffer("arena", DType.U8, (reduce(dim_max, sizes),)))
        calls = [c for f in forms for c in calls_of(f, (*step.buffers, *spaces[: len(f.emitted.workspaces)], counters))]
        if clear is not None and id(step) in cleared_at:
            calls = [*calls_of(clear, (counters,)), *calls]
        code[id(step)] = Code(tuple(calls), forms[0].emitted.flops, forms[0].emitted.bytes)
    return replace(plan, buffers=tuple(buffers), steps=late_checks(plan.steps)), code


def _first_steps(plan: Plan, users: Collection[int]) -> Collection[int]:
    """Steps (by id) before which what `users` share is prepared: the first, or all users where a branch or loop has one before it."""
    for item in plan.steps:
        if isinstance(item, Step):
            return {id(item)}
        if any(id(s) in users for s in steps_of((item,))):
            break
    return users


def late_checks(steps: Sequence[PlanStep]) -> tuple[PlanStep, ...]:
    """Checks behind all else, where they do not make the host wait for the device in the middle of a run; those in loops and
    branches stay."""
    checks = [s for s in steps if isinstance(s, Expect)]
    return (*(s for s in steps if not isinstance(s, Expect)), *checks)


def alignment(plan: Plan, buffer: int) -> int:
    """Bytes (16 at most) that the address of a buffer is a multiple of. The runtime aligns everything that has an address."""
    b = plan.buffers[buffer]
    shift: Any = 0
    while b.kind == "alias":
        shift, b = shift + b.shift * b.dtype.itemsize, plan.buffers[b.of]
    return next((a for a in _ALIGNED if (shift % a == 0 if isinstance(shift, int) else floordiv(shift, a) * a == shift)), 1)


def steps_of(steps: tuple[PlanStep, ...]) -> list[Step]:
    """All kernel steps, those inside branches and loops included, in program order."""
    found: list[Step] = []
    stack: list[PlanStep] = list(reversed(steps))
    while stack:
        match stack.pop():
            case Step() as s:
                found.append(s)
            case Branch(then=then, orelse=orelse):
                stack.extend(reversed(then + orelse))
            case Repeat(body=body):
                stack.extend(reversed(body))
    return found


def _emit_once(plan: Plan, one: Callable[[Step], tuple[object, Callable[[], Any]]], known: dict[object, Any]) -> dict[int, Any]:
    """Code of every step; kernels that are built alike, or like those `known`, which it adds to, are emitted once."""
    out: dict[int, Any] = {}
    for step in steps_of(plan.steps):
        key, make = one(step)
        if key not in known:
            known[key] = make()
        out[id(step)] = known[key]
    return out


def kernel_key(kernel: Kernel) -> object:
    """Equal for kernels that are built alike."""
    match kernel:
        case ContractKernel(epilogue=e) | GroupedKernel(epilogue=e) | WinogradKernel(epilogue=e):
            return type(kernel), *(getattr(kernel, f.name) for f in fields(kernel) if f.name != "epilogue"), structure((e,))
        case AttentionKernel() | RecurrentKernel() | IrregularKernel():
            return kernel
    stages = tuple(s.fn for s in kernel.stages)
    stores = tuple((s.operand, s.per_element, s.guard is None) for s in kernel.stores)
    return kernel.axes, kernel.reduce_axes, kernel.operands, stages, stores, structure(kernel.roots)
