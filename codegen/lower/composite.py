"""Ops that are several kernels, rewritten before lowering into ops that are one each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...ir import Const, Dim, DType, Elementwise, Graph, Node, Op, Shape, TensorType, Value, const, prod, upper
from ...ir.ops import (
    Add,
    Attention,
    Cast,
    Concat,
    Conv,
    ConvTranspose,
    DotConv,
    DotMatMul,
    Float8Conv,
    Float8MatMul,
    IntegerConv,
    IntegerMatMul,
    MatMul,
    Recurrent,
    Reshape,
    Slice,
    TopK,
    Transpose,
)  # fmt: skip
from ..kernel import gate_groups
from .apply import apply
from .attention_op import decompose_attention, read_by_rows
from .contraction import sums_along_k
from .quantized import integer_conv, integer_matmul
from .top_k import decompose_top_k

_CACHE_LINE = 64
_FEW = 16  # rows: a vector of them


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
    """(x_gates[T, B, D·G·H], r[D, ·] packed as RecurrentKernel wants it, bias[D, G·H], seq_lens, h0[D, B, H], c0[D, B, H],
    peephole[D, 3·H]) -> Y[T, D, B, H], h[D, B, H], c[D, B, H]. All directions have the same activations."""

    cell: str
    hidden: int
    directions: tuple[bool, ...]
    activations: tuple[tuple[str, float, float], ...]
    clip: float
    linear_before_reset: bool
    input_forget: bool
    block: int

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        steps, batch, _ = types[0].shape
        state = TensorType(types[0].dtype, (len(self.directions), batch, self.hidden))
        return (TensorType(types[0].dtype, (steps, len(self.directions), batch, self.hidden)), state, state)


def decompose(graph: Graph, attention: frozenset[DType] = frozenset({DType.F32}), ranked: int = 0, abreast: bool = False,
              float8: DType = DType.F32, turns: int = 0, planes: int = 0) -> Graph:  # fmt: skip
    """Rewrite attention, transposed convolution, integer products, recurrent ops and the first k of rows.

    `attention`: element types it has a kernel for; `ranked`: rows up to this length keep their TopK; `abreast`, `float8`,
    `turns` (`mask_turns`): see `LowerOptions`. `planes`: taps · channels up to which
    transposed convolutions may read channels first.
    """

    masks: dict[Value, Value] = {}
    uses = graph.uses

    def visit(node: Node, ins: tuple[Value, ...]) -> Sequence[Value] | None:
        match node.op:
            case Attention():
                by_rows = read_by_rows(node, sum(len(uses[m]) for m in node.inputs[3:]), turns)
                return [decompose_attention(node.op, ins, node.loc, masks, attention, by_rows)]
            case ConvTranspose():
                turned = planes if len(uses[node.inputs[0]]) == 1 else 0
                return [_conv_transpose(node.op, ins, node.out.shape, node.loc, turned)]
            case IntegerMatMul():
                return [integer_matmul(ins, node.loc)]
            case IntegerConv():
                return [integer_conv(node.op, ins, node.loc)]
            case Float8MatMul() | Float8Conv():
                return [_float8_product(node.op, ins, node.loc, float8)]
            case Recurrent():
                return _recurrent(node.op, ins, node.loc)
            case TopK() if upper(ins[0].shape[node.op.axis]) > ranked:
                return decompose_top_k(node.op, ins[0], node.loc, abreast)
        return None

    return graph.rewrite(visit)


def _float8_product(op: Float8MatMul | Float8Conv, ins: Sequence[Value], loc: tuple[str, ...], dtype: DType) -> Value:
    """Of operands of a type that holds float8 exactly, into float32."""
    wide = [v if v.dtype is dtype else _widened(v, dtype, loc) for v in ins]
    plain = dtype is DType.F32
    kind: Op = op.of_kind(Conv if plain else DotConv) if isinstance(op, Float8Conv) else MatMul() if plain else DotMatMul()
    return Node.make(kind, tuple(wide), loc).out


def _widened(v: Value, dtype: DType, loc: tuple[str, ...]) -> Value:
    if isinstance(v.node.op, Const):
        return const(v.node.op.data.astype(dtype.np), loc=v.node.loc)
    return Node.make(Cast(dtype), (v,), loc).out


def hoist(graph: Graph) -> Graph:
    """f(move(x)) -> move(f(x)) for a computed x and f of one tensor and scalars, so that f becomes part of what computes x."""
    uses, outputs = graph.uses, graph.kept
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
        if not moves or not isinstance(x.node.op, (Conv, MatMul, Elementwise)) or len(uses[old]) != 1 or old in outputs:
            return None
        args = [x if i in tensors else const(v.data.reshape(())) for i, v in enumerate(ins)]
        y = Node.make(node.op, tuple(args), node.loc).out
        for move in reversed(moves):
            y = Node.make(move.op, (y,), move.loc).out
            fresh.add(y.node)
        return [y]

    return graph.rewrite(visit)


def swap_few_rows(graph: Graph, inner: int) -> Graph:
    """a·bᵀ -> (b·aᵀ)ᵀ for a few rows of a and a computed b: b is read as it lies, and the small a is transposed instead."""
    uses = graph.uses

    def visit(node: Node, ins: tuple[Value, ...]) -> Sequence[Value] | None:
        if type(node.op) is not MatMul:
            return None
        a, bt = ins
        rows, columns, rank = a.shape[-2], node.out.shape[-1], len(bt.shape)
        swap = (*range(rank - 2), rank - 1, rank - 2)
        if not isinstance(bt.node.op, Transpose) or bt.node.op.perm != swap or len(uses[node.inputs[1]]) != 1:
            return None
        if not isinstance(rows, int) or not 2 <= rows <= _FEW or (isinstance(columns, int) and columns < 4 * rows):
            return None
        if sums_along_k(rows, a.shape[-1], a.dtype, inner):
            return None
        if a.shape[:-2] != bt.shape[:-2] or isinstance(bt.node.inputs[0].node.op, Const):
            return None
        turned = apply(MatMul(), node.loc, bt.node.inputs[0], apply(Transpose(swap), node.loc, a))
        return [apply(Transpose(swap), node.loc, turned)]

    return graph.rewrite(visit)


def _conv_transpose(op: ConvTranspose, ins: tuple[Value, ...], shape: Shape, loc: tuple[str, ...], planes: int) -> Value:
    x, w = ins
    n, *spatial, c = x.shape
    kernel, per_group, g = w.shape[:-2], w.shape[-2], op.groups
    taps = int(prod(kernel))
    pixels = n * prod(spatial)
    move, last = x.node.op, (0, *range(2, len(x.shape)), 1)
    rows = taps * per_group
    if g == 1 and rows <= planes and rows < c and isinstance(move, Transpose) and move.perm == last:
        # weights multiply the image as it lies: what they make is less than it, and is turned instead
        image = apply(Reshape((n, c, prod(spatial))), loc, x.node.inputs[0])
        cols = apply(MatMul(), loc, apply(Reshape((rows, c)), loc, w), image)
        cols = apply(Transpose((0, 2, 1)), loc, cols)
    elif g == 1:
        wt = apply(Transpose((1, 0)), loc, apply(Reshape((taps * per_group, c)), loc, w))
        cols = apply(MatMul(), loc, apply(Reshape((pixels, c)), loc, x), wt)
    else:
        wg = apply(Reshape((taps * per_group, g, c // g)), loc, w)
        wt = apply(Transpose((1, 2, 0)), loc, wg)
        xg = apply(Transpose((1, 0, 2)), loc, apply(Reshape((pixels, g, c // g)), loc, x))
        cols = apply(Reshape((g, pixels, taps, per_group)), loc, apply(MatMul(), loc, xg, wt))
        cols = apply(Transpose((1, 2, 0, 3)), loc, cols)
    cols = apply(Reshape((n, *spatial, taps * per_group * g)), loc, cols)
    static = tuple(int(k) for k in kernel)
    return apply(ColumnsToImage(shape[1:-1], static, op.strides, op.pads_lo, op.dilations), loc, cols)


def _recurrent(op: Recurrent, ins: tuple[Value, ...], loc: tuple[str, ...]) -> Sequence[Value]:
    dtype = ins[0].dtype
    if dtype.is_float and dtype.itemsize < 4:  # the state of a long sequence would lose too much
        wide = tuple(apply(Cast(DType.F32), loc, v) if v.dtype is dtype else v for v in ins)
        return [apply(Cast(dtype), loc, v) for v in _recurrent(op, wide, loc)]
    count = len(op.directions)
    alike = len({op.activations_of(d) for d in range(count)}) == 1
    cells = [_cell(op, ins, a, b, loc) for a, b in ([(0, count)] if alike else [(d, d + 1) for d in range(count)])]
    out = [vs[0] if len(vs) == 1 else apply(Concat(axis), loc, *vs) for vs, axis in zip(zip(*cells, strict=True), (1, 0, 0), strict=True)]
    return out if op.cell == "lstm" else out[:2]


def _cell(op: Recurrent, ins: tuple[Value, ...], first: int, last: int, loc: tuple[str, ...]) -> tuple[Value, ...]:
    """Directions [first, last) as one contraction for all steps and one sequential kernel."""
    x, *weights, lens, h0, c0, peephole = ins
    steps, batch, size = x.shape
    dn, hidden = last - first, op.hidden

    def part(v: Value, start: int, end: int, axis: int) -> Value:
        if (start, end) == (0, v.shape[axis]):
            return v
        starts = tuple(start if i == axis else 0 for i in range(len(v.shape)))
        sizes = tuple(end - start if i == axis else d for i, d in enumerate(v.shape))
        return apply(Slice(starts, sizes, (1,) * len(sizes)), loc, v)

    w, r, bias, h0, c0, peephole = (part(v, first, last, 0) for v in (*weights, h0, c0, peephole))
    gates = w.shape[1]
    assert isinstance(gates, int)
    wt = apply(Transpose((1, 0)), loc, apply(Reshape((dn * gates, size)), loc, w))
    wb, rb = part(bias, 0, gates, 1), part(bias, gates, 2 * gates, 1)
    rows = apply(Reshape((steps * batch, size)), loc, x)
    xg = apply(Add(), loc, apply(MatMul(), loc, rows, wt), apply(Reshape((dn * gates,)), loc, wb))
    cell = RecurrentCell(op.cell, hidden, op.directions[first:last], op.activations_of(first), op.clip, op.linear_before_reset,
                         op.input_forget, _CACHE_LINE // r.dtype.itemsize)  # fmt: skip
    groups = gate_groups(op.cell, op.linear_before_reset)
    packed = [_pack_gates(part(r, g[0] * hidden, (g[-1] + 1) * hidden, 1), len(g), hidden, cell.block, loc) for g in groups]
    one = packed[0] if len(packed) == 1 else apply(Concat(2), loc, *packed)
    return Node.make(cell, (apply(Reshape((steps, batch, dn * gates)), loc, xg), one, rb, lens, h0, c0, peephole), loc).outputs


def _pack_gates(r: Value, gates: int, hidden: int, block: int, loc: tuple[str, ...]) -> Value:
    """r[D, gates·H, H] -> [D, blocks, H·gates·block], zero padded."""
    dn, blocks = r.shape[0], -(-hidden // block)
    r = apply(Reshape((dn, gates, hidden, hidden)), loc, r)
    if hidden % block:
        zeros = const(np.zeros((int(dn), gates, blocks * block - hidden, hidden), r.dtype.np), loc=loc)
        r = apply(Concat(2), loc, r, zeros)
    r = apply(Transpose((0, 2, 4, 1, 3)), loc, apply(Reshape((dn, gates, blocks, block, hidden)), loc, r))
    return apply(Reshape((dn, blocks, hidden * gates * block)), loc, r)
