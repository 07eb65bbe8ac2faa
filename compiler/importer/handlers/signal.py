"""Handlers of Fourier transforms, which are products with constant matrices, and Col2Im."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from ....ir import Dim, DType, Shape, Value, dim_min, floordiv, prod
from ....ir import ops as O
from ..compose import Build, optional, required
from ..context import HandlerTable, ImportContext
from .fourier import is_long, transform, wave
from .runtime_axes import around_axis, dims_value, named_axes, sizes_in

_MOST_SHIFTED = 8  # taps along an axis that one kernel adds as terms


def fourier(ctx: ImportContext, b: Build, x: Value, n: Dim, inverse: bool, onesided: bool) -> Value:
    """Transform of x[…, m, 1 or 2] (real, or real and imaginary) over m, cut or padded with zeros to its need."""
    size, parts = x.shape[-2], x.shape[-1]
    if parts not in (1, 2):
        raise ctx.unsupported(f"a Fourier transform of {parts} components")
    half = floordiv(n, 2) + 1
    use = dim_min(size, half if inverse and onesided else n)  # padding by zeros only shortens the sums
    if use == 0:
        raise ctx.unsupported("a Fourier transform over an empty axis")
    axis, lead = x.type.rank - 2, x.shape[:-2]
    x = b.slice(x, axis, 0, use)
    rows = (prod(lead), use)
    if inverse:
        x = b.div(x, b.dim(n, x.dtype))
    real = b.reshape(b.slice(x, axis + 1, 0, 1), rows)
    imag = b.reshape(b.slice(x, axis + 1, 1, 1), rows) if parts == 2 else None
    bins = half if onesided and not inverse else n
    if is_long(n, use, bins, parts if inverse and onesided else 2 * parts):
        return _long(b, real, imag, int(n), inverse, onesided, lead)
    cos, sin = wave(b, use, bins, n, x.dtype)
    if inverse and onesided:
        # Bins k and n − k are conjugate: each counts twice, but for 0 and the middle one.
        k = b.iota(use)
        single = b.emit(O.Or(), b.emit(O.Equal(), k, b.const(0, k.dtype)), b.emit(O.Equal(), b.mul(k, 2), b.dim(n, k.dtype)))
        twice = b.where(single, b.const(1, x.dtype), b.const(2, x.dtype))
        y = b.matmul(b.mul(real, twice), cos)
        y = y if imag is None else b.sub(y, b.matmul(b.mul(imag, twice), sin))
        return b.reshape(y, (*lead, n, 1))
    re, im = b.matmul(real, cos), b.matmul(real, sin)
    if not inverse:
        im = b.emit(O.Neg(), im)
    if imag is not None:
        cross = b.matmul(imag, sin)
        re = b.sub(re, cross) if inverse else b.add(re, cross)
        im = b.add(im, b.matmul(imag, cos))
    re, im = (b.reshape(v, (*lead, bins, 1)) for v in (re, im))
    return b.concat(len(lead) + 1, re, im)


def _long(b: Build, re: Value, im: Value | None, n: int, inverse: bool, onesided: bool, lead: Shape) -> Value:
    """`fourier` of rows [Π lead, use] by factors: padded to their full length, mirrored where half of the bins is given."""

    def whole(v: Value, sign: float) -> Value:
        if inverse and onesided:
            bins = n // 2 + 1
            v = b.concat(1, v, b.expand(b.const(0, v.dtype), (v.shape[0], bins - v.shape[1]))) if v.shape[1] != bins else v
            k = np.arange(n)
            v = b.emit(O.Gather(1), v, b.const(np.minimum(k, n - k), DType.I64))
            return b.mul(v, b.const(np.where(k < bins, 1, sign), v.dtype))
        return v if v.shape[1] == n else b.concat(1, v, b.expand(b.const(0, v.dtype), (v.shape[0], n - v.shape[1])))

    re, im = transform(b, whole(re, 1.0), None if im is None else whole(im, -1.0), n, inverse)
    if inverse and onesided:
        return b.reshape(re, (*lead, n, 1))
    bins = n // 2 + 1 if onesided else n
    re, im = (b.reshape(b.slice(v, 1, 0, bins), (*lead, bins, 1)) for v in (re, im))
    return b.concat(len(lead) + 1, re, im)


def dft(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    b, rank, length = Build(ctx), x.type.rank, optional(ins, 1)
    inverse, onesided = bool(ctx.attr(node, "inverse", 0)), bool(ctx.attr(node, "onesided", 0))
    named = optional(ins, 2) if ctx.opset() >= 20 else None
    computed = named is not None and ctx.dims(named) is None
    y, axis = x, -2 if ctx.opset() >= 20 else ctx.attr(node, "axis", 1)
    if computed:
        assert named is not None
        y, axis = around_axis(ctx, x, named, rank - 1), 1
    elif named is not None:
        axis = ctx.require_dims(named, "the axis of DFT")[0]
    if not isinstance(axis, int) or not -rank <= axis < rank or axis % rank == rank - 1:
        raise ctx.unsupported(f"DFT over axis {axis}")
    axis %= y.type.rank
    n: Dim = y.shape[axis] if length is None else ctx.require_sizes(length, "the length of DFT")[0]
    if length is None and inverse and onesided:
        n = 2 * (n - 1)
    perm = (*(i for i in range(y.type.rank) if i not in (axis, y.type.rank - 1)), axis, y.type.rank - 1)
    y = fourier(ctx, b, b.transpose(y, perm), n, inverse, onesided)
    y = b.transpose(y, [perm.index(i) for i in range(y.type.rank)])
    if not computed:
        return [y]
    assert named is not None
    here = b.reshape(named_axes(b, named, rank), (rank,))
    sizes = b.where(here, b.dim(y.shape[1], DType.I64), dims_value(b, x.shape))
    return [b.reshape(y, (*sizes_in(ctx, sizes)[:-1], y.shape[-1]))]


def stft(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """signal[B, L, 1 or 2] -> [B, frames, bins, 2]: windows gathered, weighted, transformed."""
    x, step_value = required(ctx, node, ins, 2)
    b, window = Build(ctx), optional(ins, 2)
    step = ctx.require_sizes(step_value, "the frame step of STFT", lo=1)[0]
    given = optional(ins, 3)
    size = ctx.require_sizes(given, "the frame length of STFT")[0] if given is not None else None
    size = window.shape[0] if size is None and window is not None else size
    if size is None:
        raise ctx.unsupported("STFT without a window and a frame length")
    if x.type.rank == 2:
        x = b.reshape(x, (*x.shape, 1))
    _, length, parts = x.shape
    frames = floordiv(length - size, step) + 1
    start = b.mul(b.reshape(b.iota(frames), (frames, 1)), b.dim(step, b.iota(1).dtype))
    y = b.emit(O.Gather(1), x, b.add(start, b.reshape(b.iota(size), (1, size))))  # [B, frames, size, parts]
    if window is not None:
        y = b.mul(y, b.reshape(window, (size, 1)))
    return [fourier(ctx, b, y, size, False, bool(ctx.attr(node, "onesided", 1)) and parts == 1)]


def col2im(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Overlapping blocks summed, along one axis of the image after the other."""
    x, size_value, block_value = required(ctx, node, ins, 3)
    b = Build(ctx)
    size, block = ctx.require_sizes(size_value, "the size of Col2Im"), ctx.require_sizes(block_value, "the block of Col2Im")
    rank = len(size)

    def ints(name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(int(v) for v in ctx.attr(node, name, None) or default)

    dilations, strides, pads = ints("dilations", (1,) * rank), ints("strides", (1,) * rank), ints("pads", (0,) * 2 * rank)
    reached = [d * (k - 1) + 1 for d, k in zip(dilations, block, strict=True)]
    blocks = [floordiv(n + pads[i] + pads[rank + i] - reached[i], strides[i]) + 1 for i, n in enumerate(size)]
    n, wide, length = x.shape
    channels, count = floordiv(wide, prod(block)), prod(blocks)
    if isinstance(length, int) and isinstance(count, int) and count != length:
        raise ctx.unsupported(f"Col2Im of {length} blocks where the image has {count}")
    y = b.reshape(x, (n, channels, *block, *blocks))
    for i in reversed(range(rank)):  # [n, channels, *block[: i + 1], *blocks[: i + 1], *size[i + 1 :]]
        y = _overlapped(b, y, 2 + i, 3 + 2 * i, size[i], strides[i], dilations[i], pads[i], reached[i])
    return [y]


def _overlapped(b: Build, x: Value, taps: int, places: int, size: Dim, stride: int, dilation: int, pad: int, reached: Dim) -> Value:
    """The axis of taps and that of places become one of pixels, in the latter's place.

    A pixel is summed over the blocks that reach it. What is not there is chosen not to be added, as 0 · NaN would be NaN.
    """
    k, blocks = x.shape[taps], x.shape[places]
    if stride == 1 and isinstance(k, int) and k <= _MOST_SHIFTED:
        lines = [_shifted(b, b.slice(x, taps, i, 1), places, i * dilation - pad, size) for i in range(k)]
        return b.reshape(functools.reduce(b.add, lines), [size if a == places else d for a, d in enumerate(x.shape) if a != taps])
    most = floordiv(reached - 1, stride) + 1
    at = b.add(b.reshape(b.iota(size), (1, size)), pad)
    place = b.sub(b.div(at, stride), b.reshape(b.iota(most), (most, 1)))  # [most, size]
    tap = b.sub(at, b.mul(place, stride))
    zero = b.const(0, DType.I64)
    there = [b.emit(O.GreaterEqual(), place, zero), b.emit(O.Less(), place, b.dim(blocks, DType.I64))]
    if dilation > 1:
        there.append(b.emit(O.Equal(), b.emit(O.Mod(), tap, b.const(dilation, DType.I64)), zero))
        tap = b.div(tap, dilation)
    there.append(b.emit(O.Less(), tap, b.dim(k, DType.I64)))
    inside = there[0]
    for t in there[1:]:
        inside = b.emit(O.And(), inside, t)
    index = b.where(inside, b.add(b.mul(tap, b.dim(blocks, DType.I64)), place), zero)
    rank = x.type.rank
    others = [a for a in range(rank) if a not in (taps, places)]
    before, after = [a for a in others if a < places], [a for a in others if a > places]
    flat = b.transpose(x, (*before, taps, places, *after))
    sizes = [x.shape[a] for a in before], [x.shape[a] for a in after]
    y = b.emit(O.Gather(len(before)), b.reshape(flat, (*sizes[0], k * blocks, *sizes[1])), index)  # [..., most, size, ...]
    y = b.where(b.reshape(inside, (most, size, *(1 for _ in after))), y, b.const(0, x.dtype))
    return b.reduce("sum", y, (len(before),), keepdims=False)


def _shifted(b: Build, x: Value, axis: int, by: Dim, size: Dim) -> Value:
    """Moved along an axis, and cut or filled up with zeros to a size."""
    lo = tuple(by if a == axis else 0 for a in range(x.type.rank))
    hi = tuple(size - x.shape[axis] - by if a == axis else 0 for a in range(x.type.rank))
    return b.emit(O.Pad(lo, hi), x, b.const(0, x.dtype))


def mel_weight_matrix(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """[bins of the spectrum, mel bins]: triangles between neighbouring frequencies of the mel scale, in whole bins."""
    count_value, length_value, *given = required(ctx, node, ins, 5)
    b, F64, I64 = Build(ctx), DType.F64, DType.I64
    count, length = ctx.require_sizes(count_value, "the bins of Mel")[0], ctx.require_sizes(length_value, "the length of Mel")[0]
    rate, lower, upper = (b.cast(b.reshape(v, ()), F64) for v in given)
    per_decade = 2595 / np.log(10)

    def mel(hertz: Value) -> Value:
        return b.mul(b.emit(O.Log(), b.add(b.div(hertz, 700.0), 1.0)), per_decade)

    low = mel(lower)
    step = b.div(b.sub(mel(upper), low), b.dim(count + 2, F64))
    scale = b.add(b.mul(b.cast(b.iota(count + 2), F64), step), low)
    hertz = b.mul(b.sub(b.emit(O.Exp(), b.div(scale, per_decade)), 1.0), 700.0)
    bins = b.cast(b.emit(O.Floor(), b.div(b.mul(hertz, b.dim(length + 1, F64)), rate)), I64)
    left, center, right = (b.reshape(b.slice(bins, 0, i, count), (1, count)) for i in range(3))
    rows = floordiv(length, 2) + 1
    at = b.reshape(b.iota(rows), (rows, 1))

    def within(first: Value, last: Value, op: O.Less | O.LessEqual) -> Value:
        return b.emit(O.And(), b.emit(O.GreaterEqual(), at, first), b.emit(op, at, last))

    def slope(a: Value, c: Value) -> Value:
        return b.div(b.cast(a, F64), b.cast(b.max(c, 1), F64))

    zero = b.const(0, F64)
    peak = b.cast(b.emit(O.And(), b.emit(O.Equal(), left, center), b.emit(O.Equal(), at, center)), F64)
    rising = b.emit(O.And(), within(left, center, O.LessEqual()), b.emit(O.Less(), left, center))
    y = b.where(rising, slope(b.sub(at, left), b.sub(center, left)), b.add(peak, zero))
    y = b.where(within(center, right, O.Less()), slope(b.sub(right, at), b.sub(right, center)), y)
    return [b.cast(y, DType.from_onnx(int(ctx.attr(node, "output_datatype", DType.F32.onnx))))]


SIGNAL_HANDLERS: HandlerTable = {
    ("DFT", 17): dft,
    ("STFT", 17): stft,
    ("Col2Im", 18): col2im,
    ("MelWeightMatrix", 17): mel_weight_matrix,
}
