"""Handlers of onnxruntime's mixtures of experts (com.microsoft): MoE, and QMoE with weights of few bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from .....ir import Const, Dim, DType, Value
from .....ir import ops as O
from ...bits import unpack
from ...compose import Build, optional, required
from ...context import HandlerTable, ImportContext

Ins = list[Value | None]


@dataclass(frozen=True)
class _Activation:
    """Between the products of an expert. `fusion` of SwiGLU: halves side by side as pairs (1) or one behind the other (2)."""

    name: str
    alpha: float
    beta: float
    limit: float | None
    fusion: int

    @staticmethod
    def of(ctx: ImportContext, node: NodeProto) -> _Activation:
        name, limit = str(ctx.attr(node, "activation_type", "relu")), ctx.attr(node, "swiglu_limit", None)
        alpha, beta = float(ctx.attr(node, "activation_alpha", 1.0)), float(ctx.attr(node, "activation_beta", 0.0))
        found = _Activation(name, alpha, beta, None if limit is None else float(limit), int(ctx.attr(node, "swiglu_fusion", 0)))
        if name not in ("relu", "gelu", "silu", "identity", "swiglu") or found.fusion not in (0, 1, 2):
            raise ctx.unsupported(f"{node.op_type}: activation {name!r}, swiglu_fusion {found.fusion}")
        return found

    def __call__(self, b: Build, x: Value, linear: Value | None) -> Value:
        """Of x[…, W], and the linear part where it is computed apart."""
        match self.name:
            case "identity":
                return x
            case "relu":
                return b.emit(O.Relu(), x)
            case "gelu":
                return b.emit(O.Gelu(True), x)
            case "silu":
                y = b.emit(O.Silu(), x)
                return y if linear is None else b.mul(y, linear)
        if linear is None:
            last = x.type.rank - 1
            half = x.shape[last] // 2
            starts, step = ((0, 1), 2) if self.fusion == 1 else ((0, half), 1)
            x, linear = (b.slice(x, last, at, half, step) for at in starts)
        if self.limit is not None:
            x, linear = b.min(x, self.limit), b.min(b.max(linear, -self.limit), self.limit)
        return b.mul(b.mul(x, b.emit(O.Sigmoid(), b.mul(x, self.alpha))), b.add(linear, self.beta))


def _routing(ctx: ImportContext, node: NodeProto, b: Build, logits: Value, weights: Value | None) -> tuple[Value, Value]:
    """I64 [tokens, k]: the k best experts of each token, and f32 [tokens, k]: what each one's result counts."""
    k = int(ctx.attr(node, "k", 1))
    if ctx.attr(node, "use_sparse_mixer", 0):
        raise ctx.unsupported(f"{node.op_type} with use_sparse_mixer")
    logits = b.cast(logits, DType.F32)
    best, index = ctx.emit(O.TopK(1, k, True), logits).outputs
    normalize = bool(ctx.attr(node, "normalize_routing_weights", 0))
    if weights is not None:
        best = b.emit(O.GatherElements(1), b.cast(weights, DType.F32), index)
        if normalize:
            best = b.div(best, b.reduce("sum", best, [1]))
    elif normalize or node.op_type == "QMoE":  # whose kernel in onnxruntime always does
        best = b.emit(O.Softmax(1), best)
    else:
        best = b.emit(O.GatherElements(1), b.emit(O.Softmax(1), logits), index)
    return index, best


Product = Callable[[Value], Value]


def _mixed(
    ctx: ImportContext, node: NodeProto, x: Value, routing: tuple[Value, Value], experts: Sequence[tuple[Product, Product, Product | None]]
) -> Value:
    """Σ_j weights[:, j]·expert_{index[:, j]}(x).

    Each expert sees its own tokens only: pairs of a token and an expert are sorted by expert, so that those of one are neighbouring
    rows, as many as data decide. Experts that no token chose multiply zero rows, which reads none of their weights.
    """
    index, weights = routing
    (tokens, k), count = index.shape, len(experts)
    if not experts or not isinstance(k, int) or k > count:
        raise ctx.unsupported(f"{node.op_type} of {k} of {count} experts")
    b, act, pairs = Build(ctx), _Activation.of(ctx, node), k * tokens
    flat = b.reshape(b.cast(x, DType.F32), (tokens, x.shape[-1]))
    chosen = b.reshape(index, (pairs,))
    order = b.emit(O.Sort(), chosen)
    rows = b.emit(O.Gather(0), flat, b.div(order, k))
    here = b.emit(O.Equal(), b.reshape(b.iota(count), (count, 1)), b.reshape(chosen, (1, pairs)))
    totals = b.reduce("sum", b.cast(here, DType.I64), [1], keepdims=False)
    start: Dim = 0
    parts = []
    for e, (first, second, third) in enumerate(experts):
        size = tokens if k == count else ctx.size(totals, e)
        own = b.slice(rows, 0, start, size)
        parts.append(second(act(b, first(own), None if third is None else third(own))))
        start = start + size
    y = b.emit(O.Gather(0), b.concat(0, *parts), b.emit(O.Sort(), order))  # sorting a permutation inverts it
    y = b.mul(b.reshape(y, (tokens, k, y.shape[1])), b.reshape(weights, (tokens, k, 1)))
    return b.cast(b.reshape(b.reduce("sum", y, [1], keepdims=False), x.shape), x.dtype)


def moe(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """The k best of several two-layer networks for each token, by weights [experts, out, in]."""
    x, logits, w1 = required(ctx, node, ins, 3)
    b = Build(ctx)
    count, w2, w3 = w1.shape[0], optional(ins, 4), optional(ins, 6)
    if w2 is None or not isinstance(count, int):
        raise ctx.unsupported(f"MoE with first weights {w1.type}")

    def product(w: Value, bias: Value | None, e: int) -> Product:
        def row(v: Value) -> Value:
            return b.cast(b.reshape(b.slice(v, 0, e, 1), v.shape[1:]), DType.F32)

        def apply(v: Value) -> Value:
            y = b.matmul(v, b.swap_last(row(w)))
            return y if bias is None else b.add(y, row(bias))

        return apply

    b1, b2, b3 = (optional(ins, i) for i in (3, 5, 7))
    experts = [(product(w1, b1, e), product(w2, b2, e), None if w3 is None else product(w3, b3, e)) for e in range(count)]
    return [_mixed(ctx, node, x, _routing(ctx, node, b, logits, None), experts)]


def qmoe(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """MoE by integer weights [experts, out, bytes of in], scales a row or a block of it, and zero points packed like weights."""
    x, logits = required(ctx, node, ins, 2)
    b = Build(ctx)
    if str(ctx.attr(node, "quant_type", "int")) != "int" or int(ctx.attr(node, "weights_prepacked", -1)) == 1:
        raise ctx.unsupported("QMoE with float or prepacked weights")
    default, block = int(ctx.attr(node, "expert_weight_bits", 4)), int(ctx.attr(node, "block_size", 0) or 0)
    places = (("fc1", 2, 11), ("fc2", 5, 12), ("fc3", 8, 13))

    def layer(name: str, at: int, zeros: int) -> _Layer | None:
        operands = tuple(optional(ins, i) for i in (at, at + 1, at + 2, zeros))
        bits = int(ctx.attr(node, f"{name}_expert_weight_bits", default))
        return None if operands[0] is None else _Layer.read(ctx, operands, bits, block)

    first, second, third = (layer(*place) for place in places)
    if first is None or second is None:
        raise ctx.unsupported("QMoE without its two layers")

    def product(layer: _Layer, e: int) -> Product:
        return lambda v: layer.apply(b, e, v)

    experts = [(product(first, e), product(second, e), None if third is None else product(third, e)) for e in range(len(first.levels))]
    return [_mixed(ctx, node, x, _routing(ctx, node, b, logits, optional(ins, 14)), experts)]


@dataclass(frozen=True)
class _Layer:
    """One layer of all experts: levels u8 [E, out, in], scales and zeros f32 [E, out, blocks], bias [E, out] or None."""

    levels: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    bias: Value | None
    bits: int
    block: int

    @staticmethod
    def read(ctx: ImportContext, operands: tuple[Value | None, ...], bits: int, block: int) -> _Layer:
        """`operands`: weights, scales, bias, zero points."""
        weights, scale, bias, zero = operands
        raw, scales = (None if v is None or not isinstance(v.node.op, Const) else v.node.op.data for v in (weights, scale))
        if raw is None or scales is None or bits not in (2, 4, 8) or raw.ndim != 3 or raw.dtype != np.uint8:
            raise ctx.unsupported(f"QMoE: weights of {bits} bits, computed or not uint8")
        count, rows, _ = raw.shape
        levels = unpack(raw, bits)
        size = block or levels.shape[2]
        blocks = -(-levels.shape[2] // size)
        scales = scales.astype(np.float32).reshape(count, rows, -1)
        if scales.shape[2] != blocks:
            raise ctx.unsupported(f"QMoE: scales {list(scales.shape)}, expected {blocks} a row")
        if zero is None:
            zeros = np.full(scales.shape, 1 << (bits - 1), np.float32)
        else:
            packed = ctx.require_known(zero, "zero points of QMoE")
            if packed.ndim == 2:
                zeros = unpack(packed, bits)[:, :rows, None].astype(np.float32)
            else:
                zeros = unpack(packed, bits)[..., :blocks].astype(np.float32)
        return _Layer(levels, scales, zeros, bias, bits, size)

    def apply(self, b: Build, e: int, x: Value) -> Value:
        columns = ((self.levels[e].T, DType.U8), (self.scales[e].T, DType.F32), (self.zeros[e].T, DType.F32))
        y = b.emit(O.GroupedMatMul(max(self.bits, 4), self.block), x, *(b.const(np.ascontiguousarray(a), t) for a, t in columns))
        if self.bias is None:
            return y
        return b.add(y, b.cast(b.reshape(b.slice(self.bias, 0, e, 1), self.bias.shape[1:]), DType.F32))


EXPERT_MS_HANDLERS: HandlerTable = {
    ("com.microsoft::MoE", 1): moe,
    ("com.microsoft::QMoE", 1): qmoe,
}
