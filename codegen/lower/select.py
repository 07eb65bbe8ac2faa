"""Positions, sorting and suppression: kernels with control flow of their own."""

from __future__ import annotations

from ...ir import DType, Node, Value, prod
from ...ir.ops import Positions, Sort, Suppress
from ..kernel import IrregularKernel, Operand
from .builder import View
from .state import Lowering


def emit_positions(lw: Lowering, node: Node) -> None:
    assert isinstance(node.op, Positions)
    (mask,) = node.inputs
    _emit(lw, node, IrregularKernel("positions", 1, mask.shape[0]), [mask])


def emit_sort(lw: Lowering, node: Node) -> None:
    assert isinstance(node.op, Sort)
    (x,) = node.inputs
    flags = ("descending",) if node.op.descending else ()
    _emit(lw, node, IrregularKernel("sort", prod(x.shape[:-1]), x.shape[-1], 1, flags), [x], spare=x)


def emit_suppress(lw: Lowering, node: Node) -> None:
    assert isinstance(node.op, Suppress)
    scores = node.inputs[1]
    batch, classes, boxes = scores.shape
    flags = ("center",) if node.op.center else ()
    _emit(lw, node, IrregularKernel("suppress", batch * classes, boxes, classes, flags), node.inputs, spare=scores)


def _emit(lw: Lowering, node: Node, shape: IrregularKernel, inputs: list[Value] | tuple[Value, ...], spare: Value | None = None) -> None:
    """The step; `spare`: another I64 buffer of that shape to work in."""
    reads = [lw.contiguous(v).buffer for v in inputs]
    placed = [lw.place(v) for v in node.outputs]
    results: list[View] = [p if p.contiguous else lw.storage.add("arena", p.dtype, p.shape) for p in placed]
    written = [v.buffer for v in results]
    if spare is not None:
        written.append(lw.storage.add("arena", DType.I64, spare.shape).buffer)
    operands = tuple(Operand(*lw.storage.extent(b), written=i >= len(reads)) for i, b in enumerate((*reads, *written)))
    kernel = IrregularKernel(shape.kind, shape.rows, shape.size, shape.inner, shape.flags, operands)
    lw.step(kernel, (*reads, *written), node.loc)
    lw.views.update(zip(node.outputs, results, strict=True))
