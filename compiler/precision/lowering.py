"""A float32 graph to a lowered one: as the user said, or as the search under a bound finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...errors import InputError
from ...ir import Graph, Value
from ...passes.base import PassContext
from ...passes.pipelines import CLEAN, run_passes
from ...passes.precision import LowerPrecision, layers
from ...passes.rounded_attention import RoundedAttention
from ...passes.shared_rounding import SharedRounding
from ...passes.upsampling_products import UpsamplingProducts
from ...runtime.module import Module
from ..api import compile_graph
from ..inputs import specs_of_module
from .choose import Chooser, assign, smoothing_of, supported, within_groups
from .data import Feeds, load_calibration
from .options import CALIBRATED, WEIGHT_ONLY, Precision
from .search import Assignment, Outcome, search
from .statistics import Statistics, collect

Progress = Callable[[str, int, int], None]
_PROFILED = 3  # runs that a layer's time is the mean of


@dataclass(frozen=True)
class Lowered:
    """A lowered graph, and how it came about.

    Attributes:
        assignment: precision by layer; those not named stayed float32.
        outcome: of the search, where there was a bound.
        float32: the module of the graph before, if it was needed.
    """

    graph: Graph
    assignment: Assignment
    outcome: Outcome | None = None
    float32: Module | None = None


@dataclass
class Workbench:
    """One float32 graph, its samples, and modules of it at any assignment: what the search and the frontier work with."""

    graph: Graph
    options: Precision
    threads: int | None = None
    tell: Progress | None = None
    build: Callable[[Graph], Module] | None = None  # for another machine's code, say; by default with `threads` for this one

    def __post_init__(self) -> None:
        self.float32 = self._built(self.graph)
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
        return self._built(self.lowered(assignment))

    def _built(self, graph: Graph) -> Module:
        return compile_graph(graph, threads=self.threads) if self.build is None else self.build(graph)

    def loss(self, module: Module) -> float:
        """Of a module, on the samples, by the metric of the bound. Raises InputError for a metric that gives no number."""
        assert self.options.bound is not None
        found = self.options.bound.metric(self.outputs(module), self.wanted)
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
    ctx = PassContext()
    passes = (LowerPrecision(chooser.choices(assignment)), CLEAN, SharedRounding(), RoundedAttention(), CLEAN)
    return run_passes(graph, passes, ctx)


def lower_precision(
    graph: Graph,
    options: Precision,
    *,
    threads: int | None = None,
    tell: Progress | None = None,
    build: Callable[[Graph], Module] | None = None,
) -> Lowered:
    """Lower a graph as `options` say; `build` as in `Workbench`.

    Raises:
        InputError: data that does not fit, an override that matches nothing, a bound that no layer meets.
    """
    if options.is_float32:
        return Lowered(graph, {})
    graph = UpsamplingProducts().run(graph, PassContext())
    made = _lowered(graph, options, threads, tell, build)
    if options.report is not None:
        options.report(made)
    return made


def _lowered(
    graph: Graph, options: Precision, threads: int | None, tell: Progress | None, build: Callable[[Graph], Module] | None
) -> Lowered:
    if options.calibration is None:
        assignment = assign(graph, options)
        return Lowered(lowered(graph, Chooser(graph, options), assignment), assignment)
    bench = Workbench(graph, options, threads, tell, build)
    if options.bound is None:
        assignment = assign(graph, options)
        return Lowered(bench.lowered(assignment), assignment, float32=bench.float32)
    ladders, gains = _ladders(bench)
    if not ladders:
        raise InputError("no layer of the model can be lowered to advantage", remedy="Compile it in fp32.", loc="--precision")
    outcome = search(ladders, gains, lambda a: bench.loss(bench.module(a)), options.bound.limit, tell)
    reasons = {name: _why_not(bench, name) for name in bench.layers if name not in ladders}
    outcome = replace(outcome, kept={**outcome.kept, **reasons})
    return Lowered(bench.lowered(outcome.assignment), outcome.assignment, outcome, bench.float32)


def _why_not(bench: Workbench, name: str) -> str:
    """Why a layer was not even tried."""
    if name in _overridden(bench):
        return "as --layer says"
    if bench.options.default == "auto":
        return "no precision is faster than float32 here"
    return f"cannot be {bench.options.default}"


def _ladders(bench: Workbench) -> tuple[dict[str, list[str]], dict[str, float]]:
    """For each layer, precisions from the fastest to the last that is faster than float32, and milliseconds that the first saves.

    With "auto" the times are measured; otherwise the ladder is the asked precision, then bf16.
    """
    options = bench.options
    if options.default != "auto":
        asked = assign(bench.graph, options)
        ladders = {name: [p] if p == "bf16" else [p, "bf16"] for name, p in asked.items()}
        base, quick = bench.times(bench.float32, list(ladders)), bench.times(bench.module(asked), list(ladders))
        return ladders, {name: base[name] - quick[name] for name in ladders}
    names = [n for n in bench.layers if supported(bench.layers[n])]
    base = bench.times(bench.float32, names)
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for precision in ("int8", "int8-dynamic", "int8-weight", "int4", "bf16"):
        asked = within_groups(bench.graph, replace(options, default=precision))
        for name, ms in bench.times(bench.module(asked), list(asked)).items():
            if ms < base[name]:
                found[name][precision] = ms
    fixed = _overridden(bench)
    ladders = {n: sorted(t, key=lambda p: t[p]) for n, t in found.items() if t and n not in fixed}
    return ladders, {n: base[n] - found[n][ladder[0]] for n, ladder in ladders.items()}


def _overridden(bench: Workbench) -> set[str]:
    """Layers that the user gave float32."""
    return set(bench.layers) - set(assign(bench.graph, replace(bench.options, default="bf16")))


def layer_times(module: Module, locs: Mapping[str, tuple[str, ...]], feeds: Feeds) -> dict[str, float]:
    """Milliseconds of a module's steps by the layer whose ONNX nodes they name; a step of several layers is shared among them."""
    seconds = module.profile(feeds, _PROFILED)
    of_node: dict[str, list[str]] = {}
    for layer, loc in locs.items():
        of_node.setdefault(loc[0] if loc else layer, []).append(layer)
    out = dict.fromkeys(locs, 0.0)
    for step in module.manifest.steps:
        owners = [layer for node in step.loc for layer in of_node.get(node, ())]
        for layer in owners:
            out[layer] += 1e3 * seconds.get(step.word, 0.0) / len(owners)
    return out
