"""One float32 graph, its samples, and modules of it at any assignment of precisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

from ...errors import InputError
from ...ir import Graph, Value
from ...passes.base import PassContext
from ...passes.pipelines import CLEAN, run_passes
from ...passes.precision import Choice, LowerPrecision, layers
from ...passes.rounded_attention import RoundedAttention
from ...passes.shared_rounding import SharedRounding
from ...runtime.module import Module
from .. import bench
from ..inputs import specs_of_module
from ..stages import compile_graph
from .choose import Chooser, smoothing_of, supported
from .data import Feeds, load_calibration
from .layer_times import layer_times
from .options import CALIBRATED, WEIGHT_ONLY, Precision
from .search import Assignment
from .statistics import Statistics, collect

Progress = Callable[[str, int, int], None]
_TIMING = bench.Options(seconds=0.2, rounds=4, pause=0.02)


class OutOfTime(Exception):
    """The time that a search may take is up."""


@dataclass(frozen=True)
class Tried:
    """An assignment that was compiled and run.

    Attributes:
        loss: by the metric of the bound.
        time: of a run, as a share of float32's.
    """

    assignment: Assignment
    loss: float
    time: float


@dataclass
class Workbench:
    """One float32 graph, its samples, and modules of it at any assignment: what the search and the frontier work with.

    Attributes:
        tell: progress.
        build: compiles for another machine, say; by default with `threads` for this one.
        seconds: whatever takes long raises OutOfTime when so much time has passed.
        tried: assignments whose loss was measured.
    """

    graph: Graph
    options: Precision
    threads: int | None = None
    tell: Progress | None = None
    build: Callable[[Graph], Module] | None = None
    seconds: float = float("inf")
    tried: list[Tried] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._end = monotonic() + self.seconds
        self.float32 = self.built(self.graph)
        source = self.options.calibration
        self.samples: list[Feeds] = [] if source is None else load_calibration(source, specs_of_module(self.float32))
        self.layers = layers(self.graph)
        self._wanted: list[Feeds] | None = None
        self._chooser: Chooser | None = None

    def told(self, stage: str, done: int, total: int) -> None:
        """Progress; raises OutOfTime."""
        self._in_time()
        if self.tell is not None:
            self.tell(stage, done, total)

    def _in_time(self) -> None:
        if monotonic() > self._end:
            raise OutOfTime

    @property
    def chooser(self) -> Chooser:
        if self._chooser is None:
            needed = CALIBRATED | (WEIGHT_ONLY if self.options.method != "nearest" else frozenset())
            values = [n.inputs[0] for n in self.layers.values() if set(supported(n)) & needed] if self.samples else []
            found = self._observed(values) if values else {}
            self._chooser = Chooser(self.graph, self.options, found)
        return self._chooser

    def _observed(self, values: Sequence[Value]) -> dict[Value, Statistics]:
        smoothing = smoothing_of(self.graph, self.options)
        hessians = self.options.method != "nearest"
        return collect(self.graph, values, self.samples, hessians=hessians, smoothing=smoothing, threads=self.threads, tell=self.told)

    def choices(self, assignment: Assignment) -> dict[str, Choice]:
        """What lowers each layer of an assignment; samples are run only for precisions that need statistics."""
        needed = CALIBRATED | (WEIGHT_ONLY if self.options.method != "nearest" else frozenset())
        chooser = self.chooser if needed & set(assignment.values()) else Chooser(self.graph, self.options)
        return chooser.choices(assignment)

    def lowered(self, assignment: Assignment) -> Graph:
        """The graph at an assignment."""
        return with_choices(self.graph, self.choices(assignment))

    def module(self, assignment: Assignment) -> Module:
        """The compiled module at an assignment."""
        return self.built(self.lowered(assignment))

    def built(self, graph: Graph) -> Module:
        """A module of any graph."""
        return compile_graph(graph, threads=self.threads) if self.build is None else self.build(graph)

    def true_loss(self, assignment: Assignment) -> float:
        """Of the module at an assignment, as `loss`."""
        known = next((t for t in self.tried if t.assignment == assignment), None)
        return self.attempt(assignment)[1].loss if known is None else known.loss

    def attempt(self, assignment: Assignment) -> tuple[Module, Tried]:
        """The module at an assignment, what it loses and how long it takes, which is kept in `tried`; raises OutOfTime."""
        self.told("precision: compile", len(self.tried), len(self.tried) + 1)
        module, feeds = self.module(assignment), self.samples[0]
        self.told("precision: measure", len(self.tried), len(self.tried) + 1)
        loss = self.loss(self.outputs(module))
        engines: dict[str, bench.Run] = {"fp32": lambda: self.float32.run(feeds), "lowered": lambda: module.run(feeds)}
        times = {t.engine: t.median for t in bench.measure(engines, module.threads, _TIMING)}
        self.tried.append(Tried(assignment, loss, times["lowered"] / times["fp32"]))
        return module, self.tried[-1]

    def loss(self, outputs: Sequence[Feeds]) -> float:
        """Of outputs for the samples, by the metric of the bound. Raises InputError for a metric that gives no number."""
        assert self.options.bound is not None
        found = self.options.bound.metric(outputs, self.wanted)
        if found != found:
            raise InputError(f"{self.options.bound.name} of the samples is NaN", expected="a number", loc="--max-drop")
        return found

    def outputs(self, module: Module) -> list[Feeds]:
        """For all samples; raises OutOfTime."""
        found: list[Feeds] = []
        for sample in self.samples:
            self._in_time()
            found.append(module.run(sample))
        return found

    @property
    def wanted(self) -> list[Feeds]:
        """Outputs of float32."""
        if self._wanted is None:
            self._wanted = self.outputs(self.float32)
        return self._wanted

    def times(self, module: Module, names: Sequence[str]) -> dict[str, float]:
        """Milliseconds of the kernels that come from each layer."""
        return layer_times(module, {name: self.layers[name].loc for name in names}, self.samples[0])


def lowered(graph: Graph, chooser: Chooser, assignment: Assignment) -> Graph:
    """The graph with layers at their precisions, cleaned up."""
    return with_choices(graph, chooser.choices(assignment))


def with_choices(graph: Graph, choices: Mapping[str, Choice]) -> Graph:
    """The graph with layers lowered by what was chosen for them, cleaned up."""
    return run_passes(graph, (LowerPrecision(choices), CLEAN, SharedRounding(), RoundedAttention(), CLEAN), PassContext())
