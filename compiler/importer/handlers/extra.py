"""Handlers of sampling operators and of onnxruntime's fused convolutions and attention, all composed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from onnx import NodeProto

from ....ir import DType, Value, prod
from ....ir import ops as O
from ..compose import Build, optional, required
from ..context import HandlerTable, ImportContext
from .contract import gemm
from .windows import convolve


def reverse_sequence(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """The first sequence_lens[b] steps reversed, the rest kept: a gather of batch·time rows."""
    x, lens = required(ctx, node, ins, 2)
    b = Build(ctx)
    time_axis = int(ctx.attr(node, "time_axis", 0))
    if time_axis == int(ctx.attr(node, "batch_axis", 1)) or time_axis not in (0, 1):
        raise ctx.unsupported(f"ReverseSequence with time_axis {time_axis}")
    y = x if time_axis == 1 else b.transpose(x, (1, 0, *range(2, x.type.rank)))
    batch, steps = y.shape[:2]
    t = b.reshape(b.iota(steps), (1, steps))
    n = b.reshape(ctx.checked(b.cast(lens, DType.I64), [0], [steps]), (batch, 1))
    source = b.where(b.emit(O.Less(), t, n), b.sub(b.sub(n, t), 1), t)
    row = b.add(source, b.mul(b.reshape(b.iota(batch), (batch, 1)), b.dim(steps, DType.I64)))
    y = b.emit(O.Gather(0), b.reshape(y, (batch * steps, *y.shape[2:])), row)
    return [y if time_axis == 1 else b.transpose(y, (1, 0, *range(2, x.type.rank)))]


def _reflect(b: Build, x: Value, low: Value, high: Value) -> Value:
    """Coordinates mirrored back and forth between two borders."""
    span = b.sub(high, low)
    away = b.emit(O.Abs(), b.sub(x, low))
    folds = b.emit(O.Floor(), b.div(away, span))
    extra = b.sub(away, b.mul(folds, span))
    even = b.emit(O.Equal(), b.mul(b.emit(O.Floor(), b.div(folds, 2.0)), 2.0), folds)
    return b.where(even, b.add(low, extra), b.sub(high, extra))


_CUBIC = -0.75  # onnxruntime's and PyTorch's coefficient of GridSample


def _cubic_weights(b: Build, t: Value) -> list[Value]:
    """Weights of the four neighbours at distances 1 + t, t, 1 − t, 2 − t."""

    def near(d: Value) -> Value:  # ((a + 2)d − (a + 3))d² + 1
        return b.add(b.mul(b.sub(b.mul(d, _CUBIC + 2), _CUBIC + 3), b.mul(d, d)), 1.0)

    def far(d: Value) -> Value:  # ((ad − 5a)d + 8a)d − 4a
        return b.sub(b.mul(b.add(b.mul(b.sub(b.mul(d, _CUBIC), 5 * _CUBIC), d), 8 * _CUBIC), d), 4 * _CUBIC)

    u = b.sub(b.const(1, t.dtype), t)
    return [far(b.add(t, 1.0)), near(t), near(u), far(b.add(u, 1.0))]


def grid_sample(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """x[N, C, *S] read at grid[N, *out, rank] in [−1, 1]: one gather of pixels per neighbour, weighted and summed."""
    x, grid = required(ctx, node, ins, 2)
    b, rank = Build(ctx), x.type.rank - 2
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(m := ctx.attr(node, "mode", "linear"), m)
    padding, align = ctx.attr(node, "padding_mode", "zeros"), bool(ctx.attr(node, "align_corners", 0))
    modes = ("linear", "nearest", "cubic") if rank == 2 else ("linear", "nearest")
    if mode not in modes or padding not in ("zeros", "border", "reflection"):
        raise ctx.unsupported(f"GridSample with mode {mode!r} and padding {padding!r} on {rank} axes")
    n, c, *spatial = x.shape
    out = grid.shape[1:-1]
    pixels = b.reshape(b.channels_last(x), (n * prod(spatial), c))
    per_axis: list[list[tuple[Value, Value | None, Value | None]]] = []  # (index, weight, inside) of every neighbour
    for axis, size in enumerate(spatial):
        # the last grid component is x, the last spatial axis
        g = b.reshape(b.slice(grid, rank + 1, rank - 1 - axis, 1), (n, *out))
        length = b.dim(size, g.dtype)
        if align:
            at = b.mul(b.add(g, 1.0), b.div(b.sub(length, 1.0), 2.0))
        else:
            at = b.div(b.sub(b.mul(b.add(g, 1.0), length), 1.0), 2.0)
        top = b.sub(length, 1.0)
        zero = b.const(0, g.dtype)
        borders = (zero, top) if align else (b.const(-0.5, g.dtype), b.sub(length, 0.5))

        def fix(i: Value, top: Value = top, borders: tuple[Value, Value] = borders) -> Value:
            i = _reflect(b, i, *borders) if padding == "reflection" else i
            return b.min(b.max(i, 0.0), top)

        if mode == "nearest":
            at = b.emit(O.Round(), at)
            places: list[tuple[Value, Value | None]] = [(at, None)]
        elif mode == "linear":
            # Coordinates, not neighbours, are what border and reflection move.
            at = at if padding == "zeros" else fix(at)
            low = b.emit(O.Floor(), at)
            t = b.sub(at, low)
            places = [(low, b.sub(b.const(1, t.dtype), t)), (b.add(low, 1.0), t)]
        else:
            low = b.emit(O.Floor(), at)
            places = [(b.add(low, float(k - 1)), w) for k, w in enumerate(_cubic_weights(b, b.sub(at, low)))]
        found = []
        for place, weight in places:
            inside = None
            if padding == "zeros":
                inside = b.emit(O.And(), b.emit(O.GreaterEqual(), place, zero), b.emit(O.LessEqual(), place, top))
            held = fix(place) if padding != "zeros" else b.min(b.max(place, 0.0), top)
            found.append((b.cast(held, DType.I64), weight, inside))
        per_axis.append(found)
    base = b.mul(b.reshape(b.iota(n), (n, *(1 for _ in out))), b.dim(prod(spatial), DType.I64))
    total: Value | None = None
    for corner in product(*per_axis):
        index, scale = None, None
        for (i, weight, inside), size in zip(corner, spatial, strict=True):
            index = i if index is None else b.add(b.mul(index, b.dim(size, DType.I64)), i)
            for factor in (weight, None if inside is None else b.cast(inside, grid.dtype)):
                if factor is not None:
                    scale = factor if scale is None else b.mul(scale, factor)
        assert index is not None
        part = b.emit(O.Gather(0), pixels, b.add(base, index))
        if scale is not None:
            part = b.mul(part, b.cast(b.reshape(scale, (n, *out, 1)), x.dtype))
        total = part if total is None else b.add(total, part)
    assert total is not None
    return [b.channels_first(total)]


def eye_like(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    b, (rows, cols) = Build(ctx), x.shape
    number = ctx.attr(node, "dtype", None)
    i = b.add(b.reshape(b.iota(rows), (rows, 1)), b.const(int(ctx.attr(node, "k", 0)), DType.I64))
    same = b.emit(O.Equal(), i, b.reshape(b.iota(cols), (1, cols)))
    return [b.cast(same, x.dtype if number is None else DType.from_onnx(int(number)))]


_FUSED = {
    "Relu": O.Relu, "Sigmoid": O.Sigmoid, "Tanh": O.Tanh, "LeakyRelu": O.LeakyRelu, "HardSigmoid": O.HardSigmoid,
    "HardSwish": O.HardSwish, "Elu": O.Elu, "Silu": O.Silu,
}  # fmt: skip


def activate(ctx: ImportContext, node: NodeProto, b: Build, y: Value) -> Value:
    name = ctx.attr(node, "activation", None)
    if not name:
        return y
    given = ctx.attr(node, "activation_params", None)
    if given is None:  # FusedGemm names them one by one
        given = [p for p in (ctx.attr(node, f"activation_{k}", None) for k in ("alpha", "beta", "gamma")) if p is not None]
    params = tuple(float(p) for p in given)
    if name == "Clip" and len(params) == 2:
        return b.min(b.max(y, params[0]), params[1])
    if name not in _FUSED:
        raise ctx.unsupported(f"{node.op_type}: activation {name!r}")
    return b.emit(_FUSED[name](*params), y)


def fused_conv(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """com.microsoft FusedConv: activation(conv(x, w, bias) + z)."""
    x, w = required(ctx, node, ins, 2)
    b, other = Build(ctx), optional(ins, 3)
    y = convolve(ctx, node, x, w, optional(ins, 2))
    return [activate(ctx, node, b, y if other is None else b.add(y, other))]


def fused_gemm(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    return [activate(ctx, node, Build(ctx), gemm(ctx, node, ins)[0])]


def embed_layer_normalization(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """com.microsoft EmbedLayerNormalization: word + position (+ segment) embeddings, normalised."""
    ids = required(ctx, node, ins, 1)[0]
    segments, words, places, kinds, gamma, beta, mask, position_ids = (optional(ins, i) for i in range(1, 9))
    if words is None or places is None or gamma is None or beta is None:
        raise ctx.unsupported("EmbedLayerNormalization without its tables")
    b = Build(ctx)
    n, s = ids.shape
    where = position_ids if position_ids is not None else b.reshape(b.iota(s), (1, s))
    ids, where = (ctx.checked(v, [0], [table.shape[0] - 1]) for v, table in ((ids, words), (where, places)))
    total = b.add(b.emit(O.Gather(0), words, ids), b.emit(O.Gather(0), places, where))
    if kinds is not None and segments is not None:
        total = b.add(total, b.emit(O.Gather(0), kinds, ctx.checked(segments, [0], [kinds.shape[0] - 1])))
    y = b.emit(O.LayerNorm(2, float(ctx.attr(node, "epsilon", 1e-12))), total, gamma, beta)
    if mask is None:
        index = b.ctx.const(np.zeros(int(n), np.int32)) if isinstance(n, int) else b.expand(b.const([0], DType.I32), (n,))
    else:
        index = b.reduce("sum", b.cast(mask, DType.I32), [1], False)
    return [y, index, total]


EXTRA_HANDLERS: HandlerTable = {
    ("ReverseSequence", 10): reverse_sequence,
    ("GridSample", 16): grid_sample,
    ("EyeLike", 9): eye_like,
    ("com.microsoft::FusedConv", 1): fused_conv,
    ("com.microsoft::FusedGemm", 1): fused_gemm,
    ("com.microsoft::EmbedLayerNormalization", 1): embed_layer_normalization,
    ("com.microsoft::GridSample", 1): grid_sample,
}
