"""The driver: ONNX in, module out. Each stage is one line here, and lives in its own folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ..codegen.cpu.emit import emit
from ..codegen.cpu.emitted import Emitted
from ..codegen.cpu.parallel import CompilePool
from ..codegen.cpu.target import CpuTarget, parse
from ..codegen.expr import structure
from ..codegen.kernel import Branch, Kernel, LoopKernel, Plan, PlanStep, Repeat, Step
from ..codegen.lower import LowerOptions, lower
from ..codegen.lower.winograd import ConvCosts
from ..errors import CodegenError, TargetError
from ..ir import Graph
from ..passes.base import PassContext
from ..passes.pipelines import optimize
from ..runtime.module import Module
from .assemble import assemble
from .constants import Packed, pack_constants
from .dump import Dump
from .importer import import_model
from .options import Options
from .precision.options import Precision
from .validate import ValidatingModule

if TYPE_CHECKING:
    import onnx

Source: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto"
Progress = Callable[[str, int, int], None]
_SMALL = 24  # nodes of a graph whose kernels this process compiles before another one has started


@dataclass
class Compilation:
    """What one compilation produced, stage by stage, with the seconds each took."""

    target: CpuTarget
    graph: Graph
    plan: Plan
    emitted: dict[int, Emitted]  # by id() of a step of the plan
    objects: dict[str, bytes]
    packed: Future[Packed]
    seconds: dict[str, float] = field(default_factory=dict)
    float32: Graph | None = None  # what the graph was before its precision was lowered


def compile(
    model: Source,
    *,
    target: str = "cpu",
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int | None = None,
    opt_level: int = 3,
    exact: bool = False,
    precision: str | Precision = "fp32",
    dump: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Module:
    """Compile an ONNX model to a module that runs it.

    Args:
        model: path, serialized bytes, or ModelProto.
        target, shapes, threads, opt_level, exact, dump: see `Options`.
        precision: "fp32", "bf16", "fp16", "int8-dynamic" …, or a `Precision` with calibration data and bounds.
        progress: called with (stage, done, total).

    Raises:
        MlcError: a typed error that says what was found, what was expected and what to do.
    """
    if isinstance(precision, str):
        precision = Precision(precision)
    return compile_with(model, Options(target, shapes, threads, opt_level, exact, precision, dump), progress)


def compile_with(model: Source, options: Options, progress: Progress | None = None) -> Module:
    """`compile`, with all knobs in one value. A lowered module that turns out slower than float32 here is not kept, with a
    warning, unless the options say so."""
    try:
        result = compile_stages(model, options, progress)
        module = module_of(result, options.threads, options.validate)
    except MemoryError as e:
        raise CodegenError(f"compiling takes more memory than there is: {e}", remedy="Check the model's shapes.") from e
    if result.float32 is None or options.precision.keep_slower:
        return module
    from .precision.speed import faster

    return faster(module, result.float32, options)


def compile_stages(model: Source, options: Options, progress: Progress | None = None) -> Compilation:
    """All stages up to object code. Errors as `compile`."""
    if options.target.partition(":")[0] != "cpu":
        raise TargetError(f"target {options.target!r}", expected="cpu or cpu:NAME", remedy="GPU targets are not built in yet.")
    tell = progress or (lambda stage, done, total: None)
    cpu = parse(options.target)
    writer = Dump(Path(options.dump)) if options.dump is not None else None
    clock = _Clock()
    with CompilePool(cpu) as pool:
        tell("import", 0, 1)
        graph = import_model(model, options.shapes)
        if len(graph.nodes) > _SMALL:
            pool.start()
        clock.lap("import")
        tell("optimize", 0, 1)
        graph = float32 = optimize(graph, PassContext(opt_level=options.opt_level, dump=writer.graph if writer else None))
        clock.lap("optimize")
        if not options.precision.is_float32:
            from .precision.lowering import lower_precision

            graph = lower_precision(graph, options.precision, threads=options.threads, tell=tell).graph
            if writer:
                writer.graph("lower_precision", graph)
            clock.lap("precision")
        result = _back(graph, cpu, _options(options.opt_level, options.exact), pool, tell, clock)
    if graph is not float32:
        result.float32 = float32
    if writer:
        writer.kernels(result)
    return result


def compile_graph(
    graph: Graph, *, target: str = "cpu", threads: int | None = None, opt_level: int = 3, exact: bool = False, validate: bool = False
) -> Module:
    """A graph that passes are done with, to a module: the later half of `compile`."""
    cpu = parse(target)
    with CompilePool(cpu) as pool:
        if len(graph.nodes) > _SMALL:
            pool.start()
        result = _back(graph, cpu, _options(opt_level, exact), pool, lambda stage, done, total: None, _Clock())
    return module_of(result, threads, validate)


def module_of(result: Compilation, threads: int | None = None, validate: bool = False) -> Module:
    """The runnable module of a compilation."""
    packed = result.packed.result()
    parts = assemble(result.plan, result.emitted, result.objects, result.target, equal=result.graph.equal, packed=packed)
    if validate:
        return ValidatingModule(parts, steps_of(result.plan.steps), threads=threads)
    return Module(parts, threads=threads)


def _options(opt_level: int, exact: bool) -> LowerOptions:
    return LowerOptions(opt_level=opt_level, winograd=None if exact or opt_level == 0 else ConvCosts())


def _back(graph: Graph, cpu: CpuTarget, options: LowerOptions, pool: CompilePool, tell: Progress, clock: _Clock) -> Compilation:
    """Lower, emit, compile."""
    tell("lower", 0, 1)
    plan = lower(graph, options)
    clock.lap("lower")
    packer = ThreadPoolExecutor(1)
    packed = packer.submit(pack_constants, plan)  # NumPy copies without the GIL, while this thread writes code
    packer.shutdown(wait=False)
    emitted = _emit_all(plan, cpu)
    clock.lap("emit")
    texts = {e.symbol: e.ir_text for e in emitted.values()}
    count = 0

    def done(symbol: str) -> None:
        nonlocal count
        count += 1
        tell("compile", count, len(texts))

    objects = pool.compile(texts, done)
    clock.lap("compile")
    return Compilation(cpu, graph, plan, emitted, objects, packed, clock.seconds)


def steps_of(steps: Sequence[PlanStep]) -> list[Step]:
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


def _emit_all(plan: Plan, cpu: CpuTarget) -> dict[int, Emitted]:
    """Code of every step; kernels that are built alike are emitted once."""
    known: dict[object, Emitted] = {}
    out: dict[int, Emitted] = {}
    for step in steps_of(plan.steps):
        key = _key(step.kernel)
        if key not in known:
            known[key] = emit(step.kernel, cpu)
        out[id(step)] = known[key]
    return out


def _key(kernel: Kernel) -> object:
    if not isinstance(kernel, LoopKernel):
        return id(kernel)
    stages = tuple(s.fn for s in kernel.stages)
    stores = tuple((s.operand, s.per_element, s.guard is None) for s in kernel.stores)
    return kernel.axes, kernel.reduce_axes, kernel.operands, stages, stores, structure(kernel.roots)


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self._last = now
