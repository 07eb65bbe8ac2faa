"""A float32 graph to a lowered one: as the user said, or as the search under a bound finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ...ir import Graph, Node
from ...passes.base import PassContext
from ...passes.half_products import HalfLayers, WideLayers
from ...passes.pipelines import run_passes
from ...passes.precision import Choice, layers, weights_of
from ...passes.upsampling_products import UpsamplingProducts
from ...runtime.module import Module
from .bounded import within_bound
from .choose import Chooser, Stays, assign, supported
from .options import GGUF, Precision
from .search import Assignment, Outcome
from .workbench import Progress, Workbench, lowered, with_choices


@dataclass(frozen=True)
class Lowered:
    """A lowered graph, and how it came about.

    Attributes:
        assignment: precision by layer; those not named stayed float32.
        stayed: of these, the ones that take less time so.
        outcome: of the search, where there was a bound.
        float32: the module of the graph before, if it was needed.
        source: the graph whose layers were chosen for; choices: the numbers that lowering them took.
    """

    graph: Graph
    assignment: Assignment
    outcome: Outcome | None = None
    float32: Module | None = None
    source: Graph | None = None
    choices: Mapping[str, Choice] = field(default_factory=dict)
    stayed: tuple[str, ...] = ()


def lower_precision(
    graph: Graph,
    options: Precision,
    *,
    threads: int | None = None,
    tell: Progress | None = None,
    build: Callable[[Graph], Module] | None = None,
    stays: Stays = lambda node, precision: False,
) -> Lowered:
    """Lower a graph as `options` say; `build` as in `Workbench`; `stays` as in `assign`, where no bound has layers timed.

    Raises:
        InputError: data that does not fit, an override that matches nothing, a bound that no layer meets.
    """
    if options.is_float32:
        return Lowered(graph, {})
    made = _lowered(_with_layers(graph), options, threads, tell, build, stays)
    made = replace(made, graph=HalfLayers().run(made.graph, PassContext()) if made.assignment else graph)
    if options.report is not None:
        options.report(made)
    return made


def _with_layers(graph: Graph) -> Graph:
    """All that can be lowered as float32 products and convolutions."""
    return run_passes(graph, (UpsamplingProducts(), WideLayers()), PassContext())


def _lowered(
    graph: Graph,
    options: Precision,
    threads: int | None,
    tell: Progress | None,
    build: Callable[[Graph], Module] | None,
    stays: Stays,
) -> Lowered:
    if options.calibration is None:
        chooser, assignment = Chooser(graph, options), assign(graph, options, stays)
        low = lowered(graph, chooser, assignment)
        return Lowered(low, assignment, None, None, graph, chooser.choices(assignment), _stayed(graph, options, assignment, stays))
    seconds = float("inf") if options.bound is None else options.seconds
    bench = Workbench(graph, options, threads, tell, build, seconds)
    outcome = None if options.bound is None else within_bound(bench)
    assignment = assign(graph, options, stays) if outcome is None else outcome.assignment
    choices = bench.choices(assignment)
    stayed = () if outcome is not None else _stayed(graph, options, assignment, stays)
    return Lowered(with_choices(graph, choices), assignment, outcome, bench.float32, graph, choices, stayed)


def _stayed(graph: Graph, options: Precision, assignment: Assignment, stays: Stays) -> tuple[str, ...]:
    return tuple(name for name, layer in layers(graph).items() if name not in assignment and stays(layer, options.default))


def lower_alike(graph: Graph, made: Lowered) -> Graph:
    """Another graph of the same model, with the choices made for the first: of layers that have the same name and weights in both.
    The others stay float32."""
    if made.source is None or not made.assignment:
        return graph
    graph = _with_layers(graph)
    first, known = layers(made.source), layers(graph)
    choices = {
        name: choice
        for name, choice in made.choices.items()
        if name in known and made.assignment[name] in (*supported(known[name]), GGUF) and _same_weights(first[name], known[name])
    }
    return HalfLayers().run(with_choices(graph, choices), PassContext())


def _same_weights(a: Node, b: Node) -> bool:
    x, y = weights_of(a), weights_of(b)
    if x is None or y is None:
        return x is y
    return type(a.op) is type(b.op) and (x is y or np.array_equal(x, y))
