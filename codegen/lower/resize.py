"""Resize as an index function: tables of positions and weights where sizes are known, arithmetic where they are not."""

from __future__ import annotations

import itertools

import numpy as np

from ...errors import CodegenError
from ...ir import DType, Node, Shape
from ...ir.ops import Resize
from ..expr import E
from ..simplify import Affine, as_affine, clamp, div, opaque
from .builder import KernelBuilder, computed, convert, fn, index_expr, number
from .state import Lowering

Index = tuple[Affine, ...]
Taps = list[tuple[Affine, E | None]]  # input positions along one axis, and their weights (None: 1)


def changed_axes(op: Resize, shape: Shape) -> list[int]:
    """Axes along which something is resampled."""
    crop = op.coord_mode == "tf_crop_and_resize"
    rank = len(shape)
    return [a for a, (n, size, scale) in enumerate(zip(shape, op.sizes, op.scales, strict=True))
            if not (size == n and scale in (None, 1.0)) or (crop and (op.roi[a], op.roi[rank + a]) != (0, 1))]  # fmt: skip


def resized(lw: Lowering, op: Resize, node: Node, k: KernelBuilder, index: Index) -> E:
    x = node.inputs[0]
    axes = changed_axes(op, x.shape)
    wide = computed(x.dtype) if x.dtype.is_float else DType.F64
    outside: list[E] = []
    taps = [_taps(lw, op, node, k, a, index[a], wide, outside) for a in axes]
    total: E | None = None
    for combination in itertools.product(*taps):
        at = list(index)
        weight: E | None = None
        for a, (position, w) in zip(axes, combination, strict=True):
            at[a] = position
            weight = w if weight is None or w is None else fn("mul", weight, w)
        e = lw.read(k, x, tuple(at))
        if weight is not None:
            e = fn("mul", convert(e, wide), weight)
        total = e if total is None else fn("add", total, e)
    assert total is not None
    if total.dtype is not computed(x.dtype):
        total = convert(fn("round" if op.antialias else "trunc", total), x.dtype)
    for condition in outside:
        total = fn("select", condition, number(op.extrapolation, total.dtype), total)
    return total


def _taps(lw: Lowering, op: Resize, node: Node, k: KernelBuilder, a: int, i: Affine, wide: DType, outside: list[E]) -> Taps:
    n, size, scale = node.inputs[0].shape[a], op.sizes[a], op.scales[a]
    if isinstance(n, int) and isinstance(size, int):
        if n == 0 or size == 0:
            return [(Affine({}), None)]
        factor = size / n if scale is None else scale
        at = op.coordinates(n, size, factor, a)
        if op.coord_mode == "tf_crop_and_resize" and ((at < 0) | (at > n - 1)).any():
            outside.append(_table(lw, k, (at < 0) | (at > n - 1), i))
        if op.mode == "nearest":
            return [(_nearest(lw, k, op.nearest(at, n), i, n), None)]
        return _weighted(lw, k, op.weights(at, n, factor), i, n, wide)
    whole = _whole_factor(op, a, node)
    if op.mode == "nearest" and whole is not None:
        return [(div(i, whole), None)]
    position = _coordinate(op, a, node, i)
    last = as_affine(n) - 1
    if op.mode == "nearest":
        half = number(0.5, DType.F32)
        match op.nearest_mode:
            case "floor":
                e = fn("floor", position)
            case "ceil":
                e = fn("ceil", position)
            case "round_prefer_ceil":
                e = fn("floor", fn("add", position, half))
            case _:
                e = fn("ceil", fn("sub", position, half))
        return [(clamp(opaque(convert(e, DType.I64)), 0, n - 1), None)]
    if op.mode == "cubic" or op.antialias or op.exclude_outside:
        raise CodegenError(f"resize in mode {op.mode} of symbolic size {n} to {size}", expected="static sizes",
                           remedy="Give the shapes of the inputs.", loc=" + ".join(node.loc))  # fmt: skip
    position = fn("max", fn("min", position, convert(index_expr(last), DType.F32)), number(0.0, DType.F32))
    base = fn("floor", position)
    right = convert(fn("sub", position, base), wide)
    left = fn("sub", number(1.0, wide), right)
    low = opaque(convert(base, DType.I64))
    return [(clamp(low, 0, n - 1), left), (clamp(low + 1, 0, n - 1), right)]


def _whole_factor(op: Resize, a: int, node: Node) -> int | None:
    n, size = node.inputs[0].shape[a], op.sizes[a]
    f = op.scales[a]
    factor = int(f) if f is not None and f == int(f) else next((c for c in range(1, 17) if n * c == size), None)
    simple = (op.coord_mode, op.nearest_mode) in (
        ("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("pytorch_half_pixel", "round_prefer_floor"),
    )  # fmt: skip
    return factor if simple and factor and factor >= 1 and n * factor == size else None


def _coordinate(op: Resize, a: int, node: Node, i: Affine) -> E:
    n, size, scale = node.inputs[0].shape[a], op.sizes[a], op.scales[a]

    def f(x: Affine | int | float | E) -> E:
        if isinstance(x, (int, float)):
            return number(float(x), DType.F32)
        return convert(x if isinstance(x, E) else index_expr(x), DType.F32)

    e, half = f(i), f(0.5)
    length, target = f(as_affine(n)), f(as_affine(size))
    s = fn("div", target, length) if scale is None else f(scale)
    match op.coord_mode:
        case "asymmetric":
            return fn("div", e, s)
        case "align_corners":
            span = fn("max", fn("sub", target if scale is None else fn("mul", s, length), f(1.0)), f(1.0))
            return fn("div", fn("mul", e, fn("sub", length, f(1.0))), span)
        case "tf_half_pixel_for_nn":
            return fn("div", fn("add", e, half), s)
        case "half_pixel_symmetric":
            adjustment = fn("sub", f(1.0), fn("div", target, fn("mul", s, length)))
            shift = fn("mul", fn("mul", length, half), adjustment)
            return fn("sub", fn("add", shift, fn("div", fn("add", e, half), s)), half)
        case "tf_crop_and_resize":
            raise CodegenError(f"resize tf_crop_and_resize of symbolic size {n}", expected="static sizes", loc=" + ".join(node.loc))
    out = fn("sub", fn("div", fn("add", e, half), s), half)
    if op.coord_mode == "pytorch_half_pixel":
        out = fn("select", fn("gt", target, f(1.0)), out, f(0.0))
    return out


def _table(lw: Lowering, k: KernelBuilder, values: np.ndarray, i: Affine) -> E:
    data = np.ascontiguousarray(values)
    return k.load(lw.storage.const(data, ("table", data.dtype.str, data.shape, data.tobytes())), (i,))


def _nearest(lw: Lowering, k: KernelBuilder, at: np.ndarray, i: Affine, n: int) -> Affine:
    for up in range(1, 33):
        if np.array_equal(at, np.arange(len(at)) // up):
            return div(i, up)
    return _position(lw, k, at, i, n - 1)


def _position(lw: Lowering, k: KernelBuilder, at: np.ndarray, i: Affine, last: int) -> Affine:
    """at[i] ≤ last: where they are equally far apart without a table, which lets neighbours be read in vectors."""
    step = int(at[1] - at[0]) if len(at) > 1 else 0
    if np.array_equal(at, at[0] + np.arange(len(at)) * step):
        return i * step + int(at[0])
    return opaque(_table(lw, k, at.astype(np.int64), i), 0, last)


def _weighted(lw: Lowering, k: KernelBuilder, w: np.ndarray, i: Affine, n: int, wide: DType) -> Taps:
    first = np.argmax(w != 0, axis=1)
    count = int((w.shape[1] - np.argmax(w[:, ::-1] != 0, axis=1) - first).max())
    first = np.minimum(first, n - count)
    out: Taps = []
    base = _position(lw, k, first, i, n - count)
    for t in range(count):
        column = np.take_along_axis(w, (first + t)[:, None], axis=1)[:, 0].astype(wide.np)
        alike = (column == column[0]).all()
        out.append((base + t, number(float(column[0]), wide) if alike else _table(lw, k, column, i)))
    return out
