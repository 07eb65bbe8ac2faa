"""Handlers of LSTM, GRU and RNN: absent optional inputs become zeros, layouts become [T, Dn, B, H]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from ....ir import DType, Shape, Value, is_static
from ....ir import ops as O
from ....ir.ops.recurrent import ACTIVATION_COUNT, GATES, Activation
from ..compose import Build, optional, required
from ..context import HandlerTable, ImportContext

_DEFAULTS = {"lstm": ("Sigmoid", "Tanh", "Tanh"), "gru": ("Sigmoid", "Tanh"), "rnn": ("Tanh",)}

# Defaults of alpha and beta, from the ONNX documentation of LSTM (onnxruntime's are the same).
_ACTIVATIONS: dict[str, Activation] = {
    name.lower(): (name, alpha, beta)
    for name, alpha, beta in (
        ("Relu", 0.0, 0.0), ("Tanh", 0.0, 0.0), ("Sigmoid", 0.0, 0.0), ("Softsign", 0.0, 0.0), ("Softplus", 0.0, 0.0),
        ("LeakyRelu", 0.01, 0.0), ("ThresholdedRelu", 1.0, 0.0), ("ScaledTanh", 1.0, 1.0), ("HardSigmoid", 0.2, 0.5),
        ("Elu", 1.0, 0.0), ("Affine", 1.0, 0.0),
    )
}  # fmt: skip
_USES_ALPHA = {"LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Affine"}
_USES_BETA = {"ScaledTanh", "HardSigmoid", "Affine"}


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


def _filled(b: Build, value: object, shape: Shape, dtype: DType) -> Value:
    if is_static(shape):
        return b.ctx.const(np.full([int(d) for d in shape], value, dtype.np))
    return b.expand(b.reshape(b.const(value, dtype), (1,) * len(shape)), shape)


def recurrent(ctx: ImportContext, node: NodeProto, ins: list[Value | None], cell: str) -> Sequence[Value]:
    """One operator by its cell: "lstm", "gru" or "rnn"."""
    x, w, r = required(ctx, node, ins, 3)
    b = Build(ctx)
    batch_first = bool(ctx.attr(node, "layout", 0))
    if batch_first:
        x = b.transpose(x, (1, 0, 2))
    steps, batch, _ = x.shape
    direction = ctx.attr(node, "direction", "forward")
    sides = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(direction)
    if sides is None:
        raise ctx.unsupported(f"{node.op_type}: direction {direction!r}")
    hidden, dn = r.shape[-1], len(sides)
    if not isinstance(hidden, int):
        raise ctx.unsupported(f"{node.op_type}: hidden size {hidden} is not known at compile time")
    gates = GATES[cell] * hidden

    def state(index: int) -> Value:
        v = optional(ins, index)
        if v is None:
            return _filled(b, 0, (dn, batch, hidden), x.dtype)
        return b.transpose(v, (1, 0, 2)) if batch_first else v

    bias = optional(ins, 3)
    bias = _filled(b, 0, (dn, 2 * gates), x.dtype) if bias is None else bias
    lens = optional(ins, 4)
    if lens is None:
        lens = b.expand(b.reshape(b.dim(steps, DType.I32), (1,)), (batch,))
    peephole = optional(ins, 7) if cell == "lstm" else None
    peephole = _filled(b, 0, (dn, 3 * hidden), x.dtype) if peephole is None else peephole
    cell_state = state(6) if cell == "lstm" else _filled(b, 0, (dn, batch, hidden), x.dtype)
    op = O.Recurrent(
        cell, hidden, sides, activations_of(ctx, node, cell, dn), float(ctx.attr(node, "clip", 0.0) or 0.0),
        bool(ctx.attr(node, "linear_before_reset", 0)), bool(ctx.attr(node, "input_forget", 0)),
    )  # fmt: skip
    got = ctx.emit(op, x, w, r, bias, b.cast(lens, DType.I32), state(5), cell_state, peephole).outputs
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
