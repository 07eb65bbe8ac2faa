"""The sequential part of LSTM, GRU and RNN."""

from __future__ import annotations

from ...ir import Const, Node, Value, ceildiv
from ..kernel import Operand, RecurrentKernel
from ..packing import pack_b
from ..simplify import clamp
from .builder import KernelBuilder, fn, index_expr, number
from .composite import RecurrentCell
from .contract import _panel
from .state import Lowering


def emit_recurrent(lw: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, RecurrentCell)
    gates, r, *rest = node.inputs
    panel = _panel(lw, r.shape[0])
    packed = _pack(lw, r, panel)
    reads = [lw.contiguous(gates).buffer, packed]
    bias, lens, h0, c0, peephole = (lw.contiguous(v).buffer for v in rest)
    reads += [bias, h0, c0, peephole, lens]
    y, h, c = (lw.place(v) for v in node.outputs)
    direct = [h, c]
    for i, view in enumerate(direct):
        if not view.contiguous:
            direct[i] = lw.storage.add("arena", view.dtype, view.shape)
    if y.strides[-1] != 1 and op.hidden != 1:
        y = lw.storage.add("arena", y.dtype, y.shape)
    written = [y.buffer, *(v.buffer for v in direct)]
    buffers = (*reads, *written)
    operands = tuple(Operand(*lw.storage.extent(b), written=i >= len(reads)) for i, b in enumerate(buffers))
    kernel = RecurrentKernel(
        cell=op.cell, steps=gates.shape[0], batch=gates.shape[1], hidden=op.hidden, reverse=op.reverse,
        activations=op.activations, clip=op.clip, linear_before_reset=op.linear_before_reset, input_forget=op.input_forget,
        operands=operands, y_step=y.strides[0], y_batch=y.strides[1], panel=panel,
    )  # fmt: skip
    lw.step(kernel, buffers, node.loc)
    for v, view in zip(node.outputs, (y, *direct), strict=True):
        lw.views[v] = view


def _pack(lw: Lowering, r: Value, panel: int) -> int:
    """Rᵀ [H, G·H] in panels."""
    if isinstance(r.node.op, Const):
        data = r.node.op.data
        return lw.storage.const_lazy(("recurrent", id(data), panel), lambda: pack_b(data.T, panel), data).buffer
    gates, hidden = r.shape
    to = lw.storage.add("arena", r.dtype, (ceildiv(gates, panel), hidden, panel))
    k = KernelBuilder(to.shape)
    p, row, j = k.index
    column = p * panel + j
    e = lw.read(k, r, (clamp(column, 0, gates - 1), row))
    e = fn("select", fn("lt", index_expr(column), index_expr(column * 0 + gates)), e, number(0.0, e.dtype))
    lw.loop(k, (), [k.store(to, k.index, e)], r.node.loc)
    return to.buffer
