"""Contractions: plain, of convolutions, of grouped weights, and by minimal filtering."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...errors import VerifyError
from ...ir import Dim, DType, evaluate
from ...ir.ops import GroupedMatMul
from ...ir.ops.nn import wide
from ..kernel import ContractKernel, GroupedKernel, WinogradKernel
from ..packing import packed_size, unpack_b, unpack_levels
from ..winograd import filtering, positions
from .values import Arrays, Bindings, Evaluator, check_bounds, grid


def run_contract(kernel: ContractKernel, arrays: Arrays, bound: Bindings) -> None:
    def dim(d: Dim) -> int:
        return evaluate(d, bound)

    batch, m, n, k = map(dim, (kernel.batch, kernel.m, kernel.n, kernel.k))
    if batch <= 0 or m <= 0 or n <= 0:
        return
    a, b = arrays[0], arrays[1]
    one = dim(packed_size(k // kernel.diagonal, n, kernel.panel, kernel.group, kernel.last))
    outside = arrays[kernel.border][0] if kernel.border >= 0 else 0
    sums = []
    for g in range(batch):
        left = _conv_rows(kernel, a, g, m, k, bound, outside) if kernel.conv else _plain_rows(kernel, a, g, m, k, bound)
        start = g * dim(kernel.b_batch)
        if kernel.b_row or kernel.b_column:
            gk, gn = grid([k, n])
            at = start + (gk * dim(kernel.b_row) + gn if kernel.b_row else gn * dim(kernel.b_column) + gk)
            check_bounds(at, b.size, "load of B")
            sums.append(_product(left, b[at]))
            continue
        if start + one > b.size:
            raise VerifyError(f"packed B ends at {start + one} of {b.size} elements")
        right = unpack_b(b[start : start + one], k // kernel.diagonal, n, kernel.panel, kernel.group, kernel.last)
        if kernel.diagonal > 1:
            right = _spread(right, math.prod(kernel.conv.kernel) if kernel.conv else 1, kernel.diagonal)
        sums.append(_product(left, right))
    _finish(kernel, np.stack(sums), dim(kernel.c_batch), arrays, bound)


def _conv_rows(kernel: ContractKernel, a: np.ndarray, g: int, m: int, k: int, bound: Bindings, outside: Any) -> np.ndarray:
    """im2col of one group: [m, taps·channels]."""
    c = kernel.conv
    assert c is not None
    out_spatial = [evaluate(d, bound) for d in c.out_spatial]
    spatial = [evaluate(d, bound) for d in c.spatial]
    channels = k // math.prod(c.kernel)
    rows = np.arange(m)
    tap_channel = np.arange(k)
    tap, channel = tap_channel // channels, tap_channel % channels
    outs = np.unravel_index(rows, (m // math.prod(out_spatial), *out_spatial))
    taps = np.unravel_index(tap, c.kernel)
    pixel = outs[0][:, None]
    inside = np.ones((m, k), bool)
    for i, size in enumerate(spatial):
        at = outs[1 + i][:, None] * c.strides[i] + taps[i][None] * c.dilations[i] - evaluate(c.pads_lo[i], bound)
        inside &= (at >= 0) & (at < size)
        pixel = pixel * size + at
    offset = pixel * evaluate(kernel.lda, bound) + g * channels + channel[None]
    check_bounds(offset[inside], a.size, "load of the input of a convolution")
    return np.where(inside, a[np.where(inside, offset, 0)] if a.size else 0, outside).astype(a.dtype)


def _plain_rows(kernel: ContractKernel, a: np.ndarray, g: int, m: int, k: int, bound: Bindings) -> np.ndarray:
    gm, gk = grid([m, k])
    offset = g * evaluate(kernel.a_batch, bound) + gm * evaluate(kernel.lda, bound) + gk
    check_bounds(offset, a.size, "load of A")
    return a[offset]


def run_grouped(kernel: GroupedKernel, arrays: Arrays, bound: Bindings) -> None:
    k, n, groups = kernel.k, kernel.n, -(-kernel.k // kernel.group)
    m, lda = evaluate(kernel.m, bound), evaluate(kernel.lda, bound)
    if m <= 0 or n <= 0:
        return
    rows, at = grid([m, k])
    offset = rows * lda + at
    check_bounds(offset, arrays[0].size, "load of A")
    if kernel.blocks is not None:
        levels, scales, zeros = kernel.blocks.unpack(arrays[1])
    else:
        levels = unpack_levels(arrays[1], k, n, kernel.panel, kernel.bits)
        scales = unpack_b(arrays[2], groups, n, kernel.panel)
        zeros = unpack_b(arrays[3], groups, n, kernel.panel) if kernel.zero is None else None
    if zeros is None:
        zeros = np.full_like(scales, kernel.zero)
    (sums,) = GroupedMatMul(kernel.bits, kernel.group, kernel.values).reference(arrays[0][offset], levels, scales, zeros)
    _finish(kernel, sums[None], 0, arrays, bound)


def run_winograd(kernel: WinogradKernel, arrays: Arrays, bound: Bindings) -> None:
    """Tiles of the input, transformed, times the transformed weights, transformed back: all in float64."""
    c, tile = kernel.conv, kernel.tile
    images, lda = evaluate(kernel.images, bound), evaluate(kernel.lda, bound)
    spatial, out_spatial = ([evaluate(d, bound) for d in dims] for dims in (c.spatial, c.out_spatial))
    if images <= 0 or min(out_spatial) <= 0:
        return
    f = [filtering(m, r) for m, r in zip(tile, c.kernel, strict=True)]
    counts = [d * -(-o // (d * m)) for o, m, d in zip(out_spatial, tile, c.dilations, strict=True)]
    image, z, y, x, dz, dy, dx, ch = grid([images, *counts, *(axis.n for axis in f), kernel.groups * kernel.channels])
    offset, inside = image, np.ones((), np.bool_)
    for size, m, d, lo, t, tap in zip(spatial, tile, c.dilations, c.pads_lo, (z, y, x), (dz, dy, dx), strict=True):
        at = t % d + (t // d * m + tap) * d - evaluate(lo, bound)  # every d-th pixel is a line of its own
        offset, inside = offset * size + at, np.asarray(inside & (at >= 0) & (at < size))
    offset, inside = np.broadcast_arrays(offset * lda + ch, inside)
    check_bounds(offset[inside], arrays[0].size, "load of the input of a convolution")
    v = np.where(inside, arrays[0][np.where(inside, offset, 0)] if arrays[0].size else 0, 0).astype(np.float64)
    v = np.einsum("pa,qb,rc,izyxabcn->izyxpqrn", *(axis.b for axis in f), v, optimize=True)
    v = v.reshape(*v.shape[:-1], kernel.groups, kernel.channels)
    panels = -(-kernel.n // kernel.panel)
    shape = (kernel.groups, panels, positions(tile, c.kernel), kernel.channels, kernel.panel)
    if arrays[1].size < math.prod(shape):
        raise VerifyError(f"transformed weights have {arrays[1].size} elements", expected=f"{math.prod(shape)}")
    u = arrays[1][: math.prod(shape)].reshape(shape).transpose(2, 0, 3, 1, 4)
    u = u.reshape(*(axis.n for axis in f), kernel.groups, kernel.channels, -1)[..., : kernel.n]
    products = np.einsum("izyxpqrgc,pqrgcn->izyxpqrgn", v, u.astype(np.float64), optimize=True)
    out = np.einsum("ap,bq,cr,izyxpqrgn->izyxabcgn", *(axis.a for axis in f), products, optimize=True)
    full = np.zeros((images, *(count * m for count, m in zip(counts, tile, strict=True)), kernel.groups, kernel.n))
    lines = [
        np.add.outer(np.arange(n) % d + np.arange(n) // d * m * d, np.arange(m) * d)
        for n, m, d in zip(counts, tile, c.dilations, strict=True)
    ]
    at_z, at_y, at_x = lines
    full[:, at_z[:, None, None, :, None, None], at_y[None, :, None, None, :, None], at_x[None, None, :, None, None, :]] = out
    inner = tuple(slice(o) for o in out_spatial)
    sums = full[(slice(None), *inner)].reshape(-1, kernel.groups, kernel.n)
    _finish(kernel, sums.transpose(1, 0, 2), kernel.n, arrays, bound)


def _finish(
    kernel: ContractKernel | GroupedKernel | WinogradKernel, sums: np.ndarray, c_batch: int, arrays: Arrays, bound: Bindings
) -> None:
    """Epilogue and store of sums [batch, m, n]."""
    dtype, out = DType.from_numpy(arrays[0].dtype), arrays[-1]
    ev = Evaluator(arrays, bound, grid(sums.shape))
    ev.acc = sums.astype(wide(dtype.np)) if dtype.itemsize < 4 else sums.astype(dtype.np)
    value = np.broadcast_to(ev(kernel.epilogue), sums.shape)
    if kernel.epilogue.dtype is not kernel.operands[-1].dtype:
        raise VerifyError(f"contraction stores {kernel.epilogue.dtype.value}", expected=kernel.operands[-1].dtype.value)
    gb, gm, gn = ev.axes
    planes = kernel.planes if isinstance(kernel, ContractKernel) else None
    if planes is None:
        at = gb * c_batch + gm * evaluate(kernel.ldc, bound) + gn
    else:
        pixels, plane, image = (evaluate(d, bound) for d in (planes.pixels, planes.plane, planes.image))
        at = gm // pixels * image + (gb * sums.shape[2] + gn) * plane + gm % pixels
    offset = np.broadcast_to(at, sums.shape)
    check_bounds(offset, out.size, "store of a contraction")
    out[offset] = value


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Floats in float64; bytes in float64 too, which holds their sums exactly."""
    dtype = DType.from_numpy(a.dtype)
    if dtype.is_float or dtype.itemsize == 1:
        out = a.astype(np.float64) @ b.astype(np.float64)
        return out if dtype.is_float else out.astype(np.int64).astype(np.int32)
    return a @ b


def _spread(b: np.ndarray, taps: int, diagonal: int) -> np.ndarray:
    """[taps·inputs, n] of blocks side by side -> [taps·diagonal·inputs, n], zeros elsewhere."""
    parts = b.reshape(taps, 1, -1, diagonal, b.shape[1] // diagonal)
    mask = np.eye(diagonal, dtype=b.dtype)[None, :, None, :, None]
    return np.asarray((parts * mask).reshape(-1, b.shape[1]))
