"""Positions, sorting and suppression: kernels with control flow of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...ir import DType, Node, Shape, Value, prod, upper
from ...ir.ops import Positions, Sort, Suppress
from ..kernel import BOX_LANES, KEPT, IrregularKernel, Operand
from .builder import View
from .state import Lowering
from .top_k import TopOrder


def emit_positions(lw: Lowering, node: Node) -> None:
    assert isinstance(node.op, Positions)
    (mask,) = node.inputs
    _emit(lw, node, IrregularKernel("positions", 1, mask.shape[0]), [mask])


def emit_sort(lw: Lowering, node: Node) -> None:
    assert isinstance(node.op, Sort)
    (x,) = node.inputs
    flags = ("descending",) if node.op.descending else ()
    _emit(lw, node, IrregularKernel("sort", prod(x.shape[:-1]), x.shape[-1], 1, flags), [x], spare=[(DType.I64, x.shape)])


def emit_top(lw: Lowering, node: Node) -> None:
    assert isinstance(node.op, TopOrder)
    (x,) = node.inputs
    flags = ("descending",) if node.op.descending else ()
    axis = node.op.axis % len(x.shape)
    kernel = IrregularKernel("top", prod(x.shape[:axis]), x.shape[axis], node.op.k, flags, columns=prod(x.shape[axis + 1 :]))
    _emit(lw, node, kernel, [x], spare=[(DType.I64, x.shape)] * 2 if upper(node.op.k) > KEPT else [])


def emit_suppress(lw: Lowering, node: Node) -> None:
    assert isinstance(node.op, Suppress)
    scores = node.inputs[1]
    batch, classes, boxes = scores.shape
    flags = ("center",) if node.op.center else ()
    spare = [(DType.I64, scores.shape), (DType.F32, (batch, classes, 4, boxes + BOX_LANES))]
    _emit(lw, node, IrregularKernel("suppress", batch * classes, boxes, classes, flags), node.inputs, spare)


def _emit(lw: Lowering, node: Node, shape: IrregularKernel, inputs: list[Value] | tuple[Value, ...],
          spare: Sequence[tuple[DType, Shape]] = ()) -> None:  # fmt: skip
    """The step; `spare`: buffers to work in."""
    reads = [lw.contiguous(v).buffer for v in inputs]
    placed = [lw.place(v) for v in node.outputs]
    results: list[View] = [p if p.contiguous else lw.storage.add("arena", p.dtype, p.shape) for p in placed]
    written = [v.buffer for v in results]
    results_end = len(reads) + len(written)
    written += [lw.storage.add("arena", dtype, dims).buffer for dtype, dims in spare]
    operands = tuple(Operand(*lw.storage.extent(b), i >= len(reads), i >= results_end) for i, b in enumerate((*reads, *written)))
    lw.step(replace(shape, operands=operands), (*reads, *written), node.loc)
    lw.views.update(zip(node.outputs, results, strict=True))
