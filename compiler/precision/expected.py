"""What a layer is expected to lose, from its weights and from what its inputs look like, without running anything."""

from __future__ import annotations

import math

import numpy as np

from ...ir import Node
from ...passes.precision import BFloat16, Choice, DynamicInt8, Float16, StaticInt8, WeightOnly, weights_of
from .observers import LEVELS
from .statistics import Statistics


def expected_error(node: Node, choice: Choice, seen: Statistics | None) -> float:
    """Expected squared error of the result, as a share of its expected square: errors of rounding are taken to be independent, and so are
    the elements of x. `seen`: of x; not needed for 16 bits.

    A step Δ makes an error of variance Δ²/12, in x on every element of w, in w on every element of x.
    """
    match choice:
        case BFloat16():
            return 2 * 2.0**-16 / 6  # both operands, by 2⁻⁸ of the power of two below them at most
        case Float16():
            return 3 * 2.0**-22 / 6  # and the result
    w = weights_of(node)
    assert w is not None and seen is not None
    k, n = w.shape[-2:]
    squares = (seen.squares / max(seen.rows, 1)).reshape(-1, k).mean(axis=0)  # groups of a convolution have channels of their own
    w = w.reshape(-1, k, n).astype(np.float64)
    energy = float(squares @ _by_row(w))
    if energy == 0.0:
        return 0.0
    match choice:
        case StaticInt8(scale=scale, smooth=smooth):
            factors = np.ones(k) if smooth is None else smooth.astype(np.float64)
            scaled = w / factors[:, None]
            rounded = choice.weights.reshape(scaled.shape) * choice.weight_scales.astype(np.float64)
            error = scale**2 / 12 * float(np.square(scaled).sum()) + float((squares * factors**2) @ _by_row(scaled - rounded))
        case DynamicInt8():
            rounded = choice.weights.reshape(w.shape) * choice.weight_scales.astype(np.float64)
            row = 2 * math.sqrt(2 * math.log(k + 1) * float(squares.mean()))  # the range of K normal values, about
            step = min(row, float(seen.highs.max() - seen.lows.min())) / (LEVELS - 1)
            error = step**2 / 12 * float(np.square(w).sum()) + float(squares @ _by_row(w - rounded))
        case WeightOnly():
            error = float(squares @ _by_row(w - choice.dequantize()))
    return error / energy


def _by_row(w: np.ndarray) -> np.ndarray:
    """Σ w² of each k, of [taps, K, N]."""
    found: np.ndarray = np.square(w).sum(axis=(0, 2))
    return found
