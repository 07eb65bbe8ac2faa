"""How far lowered outputs are from float32 ones: one number per metric over all samples and float outputs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...runtime.elements import is_float
from .data import Feeds

Metric = Callable[[Sequence[Feeds], Sequence[Feeds]], float]


def relative_l2(got: Sequence[Feeds], want: Sequence[Feeds]) -> float:
    """The worst output's ‖got − want‖ / ‖want‖, over all samples."""
    return max((_ratio(a, b) for a, b in _floats(got, want)), default=0.0)


def cosine(got: Sequence[Feeds], want: Sequence[Feeds]) -> float:
    """1 − the cosine of the angle between lowered and original values, of the worst output."""
    return max((max(0.0, 1.0 - _cosine(a, b)) for a, b in _floats(got, want)), default=0.0)


def arg_max(got: Sequence[Feeds], want: Sequence[Feeds]) -> float:
    """The share of rows (last axis) whose largest element moved, of the worst output."""
    worst = 0.0
    for name in _names(want):
        moved = rows = 0
        for g, w in zip(got, want, strict=True):
            a, b = g[name], w[name]
            if b.ndim and b.size:
                moved += int((a.argmax(axis=-1) != b.argmax(axis=-1)).sum())
                rows += b.size // b.shape[-1]
        worst = max(worst, moved / rows if rows else 0.0)
    return worst


METRICS: dict[str, Metric] = {"relative-l2": relative_l2, "cosine": cosine, "arg-max": arg_max}
_SHOWN = {"relative-l2": "relative L2", "cosine": "1 − cosine", "arg-max": "arg-max moved"}


def shown(metric: str) -> str:
    """A metric as tables and plots call it: as what is lost."""
    return _SHOWN.get(metric, metric)


@dataclass(frozen=True)
class Bound:
    """A metric, and the largest loss that is accepted.

    Attributes:
        power: at which what layers lose adds up: 2 for an error, whose squares do.
    """

    name: str
    limit: float
    metric: Metric
    power: int = 1

    def __str__(self) -> str:
        return f"{shown(self.name)} ≤ {self.limit:g}"


def parse_bound(text: str) -> Bound:
    """`METRIC=VALUE`: relative-l2, cosine (as 1 − cosine), arg-max (share of rows that moved), or FILE.py:FUNCTION.

    A function takes the lowered and the original outputs, each a list of {name: array}, and returns a loss, 0 the best.
    Raises InputError.
    """
    name, eq, value = text.rpartition("=")
    try:
        limit = float(value)
    except ValueError:
        limit = float("nan")
    if not (name and eq) or not limit >= 0:
        raise InputError(f"bound {text!r}", expected="METRIC=VALUE with a value of 0 or more, such as relative-l2=0.01", loc="--max-drop")
    if name in METRICS:
        return Bound(name, limit, METRICS[name], 2 if name == "relative-l2" else 1)
    file, colon, function = name.rpartition(":")
    if not colon:
        raise InputError(f"metric {name!r}", expected=", ".join(METRICS) + " or FILE.py:FUNCTION", loc="--max-drop")
    return Bound(name, limit, _users(Path(file), function))


def bound_of(function: Metric, limit: float) -> Bound:
    """A bound on a user's own function of lowered and original outputs, each a list of {name: array}. Raises InputError."""
    if not callable(function) or not float(limit) >= 0:
        raise InputError(f"bound {function!r} ≤ {limit!r}", expected="a function, and a number of 0 or more", loc="max_drop")
    return Bound(getattr(function, "__name__", "metric"), float(limit), _checked(function, str(function)))


def _users(file: Path, function: str) -> Metric:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise InputError(f"{file} is no Python file", loc="--max-drop")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        found = getattr(module, function)
    except Exception as e:
        raise InputError(f"{function} of {file} cannot be loaded: {e}", loc="--max-drop") from e

    return _checked(found, f"{function} of {file}")


def _checked(function: Callable[..., object], name: str) -> Metric:
    def metric(got: Sequence[Feeds], want: Sequence[Feeds]) -> float:
        value: Any = function(list(got), list(want))
        try:
            return float(value)
        except (TypeError, ValueError):
            raise InputError(f"{name} returned {value!r}", expected="a number", loc="--max-drop") from None

    return metric


def _names(want: Sequence[Feeds]) -> list[str]:
    return [n for n, a in want[0].items() if is_float(a.dtype)] if want else []


def _floats(got: Sequence[Feeds], want: Sequence[Feeds]) -> list[tuple[np.ndarray, np.ndarray]]:
    def joined(rows: Sequence[Feeds], name: str) -> np.ndarray:
        return np.concatenate([r[name].astype(np.float64).ravel() for r in rows])

    return [(joined(got, n), joined(want, n)) for n in _names(want)]


def _ratio(a: np.ndarray, b: np.ndarray) -> float:
    norm, error = float(np.linalg.norm(b)), float(np.linalg.norm(a - b))
    return error / norm if norm else error


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    n = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    same = np.array_equal(a, b)  # of which rounding would leave 1e-16
    return float(same) if same or not n else float(a @ b) / n
