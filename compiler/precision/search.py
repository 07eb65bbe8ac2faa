"""The fastest assignment of precisions within a bound on the loss.

Layers are ordered by what each loses alone per millisecond that it saves. As many as the bound allows are lowered in that
order, found by bisection with the true loss of the whole model; the rest is tried at the next better precision, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...errors import InputError

Assignment = dict[str, str]  # layer → precision; those not named stay float32
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What was found.

    Attributes:
        assignment: precision by layer.
        loss: of the whole model, on the calibration data.
        alone: what each layer loses when it alone has the fastest precision; empty when nothing had to stay high.
        kept: layers above the fastest precision, and why.
    """

    assignment: Assignment
    loss: float
    alone: Mapping[str, float]
    kept: Mapping[str, str]


def search(
    ladders: Mapping[str, Sequence[str]],
    gains: Mapping[str, float],
    loss: Callable[[Assignment], float],
    limit: float,
    tell: Progress | None = None,
) -> Outcome:
    """Find an assignment.

    Args:
        ladders: for each layer, the precisions it may have, the fastest first; float32 is not listed.
        gains: milliseconds that a layer saves at its fastest precision (an estimate, for the order only).
        loss: measures an assignment.
        limit: the largest loss accepted.
        tell: progress, called with (stage, done, total).

    Raises:
        InputError: no layer at all can be lowered within the limit.
    """
    tell = tell or (lambda stage, done, total: None)
    tell("search: all layers", 0, 1)
    fastest = {layer: ladder[0] for layer, ladder in ladders.items()}
    found = loss(fastest)
    if found <= limit:
        return Outcome(fastest, found, {}, {})
    alone: dict[str, float] = {}
    for i, (layer, precision) in enumerate(fastest.items()):
        tell("search: layers one by one", i, len(fastest))
        alone[layer] = loss({layer: precision})
    order = sorted(fastest, key=lambda layer: alone[layer] / max(gains.get(layer, 0.0), 1e-9))
    chosen: Assignment = {}
    best = 0.0
    for rung in range(max(map(len, ladders.values()), default=0)):
        left = [layer for layer in order if layer not in chosen and rung < len(ladders[layer])]
        count, reached = _longest(chosen, [(layer, ladders[layer][rung]) for layer in left], loss, limit, tell)
        chosen |= {layer: ladders[layer][rung] for layer in left[:count]}
        best = reached if count else best
    if not chosen:
        least = min(alone, key=lambda layer: alone[layer])
        raise InputError(
            f"no layer can be lowered within {limit:g}: the least sensitive, {least}, alone loses {alone[least]:.3g}",
            expected="a larger bound",
            loc="--max-drop",
        )
    kept = {layer: f"{alone[layer]:.3g} alone in {fastest[layer]}" for layer in order if chosen.get(layer) != fastest[layer]}
    return Outcome(chosen, best, alone, kept)


def _longest(
    base: Assignment, steps: Sequence[tuple[str, str]], loss: Callable[[Assignment], float], limit: float, tell: Progress
) -> tuple[int, float]:
    """How many of the first `steps` may be taken, by bisection (the loss is taken to grow with them), and the loss then."""
    good, bad, reached = 0, len(steps) + 1, 0.0
    while bad - good > 1:
        tell("search: bisection", len(steps) - (bad - good), len(steps))
        middle = (good + bad) // 2
        found = loss({**base, **dict(steps[:middle])})
        if found <= limit:
            good, reached = middle, found
        else:
            bad = middle
    return good, reached
