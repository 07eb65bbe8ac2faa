"""The fastest assignment of precisions within a bound: layers are timed and weighed, the search proposes, whole modules decide."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace

from ...errors import SlowerWarning
from ..bench import Options as Timings
from ..bench import Run, measure
from .choose import assign, supported, within_groups
from .data import Feeds
from .metrics import relative_l2
from .search import Assignment, Outcome, search
from .switches import Switches
from .workbench import Workbench

Savings = Mapping[str, Mapping[str, float]]  # milliseconds by layer and precision
_RANKS = ("bf16", "int8-weight", "int8-dynamic", "int8", "int4")  # what loses least first, as a rule
_WEIGHED = 4  # samples on which layers are weighed one by one
_TELL_APART = 1e-3
_TIMING = Timings(seconds=0.3, rounds=5, pause=0.02)
_MARGIN = 1.03  # a difference of less is noise


def within_bound(bench: Workbench) -> Outcome:
    """The fastest assignment within the bound of the options, and why layers are not at their fastest precision.

    Raises InputError when no layer can be lowered within it.
    """
    options, bound = bench.options, bench.options.bound
    assert bound is not None
    savings = _savings(bench)
    reasons = {name: _why_not(bench, name) for name in bench.layers if name not in savings}
    if not savings:
        warnings.warn(
            f"no layer can be {options.default} and be faster than float32 on this machine: float32 is kept", SlowerWarning, stacklevel=6
        )
        return Outcome({}, 0.0, {}, reasons)
    search_in = _Estimates(bench, savings)
    outcome = search(savings, bench.true_loss, bound.limit, bench.tell, estimate=search_in.loss, weight=search_in.weight)
    if options.default == "auto":
        outcome = _fastest(bench, savings, outcome)
    return replace(outcome, kept={**outcome.kept, **reasons})


class _Estimates:
    """Losses of assignments without compiling them, by switches that are made when the first is asked for."""

    def __init__(self, bench: Workbench, savings: Savings) -> None:
        self.bench, self.savings = bench, savings
        self._switches: Switches | None = None

    def loss(self, assignment: Assignment) -> float:
        """By the metric of the bound, on all samples."""
        return self.bench.loss(self._outputs(assignment, len(self.bench.samples)))

    def weight(self, assignment: Assignment) -> float:
        """On a few samples, in a measure that adds up over layers: squares, if the metric is an error. A little of the squared
        relative L2 tells layers apart that the metric cannot (as arg-max, where no row moves)."""
        bound = self.bench.options.bound
        assert bound is not None
        outputs = self._outputs(assignment, _WEIGHED)
        wanted = self.bench.wanted[:_WEIGHED]
        return float(bound.metric(outputs, wanted)) ** bound.power + _TELL_APART * relative_l2(outputs, wanted) ** 2

    def _outputs(self, assignment: Assignment, count: int) -> list[Feeds]:
        if self._switches is None:
            self._switches = Switches(self.bench.graph, self.bench.chooser, self.savings, self.bench.built)
        return self._switches.outputs(assignment, self.bench.samples[:count])


def _fastest(bench: Workbench, savings: Savings, outcome: Outcome) -> Outcome:
    """What the search found, or one precision for all layers that may have it, if that is within the bound and faster as a whole:
    times of single layers do not tell what conversions between them cost."""
    assert bench.options.bound is not None
    found = {"": (outcome.assignment, outcome.loss)}
    for precision in dict.fromkeys(p for saved in savings.values() for p in saved):
        same = {layer: precision for layer, saved in savings.items() if precision in saved}
        if same != outcome.assignment and (lost := bench.true_loss(same)) <= bench.options.bound.limit:
            found[precision] = same, lost
    if len(found) == 1:
        return outcome
    feeds = bench.samples[0]
    modules = {name: bench.module(assignment) for name, (assignment, _) in found.items()}
    engines: dict[str, Run] = {name: (lambda module=module: module.run(feeds)) for name, module in modules.items()}  # type: ignore[misc]
    times = {t.engine: t.median for t in measure(engines, modules[""].threads, _TIMING)}
    name = min(times, key=lambda name: times[name] * (1.0 if name == "" else _MARGIN))
    assignment, lost = found[name]
    if name == "":
        return outcome
    above = [layer for layer, saved in savings.items() if assignment.get(layer) != next(iter(saved))]
    return Outcome(assignment, lost, outcome.alone, {layer: outcome.kept.get(layer, f"faster with all in {name}") for layer in above})


def _why_not(bench: Workbench, name: str) -> str:
    """Why a layer was not even tried."""
    if name in _overridden(bench):
        return "as --layer says"
    if bench.options.default == "auto":
        return "no precision is faster than float32 here"
    return f"cannot be {bench.options.default}"


def _savings(bench: Workbench) -> Savings:
    """For each layer, precisions from the fastest to the last that is of use, and milliseconds that they save, by measurement.

    With "auto", those that are faster than float32, and than all that lose less as a rule; otherwise the asked precision and bf16.
    """
    options = bench.options
    auto = options.default == "auto"
    asked = {} if auto else assign(bench.graph, options)
    tried = _RANKS if auto else ("bf16",)
    names = [n for n in bench.layers if supported(bench.layers[n])] if auto else list(asked)
    base = bench.times(bench.float32, names)
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    fixed = _overridden(bench)
    for precision in tried:
        chosen = within_groups(bench.graph, replace(options, default=precision))
        chosen = {n: p for n, p in chosen.items() if n in found and n not in fixed}
        for name, ms in bench.times(bench.module(chosen), list(chosen)).items():
            if base[name] - ms > max(found[name].values(), default=0.0) * _MARGIN or not auto:
                found[name][chosen[name]] = base[name] - ms
    if not auto:
        for name, ms in bench.times(bench.module(asked), names).items():
            found[name] = {asked[name]: base[name] - ms, **{p: v for p, v in found[name].items() if p != asked[name]}}
        return found
    return {n: dict(sorted(saved.items(), key=lambda item: -item[1])) for n, saved in found.items() if saved}


def _overridden(bench: Workbench) -> set[str]:
    """Layers that the user gave float32."""
    return set(bench.layers) - set(assign(bench.graph, replace(bench.options, default="bf16")))
