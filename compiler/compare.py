"""How far two arrays are apart, and how far they may be: the one table of tolerances."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..ir.dtypes import DType

# Largest relative L2 error: (one operator, a whole model). Types that are not listed must agree exactly. A unit in the
# last place is 1.2e-7 of float32, 9.8e-4 of float16 and 7.8e-3 of bfloat16; the oracle computes the last two in float32.
RELATIVE_L2: dict[DType, tuple[float, float]] = {
    DType.F64: (1e-12, 1e-10),
    DType.C128: (1e-12, 1e-10),
    DType.F32: (1e-5, 1e-4),
    DType.C64: (1e-5, 1e-4),
    DType.F16: (1e-3, 5e-3),
    DType.BF16: (8e-3, 4e-2),
}
# Where a model rounds to few levels, one level more or less is as right: a sum that another order of its terms moves past
# the middle between two of them turns over. As far as onnxruntime's own optimizations move a result is no mistake, up to:
MOST_NOISE = 1e-2
_SHORT_SUM = 4096  # up to this many terms the figures above hold; rounding errors grow as the root of the length


@dataclass(frozen=True)
class Limits:
    """What counts as agreement: a relative L2 error, or, when given, an element-wise |a-b| <= atol + rtol*|b|."""

    relative_l2: float
    rtol: float | None = None
    atol: float | None = None

    @property
    def elementwise(self) -> bool:
        return self.rtol is not None or self.atol is not None


@dataclass(frozen=True)
class Tolerance:
    """What the user asks of a comparison beside the table.

    rtol, atol: element-wise limits that replace the table for inexact types. lowered: relative L2 granted to a model of lowered
    precision; 0 for one that is not. float64: how far both are from that is to be said in any case.
    """

    rtol: float | None = None
    atol: float | None = None
    lowered: float = 0.0
    float64: bool = False

    @property
    def elementwise(self) -> bool:
        return self.rtol is not None or self.atol is not None


BY_TABLE = Tolerance()

# The same for float32 models that the user asked to compute at fewer bits, when no bound is given: what real models
# stay within (docs/precision.md), with a margin. A unit of bfloat16 is 2^-8, a step of an 8-bit range about as large.
LOWERED_L2 = {"bf16": 4e-2, "fp16": 5e-3, "int8": 1.5e-1, "int8-dynamic": 1.5e-1, "int8-weight": 5e-2, "int4": 3e-1}


def limits(dtype: np.dtype, *, whole_model: bool, reduction: int = 1, tolerance: Tolerance = BY_TABLE) -> Limits:
    """The limits for results of a dtype.

    Args:
        dtype: of the results.
        whole_model: an end-to-end comparison, otherwise one of a single operator.
        reduction: terms of the longest sum behind one element (matters for one operator only).
        tolerance: what the user asks for.
    """
    pair = RELATIVE_L2.get(DType.from_numpy(dtype))
    if pair is None:
        return Limits(0.0)
    grown = max(1.0, math.sqrt(reduction / _SHORT_SUM))
    return Limits(max(tolerance.lowered, pair[1] if whole_model else pair[0] * grown), tolerance.rtol, tolerance.atol)


@dataclass(frozen=True)
class FromFloat64:
    """Relative L2 of each result from an evaluation of the model in float64."""

    mlc: float
    onnxruntime: float


@dataclass(frozen=True)
class Difference:
    """`got` against `want`, for one tensor. Figures are over the places where both are finite.

    Attributes:
        agrees: shapes, dtypes and non-finite places match, and the difference is within the limits.
        why: what is wrong, "" when it agrees.
        max_ulp: largest distance in units in the last place of the dtype (None for types without such).
        arg_max: share of rows (last axis) whose largest element is at the same place.
        from_float64: how far both are from float64, where that was asked (see `float64.settle`).
        within_noise: over the limit, but no further from onnxruntime than that is from itself (see `excuse`).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    agrees: bool
    why: str
    limit: float
    max_abs: float = 0.0
    max_ulp: int | None = None
    relative_l2: float = 0.0
    cosine: float = 1.0
    arg_max: float = 1.0
    from_float64: FromFloat64 | None = None
    within_noise: bool = False

    def as_json(self) -> dict[str, Any]:
        return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}


def compare(name: str, got: np.ndarray, want: np.ndarray, limit: Limits) -> Difference:
    """Compares a result with the oracle's."""
    dtype, shape = str(want.dtype), tuple(want.shape)

    def wrong(why: str) -> Difference:
        return Difference(name, dtype, shape, False, why, limit.relative_l2, math.inf, None, math.inf, 0.0, 0.0)

    if got.shape != want.shape:
        return wrong(f"shape {list(got.shape)}, expected {list(want.shape)}")
    if got.dtype != want.dtype:
        return wrong(f"dtype {got.dtype}, expected {want.dtype}")
    if want.dtype.kind in "OUST":
        same = bool(np.array_equal(got, want))
        return Difference(name, dtype, shape, same, "" if same else "strings differ", 0.0)
    inexact = want.dtype.kind in "fc" or (want.dtype.kind == "V" or DType.from_numpy(want.dtype).is_float)
    wide: Any = np.complex128 if want.dtype.kind == "c" else np.float64
    a, b = got.astype(wide).ravel(), want.astype(wide).ravel()
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        at = int(np.argmax((finite != np.isfinite(a)) | (~finite & (a != b) & ~(np.isnan(a) & np.isnan(b)))))
        return wrong(f"element {at} is {a[at]:g}, expected {b[at]:g}")
    a, b = a[finite], b[finite]
    error = np.abs(a - b)
    max_abs = float(error.max(initial=0.0))
    norm = float(np.linalg.norm(b))
    relative = float(np.linalg.norm(error)) / norm if norm else float(np.linalg.norm(error))
    cosine = _cosine(a, b, norm)
    ulps = _max_ulp(got.ravel()[finite], want.ravel()[finite]) if inexact else None
    if not inexact:
        exact = bool(np.array_equal(got, want))
        why = "" if exact else f"{int(np.count_nonzero(got != want))} of {want.size} elements differ"
    elif limit.elementwise:
        rtol, atol = limit.rtol or 0.0, limit.atol or 0.0
        over = error > atol + rtol * np.abs(b)
        why = f"{int(over.sum())} of {want.size} elements are over atol={atol:g} rtol={rtol:g}" if over.any() else ""
    else:
        why = _over(relative, limit.relative_l2)
    return Difference(name, dtype, shape, not why, why, limit.relative_l2, max_abs, ulps, relative, cosine, _arg_max_agreement(got, want))


def _over(relative: float, limit: float) -> str:
    return f"relative L2 {relative:.2e} is over {limit:.0e}" if relative > limit else ""


def held_to(d: Difference, limit: float) -> Difference:
    """A difference whose size alone is wrong, by a larger limit of the relative L2 error. What has to be exact stays so."""
    if d.agrees or not 0 < d.limit < limit or not math.isfinite(d.relative_l2):
        return d
    why = _over(d.relative_l2, limit)
    return replace(d, limit=limit, agrees=not why, why=why)


def excuse(d: Difference, noise: float) -> Difference:
    """A difference whose size alone is wrong agrees when it is no larger than `noise`, the relative L2 of two runs of the
    oracle that differ in rewriting alone, and that is at most MOST_NOISE."""
    within = not d.agrees and d.limit > 0 and d.relative_l2 <= min(noise, MOST_NOISE)
    return replace(d, agrees=True, why="", within_noise=True) if within else d


def _cosine(a: np.ndarray, b: np.ndarray, norm: float) -> float:
    other = float(np.linalg.norm(a))
    if not norm or not other:
        return 1.0 if norm == other else 0.0
    return min(1.0, abs(complex(np.vdot(b / norm, a / other))))


def _max_ulp(a: np.ndarray, b: np.ndarray) -> int | None:
    if a.dtype.kind == "c":
        parts = np.dtype(f"f{a.dtype.itemsize // 2}")
        a, b = a.view(parts), b.view(parts)
    if a.dtype.itemsize not in (2, 4, 8) or not a.size:
        return 0 if not a.size else None
    ints = np.dtype(f"i{a.dtype.itemsize}")

    def ordered(x: np.ndarray) -> np.ndarray:
        # Sign-magnitude to two's complement: neighbouring numbers differ by one, and -0 equals +0.
        i = np.ascontiguousarray(x).view(ints).astype(np.int64)
        lowest = np.iinfo(ints).min
        return np.where(i < 0, np.int64(lowest) - i, i)

    x, y = ordered(a), ordered(b)
    if a.dtype.itemsize == 8:
        return int(np.abs(x.astype(np.float64) - y.astype(np.float64)).max())
    return int(np.abs(x - y).max())


def _arg_max_agreement(a: np.ndarray, b: np.ndarray) -> float:
    if not b.ndim or not b.size or b.dtype.kind == "c":
        return 1.0
    wide = np.float64 if b.dtype.kind not in "iub" else b.dtype
    same = np.argmax(a.astype(wide), axis=-1) == np.argmax(b.astype(wide), axis=-1)
    return float(np.mean(same))
