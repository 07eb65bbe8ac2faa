"""Resampling: per axis a few taps, from tables where the sizes are known, computed where they are symbolic."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from ...errors import CodegenError
from ...ir import DType, Node
from ...ir.ops import Resize
from ..expr import Call, Cast, E, Load, Num
from .core import Index, Lowering, Virtual
from .index import add, clamp, linear, mul, num
from .moves import widen

# per axis: output position -> [(input position, weight or None)]
Taps = Callable[[E], list[tuple[E, E | None]]]
F32 = DType.F32


def resize(lo: Lowering, node: Node) -> None:
    op, source, value = node.op, node.inputs[0], node.out
    assert isinstance(op, Resize)
    x = lo.load(lo.stored(source), source.type)
    taps = [_axis(lo, op, axis, source.shape[axis]) for axis in range(len(op.sizes))]

    def at(index: Index) -> E:
        choices = [t(i) for t, i in zip(taps, index, strict=True)]
        if all(len(c) == 1 and c[0][1] is None for c in choices):
            return x.at(tuple(c[0][0] for c in choices))
        total: E | None = None
        for combination in product(*choices):
            term = widen(x.at(tuple(i for i, _ in combination)))
            dt = term.dtype if term.dtype.is_float else F32
            term = term if term.dtype is dt else Cast(term, dtype=dt)
            for _, w in combination:
                if w is not None:
                    term = Call("mul", (term, w if w.dtype is dt else Cast(w, dtype=dt)), dtype=dt)
            total = term if total is None else Call("add", (total, term), dtype=dt)
        assert total is not None
        return total if total.dtype is value.dtype else Cast(total, dtype=value.dtype)

    nodes = 8 * max(1, sum(op.sizes[i] != source.shape[i] for i in range(len(op.sizes)))) ** 2
    lo.forms[value] = Virtual(value.type, at, nodes, op.mode != "nearest", node.loc)


def _axis(lo: Lowering, op: Resize, axis: int, n: object) -> Taps:
    size, scale = op.sizes[axis], op.scales[axis]
    crop = op.coord_mode == "tf_crop_and_resize"
    if size == n and scale in (None, 1) and not crop:
        return lambda i: [(i, None)]
    if isinstance(size, int) and isinstance(n, int):
        return _tables(lo, op, axis, n, size)
    if crop or op.mode == "cubic" or op.antialias:
        raise CodegenError(f"Resize ({op.mode}, {op.coord_mode}) of a symbolic dim {n}", expected="a static size",
                           remedy="Fix the size with --shape.")  # fmt: skip

    def taps(i: E) -> list[tuple[E, E | None]]:
        p = _position(op, i, n, size, scale)
        if op.mode == "nearest":
            half = Num(0.5, dtype=F32)
            match op.nearest_mode:
                case "floor":
                    q = Call("floor", (p,), dtype=F32)
                case "ceil":
                    q = Call("ceil", (p,), dtype=F32)
                case "round_prefer_ceil":
                    q = Call("floor", (Call("add", (p, half), dtype=F32),), dtype=F32)
                case _:
                    q = Call("ceil", (Call("sub", (p, half), dtype=F32),), dtype=F32)
            return [(clamp(Cast(q, dtype=DType.I64), n), None)]  # type: ignore[arg-type]
        last = Cast(num(n - 1), dtype=F32)  # type: ignore[operator]
        p = Call("max", (Call("min", (p, last), dtype=F32), Num(0.0, dtype=F32)), dtype=F32)
        low = Call("floor", (p,), dtype=F32)
        w = Call("sub", (p, low), dtype=F32)
        i0 = clamp(Cast(low, dtype=DType.I64), n)  # type: ignore[arg-type]
        i1 = clamp(add(i0, Num(1)), n)  # type: ignore[arg-type]
        return [(i0, Call("sub", (Num(1.0, dtype=F32), w), dtype=F32)), (i1, w)]

    return taps


def _position(op: Resize, i: E, n: object, size: object, scale: float | None) -> E:
    f = Cast(i, dtype=F32)

    def dim(d: object) -> E:
        return Cast(num(d), dtype=F32)  # type: ignore[arg-type]

    ratio: E = Num(scale, dtype=F32) if scale is not None else Call("div", (dim(size), dim(n)), dtype=F32)
    half = Num(0.5, dtype=F32)
    centre = Call("sub", (Call("div", (Call("add", (f, half), dtype=F32), ratio), dtype=F32), half), dtype=F32)
    match op.coord_mode:
        case "asymmetric":
            return Call("div", (f, ratio), dtype=F32)
        case "align_corners":
            span = Call("max", (dim(size - 1), Num(1.0, dtype=F32)), dtype=F32)  # type: ignore[operator]
            return Call("div", (Call("mul", (f, dim(n - 1)), dtype=F32), span), dtype=F32)  # type: ignore[operator]
        case "tf_half_pixel_for_nn":
            return Call("add", (centre, half), dtype=F32)
        case "pytorch_half_pixel":
            single = Call("le", (num(size), Num(1)), dtype=DType.BOOL)  # type: ignore[arg-type]
            return Call("select", (single, Num(0.0, dtype=F32), centre), dtype=F32)
        case "half_pixel_symmetric":
            adjust = Call("div", (dim(size), Call("mul", (ratio, dim(n)), dtype=F32)), dtype=F32)
            middle = Call("mul", (dim(n), half), dtype=F32)
            shift = Call("mul", (middle, Call("sub", (Num(1.0, dtype=F32), adjust), dtype=F32)), dtype=F32)
            return Call("add", (shift, centre), dtype=F32)
    return centre


def _tables(lo: Lowering, op: Resize, axis: int, n: int, size: int) -> Taps:
    """Taps of a static axis, from the op's own formulas."""
    scale = size / n if op.scales[axis] is None else op.scales[axis]
    at = op.coordinates(n, size, scale, axis)  # type: ignore[arg-type]
    if op.coord_mode == "tf_crop_and_resize" and ((at < 0) | (at > n - 1)).any():
        raise CodegenError("Resize tf_crop_and_resize beyond the input", expected="a region inside [0, 1]")
    if op.mode == "nearest":
        table = lo.constant(op.nearest(at, n))
        return lambda i: [(Load(table, i, dtype=DType.I64), None)]
    weights = op.weights(at, n, scale)  # type: ignore[arg-type]
    count = int((weights != 0).sum(1).max())
    order = np.argsort(weights == 0, axis=1, kind="stable")[:, :count]
    indices = lo.constant(order.astype(np.int64))
    values = lo.constant(np.take_along_axis(weights, order, 1).astype(np.float32))

    def taps(i: E) -> list[tuple[E, E | None]]:
        where = [add(mul(i, Num(count)), Num(k)) for k in range(count)]
        return [(Load(indices, w, dtype=DType.I64), Load(values, w, dtype=F32)) for w in where]

    return taps
