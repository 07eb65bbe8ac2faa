"""Handlers of Fourier transforms and Col2Im: products with constant matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from ...ir import Dim, Value, floordiv, prod
from ...ir import ops as O
from .compose import Build, optional, required
from .context import HandlerTable, ImportContext


def _angles(rows: int, cols: int, n: int) -> np.ndarray:
    """2π·r·c / n, the product reduced modulo n first, so that large ones stay exact."""
    return 2 * np.pi / n * (np.outer(np.arange(rows), np.arange(cols)) % n)


def fourier(ctx: ImportContext, b: Build, x: Value, n: int, inverse: bool, onesided: bool) -> Value:
    """Transform of x[…, m, 1 or 2] (real, or real and imaginary) over m, cut or padded with zeros to its need."""
    size, parts = x.shape[-2], x.shape[-1]
    if parts not in (1, 2):
        raise ctx.unsupported(f"a Fourier transform of {parts} components")
    need = n // 2 + 1 if inverse and onesided else n
    if not isinstance(size, int):
        raise ctx.unsupported(f"a Fourier transform over an axis of unknown size {size}")
    use = min(size, need)  # padding by zeros only shortens the sums
    axis = x.type.rank - 2
    x = b.slice(x, axis, 0, use)
    lead = x.shape[:-2]
    real = b.reshape(b.slice(x, axis + 1, 0, 1), (*lead, use))
    imag = b.reshape(b.slice(x, axis + 1, 1, 1), (*lead, use)) if parts == 2 else None
    if inverse and onesided:
        # Bins k and n − k are conjugate: each counts twice, but for 0 and the middle one.
        twice = np.where((np.arange(use) == 0) | (2 * np.arange(use) == n), 1, 2)[:, None] / n
        angle = _angles(use, n, n)
        y = b.matmul(real, b.const(np.cos(angle) * twice, x.dtype))
        y = y if imag is None else b.sub(y, b.matmul(imag, b.const(np.sin(angle) * twice, x.dtype)))
        return b.reshape(y, (*y.shape, 1))
    bins = n // 2 + 1 if onesided else n
    angle, scale = _angles(use, bins, n), 1 / n if inverse else 1
    cos, sin = b.const(np.cos(angle) * scale, x.dtype), b.const(np.sin(angle) * (scale if inverse else -scale), x.dtype)
    if use == 0:
        raise ctx.unsupported("a Fourier transform over an empty axis")
    if len(lead) == 0:
        real = b.reshape(real, (1, use))
        imag = None if imag is None else b.reshape(imag, (1, use))
    re, im = b.matmul(real, cos), b.matmul(real, sin)
    if imag is not None:
        re, im = b.sub(re, b.matmul(imag, sin)), b.add(im, b.matmul(imag, cos))
    re, im = (b.reshape(v, (*lead, bins, 1)) for v in (re, im))
    return b.concat(len(lead) + 1, re, im)


def dft(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    b, length = Build(ctx), optional(ins, 1)
    if ctx.opset() >= 20:
        given = optional(ins, 2)
        axis = -2 if given is None else ctx.require_dims(given, "the axis of DFT")[0]
    else:
        axis = ctx.attr(node, "axis", 1)
    rank = x.type.rank
    if not isinstance(axis, int) or not -rank <= axis < rank or axis % rank == rank - 1:
        raise ctx.unsupported(f"DFT over axis {axis}")
    axis %= rank
    inverse, onesided = bool(ctx.attr(node, "inverse", 0)), bool(ctx.attr(node, "onesided", 0))
    n: Dim = x.shape[axis] if length is None else ctx.require_dims(length, "the length of DFT")[0]
    if length is None and inverse and onesided:
        n = 2 * (n - 1)
    if not isinstance(n, int):
        raise ctx.unsupported(f"DFT of unknown length {n}")
    perm = (*(i for i in range(rank) if i not in (axis, rank - 1)), axis, rank - 1)
    y = fourier(ctx, b, b.transpose(x, perm), n, inverse, onesided)
    return [b.transpose(y, [perm.index(i) for i in range(rank)])]


def stft(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """signal[B, L, 1 or 2] -> [B, frames, bins, 2]: windows gathered, weighted, transformed."""
    x, step_value = required(ctx, node, ins, 2)
    b, window = Build(ctx), optional(ins, 2)
    step = ctx.require_dims(step_value, "the frame step of STFT")[0]
    given = optional(ins, 3)
    size = ctx.require_dims(given, "the frame length of STFT")[0] if given is not None else None
    size = window.shape[0] if size is None and window is not None else size
    if not isinstance(size, int):
        raise ctx.unsupported(f"STFT of unknown frame length {size}")
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
    size, block = ctx.require_dims(size_value, "the size of Col2Im"), ctx.require_dims(block_value, "the block of Col2Im")
    rank = len(size)
    if not all(isinstance(k, int) for k in block):
        raise ctx.unsupported("Col2Im with a block of unknown size")
    kernel = tuple(int(k) for k in block)  # type: ignore[arg-type]

    def ints(name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(int(v) for v in ctx.attr(node, name, None) or default)

    dilations, strides, pads = ints("dilations", (1,) * rank), ints("strides", (1,) * rank), ints("pads", (0,) * 2 * rank)
    taps = int(np.prod(kernel))
    lo, hi = pads[:rank], pads[rank:]
    fields = list(zip(size, kernel, strides, dilations, lo, hi, strict=True))
    blocks = [floordiv(n + p + q - d * (k - 1) - 1, s) + 1 for n, k, s, d, p, q in fields]
    reached = [(m - 1) * s + d * (k - 1) + 1 - p - q for m, (_, k, s, d, p, q) in zip(blocks, fields, strict=True)]
    rest = [n - r for n, r in zip(size, reached, strict=True)]
    if not all(isinstance(r, int) for r in rest):
        raise ctx.unsupported("Col2Im of an unknown image size with strides")
    n, wide, length = x.shape
    channels = floordiv(wide, taps)
    if isinstance(length, int) and isinstance(p := prod(blocks), int) and p != length:
        raise ctx.unsupported(f"Col2Im of {length} blocks where the image has {p}")
    y = b.transpose(b.reshape(x, (n * channels, taps, *blocks)), (0, *range(2, rank + 2), 1))
    one_hot = b.const(np.eye(taps).reshape(*kernel, 1, taps), x.dtype)
    op = O.ConvTranspose(strides, lo, hi, tuple(int(r) for r in rest), dilations)  # type: ignore[arg-type]
    return [b.reshape(b.emit(op, y, one_hot), (n, channels, *size))]


SIGNAL_HANDLERS: HandlerTable = {
    ("DFT", 17): dft,
    ("STFT", 17): stft,
    ("Col2Im", 18): col2im,
}
