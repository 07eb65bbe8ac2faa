"""Weights [K, N] to few bits: per column for integer products, per group of rows for weight-only ones.

Rounding to nearest; GPTQ (Frantar et al., arXiv:2210.17323), which lets later rows make up for the errors of earlier ones; AWQ
(Lin et al., arXiv:2306.00978), which scales up the rows that matter before rounding. Products are y[M, N] = x[M, K] · w[K, N]; the
last group of rows may be short.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...passes.precision import WeightOnly

_DAMPING = 0.01  # of the mean diagonal of the Hessian, as GPTQ's authors use
_BLOCK = 128  # rows of GPTQ whose updates are gathered before they reach the rest
_HALF = np.finfo(np.float16)


def per_column(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric 8-bit weights: (i8 [K, N], f32 scales [N]) with w ≈ q · scales. −128 is not used, so that −q is legal too."""
    top = np.abs(w).max(axis=0, initial=0.0)
    scales = np.where(top > 0, top / 127, 1.0).astype(np.float32)
    return np.clip(np.rint(w / scales), -127, 127).astype(np.int8), scales


def nearest(w: np.ndarray, *, bits: int = 4, group: int = 32, symmetric: bool = True) -> WeightOnly:
    """Each weight to the nearest level of its group."""
    k, n = w.shape
    blocks = np.zeros((-(-k // group), group, n), np.float32)  # rows that the last group lacks are 0, which every range holds
    blocks.reshape(-1, n)[:k] = w
    scales, zeros = _range(blocks, bits, symmetric)
    levels = np.ascontiguousarray(_levels(blocks, scales[:, None], zeros[:, None], bits).reshape(-1, n)[:k])
    return WeightOnly(bits, group, levels, scales, zeros.astype(np.float32))


def gptq(w: np.ndarray, hessian: np.ndarray, *, bits: int = 4, group: int = 32, symmetric: bool = True) -> WeightOnly:
    """Rounds row by row, correcting the rows that follow for each error.

    Args:
        w: f32 [K, N]; bits: 4 or 8.
        hessian: f64 [K, K], Σ xᵀx over the calibration data.
    """
    k, n = w.shape
    h = hessian.astype(np.float64).copy()
    dead = np.diag(h) <= 0
    h[dead, dead] = 1.0
    h[np.diag_indices(k)] += _DAMPING * float(np.mean(np.diag(h)))
    inverse = np.linalg.inv(h)
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T  # H⁻¹ = Uᵀ·U
    rest = w.astype(np.float64).copy()
    rest[dead] = 0.0
    levels = np.empty((k, n), np.uint8)
    groups = -(-k // group), n
    scales, zeros = np.empty(groups, np.float32), np.empty(groups, np.uint8)
    for start in range(0, k, _BLOCK):
        stop = min(start + _BLOCK, k)
        errors = np.empty((stop - start, n))
        for i in range(start, stop):
            g = i // group
            if i % group == 0:
                ahead = rest[i : i + group].copy()
                if i + group > stop:  # rows of the group behind this block have not seen its errors yet
                    ahead[stop - i :] -= upper[start:i, stop : i + group].T @ errors[: i - start]
                scales[g], zeros[g] = _range(ahead[None].astype(np.float32), bits, symmetric, axis=1)
            levels[i] = _levels(rest[i], scales[g], zeros[g], bits)
            error = (rest[i] - (levels[i].astype(np.float64) - zeros[g]) * scales[g]) / upper[i, i]
            rest[i + 1 : stop] -= np.outer(upper[i, i + 1 : stop], error)
            errors[i - start] = error
        rest[stop:] -= upper[start:stop, stop:].T @ errors
    return WeightOnly(bits, group, levels, scales, zeros.astype(np.float32))


def awq(w: np.ndarray, hessian: np.ndarray, *, bits: int = 4, group: int = 32, symmetric: bool = True) -> WeightOnly:
    """Rounds w with rows scaled up by a power of their activations' magnitude; the power is searched for.

    Args: as `gptq`. The cost of an error E is tr(Eᵀ·H·E), the squared error of the product over the calibration data.
    """
    magnitude = np.sqrt(np.maximum(np.diag(hessian), 0.0))
    best: tuple[float, WeightOnly] | None = None
    for power in np.linspace(0.0, 1.0, 21):
        s = np.maximum(magnitude, 1e-8 * max(float(magnitude.max(initial=0.0)), 1e-30)) ** power
        s = (s / np.sqrt(s.max() * s.min())).astype(np.float32)
        made = nearest(w * s[:, None], bits=bits, group=group, symmetric=symmetric)
        found = replace(made, rows=(1.0 / s).astype(np.float32))
        error = (found.dequantize() - w).astype(np.float64)
        cost = float(np.einsum("kn,kn->", hessian @ error, error))
        if best is None or cost < best[0]:
            best = cost, found
    assert best is not None
    return best[1]


def smoothing(activations: np.ndarray, w: np.ndarray, power: float = 0.5) -> np.ndarray:
    """Factors s [K] by which to divide columns of x and multiply rows of w, so that outliers of x are shared with w.

    SmoothQuant (Xiao et al., arXiv:2211.10438): s = max|x|^power / max|w|^(1 − power).
    """
    x = np.maximum(activations.astype(np.float64), 1e-5)
    s = x**power / np.maximum(np.abs(w).max(axis=1), 1e-5) ** (1 - power)
    return np.clip(s, 1e-5, 1e5).astype(np.float32)


def _range(blocks: np.ndarray, bits: int, symmetric: bool, axis: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points of blocks [groups, rows, N]."""
    top = (1 << bits) - 1
    lo, hi = np.minimum(blocks.min(axis=axis), 0.0), np.maximum(blocks.max(axis=axis), 0.0)
    if symmetric:
        middle = 1 << (bits - 1)
        # The end with the larger magnitude takes the side of the levels that has one more.
        far = np.where(-lo > hi, lo, hi)
        scales = _halves(np.where(far != 0, far / -middle, 1.0))
        return scales, np.full(scales.shape, middle, np.uint8)
    scales = _halves(np.where(hi > lo, (hi - lo) / top, 1.0))
    return scales, np.clip(np.rint(-lo / scales), 0, top).astype(np.uint8)


def _halves(scales: np.ndarray) -> np.ndarray:
    """Scales as float32 that are numbers of float16, before anything is rounded by them: storing them takes half as much then, and
    loses nothing. Those that are too large or small for it stay."""
    usual = (np.abs(scales) >= _HALF.smallest_normal) & (np.abs(scales) <= _HALF.max)
    return np.where(usual, np.where(usual, scales, 1.0).astype(np.float16), scales).astype(np.float32)


def _levels(w: np.ndarray, scales: np.ndarray, zeros: np.ndarray, bits: int) -> np.ndarray:
    return np.clip(np.rint(w / scales) + zeros, 0, (1 << bits) - 1).astype(np.uint8)
