"""The options about precision, which commands receive as one `Precision`."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import click
from rich.markup import escape

from ..precision.observers import OBSERVERS
from ..precision.options import METHODS, PRECISIONS, Precision, parse_override
from .console import err

_SHOWN = 20  # layers

calibration_option = click.option(
    "--calibration", metavar="PATH", help="Sample inputs: an .npz (arrays as inputs, or with a row per sample), or a folder of such."
)


def precision_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--precision and all that tunes it; the command gets `precision: Precision`."""

    @click.option(
        "--precision",
        "default",
        type=click.Choice(PRECISIONS),
        default="fp32",
        show_default=True,
        help="Of matrix products and convolutions.",
    )
    @calibration_option
    @tuning_options
    @click.option(
        "--max-drop",
        metavar="METRIC=VALUE",
        help="Lower no more layers than keep relative-l2, cosine, arg-max or FILE.py:FUNCTION within this.",
    )
    @click.option(
        "--search-seconds",
        type=click.FloatRange(0, min_open=True),
        default=120.0,
        show_default=True,
        help="What the search under --max-drop may take; the best found until then is taken.",
    )
    @click.option("--keep-slower", is_flag=True, help="Keep a lowered module that is slower than float32 here.")
    @functools.wraps(command)
    def wrapped(
        default: str,
        max_drop: str | None,
        search_seconds: float,
        keep_slower: bool,
        calibration: str | None,
        tuning: dict[str, Any],
        **rest: Any,
    ) -> Any:
        search: dict[str, Any] = {"max_drop": max_drop, "seconds": search_seconds}
        made = Precision(default, calibration=calibration, keep_slower=keep_slower, report=show_choice, **search, **tuning)
        return command(precision=made, **rest)

    return wrapped


def show_choice(lowered: Any) -> None:
    """Which layers got which precision; under a bound, what is lost, and which layers stayed higher and why. On stderr."""
    counts = Counter(lowered.assignment.values())
    text = ", ".join(f"{n} layers {p}" for p, n in counts.most_common()) or "no layer lowered"
    if lowered.outcome is None:
        if lowered.stayed:
            text += f"; {len(lowered.stayed)} stay float32, which takes less time (--layer PATTERN=PRECISION lowers them)"
        err.print(text, highlight=False, soft_wrap=True)
        return
    unfinished = "; time was up before the search was (--search-seconds)" if lowered.outcome.unfinished else ""
    err.print(f"{text}; loss {lowered.outcome.loss:.3g}{unfinished}", highlight=False, soft_wrap=True)
    kept = list(lowered.outcome.kept.items())
    for name, why in kept[:_SHOWN]:
        err.print(f"  {escape(name)} {lowered.assignment.get(name, 'fp32')}: {escape(why)}", highlight=False, soft_wrap=True)
    if len(kept) > _SHOWN:
        err.print(f"  and {len(kept) - _SHOWN} more layers", highlight=False)


def tuning_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How ranges and rounded weights are found; the command gets `tuning`, fields of `Precision`."""

    @click.option(
        "--layer",
        "layers",
        multiple=True,
        metavar="PATTERN=PRECISION",
        help="Precision of layers by name or operator. Repeatable; the last wins.",
    )
    @click.option(
        "--observer",
        type=click.Choice(list(OBSERVERS)),
        default="min-max",
        show_default=True,
        help="How int8 ranges follow from the samples.",
    )
    @click.option(
        "--smooth", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Power of outliers that moves into weights; 0: none."
    )
    @click.option("--no-bias-correction", is_flag=True, help="Leave the mean error of rounding weights in, for int8.")
    @click.option("--method", type=click.Choice(METHODS), default="nearest", show_default=True, help="Rounding of int4 and int8-weight.")
    @click.option(
        "--group", type=click.IntRange(1), default=32, show_default=True, help="Rows of weights with one scale, for int4 and int8-weight."
    )
    @click.option("--asymmetric", is_flag=True, help="Zero points for int4 and int8-weight.")
    @functools.wraps(command)
    def wrapped(
        layers: tuple[str, ...],
        observer: str,
        smooth: float,
        no_bias_correction: bool,
        method: str,
        group: int,
        asymmetric: bool,
        **rest: Any,
    ) -> Any:
        tuning = {
            "overrides": tuple(map(parse_override, layers)), "observer": observer, "smooth": smooth, "method": method, "group": group,
            "symmetric": not asymmetric, "correct_bias": not no_bias_correction,
        }  # fmt: skip
        return command(tuning=tuning, **rest)

    return wrapped
