"""What calibration keeps of an activation, and how a range is chosen from it.

An observer is a function from a `Histogram` to (lowest, highest) representable number. Sources: percentile and entropy as in
Migacz, "8-bit inference with TensorRT" (GTC 2017); mean squared error as in Choukroun et al., arXiv:1902.06822.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ...errors import InputError

_BINS = 4096  # of each sign
LEVELS = 256


@dataclass
class Histogram:
    """Counts of values in equal bins about 0, as wide as the largest value so far needs (widths double, bins merge in pairs)."""

    lo: float = np.inf
    hi: float = -np.inf
    width: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(2 * _BINS, np.int64))

    def add(self, values: np.ndarray) -> None:
        """Count all elements. Raises InputError for NaN or infinity."""
        flat = values.reshape(-1).astype(np.float32, copy=False)
        if not flat.size:
            return
        lo, hi = float(flat.min()), float(flat.max())
        if not (np.isfinite(lo) and np.isfinite(hi)):
            raise InputError("an activation is NaN or infinite on the calibration data", remedy="Remove such samples.")
        self.lo, self.hi = min(self.lo, lo), max(self.hi, hi)
        top = max(abs(lo), abs(hi))
        if top == 0.0:
            self.counts[_BINS] += flat.size
            return
        if self.width == 0.0:
            self.width = top / _BINS
        while self.width * _BINS < top:
            self.counts = np.concatenate(
                [np.zeros(_BINS // 2, np.int64), self.counts.reshape(-1, 2).sum(axis=1), np.zeros(_BINS // 2, np.int64)]
            )
            self.width *= 2
        at = np.clip(np.floor(flat / np.float32(self.width)).astype(np.int64) + _BINS, 0, 2 * _BINS - 1)
        self.counts += np.bincount(at, minlength=2 * _BINS)

    @property
    def centers(self) -> np.ndarray:
        return (np.arange(2 * _BINS) - _BINS + 0.5) * self.width

    @property
    def total(self) -> int:
        return int(self.counts.sum())


def min_max(h: Histogram) -> tuple[float, float]:
    """All that was seen."""
    return h.lo, h.hi


def percentile(h: Histogram, keep: float = 0.9999) -> tuple[float, float]:
    """The range outside which 1 − `keep` of the values lie, the same share on each side."""
    if h.width == 0.0:
        return h.lo, h.hi
    below = np.cumsum(h.counts) / h.total
    cut = (1 - keep) / 2
    first = int(np.searchsorted(below, cut, side="right"))
    last = int(np.searchsorted(below, 1 - cut, side="left"))
    edges = (np.arange(2 * _BINS + 1) - _BINS) * h.width
    return max(h.lo, float(edges[first])), min(h.hi, float(edges[min(last, 2 * _BINS - 1) + 1]))


def mean_squared_error(h: Histogram) -> tuple[float, float]:
    """The range, among shrunk versions of the whole one, that loses least in the mean square by rounding and clipping."""
    return _best(h, _squared)


def entropy(h: Histogram) -> tuple[float, float]:
    """The range whose quantized distribution has the smallest Kullback-Leibler divergence from the original one."""
    return _best(h, _divergence)


OBSERVERS: dict[str, Callable[[Histogram], tuple[float, float]]] = {
    "min-max": min_max,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mean_squared_error,
}


def _best(h: Histogram, cost: Callable[[Histogram, float, float], float]) -> tuple[float, float]:
    if h.width == 0.0 or h.lo == h.hi:
        return h.lo, h.hi
    lo, hi = min(h.lo, 0.0), max(h.hi, 0.0)
    found = [(cost(h, lo * f, hi * f), -f) for f in np.linspace(0.2, 1.0, 81)]
    f = -min(found)[1]  # of equal costs, the wider range
    return lo * f, hi * f


def _levels(h: Histogram, lo: float, hi: float) -> np.ndarray:
    scale = (hi - lo) / (LEVELS - 1)
    return np.clip(np.rint((h.centers - lo) / scale), 0, LEVELS - 1)


def _squared(h: Histogram, lo: float, hi: float) -> float:
    x = h.centers
    back = _levels(h, lo, hi) * ((hi - lo) / (LEVELS - 1)) + lo
    return float((h.counts * (x - back) ** 2).sum())


def _divergence(h: Histogram, lo: float, hi: float) -> float:
    """KL(P ‖ Q): P the histogram with clipped mass on its ends, Q the mass of each level spread evenly over its filled bins."""
    level = _levels(h, lo, hi).astype(np.int64)
    x = h.centers
    inside = (x >= lo) & (x <= hi)
    p = np.where(inside, h.counts, 0).astype(np.float64)
    ends = np.flatnonzero(inside)
    if not ends.size:
        return float("inf")
    filled = (h.counts > 0) & inside
    mass = np.bincount(level[inside], weights=p[inside], minlength=LEVELS)
    bins = np.bincount(level[filled], minlength=LEVELS)
    q = np.where(filled, mass[level] / np.maximum(bins[level], 1), 0.0)
    p[ends[0]] += h.counts[: ends[0]].sum()  # what clipping moves to the ends is in P alone: that is its cost
    p[ends[-1]] += h.counts[ends[-1] + 1 :].sum()
    total_p, total_q = p.sum(), q.sum()
    if total_p == 0 or total_q == 0:
        return float("inf")
    p, q = p / total_p, q / total_q
    some = p > 0
    return float((p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))).sum())
