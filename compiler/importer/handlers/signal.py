"""Handlers of Fourier transforms and Col2Im: products with constant matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from ....ir import Dim, DType, Shape, Value, dim_min, floordiv, prod
from ....ir import ops as O
from ..compose import Build, optional, required
from ..context import HandlerTable, ImportContext
from .fourier import is_long, transform, wave
from .runtime_axes import around_axis, dims_value, named_axes, sizes_in


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
    """Overlapping blocks summed: a transposed convolution whose weights are one-hot in the taps."""
    x, size_value, block_value = required(ctx, node, ins, 3)
    b = Build(ctx)
    size, block = ctx.require_sizes(size_value, "the size of Col2Im"), ctx.require_sizes(block_value, "the block of Col2Im")
    rank = len(size)

    def ints(name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(int(v) for v in ctx.attr(node, name, None) or default)

    dilations, strides, pads = ints("dilations", (1,) * rank), ints("strides", (1,) * rank), ints("pads", (0,) * 2 * rank)
    if not all(isinstance(k, int) for k in block):
        return [_col2im_scattered(b, x, size, block, dilations, strides, pads)]
    kernel = tuple(int(k) for k in block)
    taps = int(np.prod(kernel))
    lo, hi = pads[:rank], pads[rank:]
    fields = list(zip(size, kernel, strides, dilations, lo, hi, strict=True))
    blocks = [floordiv(n + p + q - d * (k - 1) - 1, s) + 1 for n, k, s, d, p, q in fields]
    reached = [(m - 1) * s + d * (k - 1) + 1 - p - q for m, (_, k, s, d, p, q) in zip(blocks, fields, strict=True)]
    # pixels beyond the last block: padding taken back
    after = tuple(q - (n - r) for q, n, r in zip(hi, size, reached, strict=True))
    n, wide, length = x.shape
    channels = floordiv(wide, taps)
    if isinstance(length, int) and isinstance(p := prod(blocks), int) and p != length:
        raise ctx.unsupported(f"Col2Im of {length} blocks where the image has {p}")
    y = b.transpose(b.reshape(x, (n * channels, taps, *blocks)), (0, *range(2, rank + 2), 1))
    one_hot = b.const(np.eye(taps).reshape(*kernel, 1, taps), x.dtype)
    op = O.ConvTranspose(strides, lo, after, (0,) * rank, dilations)
    return [b.reshape(b.emit(op, y, one_hot), (n, channels, *size))]


def _col2im_scattered(
    b: Build, x: Value, size: Sequence[Dim], block: Sequence[Dim], dilations: Sequence[int], strides: Sequence[int], pads: Sequence[int],
) -> Value:  # fmt: skip
    """A block whose size is data: every element is added to its pixel, those beyond the border to one that is dropped."""
    rank = len(size)
    n, wide, length = x.shape
    taps = prod(block)
    channels = floordiv(wide, taps)
    tap, place = b.reshape(b.iota(taps), (taps, 1)), b.reshape(b.iota(length), (1, length))
    pixel, inside = b.const(0, DType.I64), b.const(True, DType.BOOL)
    tap_rest, place_rest, pixel_step = tap, place, b.const(1, DType.I64)
    for i in reversed(range(rank)):
        count = floordiv(size[i] + pads[i] + pads[rank + i] - dilations[i] * (block[i] - 1) - 1, strides[i]) + 1
        across, along = b.dim(block[i], DType.I64), b.dim(count, DType.I64)
        at = b.add(b.mul(b.emit(O.Mod(), tap_rest, across), dilations[i]), b.mul(b.emit(O.Mod(), place_rest, along), strides[i]))
        at = b.sub(at, pads[i])
        tap_rest, place_rest = b.div(tap_rest, across), b.div(place_rest, along)
        end = b.dim(size[i], DType.I64)
        fits = b.emit(O.And(), b.emit(O.GreaterEqual(), at, b.const(0, DType.I64)), b.emit(O.Less(), at, end))
        inside, pixel = b.emit(O.And(), inside, fits), b.add(pixel, b.mul(at, pixel_step))
        pixel_step = b.mul(pixel_step, end)
    total = prod(size)
    target = b.where(inside, pixel, b.dim(total, DType.I64))  # [taps, length]
    images = n * channels
    index = b.expand(b.reshape(target, (1, taps * length)), (images, taps * length))
    empty = b.expand(b.const(0, x.dtype), (images, total + 1))
    y = b.emit(O.ScatterElements(1, "add"), empty, index, b.reshape(x, (images, taps * length)))
    return b.reshape(b.slice(y, 1, 0, total), (n, channels, *size))


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
