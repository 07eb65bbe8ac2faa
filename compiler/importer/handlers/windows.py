"""Handlers of convolution and pooling: channels-last inside, with transposes around."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from ....ir import Dim, DType, Value, ceildiv, dim_max, floordiv, lower, prod
from ....ir import ops as O
from ..compose import Build, optional, required, sized, wanted
from ..context import HandlerTable, ImportContext

Pads = tuple[tuple[Dim, ...], tuple[Dim, ...]]


def ints_of(ctx: ImportContext, node: NodeProto, name: str, rank: int, default: int = 1) -> tuple[int, ...]:
    got = ctx.attr(node, name, None)
    if not got:
        return (default,) * rank
    if len(got) != rank:
        raise ctx.unsupported(f"{node.op_type}: attribute {name}={list(got)} for {rank} spatial axes")
    return tuple(int(v) for v in got)


def window_pads(
    ctx: ImportContext, node: NodeProto, spatial: Sequence[Dim], kernel: Sequence[int], strides: Sequence[int],
    dilations: Sequence[int],
) -> Pads:  # fmt: skip
    """Padding below and above each spatial axis, from `auto_pad` or `pads`."""
    rank = len(spatial)
    auto = ctx.attr(node, "auto_pad", "NOTSET") or "NOTSET"
    match auto:
        case "NOTSET":
            pads = ints_of(ctx, node, "pads", 2 * rank, 0)
            return pads[:rank], pads[rank:]
        case "VALID":
            return (0,) * rank, (0,) * rank
        case "SAME_UPPER" | "SAME_LOWER":
            pass
        case _:
            raise ctx.unsupported(f"{node.op_type}: auto_pad={auto!r}")
    lo: list[Dim] = []
    hi: list[Dim] = []
    for n, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
        # out = ⌈n / s⌉, so the windows reach over (out − 1)·s + d(k − 1) + 1 elements.
        reach = d * (k - 1) + 1
        total = (ceildiv(n, s) - 1) * s + reach - n
        if reach < s:  # only then it can be negative, which the bounds do not see for symbolic n
            total = dim_max(total, 0)
        small = floordiv(total, 2)
        lo.append(small if auto == "SAME_UPPER" else total - small)
        hi.append(total - small if auto == "SAME_UPPER" else small)
    return tuple(lo), tuple(hi)


def _static_kernel(ctx: ImportContext, node: NodeProto, w: Value) -> tuple[int, ...]:
    kernel = w.shape[2:]
    if not all(isinstance(k, int) for k in kernel):
        raise ctx.unsupported(f"{node.op_type}: kernel of unknown size {list(map(str, kernel))}")
    said = ctx.attr(node, "kernel_shape", None)
    if said and tuple(said) != kernel:
        raise ctx.unsupported(f"{node.op_type}: attribute kernel_shape={list(said)} for weights of {list(map(str, w.shape))}")
    return tuple(int(k) for k in kernel)


def add_channel_bias(b: Build, y: Value, bias: Value | None) -> Value:
    """y[…, C] + bias[C]."""
    return y if bias is None else b.add(y, bias)


def conv_geometry(ctx: ImportContext, node: NodeProto, x: Value, w: Value) -> tuple[O.Conv, Value, Value]:
    """The attributes of an ONNX convolution of x[N, C, *S] with w[O, C/g, *K], and both channels last."""
    b = Build(ctx)
    rank = x.type.rank - 2
    if rank < 1 or w.type.rank != rank + 2:
        raise ctx.unsupported(f"{node.op_type} of {x.type} with weights {w.type}")
    kernel = _static_kernel(ctx, node, w)
    strides, dilations = ints_of(ctx, node, "strides", rank), ints_of(ctx, node, "dilations", rank)
    lo, hi = window_pads(ctx, node, x.shape[2:], kernel, strides, dilations)
    op = O.Conv(strides, lo, hi, dilations, int(ctx.attr(node, "group", 1)))
    return op, b.channels_last(x), b.transpose(w, (*range(2, rank + 2), 1, 0))


def convolve(ctx: ImportContext, node: NodeProto, x: Value, w: Value, bias: Value | None) -> Value:
    """ONNX Conv of x[N, C, *S] with w[O, C/g, *K], attributes from `node`."""
    b = Build(ctx)
    op, x, w = conv_geometry(ctx, node, x, w)
    return b.channels_first(add_channel_bias(b, b.emit(op, x, w), bias))


def conv(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, w = required(ctx, node, ins, 2)
    return [convolve(ctx, node, x, w, optional(ins, 2))]


def conv_transpose(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, w = required(ctx, node, ins, 2)
    b = Build(ctx)
    rank = x.type.rank - 2
    kernel = _static_kernel(ctx, node, w)
    strides, dilations = ints_of(ctx, node, "strides", rank), ints_of(ctx, node, "dilations", rank)
    extra = ints_of(ctx, node, "output_padding", rank, 0)
    groups = int(ctx.attr(node, "group", 1))
    auto = ctx.attr(node, "auto_pad", "NOTSET") or "NOTSET"
    sizes = ctx.attr(node, "output_shape", None)
    if sizes or auto in ("SAME_UPPER", "SAME_LOWER"):
        # total padding = what the full result has too much, split as auto_pad says
        sizes = sizes[-rank:] if sizes else tuple(n * s for n, s in zip(x.shape[2:], strides, strict=True))
        lo_list: list[Dim] = []
        hi_list: list[Dim] = []
        for n, k, s, d, e, want in zip(x.shape[2:], kernel, strides, dilations, extra, sizes, strict=True):
            total = (n - 1) * s + e + d * (k - 1) + 1 - want
            if isinstance(total, int) or lower(total) < 0:
                total = dim_max(total, 0) if isinstance(total, int) else total
            small = floordiv(total, 2)
            lo_list.append(small if auto == "SAME_UPPER" else total - small)
            hi_list.append(total - small if auto == "SAME_UPPER" else small)
        # Where the full result is too small for output_shape, the missing end is output padding.
        lo, hi = tuple(lo_list), tuple(hi_list)
        extra = tuple(
            e + int(m) if isinstance(m := want - ((n - 1) * s + e + d * (k - 1) + 1 - p - q), int) and m > 0 else e
            for n, k, s, d, e, want, p, q in zip(x.shape[2:], kernel, strides, dilations, extra, sizes, lo, hi, strict=True)
        )
    else:
        lo, hi = window_pads(ctx, node, x.shape[2:], kernel, strides, dilations)
    # ONNX weights are [C, O/g, *K]
    op = O.ConvTranspose(strides, lo, hi, extra, dilations, groups)
    y = b.emit(op, b.channels_last(x), b.transpose(w, (*range(2, rank + 2), 1, 0)))
    return [b.channels_first(add_channel_bias(b, y, optional(ins, 2)))]


def _pool(ctx: ImportContext, node: NodeProto, x: Value, kind: str) -> Value:
    b = Build(ctx)
    rank = x.type.rank - 2
    if ctx.attr(node, "kernel_shape", None) is None:
        raise ctx.unsupported(f"{node.op_type} without kernel_shape")
    kernel = ints_of(ctx, node, "kernel_shape", rank)
    strides, dilations = ints_of(ctx, node, "strides", rank), ints_of(ctx, node, "dilations", rank)
    lo, hi = window_pads(ctx, node, x.shape[2:], kernel, strides, dilations)
    op = O.Pool(
        kind, kernel, strides, lo, hi, dilations, bool(ctx.attr(node, "ceil_mode", 0)),
        kind == "avg" and bool(ctx.attr(node, "count_include_pad", 0)), int(ctx.attr(node, "p", 2)),
    )  # fmt: skip
    return b.channels_first(b.emit(op, b.channels_last(x)))


def max_pool(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    y = _pool(ctx, node, x, "max")
    return [y, _pool_indices(ctx, node, x)] if wanted(node, 1) else [y]


def _pool_indices(ctx: ImportContext, node: NodeProto, x: Value) -> Value:
    """Where the maxima are in the flattened input; with storage_order 1 the spatial axes of each image count column-major."""
    b, at = Build(ctx), _pool(ctx, node, x, "argmax")
    n, c, *spatial = x.shape
    if ctx.attr(node, "storage_order", 0):
        rest, total, step = at, b.const(0, DType.I64), b.const(1, DType.I64)
        parts = []
        for d in reversed(spatial):
            size = b.dim(d, DType.I64)
            parts.append(b.emit(O.Mod(), rest, size))
            rest = b.div(rest, size)
        for part, d in zip(reversed(parts), spatial, strict=True):
            total = b.add(total, b.mul(part, step))
            step = b.mul(step, b.dim(d, DType.I64))
        at = total
    image = b.reshape(b.iota(n * c), (n, c, *(1 for _ in spatial)))
    return b.add(at, b.mul(image, b.dim(prod(spatial), DType.I64)))


def max_unpool(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Values go to their places in a tensor of zeros of the size that pooling came from, then zeros up to `output_shape`."""
    x, at = required(ctx, node, ins, 2)
    b, rank = Build(ctx), x.type.rank - 2
    kernel, strides, pads = (
        ints_of(ctx, node, "kernel_shape", rank),
        ints_of(ctx, node, "strides", rank),
        ints_of(ctx, node, "pads", 2 * rank, 0),
    )
    fields = zip(x.shape[2:], kernel, strides, pads[:rank], pads[rank:], strict=True)
    shape = (*x.shape[:2], *((n - 1) * s + k - lo - hi for n, k, s, lo, hi in fields))
    size, places = prod(x.shape), prod(shape)
    empty = b.expand(b.const(0, x.dtype), (places,))
    at = ctx.checked(b.reshape(sized(ctx, at, x.shape), (size,)), (0,), (places - 1,))
    y = b.emit(O.ScatterElements(0), empty, at, b.reshape(x, (size,)))
    y = b.reshape(y, shape)
    if optional(ins, 2) is None:
        return [y]
    wide = ctx.require_sizes(ins[2], "the output_shape of MaxUnpool")
    if len(wide) != len(shape):
        raise ctx.unsupported(f"MaxUnpool of {x.type} to {len(wide)} axes")
    more = tuple(w - d for w, d in zip(wide, shape, strict=True))
    return [b.emit(O.Pad((0,) * len(more), more, "constant"), y, b.const(0, x.dtype))]


def average_pool(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    return [_pool(ctx, node, required(ctx, node, ins, 1)[0], "avg")]


def lp_pool(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    return [_pool(ctx, node, required(ctx, node, ins, 1)[0], "lp")]


def global_average_pool(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    return [Build(ctx).reduce("mean", x, range(2, x.type.rank))]


def global_max_pool(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    return [Build(ctx).reduce("max", x, range(2, x.type.rank))]


def global_lp_pool(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    b, p = Build(ctx), int(ctx.attr(node, "p", 2))
    axes = range(2, x.type.rank)
    if p == 1:
        return [b.reduce("sum", b.emit(O.Abs(), x), axes)]
    if p == 2:
        return [b.sqrt(b.reduce("sum", b.mul(x, x), axes))]
    total = b.reduce("sum", b.emit(O.Pow(), b.emit(O.Abs(), x), b.const(p, x.dtype)), axes)
    return [b.emit(O.Pow(), total, b.const(1.0 / p, x.dtype))]


def lrn(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    b = Build(ctx)
    op = O.LRN(int(ctx.attr(node, "size")), float(ctx.attr(node, "alpha", 1e-4)), float(ctx.attr(node, "beta", 0.75)),
               float(ctx.attr(node, "bias", 1.0)))  # fmt: skip
    return [b.channels_first(b.emit(op, b.channels_last(x)))]


WINDOW_HANDLERS: HandlerTable = {
    ("Conv", 1): conv,
    ("ConvTranspose", 1): conv_transpose,
    ("MaxPool", 1): max_pool,
    ("MaxUnpool", 9): max_unpool,
    ("AveragePool", 1): average_pool,
    ("LpPool", 1): lp_pool,
    ("GlobalAveragePool", 1): global_average_pool,
    ("GlobalMaxPool", 1): global_max_pool,
    ("GlobalLpPool", 2): global_lp_pool,
    ("LRN", 1): lrn,
}
