"""Pooling, convolutions of few channels and other kernels whose reduce axes are the taps of a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import CodegenError
from ...ir import Const, Dim, DType, Node, Value, prod
from ...ir.ops import LRN, Conv, Pool
from ...ir.ops.quantized import accumulates_exactly_in_f32
from ..expr import E
from ..kernel import Reduction
from ..simplify import Affine, as_affine, clamp, div, ravel
from .builder import KernelBuilder, all_of, computed, convert, fn, index_expr, number
from .composite import ColumnsToImage
from .moves import guarded, inside
from .rows import Index, finish_rows, reduced, size_of
from .state import Lowering

WINDOWS = (Pool, LRN, Conv, ColumnsToImage)


def emit_windows(lw: Lowering, node: Node, root: Value) -> None:
    """Store `root`, computed from the result of `node`, one of `WINDOWS`, in the same kernel."""
    match node.op:
        case Pool():
            _pool(lw, node, node.op, root)
        case LRN():
            _lrn(lw, node, node.op, root)
        case Conv():
            _windowed_conv(lw, node, node.op, root)
        case ColumnsToImage():
            _columns_to_image(lw, node, node.op, root)
        case _:
            raise CodegenError(f"{node.op.name} has no windows", loc=" + ".join(node.loc))


def _windows(k: KernelBuilder, strides: Sequence[int], pads: Sequence[Dim], dilations: Sequence[int], taps: Index) -> Index:
    """Input positions of the window taps: [n, *positions, c] of kernel axes [n, *out, c]."""
    n, *out, c = k.parallel
    positions = (o * s + t * d - lo for o, s, t, d, lo in zip(out, strides, taps, dilations, pads, strict=True))
    return (n, *positions, c)


def _pool(lw: Lowering, node: Node, op: Pool, root: Value) -> None:
    x = node.inputs[0]
    k = KernelBuilder(node.out.shape, op.kernel)
    index = _windows(k, op.strides, op.pads_lo, op.dilations, k.reduced)
    dtype = computed(x.dtype)
    spatial = range(1, len(x.shape) - 1)
    if op.kind in ("max", "argmax"):
        lowest = float("-inf") if dtype.is_float else False if dtype is DType.BOOL else _lowest(dtype)
        e = guarded(lw, k, x, index, spatial, number(lowest, dtype))
        if op.kind == "argmax":
            _pool_position(lw, k, node, root, e, index)
            return
        finish_rows(lw, k, node, root, [Reduction("max", e)], k.parallel, lambda: reduced(0, dtype))
        return
    zero = number(0.0 if dtype.is_float else 0, dtype)
    e = guarded(lw, k, x, index, spatial, zero)
    if op.kind == "lp":
        power = e
        if op.p == 1:
            power = fn("abs", e)
        elif op.p == 2:
            power = fn("mul", e, e)
        else:
            power = fn("pow", fn("abs", e), number(float(op.p), dtype))
        root_of = reduced(0, dtype)
        final = root_of if op.p == 1 else fn("sqrt", root_of) if op.p == 2 else fn("pow", root_of, number(1.0 / op.p, dtype))
        finish_rows(lw, k, node, root, [Reduction("sum", power)], k.parallel, lambda: final)
        return
    count = _taps_inside(op, x, k, dtype)
    finish_rows(lw, k, node, root, [Reduction("sum", e)], k.parallel, lambda: fn("div", reduced(0, dtype), count))


def _pool_position(lw: Lowering, k: KernelBuilder, node: Node, root: Value, e: E, index: Index) -> None:
    """The maximum, then the least position that has it; a NaN anywhere is the maximum."""
    x = node.inputs[0]
    spatial = x.shape[1:-1]
    holds = fn("eq", e, reduced(0, e.dtype))
    if e.dtype.is_float:
        holds = fn("or_", holds, fn("isnan", e))
    inner = all_of([holds, *(c for i, d in zip(index[1:-1], spatial, strict=True) if (c := inside(i, d)) is not None)])
    none = number(2**62, DType.I64)
    assert inner is not None
    position = fn("select", inner, index_expr(ravel(index[1:-1], spatial)), none, dtype=DType.I64)
    found = reduced(1, DType.I64)
    result = fn("select", fn("eq", found, none), number(0, DType.I64), found)
    finish_rows(lw, k, node, root, [Reduction("max", e), Reduction("min", position)], k.parallel, lambda: result)


def _taps_inside(op: Pool, x: Value, k: KernelBuilder, dtype: DType) -> E:
    """How many taps of a window count: per axis those t with 0 ≤ first + t·dilation < n."""
    total: E | None = None
    known: Dim = 1
    for a, o in enumerate(k.parallel[1:-1]):
        n, size, d, lo = x.shape[a + 1], op.kernel[a], op.dilations[a], op.pads_lo[a]
        first = o * op.strides[a] - lo
        if op.count_include_pad:
            first, n = first + lo, n + lo + op.pads_hi[a]
        start, end = (clamp(div(as_affine(at) - first + (d - 1), d), 0, size) for at in (0, n))
        taps = end - start
        if taps.is_const:
            known = known * taps.const
        else:
            total = index_expr(taps) if total is None else fn("mul", total, index_expr(taps))
    if total is None:
        return size_of(known, dtype)
    if known != 1:
        total = fn("mul", total, index_expr(as_affine(known)))
    return convert(fn("max", total, number(1, DType.I64)), dtype)


def _lowest(dtype: DType) -> int:
    bits = dtype.itemsize * 8
    return -(2 ** (bits - 1)) if dtype.is_signed else 0


def _lrn(lw: Lowering, node: Node, op: LRN, root: Value) -> None:
    x = node.inputs[0]
    k = KernelBuilder(x.shape, (op.size,))
    dtype = computed(x.dtype)
    (tap,) = k.reduced
    at = (*k.parallel[:-1], k.parallel[-1] + tap - (op.size - 1) // 2)
    e = guarded(lw, k, x, at, range(len(at) - 1, len(at)), number(0.0, dtype))
    base = fn("add", number(op.bias, dtype), fn("mul", number(op.alpha / op.size, dtype), reduced(0, dtype)))
    own = lw.read(k, x, k.parallel)
    y = fn("div", own, _power(base, op.beta))
    finish_rows(lw, k, node, root, [Reduction("sum", fn("mul", e, e))], k.parallel, lambda: y)


def _power(base: E, exponent: float) -> E:
    """base^exponent, by square roots for the exponents that normalization over channels uses."""
    root = fn("sqrt", base)
    match exponent:
        case 1.0:
            return base
        case 0.5:
            return root
        case 0.75:
            return fn("mul", root, fn("sqrt", root))
    return fn("pow", base, number(exponent, base.dtype))


def _windowed_conv(lw: Lowering, node: Node, op: Conv, root: Value) -> None:
    """Groups with few channels: vectors over output channels, a loop over taps and the channels of the group."""
    x, w, *border = node.inputs
    *kernel, per_group, columns = w.shape
    reduce_axes = tuple(kernel) if per_group == 1 else (*kernel, per_group)
    k = KernelBuilder(node.out.shape, reduce_axes)
    taps = k.reduced[: len(kernel)]
    channel = k.reduced[-1] if per_group != 1 else Affine({})
    o = k.parallel[-1]
    group = div(o, columns // op.groups)
    index = (*_windows(k, op.strides, op.pads_lo, op.dilations, taps)[:-1], group * per_group + channel)
    dtype = computed(node.out.dtype)
    terms = prod(w.shape[:-1])
    if border and isinstance(terms, int) and accumulates_exactly_in_f32(terms):
        dtype = DType.F32  # bytes: the multiply-add is quicker than that of integers
    outside = lw.read(k, border[0], (Affine({}),)) if border else number(0.0 if dtype.is_float else 0, computed(x.dtype))
    e = convert(guarded(lw, k, x, index, range(1, len(x.shape) - 1), outside), dtype)
    at = (*taps, channel, o)
    if isinstance(w.node.op, Const) and dtype is DType.F32 and w.dtype is DType.I8:  # few weights, read often
        data = w.node.op.data
        tap = k.load(lw.storage.const(data.astype(np.float32), ("floats", id(data))), at)
    else:
        tap = convert(lw.read(k, w, at), dtype)
    e = fn("mul", e, tap)
    finish_rows(lw, k, node, root, [Reduction("sum", e)], k.parallel, lambda: reduced(0, dtype))


def _columns_to_image(lw: Lowering, node: Node, op: ColumnsToImage, root: Value) -> None:
    """Each output pixel gathers the taps that reach it: of every `stride` taps in a row only one does, if not dilated."""
    x = node.inputs[0]
    spread = [s if d == 1 else 1 for s, d in zip(op.strides, op.dilations, strict=True)]
    k = KernelBuilder(node.out.shape, tuple(-(-n // s) for n, s in zip(op.kernel, spread, strict=True)))
    n, *out, c = k.parallel
    dtype = computed(x.dtype)
    zero = number(0.0 if dtype.is_float else 0, dtype)
    pixels: list[Affine] = []
    taps: list[Affine] = []
    exact: list[E | None] = []
    fields = zip(out, k.reduced, op.kernel, op.strides, spread, op.dilations, op.pads_lo, strict=True)
    for o, u, size, stride, step, dilation, lo in fields:
        at = o + lo
        if step > 1:  # tap ≡ at (mod stride)
            t = at - div(at, stride) * stride + u * stride
            pixels.append(div(at, stride) - u)
            exact.append(inside(t, size) if size % stride else None)
            t = t if size % stride == 0 else clamp(t, 0, size - 1)
        else:
            t = u
            p = at - t * dilation
            pixels.append(div(p, stride))
            exact.append(fn("eq", index_expr(p - div(p, stride) * stride), number(0, DType.I64)) if stride != 1 else None)
        taps.append(t)
    index = (n, *pixels, ravel(taps, op.kernel) * node.out.shape[-1] + c)
    e = guarded(lw, k, x, index, range(1, len(x.shape) - 1), zero)
    condition = all_of(c for c in exact if c is not None)
    if condition is not None:
        e = fn("select", condition, e, zero)
    if all(d == 1 for d in k.reduce_axes):  # nothing overlaps: a move
        k.reduce_axes = ()
        finish_rows(lw, k, node, root, [], k.parallel, lambda: e)
    else:
        finish_rows(lw, k, node, root, [Reduction("sum", e)], k.parallel, lambda: reduced(0, dtype))
