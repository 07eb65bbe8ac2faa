"""Handlers of LSTM, GRU and RNN: absent optional inputs become zeros, layouts become [T, Dn, B, H]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from ....ir import DType, Shape, Value, floordiv, is_static
from ....ir import ops as O
from ....ir.ops.recurrent import ACTIVATION_COUNT, GATES, Activation
from ..compose import Build, one_size, optional, required, sized
from ..context import HandlerTable, ImportContext

_DEFAULTS = {"lstm": ("Sigmoid", "Tanh", "Tanh"), "gru": ("Sigmoid", "Tanh"), "rnn": ("Tanh",)}

# With alpha and beta where a node has none: onnxruntime's, which are zero for some that ONNX's documentation gives others.
_ACTIVATIONS: dict[str, Activation] = {
    name.lower(): (name, alpha, beta)
    for name, alpha, beta in (
        ("Relu", 0.0, 0.0), ("Tanh", 0.0, 0.0), ("Sigmoid", 0.0, 0.0), ("Softsign", 0.0, 0.0), ("Softplus", 0.0, 0.0),
        ("LeakyRelu", 0.01, 0.0), ("ThresholdedRelu", 0.0, 0.0), ("ScaledTanh", 0.0, 0.0), ("HardSigmoid", 0.2, 0.5),
        ("Elu", 1.0, 0.0), ("Affine", 0.0, 0.0),
    )
}  # fmt: skip
_SIDES = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
_MOST_ZEROS = 1 << 22  # elements of a constant; attributes alone may say that there are more
_USES_ALPHA = {"LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Affine"}
_USES_BETA = {"ScaledTanh", "HardSigmoid", "Affine"}


def sides_of(ctx: ImportContext, node: NodeProto) -> tuple[bool, ...]:
    """For each direction of the layer, whether it goes backwards."""
    direction = ctx.attr(node, "direction", "forward")
    if direction not in _SIDES:
        raise ctx.unsupported(f"{node.op_type}: direction {direction!r}")
    return _SIDES[direction]


def activations_of(ctx: ImportContext, node: NodeProto, cell: str, directions: int) -> tuple[Activation, ...]:
    """One entry per function and direction; activation_alpha and _beta list only those of functions that take them."""
    names = ctx.attr(node, "activations", None) or _DEFAULTS[cell] * directions
    if len(names) != ACTIVATION_COUNT[cell] * directions:
        raise ctx.unsupported(f"{node.op_type}: {len(names)} activations for {directions} directions")
    alphas = list(ctx.attr(node, "activation_alpha", None) or ())
    betas = list(ctx.attr(node, "activation_beta", None) or ())
    found = []
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            raise ctx.unsupported(f"{node.op_type}: activation {name!r}")
        known, alpha, beta = _ACTIVATIONS[name.lower()]
        if known in _USES_ALPHA and alphas:
            alpha = float(alphas.pop(0))
        if known in _USES_BETA and betas:
            beta = float(betas.pop(0))
        found.append((known, alpha, beta))
    return tuple(found)


def _zeros(b: Build, shape: Shape, dtype: DType) -> Value:
    if is_static(shape) and math.prod(int(d) for d in shape) <= _MOST_ZEROS:
        return b.ctx.const(np.zeros([int(d) for d in shape], dtype.np))
    return b.expand(b.reshape(b.const(0, dtype), (1,) * len(shape)), shape)


def recurrent(ctx: ImportContext, node: NodeProto, ins: list[Value | None], cell: str) -> Sequence[Value]:
    """One operator by its cell: "lstm", "gru" or "rnn"."""
    x, w, r = required(ctx, node, ins, 3)
    b = Build(ctx)
    batch_first = bool(ctx.attr(node, "layout", 0))
    if batch_first:
        x = b.transpose(x, (1, 0, 2))
    ranks = [v.type.rank for v in (x, w, r)]
    if ranks != [3, 3, 3]:
        raise ctx.unsupported(f"{node.op_type} of operands of ranks {ranks}, expected 3 each")
    sides = sides_of(ctx, node)
    dn, declared = len(sides), ctx.attr(node, "hidden_size", None)
    found = (r.shape[2], floordiv(r.shape[1], GATES[cell]), floordiv(w.shape[1], GATES[cell]), declared)
    hidden = next((h for h in found if isinstance(h, int)), None)
    if hidden is None:
        raise ctx.unsupported(f"{node.op_type}: hidden size {r.shape[2]} is not known at compile time")
    if declared not in (None, hidden):
        raise ctx.unsupported(f"{node.op_type}: hidden_size = {declared} with weights for {hidden}")
    gates, size = GATES[cell] * hidden, one_size(ctx, w.shape[2], x.shape[2])
    initial = [optional(ins, 5), optional(ins, 6) if cell == "lstm" else None]
    initial = [b.transpose(v, (1, 0, 2)) if batch_first and v is not None else v for v in initial]
    steps, batch = x.shape[0], one_size(ctx, x.shape[1], *(v.shape[1] for v in initial if v is not None))
    x, w, r = sized(ctx, x, (steps, batch, size)), sized(ctx, w, (dn, gates, size)), sized(ctx, r, (dn, gates, hidden))

    def given(v: Value | None, shape: Shape) -> Value:
        return _zeros(b, shape, x.dtype) if v is None else sized(ctx, v, shape)

    bias = given(optional(ins, 3), (dn, 2 * gates))
    lens = optional(ins, 4)
    lens = b.expand(b.reshape(b.dim(steps, DType.I32), (1,)), (batch,)) if lens is None else sized(ctx, lens, (batch,))
    peephole = given(optional(ins, 7) if cell == "lstm" else None, (dn, 3 * hidden))
    h0, c0 = (given(v, (dn, batch, hidden)) for v in initial)
    if optional(ins, 4) is not None:  # ONNX is silent on the last state of no steps; it is 0 in onnxruntime
        some = b.reshape(b.emit(O.Greater(), lens, b.const(0, lens.dtype)), (batch, 1))
        h0, c0 = (v if given_ is None else b.where(some, v, b.const(0, v.dtype)) for v, given_ in zip((h0, c0), initial, strict=True))
    op = O.Recurrent(
        cell, hidden, sides, activations_of(ctx, node, cell, dn), float(ctx.attr(node, "clip", 0.0) or 0.0),
        bool(ctx.attr(node, "linear_before_reset", 0)), bool(ctx.attr(node, "input_forget", 0)),
    )  # fmt: skip
    got = ctx.emit(op, x, w, r, bias, b.cast(lens, DType.I32), h0, c0, peephole).outputs
    if not batch_first:
        return list(got)
    return [b.transpose(got[0], (2, 0, 1, 3)), *(b.transpose(v, (1, 0, 2)) for v in got[1:])]


def lstm(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    return recurrent(ctx, node, ins, "lstm")


def gru(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    return recurrent(ctx, node, ins, "gru")


def rnn(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    return recurrent(ctx, node, ins, "rnn")


RECURRENT_HANDLERS: HandlerTable = {("LSTM", 1): lstm, ("GRU", 1): gru, ("RNN", 1): rnn}
