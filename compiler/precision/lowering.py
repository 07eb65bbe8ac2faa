"""A float32 graph to a lowered one: as the user said, or as the search under a bound finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ...ir import Graph
from ...passes.base import PassContext
from ...passes.upsampling_products import UpsamplingProducts
from ...runtime.module import Module
from .bounded import within_bound
from .choose import Chooser, assign
from .options import Precision
from .search import Assignment, Outcome
from .workbench import Progress, Workbench, lowered


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
    made = _lowered(UpsamplingProducts().run(graph, PassContext()), options, threads, tell, build)
    if not made.assignment:
        made = replace(made, graph=graph)
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
    outcome = within_bound(bench)
    return Lowered(bench.lowered(outcome.assignment), outcome.assignment, outcome, bench.float32)
