"""From a graph that passes are done with to a module: lower, emit, compile, put together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..codegen.lower import LowerOptions, lower
from ..codegen.plan import Plan, steps_of
from ..errors import TargetError
from ..ir import Graph
from ..runtime.artifact import Parts
from ..runtime.loading import open_parts
from ..runtime.module import Module
from .assemble import Overriding, with_listed
from .backend import Backend
from .backends import backend_of
from .constants import Packed, pack_constants
from .validate import ValidatingModule

Progress = Callable[[str, int, int], None]
_LOG = logging.getLogger("mlc")


@dataclass
class Compilation:
    """What one compilation produced, stage by stage, with the seconds each took."""

    backend: Backend
    graph: Graph
    plan: Plan
    emitted: dict[int, Any]  # by id() of a step of the plan
    texts: dict[str, str]  # source by symbol
    objects: dict[str, Any]  # machine code by symbol
    packed: Future[Packed]
    seconds: dict[str, float] = field(default_factory=dict)
    float32: Graph | None = None  # what the graph was before its precision was lowered,
    base: Module | None = None  # and its module, if choosing precisions needed one
    others: list[Compilation] = field(default_factory=list)  # for sizes that this one does not serve
    overridden: Overridden | None = None
    listed: tuple[str, ...] = ()  # initializers that are inputs, too, and cannot be overridden

    @property
    def programs(self) -> list[Compilation]:
        """All compilations that the module is made of."""
        own = [self, *self.others]
        return own if self.overridden is None else own + self.overridden.compilation.programs


@dataclass(frozen=True)
class Overridden:
    """What runs where a caller gives initializers another value, which are inputs of it; `defaults` are the file's, by name."""

    compilation: Compilation
    defaults: Mapping[str, np.ndarray]


def compile_graph(
    graph: Graph, *, target: str = "cpu", threads: int | None = None, opt_level: int = 3, exact: bool = False, validate: bool = False
) -> Module:
    """A graph that passes are done with, to a module: the later half of `compile`."""
    with backend_of(target) as backend:
        backend.prepare(len(graph.nodes))
        options = replace(backend.options(opt_level, exact), prologue=False)
        result = build_code(graph, backend, options, lambda stage, done, total: None, Clock())
    return module_of(result, threads, validate)


def module_of(result: Compilation, threads: int | None = None, validate: bool = False) -> Module:
    """The runnable module of a compilation."""
    r, parts = result, parts_of(result)
    if not validate:
        return open_parts(parts, threads=threads)
    if not r.backend.runs_here:
        raise TargetError(f"validation on {r.backend.target}", expected="kernels for this machine's CPU", remedy="Use --target=cpu.")
    return ValidatingModule(parts, [steps_of(p.plan.steps) for p in (r, *r.others)], threads=threads)


def parts_of(result: Compilation) -> Parts:
    """What the module of a compilation is made of: all programs, where there are several."""
    backend = result.backend
    objects = {s: code for r in result.programs for s, code in r.objects.items()}  # the last one's are for the architectures of all

    def added(before: Parts | None, r: Compilation, overriding: Overriding | None = None) -> Parts:
        return backend.parts(r.plan, r.emitted, objects, r.graph.equal, r.packed.result(), before, overriding)

    parts = added(None, result)
    for r in result.others:
        parts = added(parts, r)
    if result.overridden is not None:
        first = result.overridden.compilation
        parts = added(parts, first, Overriding(result.overridden.defaults))
        for r in first.others:
            parts = added(parts, r, Overriding())
    return with_listed(parts, result.listed) if result.listed else parts


def build_code(
    graph: Graph, backend: Backend, options: LowerOptions, tell: Progress, clock: Clock, known: Mapping[str, Any] | None = None
) -> Compilation:
    """Lower, emit, compile what is not `known` already (objects by symbol)."""
    tell("lower", 0, 1)
    plan = lower(graph, options)
    clock.lap("lower")
    packer = ThreadPoolExecutor(1)
    packed = packer.submit(pack_constants, plan)  # NumPy copies without the GIL, while this thread writes code
    packer.shutdown(wait=False)
    emitted = backend.emit(plan)
    clock.lap("emit")
    texts = backend.texts(emitted, known or {})
    count = 0

    def done(symbol: str) -> None:
        nonlocal count
        count += 1
        tell("compile", count, len(texts))

    objects = backend.compile(texts, done)
    clock.lap("compile")
    return Compilation(backend, graph, plan, emitted, texts, objects, packed, clock.seconds)


class Clock:
    """Seconds by stage, which the log `mlc` tells, too: a lap ends a stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        _LOG.info("%s: %.3f s", stage, now - self._last)
        self._last = now
