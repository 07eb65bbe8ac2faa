"""Ops that are several kernels, rewritten before lowering into ops that are one each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...ir import Const, Dim, Elementwise, Graph, Node, Op, Shape, TensorType, Value, const, lower, prod
from ...ir.ops import (
    Add,
    Attention,
    Concat,
    ConvTranspose,
    Iota,
    LessEqual,
    MatMul,
    Mul,
    Recurrent,
    Reshape,
    Slice,
    Softmax,
    Transpose,
    Where,
)  # fmt: skip
from ...ir.ops import DimTensor as Dims


@dataclass(frozen=True)
class SafeSoftmax(Softmax):
    """A row of −∞ only gives zeros, not NaN: no key is visible."""


@dataclass(frozen=True)
class ColumnsToImage(Op):
    """cols[N, *S, taps·O] -> [N, *out, O]: out[p] = Σ over taps k and pixels i with i·stride + k·dilation − lo = p."""

    out: Shape
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads_lo: tuple[Dim, ...]
    dilations: tuple[int, ...]

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = types
        taps = prod(self.kernel)
        return (TensorType(x.dtype, (x.shape[0], *self.out, x.shape[-1] // taps)),)


@dataclass(frozen=True)
class RecurrentCell(Op):
    """(x_gates[T, B, G·H], r[G·H, H], bias[G·H], seq_lens, h0[B, H], c0[B, H], peephole[3·H]) -> Y[T, B, H], h, c."""

    cell: str
    hidden: int
    reverse: bool
    activations: tuple[tuple[str, float, float], ...]
    clip: float
    linear_before_reset: bool
    input_forget: bool

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        steps, batch, _ = types[0].shape
        state = TensorType(types[0].dtype, (batch, self.hidden))
        return (TensorType(types[0].dtype, (steps, batch, self.hidden)), state, state)


def decompose(graph: Graph) -> Graph:
    """Rewrite attention, transposed convolution and recurrent ops."""

    def visit(node: Node, ins: tuple[Value, ...]) -> Sequence[Value] | None:
        match node.op:
            case Attention():
                return [_attention(node.op, ins, node.loc)]
            case ConvTranspose():
                return [_conv_transpose(node.op, ins, node.out.shape, node.loc)]
            case Recurrent():
                return _recurrent(node.op, ins, node.loc)
        return None

    return graph.rewrite(visit)


def hoist(graph: Graph) -> Graph:
    """f(move(x)) -> move(f(x)) for a computed x and f of one tensor and scalars, so that f becomes part of what computes x."""
    uses, outputs = graph.uses, set(graph.outputs)
    fresh: set[Node] = set()  # moves made here: read once

    def visit(node: Node, ins: tuple[Value, ...]) -> Sequence[Value] | None:
        tensors = [i for i, v in enumerate(node.inputs) if not (isinstance(v.node.op, Const) and v.node.op.data.size == 1)]
        if not isinstance(node.op, Elementwise) or len(tensors) != 1 or ins[tensors[0]].shape != node.out.shape:
            return None
        moves: list[Node] = []
        old, x = node.inputs[tensors[0]], ins[tensors[0]]  # the value in the graph before, and now
        while len(uses[old]) == 1 and old not in outputs and isinstance(x.node.op, (Reshape, Transpose)):
            moves.append(x.node)
            if x.node not in fresh:
                if type(old.node.op) is not type(x.node.op):
                    return None
                old = old.node.inputs[0]
            x = x.node.inputs[0]
        if not moves or not isinstance(x.node.op, (MatMul, Elementwise)) or len(uses[old]) != 1 or old in outputs:
            return None
        args = [x if i in tensors else const(v.node.op.data.reshape(())) for i, v in enumerate(ins)]  # type: ignore[attr-defined]
        y = Node.make(node.op, tuple(args), node.loc).out
        for move in reversed(moves):
            y = Node.make(move.op, (y,), move.loc).out
            fresh.add(y.node)
        return [y]

    return graph.rewrite(visit)


def apply(op: Op, loc: tuple[str, ...], *ins: Value) -> Value:
    """The op's result; moves of constants are done at once."""
    if all(isinstance(v.node.op, Const) for v in ins) and isinstance(op, (Reshape, Transpose, Slice)):
        (data,) = op.reference(*(v.node.op.data for v in ins))  # type: ignore[attr-defined]
        return const(data, loc=loc)
    return Node.make(op, ins, loc).out


def _attention(op: Attention, ins: tuple[Value, ...], loc: tuple[str, ...]) -> Value:
    q, k, v = ins[:3]
    batch, heads, rows, size = q.shape
    kv_heads, columns = k.shape[1], k.shape[2]
    grouped = isinstance(heads, int) and isinstance(kv_heads, int) and heads != kv_heads
    if grouped:  # the query heads that share a key head become rows of one product
        q = apply(Reshape((batch, kv_heads, heads // kv_heads * rows, size)), loc, q)
    s = apply(MatMul(), loc, q, apply(Transpose((0, 1, 3, 2)), loc, k))
    s = apply(Mul(), loc, s, const(op.scale, s.dtype, loc))
    if grouped:
        s = apply(Reshape((s.shape[0], heads, rows, columns)), loc, s)
    if len(ins) == 4:
        s = apply(Add(), loc, s, ins[3])
    if op.causal:
        first = apply(Reshape((rows, 1)), loc, apply(Iota(rows), loc))
        last = apply(Add(), loc, first, apply(Dims((columns - rows,), ()), loc))
        seen = apply(LessEqual(), loc, apply(Iota(columns), loc), last)
        s = apply(Where(), loc, seen, s, const(-np.inf, s.dtype, loc))
    sees_all = len(ins) == 3 and (not op.causal or lower(columns - rows) >= 0)
    p = apply(Softmax(3) if sees_all else SafeSoftmax(3), loc, s)
    if grouped:
        p = apply(Reshape((p.shape[0], kv_heads, heads // kv_heads * rows, columns)), loc, p)  # type: ignore[operator]
    y = apply(MatMul(), loc, p, v)
    return apply(Reshape((y.shape[0], heads, rows, v.shape[3])), loc, y) if grouped else y


def _conv_transpose(op: ConvTranspose, ins: tuple[Value, ...], shape: Shape, loc: tuple[str, ...]) -> Value:
    x, w = ins
    n, *spatial, c = x.shape
    kernel, per_group, g = w.shape[:-2], w.shape[-2], op.groups
    taps: int = prod(kernel)  # type: ignore[assignment]
    pixels = n * prod(spatial)
    if g == 1:
        wt = apply(Transpose((1, 0)), loc, apply(Reshape((taps * per_group, c)), loc, w))
        cols = apply(MatMul(), loc, apply(Reshape((pixels, c)), loc, x), wt)
    else:
        wg = apply(Reshape((taps * per_group, g, c // g)), loc, w)
        wt = apply(Transpose((1, 2, 0)), loc, wg)
        rows = apply(Transpose((1, 0, 2)), loc, apply(Reshape((pixels, g, c // g)), loc, x))
        cols = apply(Reshape((g, pixels, taps, per_group)), loc, apply(MatMul(), loc, rows, wt))
        cols = apply(Transpose((1, 2, 0, 3)), loc, cols)
    cols = apply(Reshape((n, *spatial, taps * per_group * g)), loc, cols)
    static = tuple(int(k) for k in kernel)  # type: ignore[arg-type]
    return apply(ColumnsToImage(shape[1:-1], static, op.strides, op.pads_lo, op.dilations), loc, cols)


def _recurrent(op: Recurrent, ins: tuple[Value, ...], loc: tuple[str, ...]) -> Sequence[Value]:
    x, w, r, bias, lens, h0, c0, peephole = ins
    steps, batch, size = x.shape
    hidden = op.hidden
    gates = w.shape[1]

    def of(v: Value, direction: int) -> Value:
        part = Slice((direction, *(0,) * (len(v.shape) - 1)), (1, *v.shape[1:]), (1,) * len(v.shape))
        return apply(Reshape(v.shape[1:]), loc, v if v.shape[0] == 1 else apply(part, loc, v))

    results: list[list[Value]] = [[], [], []]
    for d, reverse in enumerate(op.directions):
        wt = apply(Transpose((1, 0)), loc, of(w, d))
        both = of(bias, d)
        halves = [apply(Slice((start,), (gates,), (1,)), loc, both) for start in (0, gates)]
        rows = apply(Reshape((steps * batch, size)), loc, x)
        xg = apply(Add(), loc, apply(MatMul(), loc, rows, wt), halves[0])
        cell = RecurrentCell(op.cell, hidden, reverse, op.activations_of(d), op.clip, op.linear_before_reset, op.input_forget)
        args = (
            apply(Reshape((steps, batch, gates)), loc, xg),
            of(r, d),
            halves[1],
            lens,
            of(h0, d),
            of(c0, d),
            of(peephole, d),
        )
        y, h, c = Node.make(cell, args, loc).outputs
        results[0].append(apply(Reshape((steps, 1, batch, hidden)), loc, y))
        results[1].append(apply(Reshape((1, batch, hidden)), loc, h))
        results[2].append(apply(Reshape((1, batch, hidden)), loc, c))
    out = [vs[0] if len(vs) == 1 else apply(Concat(axis), loc, *vs) for vs, axis in zip(results, (1, 0, 0), strict=True)]
    return out if op.cell == "lstm" else out[:2]
