"""One float32 graph, its samples, and modules of it at any assignment of precisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...errors import InputError
from ...ir import Graph, Value
from ...passes.base import PassContext
from ...passes.pipelines import CLEAN, run_passes
from ...passes.precision import Choice, LowerPrecision, layers
from ...passes.rounded_attention import RoundedAttention
from ...passes.shared_rounding import SharedRounding
from ...runtime.module import Module
from ..api import compile_graph
from ..inputs import specs_of_module
from .choose import Chooser, smoothing_of, supported
from .data import Feeds, load_calibration
from .layer_times import layer_times
from .options import CALIBRATED, WEIGHT_ONLY, Precision
from .search import Assignment
from .statistics import Statistics, collect

Progress = Callable[[str, int, int], None]


@dataclass
class Workbench:
    """One float32 graph, its samples, and modules of it at any assignment: what the search and the frontier work with."""

    graph: Graph
    options: Precision
    threads: int | None = None
    tell: Progress | None = None
    build: Callable[[Graph], Module] | None = None  # for another machine's code, say; by default with `threads` for this one

    def __post_init__(self) -> None:
        self.float32 = self.built(self.graph)
        source = self.options.calibration
        self.samples: list[Feeds] = [] if source is None else load_calibration(source, specs_of_module(self.float32))
        self.layers = layers(self.graph)
        self._wanted: list[Feeds] | None = None
        self._chooser: Chooser | None = None

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
        return collect(self.graph, values, self.samples, hessians=hessians, smoothing=smoothing, threads=self.threads, tell=self.tell)

    def lowered(self, assignment: Assignment) -> Graph:
        """The graph at an assignment."""
        return lowered(self.graph, self.chooser, assignment)

    def module(self, assignment: Assignment) -> Module:
        """The compiled module at an assignment."""
        return self.built(self.lowered(assignment))

    def built(self, graph: Graph) -> Module:
        """A module of any graph."""
        return compile_graph(graph, threads=self.threads) if self.build is None else self.build(graph)

    def true_loss(self, assignment: Assignment) -> float:
        """Of the module at an assignment, as `loss`."""
        return self.loss(self.outputs(self.module(assignment)))

    def loss(self, outputs: Sequence[Feeds]) -> float:
        """Of outputs for the samples, by the metric of the bound. Raises InputError for a metric that gives no number."""
        assert self.options.bound is not None
        found = self.options.bound.metric(outputs, self.wanted)
        if found != found:
            raise InputError(f"{self.options.bound.name} of the samples is NaN", expected="a number", loc="--max-drop")
        return found

    def outputs(self, module: Module) -> list[Feeds]:
        return [module.run(sample) for sample in self.samples]

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
