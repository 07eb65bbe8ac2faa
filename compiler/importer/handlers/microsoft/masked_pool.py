"""Handler of MaxpoolWithMask (com.microsoft)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from .....ir import Dim, DType, Value, floordiv, prod
from .....ir import ops as O
from ...compose import Build, required
from ...context import HandlerTable, ImportContext
from ..windows import ints_of, window_pads

_LARGEST_WINDOW = 1024  # every element of a window takes some nodes


def max_pool_with_mask(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Maxima over windows of x[N, C, *S], each row of which ends at its first element that a mask i32[N', C', *S] hides.

    As in onnxruntime: with more than one spatial axis the mask's first element hides nothing, and the mask of channel c begins
    c·size(S) mod N'·C' elements behind the start, which is that of the channel for a mask of one channel only.
    """
    x, mask = required(ctx, node, ins, 2)
    b, rank = Build(ctx), x.type.rank - 2
    if rank not in (1, 2, 3) or mask.type.rank != x.type.rank:
        raise ctx.unsupported(f"MaxpoolWithMask of {x.type} by {mask.type}, expected one to three spatial axes")
    kernel, strides = ints_of(ctx, node, "kernel_shape", rank), ints_of(ctx, node, "strides", rank)
    if np.prod(kernel) > _LARGEST_WINDOW or min(*kernel, *strides) < 1:
        raise ctx.unsupported(f"MaxpoolWithMask with kernel_shape={list(kernel)} and strides={list(strides)}")
    sides = x.shape[2:]
    for given, wanted in zip(mask.shape[2:], sides, strict=True):
        ctx.require_equal(given, wanted)
    lo, hi = window_pads(ctx, node, sides, kernel, strides, (1,) * rank)
    seen = _of_channels(b, mask, x)
    counts = [floordiv(d + p + q - k, s) + 1 for d, p, q, k, s in zip(sides, lo, hi, kernel, strides, strict=True)]
    lowest = b.const(np.finfo(np.float32).min, x.dtype)

    def windows(v: Value, fill: Value) -> dict[tuple[int, ...], Value]:
        """Element k of all windows, by k."""
        v = b.emit(O.Pad((0, 0, *lo), (0, 0, *hi), "constant"), v, fill)
        parts: dict[tuple[int, ...], Value] = {(): v}
        for axis in range(rank):
            parts = {(*at, k): b.slice(p, axis + 2, k, counts[axis], strides[axis]) for at, p in parts.items() for k in range(kernel[axis])}
        return parts

    values, open_ = windows(x, lowest), windows(seen, b.const(True, DType.BOOL))
    y: Value = b.expand(lowest, (*x.shape[:2], *counts))
    for row in itertools.product(*map(range, kernel[:-1])):
        alive: Value | None = None
        for k in range(kernel[-1]):
            here = open_[(*row, k)]
            alive = here if alive is None else b.emit(O.And(), alive, here)
            better = b.emit(O.And(), alive, b.emit(O.Greater(), values[(*row, k)], y))
            y = b.where(better, values[(*row, k)], y)
    return [y]


def _of_channels(b: Build, mask: Value, x: Value) -> Value:
    """What is not hidden, [N, C, *S] or [1, 1, *S]."""
    channels, wanted, size = prod(mask.shape[:2]), prod(x.shape[:2]), prod(x.shape[2:])
    shape: tuple[Dim, ...] = (1, 1, *x.shape[2:])
    flat = b.reshape(b.cast(mask, DType.BOOL), (channels * size,))
    if channels != 1:
        shape = x.shape
        total = b.dim(channels, DType.I64)
        start = b.emit(O.Mod(), b.mul(b.iota(wanted), b.dim(size, DType.I64)), total)
        flat = b.emit(O.Gather(0), flat, b.add(b.reshape(start, (wanted, 1)), b.reshape(b.iota(size), (1, size))))
    seen = b.reshape(flat, shape)
    if x.type.rank == 3:
        return seen
    first = b.reshape(b.emit(O.Equal(), b.iota(size), b.const(0, DType.I64)), (1, 1, *x.shape[2:]))
    return b.emit(O.Or(), seen, first)


MASKED_POOL_HANDLERS: HandlerTable = {("com.microsoft::MaxpoolWithMask", 1): max_pool_with_mask}
