"""Handlers of layers that carry a state from call to call, and of rotary embedding by three positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import NodeProto, helper

from .....ir import Dim, DType, Value, floordiv
from .....ir import ops as O
from ...compose import Build, one_size, optional, required
from ...context import HandlerTable, ImportContext
from ..attention import rotate

Ins = list[Value | None]
_ONNX = 27  # opset of the operators of the same names in the default domain


def linear_attention(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """By the body that ONNX gives its operator of this name, from operands that share dims; what goes beyond is refused."""
    query, key, value = required(ctx, node, ins, 3)
    window, q, kv = (int(ctx.attr(node, name, 0)) for name in ("state_window", "q_num_heads", "kv_num_heads"))
    if window or kv < 1 or q % kv or query.type.rank != 3:
        raise ctx.unsupported(f"LinearAttention of {q} heads by {kv} with state_window={window}, expected heads by groups and no window")
    b, past, decay, beta = Build(ctx), *(optional(ins, i) for i in (3, 4, 5))
    (batch, steps), width = (one_size(ctx, *(v.shape[i] for v in (query, key, value))) for i in range(2)), query.shape[2]
    keys = one_size(ctx, floordiv(width, q), floordiv(key.shape[2], kv), *(() if past is None else (past.shape[2],)))
    values = one_size(ctx, floordiv(value.shape[2], kv), *(() if past is None else (past.shape[3],)))
    given: Ins = [b.reshape(v, (batch, steps, n)) for v, n in ((query, q * keys), (key, kv * keys), (value, kv * values))]
    given.append(None if past is None else b.reshape(past, (batch, kv, keys, values)))
    given += [None if v is None else b.reshape(v, (batch, steps, v.shape[2])) for v in (decay, beta)]
    same = helper.make_node("LinearAttention", node.input, node.output, name=node.name)
    same.attribute.extend(a for a in node.attribute if a.name != "state_window")
    return ctx.expanded(same, _ONNX, given[: len(ins)])


def causal_conv(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Depthwise convolution of x[B, C, L] by w[C, 1, k] that sees the past only: the state is what it reads before the first position.

    With state_window=W the state has W slots, of which slot j is that behind position L − W + j, and the last one is read.
    """
    x, w = required(ctx, node, ins, 2)
    b, bias, past = Build(ctx), optional(ins, 2), optional(ins, 3)
    step, window, last = (
        int(ctx.attr(node, name, default)) for name, default in (("dilation", 1), ("state_window", 0), ("channels_last", 0))
    )
    activation = str(ctx.attr(node, "activation", "none"))
    taps = w.shape[-1]
    if int(ctx.attr(node, "ndim", 1)) != 1 or w.type.rank != 3 or activation not in ("none", "silu", "swish"):
        raise ctx.unsupported(f"CausalConvWithState of {x.type} by {w.type} with activation {activation!r}, expected one spatial axis")
    shape, length = x.shape, x.shape[1] if last else x.shape[2]
    channels, state = w.shape[0], (taps - 1) * step
    batch = shape[0]
    x = b.reshape(x, (batch, length, channels)) if last else b.channels_last(x)
    if past is None:
        before = b.expand(b.const(0, x.dtype), (batch, state, channels))
    else:
        newest = b.reshape(b.slice(past, 0, window - 1, 1), past.shape[1:]) if window else past
        before = b.reshape(newest, (batch, state, channels)) if last else b.channels_last(newest)
    seen = b.concat(1, before, x)
    if isinstance(taps, int) and isinstance(channels, int):
        y = b.emit(O.Conv((1,), (0,), (0,), (step,), channels), seen, b.transpose(w, (2, 1, 0)))
    else:
        at = b.add(b.reshape(b.iota(length), (length, 1)), b.mul(b.iota(taps), step))
        rows = b.emit(O.Gather(1), seen, at)  # [B, L, k, C]
        y = b.reduce("sum", b.mul(rows, b.reshape(b.transpose(w, (2, 1, 0)), (taps, channels))), (2,), keepdims=False)
    y = y if bias is None else b.add(y, bias)
    y = y if activation == "none" else b.emit(O.Silu(), y)

    def shown(v: Value, size: Dim) -> Value:
        return b.reshape(v, (batch, size, *shape[2:])) if last else b.channels_first(v)

    return [shown(y, length), _states(ctx, b, seen, length, state, window, shown)]


def _states(ctx: ImportContext, b: Build, seen: Value, length: Dim, state: Dim, window: int, shown: Callable[[Value, Dim], Value]) -> Value:
    """What is carried on: the last `state` positions, or those behind each of the last `window` positions."""
    if not window:
        return shown(b.slice(seen, 1, length, state), state)
    none = (0,) * 3
    wide = b.emit(O.Pad((0, window, 0), none, "constant"), seen, b.const(0, seen.dtype))  # so that no slot starts before the front
    slots = []
    for j in range(window):
        behind = shown(b.slice(wide, 1, length + j + 1, state), state)
        there = b.emit(O.Less(), b.const(window - j - 1, DType.I64), b.dim(length, DType.I64))
        slots.append(b.reshape(b.where(there, behind, b.const(0, seen.dtype)), (1, *behind.shape)))
    return b.concat(0, *slots)


def m_rotary_embedding(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Rotary embedding whose columns follow the time, the row or the column of a token: position_ids[3, B, S]."""
    x, positions, cos, sin = required(ctx, node, ins, 4)
    b, sections = Build(ctx), [int(n) for n in ctx.attr(node, "mrope_section", ())]
    half = sum(sections)
    one_size(ctx, half, cos.shape[-1], sin.shape[-1])
    if len(sections) != 3 or positions.type.rank != 3 or ctx.attr(node, "scale", 1.0) not in (0.0, 1.0):
        raise ctx.unsupported(f"MRotaryEmbedding by {cos.type} and {positions.type} in sections {sections}")
    if int(ctx.attr(node, "mrope_layout", 0)):
        stream = np.zeros(half, np.int64)
        for k in (1, 2):
            stream[k : 3 * sections[k] : 3] = k
    else:
        stream = np.repeat(np.arange(3), sections)
    tables: list[Value] = []
    for table in (cos, sin):
        rows = b.emit(O.Gather(0), table, ctx.checked(positions, [0], [table.shape[0] - 1]))  # [3, B, S, half]
        t, h, w = (b.reshape(b.slice(rows, 0, k, 1), rows.shape[1:]) for k in range(3))
        tables.append(b.where(ctx.const(stream == 1), h, b.where(ctx.const(stream == 2), w, t)))
    return [rotate(ctx, node, x, tables[0], tables[1], None, bool(ctx.attr(node, "interleaved", 0)))]


STATEFUL_MS_HANDLERS: HandlerTable = {
    ("LinearAttention", 27): linear_attention,
    ("com.microsoft::CausalConvWithState", 1): causal_conv,
    ("com.microsoft::LinearAttention", 1): linear_attention,
    ("com.microsoft::MRotaryEmbedding", 1): m_rotary_embedding,
}
