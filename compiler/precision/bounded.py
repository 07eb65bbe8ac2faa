"""The fastest assignment of precisions within a bound: layers are timed and weighed, the search proposes, whole modules decide."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from ...errors import SlowerWarning
from ...ir import Node, prod
from .choose import assign, supported
from .data import Feeds
from .expected import expected_error
from .metrics import relative_l2
from .options import WEIGHT_ONLY
from .search import Assignment, Outcome, search
from .switches import Switches
from .workbench import OutOfTime, Tried, Workbench

Savings = Mapping[str, Mapping[str, float]]  # milliseconds by layer and precision
_RANKS = ("bf16", "int8-weight", "int8-dynamic", "int8", "int4")  # what loses least first, as a rule
_WEIGHED = 4  # samples on which layers are weighed one by one
_TELL_APART = 1e-3
_SWITCHED = 48  # choices in all: with more, their module takes longer to compile than the rest of the search does
_FEW_ROWS = 32
_MARGIN = 1.03  # a difference of less is noise


def within_bound(bench: Workbench) -> Outcome:
    """The fastest assignment within the bound of the options, and why layers are not at their fastest precision; when time is up
    before, the fastest of those that were tried.

    Raises InputError when no layer can be lowered within it.
    """
    try:
        return _searched(bench)
    except OutOfTime:
        return _best(bench)


def _searched(bench: Workbench) -> Outcome:
    options, bound = bench.options, bench.options.bound
    assert bound is not None
    savings = _savings(bench)
    reasons = {name: _why_not(bench, name) for name in bench.layers if name not in savings}
    if not savings:
        warnings.warn(
            f"no layer can be {options.default} and be faster than float32 on this machine: float32 is kept", SlowerWarning, stacklevel=7
        )
        return Outcome({}, 0.0, {}, reasons)
    if sum(map(len, savings.values())) <= _SWITCHED:
        found = _Estimates(bench, savings)
        outcome = search(savings, bench.true_loss, bound.limit, bench.told, estimate=found.loss, weight=found.weight)
    else:
        outcome = search(savings, bench.true_loss, bound.limit, bench.told, weight=partial(_expected, bench), power=bound.power)
    if options.default == "auto":
        outcome = _fastest(bench, savings, outcome)
    return replace(outcome, kept={**outcome.kept, **reasons})


def _best(bench: Workbench) -> Outcome:
    """The fastest that was tried and is within the bound; float32, with a warning, if none is."""
    bound, seconds = bench.options.bound, bench.options.seconds
    assert bound is not None
    within = [t for t in bench.tried if t.loss <= bound.limit and t.time * _MARGIN < 1.0]
    if not within:
        warnings.warn(
            f"nothing that is within the bound and faster than float32 was found in {seconds:g} s: float32 is kept. "
            "--search-seconds (seconds=) gives the search more time.",
            SlowerWarning,
            stacklevel=6,
        )
    best = min(within, key=lambda t: t.time, default=Tried({}, 0.0, 1.0))
    kept = {name: f"not decided in {seconds:g} s" for name in bench.layers if name not in best.assignment}
    return Outcome(best.assignment, best.loss, {}, kept, unfinished=True)


def _expected(bench: Workbench, assignment: Assignment) -> float:
    """What layers are expected to lose of their results."""
    known = bench.chooser
    nodes = {layer: bench.layers[layer] for layer in assignment}
    return sum(
        expected_error(node, known.choice(layer, assignment[layer]), known.statistics.get(node.inputs[0])) for layer, node in nodes.items()
    )


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
            self.bench.told("search: one module of all precisions", 0, 1)
            self._switches = Switches(self.bench.graph, self.bench.chooser, self.savings, self.bench.built)
        return self._switches.outputs(assignment, self.bench.samples[:count])


def _fastest(bench: Workbench, savings: Savings, outcome: Outcome) -> Outcome:
    """What the search found, or another that was tried on the way, if that is within the bound and faster as a whole:
    times of single layers do not tell what conversions between them cost."""
    assert bench.options.bound is not None
    found = next(t for t in bench.tried if t.assignment == outcome.assignment)
    best = min((t for t in bench.tried if t.loss <= bench.options.bound.limit), key=lambda t: t.time)
    if found.time <= best.time * _MARGIN:
        return outcome
    above = [layer for layer, saved in savings.items() if best.assignment.get(layer) != next(iter(saved))]
    counts = Counter(best.assignment.values())
    why = "faster as a whole with " + ", ".join(f"{n} layers {p}" for p, n in counts.most_common())
    return Outcome(best.assignment, best.loss, outcome.alone, {layer: outcome.kept.get(layer, why) for layer in above})


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
        chosen = assign(bench.graph, replace(options, default=precision))
        chosen = {n: p for n, p in chosen.items() if n in found and n not in fixed}
        if precision in WEIGHT_ONLY and auto:
            chosen = {n: p for n, p in chosen.items() if _few_rows(bench.layers[n])}
        if not chosen or (auto and sum(base[n] for n in chosen) < (_MARGIN - 1) * sum(base.values())):
            continue  # nothing to gain that would be noticed
        for name, ms in bench.times(bench.attempt(chosen)[0], list(chosen)).items():
            if base[name] - ms > max(found[name].values(), default=0.0) * _MARGIN or not auto:
                found[name][chosen[name]] = base[name] - ms
    if not auto:
        for name, ms in bench.times(bench.attempt(asked)[0], names).items():
            found[name] = {asked[name]: base[name] - ms, **{p: v for p, v in found[name].items() if p != asked[name]}}
        return found
    return {n: dict(sorted(saved.items(), key=lambda item: -item[1])) for n, saved in found.items() if saved}


def _few_rows(node: Node) -> bool:
    """Whether reading the weights may take longer than the products: with more rows, lowering activations too is always faster."""
    rows = prod(node.out.shape[:-1])
    return not isinstance(rows, int) or rows <= _FEW_ROWS


def _overridden(bench: Workbench) -> set[str]:
    """Layers that the user gave float32."""
    return set(bench.layers) - set(assign(bench.graph, replace(bench.options, default="bf16")))
