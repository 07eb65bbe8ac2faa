"""Products of dequantized operands become integer products, and what is quantized again right behind them stays integer.

    quantize(relu(conv(dequantize(x), dequantize(w)) + bias))  →  max(quantize(f32(integerconv(x, w) + bias) · scales), zero)

The sums are exact where the float model rounds; the scales of operands and result are one factor then, as in
onnxruntime's QLinear operators. It runs before constants fold: weights shall not become floats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..ir import Const, DType, Graph, Input, Node, Trait, Value, const, prod
from ..ir.ops import (
    Add,
    Cast,
    Concat,
    Conv,
    ConvTranspose,
    Dequantize,
    Expand,
    Gather,
    IntegerConv,
    IntegerMatMul,
    MatMul,
    Max,
    Min,
    Mul,
    Pad,
    Pool,
    Quantize,
    Relu,
    Reshape,
    Slice,
    Transpose,
)  # fmt: skip
from ..ir.ops.quantized import integer_range, is_finite_positive
from .base import Pass, PassContext, apply, const_of, reshape, scalar_of, transpose
from .upsampling_products import biased, columns_of, dealt, is_disjoint

_BYTES = (DType.U8, DType.I8)  # what products take
_EXACT = (*_BYTES, DType.U16, DType.I16)  # quantizing what was dequantized on the same grid gives the same integer
_BIAS_ERROR = 1e-3  # of a step of the accumulator: biases quantized with the product's scale are whole numbers of steps


@dataclass(frozen=True)
class IntegerProducts(Pass):
    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        if not any(isinstance(n.op, (Dequantize, Quantize)) for n in graph.nodes):
            return graph
        return graph.rewrite(_visit)


def _visit(node: Node, ins: tuple[Value, ...]) -> Sequence[Value] | None:
    match node.op:
        case MatMul() if type(node.op) is MatMul:  # not of weights of few bits, whose scales and zeros are operands
            got = _matmul(*ins)
        case Conv():
            got = _conv(node.op, *ins)
        case ConvTranspose():
            got = _upsampled(node, *ins)
        case Add():
            got = _biased(ins[0], ins[1], node.loc) or _biased(ins[1], ins[0], node.loc)
        case Quantize(inverse=False):
            got = _quantize(node.op, *ins)
        case Gather():
            got = _gather(node.op, *ins)
        case _:
            return None
    return None if got is None else [_located(got, node, ins)]


def _located(v: Value, node: Node, known: tuple[Value, ...]) -> Value:
    """The same value, its new nodes marked with the ONNX nodes that they replace."""
    if v in known or v.node.loc or isinstance(v.node.op, (Const, Input)):
        return v
    return Node.make(v.node.op, tuple(_located(u, node, known) for u in v.node.inputs), node.loc).out


@dataclass(frozen=True)
class _Quantized:
    """(q − zero)·scale; scale and zero are one number, or broadcast to q with its rank."""

    q: Value
    scale: Value
    zero: Value

    def same_grid(self, other: _Quantized) -> bool:
        return self.q.dtype is other.q.dtype and _equal(self.scale, other.scale) and _equal(self.zero, other.zero)


def _equal(a: Value, b: Value) -> bool:
    x, y = const_of(a), const_of(b)
    return a == b or (x is not None and y is not None and x.size == y.size == 1 and x.reshape(())[()] == y.reshape(())[()])


def _source(v: Value, dtypes: tuple[DType, ...] = _BYTES) -> _Quantized | None:
    """The integers that a float value is made of, seen through moves of whole axes."""
    moves: list[Transpose | Reshape] = []
    while isinstance(v.node.op, (Transpose, Reshape)):
        moves.append(v.node.op)
        v = v.node.inputs[0]
    if not isinstance(v.node.op, Dequantize) or v.node.inputs[0].dtype not in dtypes:
        return None
    q, scale, *given = v.node.inputs
    zero = given[0] if given else const(np.zeros((), q.dtype.np))
    for move in reversed(moves):
        rank, q = q.type.rank, _moved(q, move)
        sides = []
        for side in (scale, zero):
            if side.type.numel != 1 and (isinstance(move, Reshape) or side.type.rank != rank):
                return None
            sides.append(reshape(side, ()) if side.type.numel == 1 else _moved(side, move))
        scale, zero = sides
    return _Quantized(q, *(reshape(s, ()) if s.type.numel == 1 else s for s in (scale, zero)))


def _limited(v: Value, pick: Max | Min, limit: int) -> Value:
    return apply(pick, v, const(limit, v.dtype))


def _padded(v: Value, pad: Pad, level: Value) -> Value:
    return apply(pad, v, level)


def _moved(v: Value, move: Transpose | Reshape) -> Value:
    return transpose(v, move.perm) if isinstance(move, Transpose) else reshape(v, move.shape)


# --- products -------------------------------------------------------------------------------------------------------------


def _matmul(a: Value, b: Value) -> Value | None:
    x, w = _source(a), _source(b)
    if x is None or w is None:
        return None
    rows = all(s.type.numel == 1 or s.shape[-1] == 1 for s in (x.scale, x.zero))
    columns = all(s.type.numel == 1 or (s.type.rank > 1 and s.shape[-2] == 1) for s in (w.scale, w.zero))
    if not (rows and columns):
        return None
    return _rescaled(apply(IntegerMatMul(), x.q, w.q, x.zero, w.zero), x.scale, w.scale)


def _conv(op: Conv, a: Value, b: Value) -> Value | None:
    x, w = _source(a), _source(b)
    if x is None or w is None or x.scale.type.numel != 1 or x.zero.type.numel != 1:
        return None
    sides = []
    for side in (w.scale, w.zero):
        if side.type.numel != 1 and side.type.numel != side.shape[-1]:
            return None
        sides.append(side if side.type.numel == 1 else reshape(side, (side.shape[-1],)))
    return _rescaled(apply(op.of_kind(IntegerConv), x.q, w.q, x.zero, sides[1]), x.scale, sides[0])


def _upsampled(node: Node, a: Value, b: Value) -> Value | None:
    """A transposed convolution without overlaps; scales and zero points of weights [*K, O, C] may be one an output."""
    x, w = _source(a), _source(b)
    if x is None or w is None or x.scale.type.numel != 1 or x.zero.type.numel != 1:
        return None
    columns = b.shape[:-1]
    if not isinstance(node.op, ConvTranspose) or not is_disjoint(node.op, columns[:-1]):
        return None
    sides = []
    for v in (w.scale, w.zero):
        side = _known(v)
        if side is None or (side.size != 1 and (side.size != columns[-1] or side.shape[-2:-1] != columns[-1:])):
            return None
        sides.append(const(side.reshape(()) if side.size == 1 else np.tile(side.reshape(-1), int(prod(columns[:-1])))))
    acc = apply(IntegerMatMul(), x.q, columns_of(w.q), x.zero, sides[1])
    return dealt(_rescaled(acc, x.scale, sides[0]), columns, node.out.shape)


def _biased(v: Value, other: Value, loc: tuple[str, ...]) -> Value | None:
    """The bias of such a convolution, where quantizing again looks for it."""
    bias = _known(other) if isinstance(v.node.op, Reshape) else None
    return None if bias is None else biased(v, bias, loc)


def _rescaled(acc: Value, a: Value, b: Value) -> Value:
    x, y = const_of(a), const_of(b)
    scale = apply(Mul(), a, b) if x is None or y is None else const(np.multiply(x, y))
    return apply(Mul(), apply(Cast(DType.F32), acc), scale)


def _gather(op: Gather, data: Value, index: Value) -> Value | None:
    """Rows of a quantized table, dequantized after they are taken."""
    if not isinstance(data.node.op, Dequantize) or const_of(data.node.inputs[0]) is None:
        return None
    q, *sides = data.node.inputs
    taken = []
    for side in sides:
        if side.type.numel == 1:
            taken.append(side)
        elif op.axis == 0 and side.type.rank == q.type.rank and side.type.numel == side.shape[0] == q.shape[0]:  # one a row
            taken.append(apply(op, side, index))
        else:
            return None
    return apply(Dequantize(), apply(op, q, index), *taken)


# --- quantizing again -------------------------------------------------------------------------------------------------


def _quantize(op: Quantize, x: Value, scale: Value, zero: Value) -> Value | None:
    step, offset = const_of(scale), const_of(zero)
    if step is None or offset is None or step.size != 1 or offset.size != 1 or not is_finite_positive(step):
        return None
    v, again = _behind(op, x, step.reshape(()), offset.reshape(()))
    got = _already(v, scale, zero)
    if got is None:
        got = _from_accumulator(op, v, step.reshape(()), zero)
    return None if got is None else again(got)


def _behind(op: Quantize, x: Value, step: np.ndarray, offset: np.ndarray) -> tuple[Value, Callable[[Value], Value]]:
    """What moves, pads, rectifiers and clips of x start from, and how to redo them on integers: quantizing is monotone."""
    steps: list[Callable[[Value], Value]] = []
    low, high = integer_range(op.dtype)
    while True:
        match x.node.op:
            case Transpose() | Reshape() as move:
                steps.append(partial(_moved, move=move))
                x = x.node.inputs[0]
                continue
            case Pad() as pad if (fill := _known(x.node.inputs[1])) is not None:
                (level,) = op.reference(fill.reshape(()), step, offset)
                steps.append(partial(_padded, pad=pad, level=const(level)))
                x = x.node.inputs[0]
                continue
            case Slice() | Expand() as move:
                steps.append(partial(apply, move))
                x = x.node.inputs[0]
                continue
            case Relu():
                bound: float | None = 0.0
                pick: Max | Min = Max()
                (inner,) = x.node.inputs
            case Max() | Min() as pick:
                inner, other = sorted(x.node.inputs, key=lambda v: const_of(v) is not None)
                bound = scalar_of(other)
            case _:
                break
        if bound is None or inner.type != x.type:
            break
        limit = int(op.reference(np.asarray(bound, np.float32), step, offset)[0])
        if limit != (low if isinstance(pick, Max) else high):
            steps.append(partial(_limited, pick=pick, limit=limit))
        x = inner

    def again(q: Value) -> Value:
        for redo in reversed(steps):
            q = redo(q)
        return q

    return x, again


def _already(v: Value, scale: Value, zero: Value) -> Value | None:
    """Integers that lie on the wanted grid, perhaps after choosing among them."""

    def on_grid(u: Value) -> Value | None:
        found = _source(u, _EXACT)
        return found.q if found is not None and found.same_grid(_Quantized(found.q, scale, zero)) and zero.dtype is found.q.dtype else None

    match v.node.op:
        case Dequantize():
            return on_grid(v)
        case Pool(kind="max"):
            inner = on_grid(v.node.inputs[0])
            return None if inner is None else apply(v.node.op, inner)
        case Concat():
            if all(_source(u, _EXACT) is not None for u in v.node.inputs):  # parts on other grids are moved there one by one
                parts = (on_grid(u) or apply(Quantize(zero.dtype), u, scale, zero) for u in v.node.inputs)
                return apply(v.node.op, *parts)
    return None


def _from_accumulator(op: Quantize, v: Value, step: np.ndarray, zero: Value) -> Value | None:
    """f32(acc)·scale + bias, requantized: one factor for both scales, and the bias among the integers where it is a whole number."""
    bias: np.ndarray | None = None
    if isinstance(v.node.op, Add):
        v, other = sorted(v.node.inputs, key=lambda u: not isinstance(u.node.op, Mul))
        bias = _known(other)
        if bias is None:
            return None
    if not isinstance(v.node.op, Mul) or not isinstance(v.node.inputs[0].node.op, Cast):
        return None
    cast, scale = v.node.inputs
    acc, factor = cast.node.inputs[0], const_of(scale)
    if factor is None or acc.dtype is not DType.I32 or not is_finite_positive(factor):
        return None
    if bias is None:
        return apply(Quantize(op.dtype, True), cast, const(factor / step), zero)
    if np.broadcast_shapes(bias.shape, factor.shape, (1,) * len(acc.shape)) != (*(1,) * (len(acc.shape) - bias.ndim), *bias.shape):
        bias = bias + np.zeros_like(factor)
    steps = bias.astype(np.float64) / factor
    whole = np.rint(steps)
    if np.abs(steps - whole).max(initial=0) <= _BIAS_ERROR and np.abs(whole).max(initial=0) < 1 << 30:
        summed = apply(Cast(DType.F32), apply(Add(), acc, const(whole.astype(np.int32))))
        return apply(Quantize(op.dtype, True), summed, const(factor / step), zero)
    scaled = apply(Add(), apply(Mul(), cast, const(factor / step)), const(bias / step))
    return apply(Quantize(op.dtype, True), scaled, const(np.float32(1)), zero)


def _known(v: Value) -> np.ndarray | None:
    """A constant, or what a dequantizer and moves make of constants."""
    chain: list[Node] = []
    while const_of(v) is None:
        node = v.node
        if not isinstance(node.op, (Dequantize, Reshape, Transpose)) or Trait.PURE not in node.op.traits:
            return None
        if any(const_of(u) is None for u in node.inputs[1:]):
            return None
        chain.append(node)
        v = node.inputs[0]
    data = v.data
    for node in reversed(chain):
        (data,) = node.op.reference(data, *(u.data for u in node.inputs[1:]))
    return data
