"""Reductions, softmax, norms, pooling and other kernels with reduce axes. Consumers behind them become the stored value."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...errors import CodegenError
from ...ir import Const, Dim, DType, Node, Value, prod
from ...ir.ops import LRN, ArgReduce, Conv, LayerNorm, MatMul, Pool, Reduce, RMSNorm, Softmax
from ...ir.ops.quantized import accumulates_exactly_in_f32
from ..expr import E, Reduced
from ..kernel import Reduction
from ..simplify import Affine, as_affine, clamp, div, ravel, unravel
from .attention_op import SafeSoftmax
from .builder import KernelBuilder, all_of, computed, convert, fn, index_expr, number
from .composite import ColumnsToImage
from .moves import broadcast_index, guarded, inside
from .state import Lowering

Index = tuple[Affine, ...]
_EXTREMES = ("max", "min")


def emit_rows(lw: Lowering, node: Node, root: Value) -> None:
    """Store `root`, computed from the result of `node` in the same kernel."""
    match node.op:
        case Reduce():
            _reduce(lw, node, node.op, root)
        case ArgReduce():
            _arg(lw, node, node.op, root)
        case Softmax():
            _softmax(lw, node, node.op, root)
        case LayerNorm() | RMSNorm():
            _norm(lw, node, node.op, root)
        case Pool():
            _pool(lw, node, node.op, root)
        case LRN():
            _lrn(lw, node, node.op, root)
        case Conv():
            _windowed_conv(lw, node, node.op, root)
        case MatMul():
            _dot(lw, node, root)
        case ColumnsToImage():
            _columns_to_image(lw, node, node.op, root)
        case _:
            raise CodegenError(f"{node.op.name} has no kernel", loc=" + ".join(node.loc))


def finish_rows(lw: Lowering, k: KernelBuilder, node: Node, root: Value, stages: Sequence[Reduction], index: Index,
                value: Callable[[], E], *, per_element: bool = False) -> None:  # fmt: skip
    """The store of `root` at the points where the anchor's result has `index`."""

    def result(at: Index) -> E:
        if ravel(at, node.out.shape) != ravel(index, node.out.shape):
            raise CodegenError(f"{node.op.name} fused with a consumer that reads other elements", loc=" + ".join(node.loc))
        return convert(value(), computed(node.out.dtype))

    k.override[node.out] = result
    at = index if root.shape == node.out.shape else unravel(ravel(index, node.out.shape), root.shape)
    e = lw.read(k, root, at)
    to, moved, placed = lw.destination(root, at)
    lw.loop(k, stages, [k.store(to, moved, e, per_element=per_element)], lw.fusion.locations(root))
    lw.views[placed] = to


def reduced(stage: int, dtype: DType) -> E:
    return Reduced(stage, dtype=dtype)


def size_of(d: Dim, dtype: DType) -> E:
    return number(d, dtype) if isinstance(d, int) else convert(index_expr(as_affine(d)), dtype)


def _split(k: KernelBuilder, rank: int, axes: Sequence[int]) -> Index:
    """Full index from parallel variables for kept axes and reduce variables for `axes`."""
    outer, inner = iter(k.parallel), iter(k.reduced)
    return tuple(next(inner) if a in axes else next(outer) for a in range(rank))


def _reduce(lw: Lowering, node: Node, op: Reduce, root: Value) -> None:
    x = node.inputs[0]
    rank = len(x.shape)
    k = KernelBuilder(tuple(d for a, d in enumerate(x.shape) if a not in op.axes), tuple(x.shape[a] for a in op.axes))
    index = _split(k, rank, op.axes)
    e = lw.read(k, x, index)
    dtype = e.dtype
    kind = {"sum": "sum", "mean": "sum", "prod": "prod", "max": "max", "min": "min"}[op.kind]
    if dtype is DType.BOOL:
        kind = {"max": "or", "min": "and"}.get(kind, kind)
    count = prod(x.shape[a] for a in op.axes)
    if not op.axes:
        k = KernelBuilder(x.shape, (1,))
        e = lw.read(k, x, k.parallel)
    if op.kind == "mean" and dtype.is_int:
        dtype, e = DType.I64, convert(e, DType.I64)

    def value() -> E:
        r = reduced(0, dtype)
        if op.kind != "mean":
            return r
        return convert(fn("div", r, size_of(count, dtype)), x.dtype if x.dtype.is_int else dtype)

    kept = iter(k.parallel)
    out = tuple(Affine({}) if a in op.axes else next(kept) for a in range(rank) if op.keepdims or a not in op.axes)
    twin = _twin(lw, node, op) if root == node.out and op.kind in _EXTREMES else None
    if twin is None:
        finish_rows(lw, k, node, root, [Reduction(kind, e)], out, value)
        return
    stages, stores, places = [], [], []
    for number_of, n in enumerate((node, twin)):
        assert isinstance(n.op, Reduce)
        stages.append(Reduction(n.op.kind, e))
        to, moved, placed = lw.destination(n.out, out)
        stores.append(k.store(to, moved, reduced(number_of, dtype)))
        places.append((placed, to))
    lw.loop(k, stages, stores, tuple(dict.fromkeys((*node.loc, *twin.loc))))
    lw.views.update(places)


def _twin(lw: Lowering, node: Node, op: Reduce) -> Node | None:
    """The other extreme of the same elements, if it is stored as it is and not yet: both are found while the elements are in cache."""
    if op.axes and node.out.dtype.is_float:
        for n in lw.graph.uses.get(node.inputs[0], ()):
            same = isinstance(n.op, Reduce) and n.op.kind in _EXTREMES and (n.op.axes, n.op.keepdims) == (op.axes, op.keepdims)
            if n is not node and same and lw.fusion.stored(n.out) and n.out not in lw.views:
                return n
    return None


def _dot(lw: Lowering, node: Node, root: Value) -> None:
    """A matrix product as a sum over k for each element."""
    a, b = node.inputs
    k = KernelBuilder(node.out.shape, (a.shape[-1],))
    *lead, m, n = k.parallel
    (t,) = k.reduced
    left = lw.read(k, a, (*lead[len(lead) - len(a.shape) + 2 :], m, t))
    right = lw.read(k, b, (*lead[len(lead) - len(b.shape) + 2 :], t, n))
    finish_rows(lw, k, node, root, [Reduction("sum", fn("mul", left, right))], k.parallel, lambda: reduced(0, left.dtype))


def _arg(lw: Lowering, node: Node, op: ArgReduce, root: Value) -> None:
    x = node.inputs[0]
    k = KernelBuilder(tuple(d for a, d in enumerate(x.shape) if a != op.axis), (x.shape[op.axis],))
    index = list(_split(k, len(x.shape), (op.axis,)))
    last = as_affine(x.shape[op.axis]) - 1
    if op.select_last:
        index[op.axis] = last - index[op.axis]
    e = lw.read(k, x, tuple(index))

    def value() -> E:
        r = reduced(0, DType.I64)
        return fn("sub", index_expr(last), r) if op.select_last else r

    kept = iter(k.parallel)
    out = tuple(Affine({}) if a == op.axis else next(kept) for a in range(len(x.shape)) if op.keepdims or a != op.axis)
    finish_rows(lw, k, node, root, [Reduction(op.kind, e)], out, value)


def _softmax(lw: Lowering, node: Node, op: Softmax, root: Value) -> None:
    x = node.inputs[0]
    k = KernelBuilder(tuple(d for a, d in enumerate(x.shape) if a != op.axis), (x.shape[op.axis],))
    index = _split(k, len(x.shape), (op.axis,))
    e = lw.read(k, x, index)
    dtype = e.dtype
    top, total = reduced(0, dtype), reduced(1, dtype)
    if isinstance(op, SafeSoftmax):
        top = fn("select", fn("eq", top, number(float("-inf"), dtype)), number(0.0, dtype), top)
        total = fn("select", fn("eq", total, number(0.0, dtype)), number(1.0, dtype), total)
    shifted = fn("sub", e, top)
    power = fn("exp", shifted)
    stages = [Reduction("max", e), Reduction("sum", power)]
    result = fn("sub", shifted, fn("log", total)) if op.log else fn("div", power, total)
    finish_rows(lw, k, node, root, stages, index, lambda: result, per_element=True)


def _norm(lw: Lowering, node: Node, op: LayerNorm | RMSNorm, root: Value) -> None:
    x, *params = node.inputs
    axes = tuple(range(op.axis, len(x.shape)))
    k = KernelBuilder(x.shape[: op.axis], x.shape[op.axis :])
    index = _split(k, len(x.shape), axes)
    e = lw.read(k, x, index)
    dtype = e.dtype
    count = size_of(prod(x.shape[op.axis :]), dtype)
    stages = []
    if isinstance(op, LayerNorm):
        stages.append(Reduction("sum", e))
        e = fn("sub", e, fn("div", reduced(0, dtype), count))
    stages.append(Reduction("sum", fn("mul", e, e)))
    variance = fn("div", reduced(len(stages) - 1, dtype), count)
    scale = fn("div", number(1.0, dtype), fn("sqrt", fn("add", variance, number(op.epsilon, dtype))))
    y = fn("mul", e, scale)
    y = fn("mul", y, lw.read(k, params[0], broadcast_index(index, params[0].shape)))
    if len(params) > 1:
        y = fn("add", y, lw.read(k, params[1], broadcast_index(index, params[1].shape)))
    finish_rows(lw, k, node, root, stages, index, lambda: y, per_element=True)


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
