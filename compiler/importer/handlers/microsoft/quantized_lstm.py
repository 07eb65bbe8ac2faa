"""com.microsoft::DynamicQuantizeLSTM as onnxruntime computes it, with one thread: a loop over steps whose products are integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from .....ir import Const, DType, Value
from .....ir import ops as O
from ...compose import Build, optional, required, sized
from ...context import ImportContext
from ...region import Region, formal, iteration
from ..quantized import dequantize, dynamic_quantize, integer_matmul
from ..recurrent import recurrent, sides_of

_SCALES = range(8, 12)  # inputs: scale and zero point of W, then of R
_PLAIN = (4, 7)  # inputs that the loop has no use for: lengths of sequences, peepholes


def dynamic_quantize_lstm(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """LSTM with weights W[Dn, I, 4·H] and R[Dn, H, 4·H] in 8 bits, a scale a direction or a column.

    x is rounded to 8 bits as a whole, and h of the whole batch at every step. (onnxruntime with several threads rounds h of a
    part of the batch each.) With lengths of sequences, peepholes, a bound of the gates or other activations than the usual ones,
    weights are taken as the floats that they stand for, and nothing else is rounded.
    """
    x, w, r = required(ctx, node, ins, 3)
    for i in _SCALES:
        if optional(ins, i) is None:
            raise ctx.unsupported(f"{node.op_type} without its input {i}")
    sides = sides_of(ctx, node)
    special = any(optional(ins, i) is not None for i in _PLAIN) or any(
        ctx.attr(node, name, default) != default for name, default in (("clip", 0.0), ("input_forget", 0), ("layout", 0))
    )
    activations = [a.lower() for a in ctx.attr(node, "activations", ())]
    special |= activations not in ([], ["sigmoid", "tanh", "tanh"] * len(sides))
    if special or not isinstance(r.shape[1], int):
        return recurrent(ctx, node, [x, *_floats(ctx, w, r, ins), *ins[3:8]], "lstm")
    b = Build(ctx)
    q, scale, zero = dynamic_quantize(b, x)
    outs = [_direction(ctx, (q, scale, zero), ins, d, reverse) for d, reverse in enumerate(sides)]
    y = b.concat(1, *(b.reshape(o[2], (o[2].shape[0], 1, *o[2].shape[1:])) for o in outs))
    return [y, *(b.concat(0, *(b.reshape(o[i], (1, *o[i].shape)) for o in outs)) for i in (0, 1))]


def _floats(ctx: ImportContext, w: Value, r: Value, ins: Sequence[Value | None]) -> list[Value]:
    b = Build(ctx)

    def weights(q: Value, at: int) -> Value:
        scale, zero = (b.reshape(v, (v.shape[0], 1, 1 if v.type.rank == 1 else v.shape[1])) for v in ins[at : at + 2] if v is not None)
        return b.swap_last(dequantize(ctx, q, scale, zero))

    return [weights(w, 8), weights(r, 10)]


def _direction(
    ctx: ImportContext, x: tuple[Value, Value, Value], ins: Sequence[Value | None], d: int, reverse: bool
) -> tuple[Value, Value, Value]:
    """h and c after the last step [B, H], and h of all [T, B, H]."""
    b = Build(ctx)
    q, scale, zero = x
    steps, batch, _ = q.shape
    region = Region()

    def part(index: int) -> Value:
        """The slice of an input that belongs to the direction; a constant of its own where it is constant."""
        v = ins[index]
        assert v is not None
        if isinstance(v.node.op, Const):
            return ctx.const(np.ascontiguousarray(v.node.op.data[d]))
        return b.reshape(b.slice(v, 0, d, 1), v.shape[1:])

    def inside(v: Value) -> Value:
        return ctx.captured(region, v)

    def product(q: Value, scale: Value, zero: Value, w: Value, w_scale: Value, w_zero: Value) -> Value:
        acc = integer_matmul(b, q, w, zero, w_zero)
        return b.mul(b.cast(acc, DType.F32), b.mul(b.reshape(scale, ()), w_scale))

    w, r = part(1), part(2)
    hidden = r.shape[0]
    gates = product(q, scale, zero, w, part(8), part(9))
    if optional(ins, 3) is not None:
        bias = part(3)
        gates = b.add(gates, b.add(b.slice(bias, 0, 0, 4 * hidden), b.slice(bias, 0, 4 * hidden, 4 * hidden)))
    r_scale, r_zero = part(10), part(11)

    def state(index: int) -> Value:
        if optional(ins, index) is None:
            return b.expand(b.const(0, DType.F32), (batch, hidden))
        return sized(ctx, part(index), (batch, hidden))

    counter, running = iteration(ctx.loc)
    h0, c0 = state(5), state(6)
    h, c = formal(h0.type, ctx.loc), formal(c0.type, ctx.loc)
    at = b.sub(b.dim(steps - 1, DType.I64), counter) if reverse else counter
    h_q, h_scale, h_zero = dynamic_quantize(b, h)
    recurrence = product(h_q, h_scale, h_zero, inside(r), inside(r_scale), inside(r_zero))
    total = b.add(b.emit(O.Gather(0), inside(gates), at), recurrence)
    i, o, f, g = (b.slice(total, 1, k * hidden, hidden) for k in range(4))
    new_c = b.add(b.mul(b.emit(O.Sigmoid(), f), c), b.mul(b.emit(O.Sigmoid(), i), b.emit(O.Tanh(), g)))
    new_h = b.mul(b.emit(O.Sigmoid(), o), b.emit(O.Tanh(), new_c))
    graph = region.graph([running, new_h, new_c, new_h], (counter, running, h, c), "lstm")
    loop = O.Loop(graph, 2, 1, steps)
    last_h, last_c, y = ctx.emit(loop, b.dim(steps, DType.I64), ctx.const(np.bool_(True)), h0, c0, *region.captures).outputs
    return last_h, last_c, b.slice(y, 0, steps - 1, steps, -1) if reverse else y
