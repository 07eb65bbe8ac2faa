"""The fastest assignment of precisions within a bound on the loss.

Each precision that a layer may have loses something alone, and saves some milliseconds. Steps from float32 to
the fastest, along the lower convex hull of those points, are ordered by what they lose per millisecond, over all layers: the best
assignment for any bound is about a prefix of that list (a knapsack with choices; losses are taken to add up). How long a prefix
is found by an estimate of the loss, which costs little, or guessed from the layers' weights, and settled by the true loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from ...errors import InputError

Assignment = dict[str, str]  # layer → precision; those not named stay float32
Loss = Callable[[Assignment], float]
Progress = Callable[[str, int, int], None]
Step = tuple[float, str, str]  # loss per millisecond, layer, precision
_GRAIN = 32  # parts of all steps: settled so far where each try compiles a module
_LEAST = 1e-6  # milliseconds: a precision that was asked for is worth taking, if it saves nothing by measurement, too


@dataclass(frozen=True)
class Outcome:
    """What was found.

    Attributes:
        assignment: precision by layer.
        loss: of the whole model, on the calibration data.
        alone: what each layer loses when it alone has the fastest precision; empty when nothing had to stay high.
        kept: layers above the fastest precision, and why.
        unfinished: time was up before the search was.
    """

    assignment: Assignment
    loss: float
    alone: Mapping[str, float]
    kept: Mapping[str, str]
    unfinished: bool = False


def search(
    savings: Mapping[str, Mapping[str, float]],
    loss: Loss,
    limit: float,
    tell: Progress | None = None,
    *,
    estimate: Loss | None = None,
    weight: Loss | None = None,
    power: float = 1.0,
) -> Outcome:
    """Find an assignment.

    Args:
        savings: for each layer, the precisions it may have, the fastest first, and the milliseconds that each saves.
        loss: measures an assignment.
        limit: the largest loss accepted.
        tell: progress, called with (stage, done, total).
        estimate: measures an assignment nearly, at less cost.
        weight: what layers lose, in a measure that adds up over layers, for their order; by default `estimate`, or `loss`.
        power: about what power of losses weights are proportional to, from which the count is guessed where nothing estimates it.

    Raises:
        InputError: no layer at all can be lowered within the limit.
    """
    tell = tell or (lambda stage, done, total: None)
    weight = weight or estimate or loss
    tell("search: all layers", 0, 1)
    fastest = {layer: next(iter(saved)) for layer, saved in savings.items()}
    found = loss(fastest)
    if found <= limit:
        return Outcome(fastest, found, {}, {})
    weights: dict[str, dict[str, float]] = {}
    for i, (layer, saved) in enumerate(savings.items()):
        tell("search: layers one by one", i, len(savings))
        weights[layer] = {precision: weight({layer: precision}) for precision in saved}
    steps = _steps(savings, weights)
    reached = {0: 0.0}

    def within(measure: Loss, count: int) -> bool:
        tell("search: how many steps", count, len(steps))
        reached[count] = measure(_taken(steps[:count]))
        return reached[count] <= limit

    if estimate is not None:
        guess, grain = _most(len(steps), partial(within, estimate), len(steps) // 2), 1
    else:
        share = (limit / found) ** power  # of what all layers at their fastest weigh
        guess, grain = _within_share(steps, weights, share * sum(weights[n][p] for n, p in fastest.items())), 1 + len(steps) // _GRAIN
    count = _most(len(steps), partial(within, loss), guess, grain)
    chosen = _taken(steps[:count])
    if not chosen:
        raise _nothing_fits(steps[0], estimate or loss, limit)
    above = [layer for layer in fastest if chosen.get(layer) != fastest[layer]]
    if estimate is None:
        return Outcome(chosen, reached[count], {}, {n: f"{weights[n][fastest[n]] ** 0.5:.3g} of its result in {fastest[n]}" for n in above})
    alone = {layer: estimate({layer: fastest[layer]}) for layer in above}
    return Outcome(chosen, reached[count], alone, {n: f"{alone[n]:.3g} alone in {fastest[n]}" for n in above})


def _nothing_fits(step: Step, measure: Loss, limit: float) -> InputError:
    _, layer, precision = step
    least = measure({layer: precision})
    return InputError(
        f"no layer can be lowered within {limit:g}: the first choice, {layer}, alone loses {least:.3g} in {precision}",
        expected="a larger bound",
        loc="--max-drop",
    )


def _steps(savings: Mapping[str, Mapping[str, float]], weights: Mapping[str, Mapping[str, float]]) -> list[Step]:
    """From float32 upwards, the cheapest first; a layer's own steps in their order."""
    steps: list[Step] = []
    for layer, saved in savings.items():
        points = {precision: (max(ms, _LEAST), weights[layer][precision]) for precision, ms in saved.items()}
        at, lost = 0.0, 0.0
        while ahead := {p: (max(w - lost, 0.0) / (ms - at), -ms) for p, (ms, w) in points.items() if ms > at}:
            precision = min(ahead, key=lambda p: ahead[p])
            steps.append((ahead[precision][0], layer, precision))
            at, lost = points[precision]
    return sorted(steps, key=lambda step: step[0])


def _taken(steps: list[Step]) -> Assignment:
    return {layer: precision for _, layer, precision in steps}


def _within_share(steps: list[Step], weights: Mapping[str, Mapping[str, float]], limit: float) -> int:
    """How many steps weigh no more than a limit together."""
    at: dict[str, float] = {}
    total = 0.0
    for count, (_, layer, precision) in enumerate(steps):
        total += weights[layer][precision] - at.get(layer, 0.0)
        at[layer] = weights[layer][precision]
        if total > limit:
            return count
    return len(steps)


def _most(total: int, fits: Callable[[int], bool], guess: int, grain: int = 1) -> int:
    """The largest count from 0 to `total` that fits (none always does, and what fits is taken to be all up to some count), looked for
    in growing steps from a guess, then by bisection; with a larger grain, one that fits and is less than that below it."""
    good, bad = 0, total + 1
    at, step = min(max(guess, 1), total), grain
    while bad - good > (grain if good else 1):
        if fits(at):
            good = at
        else:
            bad = at
        ahead = good + step if good == at else bad - step
        if good < ahead < bad and (good == 0 or bad > total):
            at, step = ahead, 2 * step
        else:
            at = (good + bad) // 2
    return good
