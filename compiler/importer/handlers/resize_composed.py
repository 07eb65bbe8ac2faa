"""Resize of sizes, scales or regions that are known in the run only: positions and weights computed as tensors.

Nearest neighbours are gathered; other modes are one matrix of weights per axis. Formulas as in `ir/ops/resize.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ....ir import Dim, DType, Value, prod
from ....ir import ops as O
from ..compose import Build

F32 = DType.F32


@dataclass(frozen=True)
class Along:
    """What happens to one axis: its new size, out/in as a float32 scalar, and the ends of the region, if there is one."""

    axis: int
    size: Dim
    scale: Value
    region: tuple[Value, Value] | None = None


def resize_composed(b: Build, x: Value, form: O.Resize, plan: Sequence[Along]) -> Value:
    """`form` gives modes and coefficients; its sizes and scales are not looked at."""
    y = x if form.mode == "nearest" else b.cast(x, F32)
    outside: Value | None = None
    for part in plan:
        n = y.shape[part.axis]
        at = _positions(b, form, part, n)
        if part.region is not None:
            last = b.sub(b.dim(n, F32), 1.0)
            out = b.emit(O.Or(), b.emit(O.Less(), at, b.const(0, F32)), b.emit(O.Greater(), at, last))
            out = b.along(out, part.axis, x.type.rank)
            outside = out if outside is None else b.emit(O.Or(), outside, out)
        y = _nearest(b, form, y, part.axis, at) if form.mode == "nearest" else _weighted(b, form, y, part, at)
    if form.mode != "nearest" and x.dtype.is_int:
        if form.antialias:
            y = b.emit(O.Round(), y)
        bits = x.dtype.bits
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if x.dtype.is_signed else (0, 2**bits - 1)
        y = b.min(b.max(y, float(low)), float(high))
    y = b.cast(y, x.dtype)
    return y if outside is None else b.where(outside, b.const(form.extrapolation, x.dtype), y)


def _positions(b: Build, form: O.Resize, part: Along, n: Dim) -> Value:
    """Where each of the new elements lies among the old ones."""
    i = b.cast(b.iota(part.size), F32)
    length, size, scale = b.dim(n, F32), b.dim(part.size, F32), part.scale
    center = b.sub(b.div(b.add(i, 0.5), scale), 0.5)
    several = b.emit(O.Greater(), size, b.const(1, F32))
    intervals = b.max(b.sub(size, 1.0), 1.0)
    match form.coord_mode:
        case "asymmetric":
            return b.div(i, scale)
        case "align_corners":
            return b.where(several, b.div(b.mul(i, b.sub(length, 1.0)), b.sub(b.mul(scale, length), 1.0)), b.const(0, F32))
        case "pytorch_half_pixel":
            return b.where(several, center, b.const(0, F32))
        case "tf_half_pixel_for_nn":
            return b.div(b.add(i, 0.5), scale)
        case "tf_crop_and_resize":
            assert part.region is not None
            start, end = part.region
            last = b.sub(length, 1.0)
            across = b.add(b.mul(start, last), b.div(b.mul(b.mul(i, b.sub(end, start)), last), intervals))
            return b.where(several, across, b.mul(b.mul(b.add(start, end), 0.5), last))
        case "half_pixel_symmetric":
            adjustment = b.div(size, b.mul(scale, length))
            shift = b.mul(b.div(length, 2.0), b.sub(b.const(1, F32), adjustment))
            return b.add(shift, center)
    return center


def _nearest(b: Build, form: O.Resize, x: Value, axis: int, at: Value) -> Value:
    match form.nearest_mode:
        case "floor":
            at = b.emit(O.Floor(), at)
        case "ceil":
            at = b.emit(O.Ceil(), at)
        case "round_prefer_ceil":
            at = b.emit(O.Floor(), b.add(at, 0.5))
        case _:
            at = b.emit(O.Ceil(), b.sub(at, 0.5))
    last = b.sub(b.dim(x.shape[axis], DType.I64), 1)
    return b.emit(O.Gather(axis), x, b.emit(O.Min(), b.max(b.cast(at, DType.I64), 0), last))


def _weighted(b: Build, form: O.Resize, x: Value, part: Along, at: Value) -> Value:
    """x · Wᵀ along the axis; taps beyond the border read the border, or nothing if they are excluded."""
    axis, n = part.axis, x.shape[part.axis]
    shrink = b.min(part.scale, 1.0) if form.antialias else b.const(1, F32)
    last = b.sub(b.dim(n, F32), 1.0)
    beyond: Dim = 0
    if form.mode == "linear" and not form.antialias:
        at = b.emit(O.Min(), b.max(at, 0.0), last)
    elif not form.exclude_outside:
        beyond = 2 * n + 2 if form.antialias else 2  # taps reach 2 / shrink ≤ 2·n
    taps = b.sub(b.iota(n + 2 * beyond), b.dim(beyond, DType.I64))
    distance = b.emit(O.Abs(), b.sub(b.cast(b.reshape(taps, (1, taps.shape[0])), F32), b.reshape(at, (part.size, 1))))
    w = _kernel(b, form, b.mul(distance, shrink))
    w = b.div(w, b.reduce("sum", w, [1]))
    if beyond != 0:
        top = b.sub(b.dim(n, DType.I64), 1)
        x = b.emit(O.Gather(axis), x, b.emit(O.Min(), b.max(taps, 0), top))
    rank = x.type.rank
    perm = (*(a for a in range(rank) if a != axis), axis)
    rows = b.reshape(b.transpose(x, perm), (prod(x.shape[a] for a in perm[:-1]), x.shape[axis]))
    y = b.reshape(b.matmul(rows, b.transpose(w, (1, 0))), (*(x.shape[a] for a in perm[:-1]), part.size))
    return b.transpose(y, [perm.index(a) for a in range(rank)])


def _kernel(b: Build, form: O.Resize, d: Value) -> Value:
    """A triangle, or Keys' cubic convolution."""
    zero = b.const(0, F32)
    if form.mode == "linear":
        return b.max(b.sub(b.const(1, F32), d), 0.0)
    a = form.cubic_a
    near = b.add(b.mul(b.mul(b.sub(b.mul(d, a + 2), a + 3), d), d), 1.0)
    far = b.sub(b.mul(b.add(b.mul(b.sub(b.mul(d, a), 5 * a), d), 8 * a), d), 4 * a)
    inner, outer = (b.emit(O.LessEqual(), d, b.const(1, F32)), b.emit(O.Less(), d, b.const(2, F32)))
    return b.where(inner, near, b.where(outer, far, zero))
