"""The sequential part of LSTM, GRU and RNN."""

from __future__ import annotations

from dataclasses import replace

from ...ir import Node
from ..kernel import Operand, RecurrentKernel
from .composite import RecurrentCell
from .state import Lowering


def emit_recurrent(lw: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, RecurrentCell)
    gates, r, bias, lens, h0, c0, peephole = (lw.contiguous(v).buffer for v in node.inputs)
    reads = (gates, r, bias, h0, c0, peephole, lens)
    y, *state = (lw.place(v) for v in node.outputs)
    for i, view in enumerate(state):
        if not view.contiguous:
            state[i] = lw.storage.add("arena", view.dtype, view.shape)
    if y.strides[-1] != 1 and op.hidden != 1:
        y = lw.storage.add("arena", y.dtype, y.shape)
    steps, batch, _ = node.inputs[0].shape
    kernel = RecurrentKernel(
        cell=op.cell, steps=steps, batch=batch, hidden=op.hidden, directions=op.directions, activations=op.activations,
        clip=op.clip, linear_before_reset=op.linear_before_reset, input_forget=op.input_forget, operands=(),
        y_step=y.strides[0], y_direction=y.strides[1], y_batch=y.strides[2], block=op.block,
    )  # fmt: skip
    scratch = lw.storage.add("arena", y.dtype, (kernel.regions, len(op.directions), batch, kernel.width))
    buffers = (*reads, y.buffer, *(v.buffer for v in state), scratch.buffer)
    operands = tuple(Operand(*lw.storage.extent(b), i >= len(reads), b == scratch.buffer) for i, b in enumerate(buffers))
    lw.step(replace(kernel, operands=operands), buffers, node.loc)
    for v, view in zip(node.outputs, (y, *state), strict=True):
        lw.views[v] = view
