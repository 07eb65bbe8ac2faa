"""Handler of AttnLSTM (com.microsoft): an LSTM whose input is what it attended to in the step before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnx import NodeProto

from .....ir import Dim, DType, Value
from .....ir import ops as O
from .....ir.ops.recurrent import Activation
from ...compose import Build, optional, required, sized
from ...context import HandlerTable, ImportContext
from ...region import Region, formal, iteration
from ..recurrent import activations_of, sides_of

Ins = list[Value | None]

_FUNCTIONS: dict[str, Callable[[Build, Value, float, float], Value]] = {
    "Relu": lambda b, x, _a, _b: b.emit(O.Relu(), x),
    "Tanh": lambda b, x, _a, _b: b.emit(O.Tanh(), x),
    "Sigmoid": lambda b, x, _a, _b: b.emit(O.Sigmoid(), x),
    "Softsign": lambda b, x, _a, _b: b.emit(O.Softsign(), x),
    "Softplus": lambda b, x, _a, _b: b.emit(O.Softplus(), x),
    "LeakyRelu": lambda b, x, alpha, _b: b.emit(O.LeakyRelu(alpha), x),
    "ThresholdedRelu": lambda b, x, alpha, _b: b.emit(O.ThresholdedRelu(alpha), x),
    "ScaledTanh": lambda b, x, alpha, beta: b.mul(b.emit(O.Tanh(), b.mul(x, beta)), alpha),
    "HardSigmoid": lambda b, x, alpha, beta: b.emit(O.HardSigmoid(alpha, beta), x),
    "Elu": lambda b, x, alpha, _b: b.emit(O.Elu(alpha), x),
    "Affine": lambda b, x, alpha, beta: b.add(b.mul(x, alpha), beta),
}


@dataclass(frozen=True)
class _Direction:
    """Operands of one direction. x[T, B, 4H] are products of inputs with weights, biases added; others as the operator has them."""

    x: Value
    attended: Value  # [A, 4H], weights of what was attended to
    recurrent: Value  # [H, 4H]
    hidden: Value
    cell: Value
    peephole: Value | None  # [3, H], of input, output and forget gates
    keys: Value  # [B, S, D]
    values: Value  # [B, S, M]
    query: Value  # [H, D]
    vector: Value  # [D]
    layer: Value | None  # [H + M, A]


@dataclass(frozen=True)
class _Cell:
    activations: Sequence[Activation]  # of gates, of the cell's input and of its output
    limit: float  # sums of the first two are cut at ± this, 0: not at all
    coupled: bool  # what is not let in is kept


def attn_lstm(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Y[T, directions, B, H], and the last states; a Loop over time for each direction."""
    x, w, r = required(ctx, node, ins, 3)
    query, memory_weights, vector, memory = required(ctx, node, ins[8:], 4)
    b, bias, lengths, h0, c0, peephole = Build(ctx), *(optional(ins, i) for i in range(3, 8))
    memory_lengths, layer = optional(ins, 12), optional(ins, 13)
    sides, hidden = sides_of(ctx, node), r.shape[-1]
    if not isinstance(hidden, int) or x.dtype is not DType.F32:
        raise ctx.unsupported(f"AttnLSTM of {x.type} with recurrent weights {r.type}")
    steps, batch, _ = x.shape
    spans, depth, dn = memory.shape[1], memory_weights.shape[1], len(sides)
    width = w.shape[2] - (depth if layer is None else layer.shape[2])
    x, memory = sized(ctx, x, (steps, batch, width)), sized(ctx, memory, (batch, spans, depth))
    h0, c0 = (None if v is None else sized(ctx, v, (dn, batch, hidden)) for v in (h0, c0))
    lengths = None if lengths is None else ctx.checked(sized(ctx, lengths, (batch,)), [0], [steps])
    seen = None if memory_lengths is None else _seen(ctx, memory_lengths, batch, spans)
    activations = activations_of(ctx, node, "lstm", dn)
    limit, coupled = float(ctx.attr(node, "clip", 0.0) or 0.0), bool(ctx.attr(node, "input_forget", 0))

    def part(v: Value, side: int) -> Value:
        return b.reshape(b.slice(v, 0, side, 1), v.shape[1:])

    results = []
    for side, backward in enumerate(sides):
        given = [part(v, side) for v in (w, r, memory_weights, query, vector)]
        maybe = [None if v is None else part(v, side) for v in (bias, h0, c0, peephole, layer)]
        direction = _direction(b, _reversed(b, x, lengths) if backward else x, memory, given, maybe)
        y, h, c = _run(ctx, b, direction, lengths, seen, _Cell(activations[3 * side : 3 * side + 3], limit, coupled))
        results.append((_reversed(b, y, lengths) if backward else y, h, c))
    ys, hs, cs = zip(*results, strict=True)
    return [
        b.concat(1, *(b.reshape(y, (steps, 1, batch, hidden)) for y in ys)),
        b.concat(0, *(b.reshape(h, (1, batch, hidden)) for h in hs)),
        b.concat(0, *(b.reshape(c, (1, batch, hidden)) for c in cs)),
    ]


def _seen(ctx: ImportContext, lengths: Value, batch: Dim, spans: Dim) -> Value:
    """BOOL [B, 1, S]: which parts of the memory are within its length."""
    b = Build(ctx)
    lengths = b.cast(ctx.checked(lengths, [1], [spans]), DType.I64)
    seen = b.emit(O.Less(), b.reshape(b.iota(spans), (1, spans)), b.reshape(lengths, (batch, 1)))
    return b.reshape(seen, (batch, 1, spans))


def _direction(b: Build, x: Value, memory: Value, given: Sequence[Value], maybe: Sequence[Value | None]) -> _Direction:
    """Of x[T, B, I] in the direction's order, memory[B, S, M], and the direction's part of the other operands."""
    w, r, memory_weights, query, vector = given
    bias, h0, c0, peephole, layer = maybe
    width, hidden = x.shape[2], r.shape[1]
    weights = b.transpose(w, (1, 0))
    gates = b.matmul(x, b.slice(weights, 0, 0, width))
    if bias is not None:
        gates = b.add(gates, b.reduce("sum", b.reshape(bias, (2, 4 * hidden)), [0], False))
    zero = b.expand(b.reshape(b.const(0, x.dtype), (1, 1)), (x.shape[1], hidden))
    return _Direction(
        x=gates,
        attended=b.slice(weights, 0, width, weights.shape[0] - width),
        recurrent=b.transpose(r, (1, 0)),
        hidden=h0 or zero,
        cell=c0 or zero,
        peephole=None if peephole is None else b.reshape(peephole, (3, hidden)),
        keys=b.matmul(memory, memory_weights),
        values=memory,
        query=query,
        vector=vector,
        layer=layer,
    )


def _reversed(b: Build, x: Value, lengths: Value | None) -> Value:
    """x[T, B, …] with the first lengths[b] rows of each sequence backwards."""
    steps, batch = x.shape[:2]
    if lengths is None:
        return b.slice(x, 0, steps - 1, steps, -1)
    place, length = b.reshape(b.iota(steps), (steps, 1)), b.reshape(b.cast(lengths, DType.I64), (1, batch))
    back = b.sub(b.sub(length, place), 1)
    at = b.where(b.emit(O.Less(), place, length), back, place)
    rows = b.add(b.mul(at, b.dim(batch, DType.I64)), b.reshape(b.iota(batch), (1, batch)))
    flat = b.reshape(x, (steps * batch, *x.shape[2:]))
    return b.emit(O.Gather(0), flat, rows)


def _run(ctx: ImportContext, b: Build, d: _Direction, lengths: Value | None, seen: Value | None, cell: _Cell) -> tuple[Value, Value, Value]:
    """Outputs [T, B, H], which are 0 behind the end of a sequence, and the last states."""
    region = Region()

    def inside(v: Value) -> Value:
        return ctx.captured(region, v)

    steps = d.x.shape[0]
    counter, running = iteration(ctx.loc)
    attended = b.expand(b.reshape(b.const(0, d.x.dtype), (1, 1)), (d.x.shape[1], d.attended.shape[0]))
    states = [d.hidden, d.cell, attended]
    h, c, a = formals = [formal(v.type, ctx.loc) for v in states]
    z = b.add(b.emit(O.Gather(0), inside(d.x), counter), b.matmul(a, inside(d.attended)))
    gates = None if d.peephole is None else inside(d.peephole)
    h1, c1 = _next(b, b.add(z, b.matmul(h, inside(d.recurrent))), c, gates, cell)
    y = h1
    if lengths is not None:
        active = b.emit(O.Less(), counter, b.cast(inside(lengths), DType.I64))
        active = b.reshape(active, (h.shape[0], 1))
        y = b.where(active, h1, b.const(0, h.dtype))
        h1, c1 = b.where(active, h1, h), b.where(active, c1, c)
    known = None if seen is None else inside(seen)
    a1 = _attend(b, h1, inside(d.keys), inside(d.values), inside(d.query), inside(d.vector), known)
    if d.layer is not None:
        a1 = b.matmul(b.concat(1, h1, a1), inside(d.layer))
    graph = region.graph([running, h1, c1, a1, y], (counter, running, *formals), "attn_lstm")
    op = O.Loop(graph, 3, 1, steps)
    outs = ctx.emit(op, b.dim(steps, DType.I64), ctx.const(True), *states, *region.captures).outputs
    return outs[3], outs[0], outs[1]


def _next(b: Build, z: Value, c: Value, peephole: Value | None, how: _Cell) -> tuple[Value, Value]:
    """The next states from z[B, 4H], the sums of the gates i, o, f, c."""
    hidden = c.shape[1]
    i, o, f, g = (b.slice(z, 1, k * hidden, hidden) for k in range(4))

    def activated(x: Value, which: int, gate: int | None, cell: Value) -> Value:
        if peephole is not None and gate is not None:
            x = b.add(x, b.mul(cell, b.slice(peephole, 0, gate, 1)))
        if how.limit and which < 2:
            x = b.min(b.max(x, -how.limit), how.limit)
        name, alpha, beta = how.activations[which]
        return _FUNCTIONS[name](b, x, alpha, beta)

    i = activated(i, 0, 0, c)
    f = b.sub(b.const(1, i.dtype), i) if how.coupled else activated(f, 0, 2, c)
    cell = b.add(b.mul(f, c), b.mul(i, activated(g, 1, None, c)))
    return b.mul(activated(o, 0, 1, cell), activated(cell, 2, None, cell)), cell


def _attend(b: Build, h: Value, keys: Value, values: Value, query: Value, vector: Value, seen: Value | None) -> Value:
    """D. Bahdanau, K. Cho, Y. Bengio, "Neural machine translation by jointly learning to align and translate", 2015: [B, M]."""
    batch, spans, depth = keys.shape
    asked = b.reshape(b.matmul(h, query), (batch, 1, depth))
    scores = b.reduce("sum", b.mul(b.emit(O.Tanh(), b.add(keys, asked)), vector), [2], False)
    scores = b.reshape(scores, (batch, 1, spans))
    if seen is not None:
        scores = b.where(seen, scores, b.const(float("-inf"), scores.dtype))
    return b.reshape(b.matmul(b.emit(O.Softmax(2), scores), values), (batch, values.shape[2]))


ATTN_LSTM_HANDLERS: HandlerTable = {("com.microsoft::AttnLSTM", 1): attn_lstm}
