"""Host ops: strings and objects become I64 handles, so that kernels move them, and the ops themselves become host steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ...ir import Const, DType, Graph, Input, Node, Op, TensorType, Value
from ...ir.ops.host import Host, ZipMap, is_open
from ..plan import HostOperand, HostStep
from .builder import View
from .state import Lowering

_HANDLES = (DType.STRING, DType.OBJECT)


@dataclass(frozen=True)
class HostCall(Op):
    """A host op whose operands and results are numbers and handles; `operands` are the element types before that."""

    op: Host
    operands: tuple[DType, ...]

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return tuple(map(_encoded, self.op.infer(types)))


def unmapped(graph: Graph) -> tuple[Graph, dict[int, tuple[Any, ...]]]:
    """The graph with scores in place of outputs that are maps of them, and the labels of those by position.

    Then the maps, which the caller makes of the scores in the end, stop no program.
    """
    ops = [v.node.op for v in graph.outputs]
    labels = {i: op.labels for i, op in enumerate(ops) if isinstance(op, ZipMap)}
    if not labels:
        return graph, {}
    outputs = tuple(v.node.inputs[0] if i in labels else v for i, v in enumerate(graph.outputs))
    return replace(graph, outputs=outputs), labels


def encode_handles(graph: Graph) -> tuple[Graph, tuple[str, ...]]:
    """The graph without STRING and OBJECT types, and the strings that its constants refer to (handle i is the i-th)."""
    if not _uses_handles(graph):
        return graph, ()
    strings: dict[str, int] = {}
    return _encode(graph, strings), tuple(strings)


def _encoded(t: TensorType) -> TensorType:
    return TensorType(DType.I64, t.shape) if t.dtype in _HANDLES else t


def _subgraphs(op: Op) -> dict[str, Graph]:
    return {f.name: g for f in fields(op) if isinstance(g := getattr(op, f.name), Graph)}


def _uses_handles(graph: Graph) -> bool:
    return any(
        isinstance(n.op, Host) or any(t.dtype in _HANDLES for t in n.types) or any(map(_uses_handles, _subgraphs(n.op).values()))
        for n in graph.nodes
    )


def _encode(graph: Graph, strings: dict[str, int]) -> Graph:
    new: dict[Value, Value] = {}
    for node in graph.nodes:
        op: Op = node.op
        if isinstance(op, Const):
            if op.data.dtype.kind == "O":
                flat = [strings.setdefault(str(s), len(strings)) for s in op.data.ravel()]
                op = Const(np.array(flat, np.int64).reshape(op.data.shape))
        elif isinstance(op, Input):
            op = Input(_encoded(op.type))
        elif isinstance(op, Host):
            op = HostCall(op, tuple(v.dtype for v in node.inputs))
        else:
            changed: dict[str, Any] = {name: _encode(g, strings) for name, g in _subgraphs(op).items()}
            for f in fields(op):
                value = getattr(op, f.name)
                if isinstance(value, tuple) and any(isinstance(x, TensorType) for x in value):
                    changed[f.name] = tuple(_encoded(x) if isinstance(x, TensorType) else x for x in value)
            op = replace(op, **changed) if changed else op
        ins = tuple(new[v] for v in node.inputs)
        made = node if op is node.op and ins == node.inputs else Node.make(op, ins, node.loc)
        new.update(zip(node.outputs, made.outputs, strict=True))
    inputs = tuple(new[v] for v in graph.inputs)
    return replace(graph.mapped(lambda v: new[v]), inputs=inputs)


def emit_host(lw: Lowering, node: Node) -> None:
    """Tensor results are buffers that the host function gives; handles it writes into scalars of the arena."""
    call = node.op
    assert isinstance(call, HostCall)
    op = call.op
    reads = []
    for v, dtype in zip(node.inputs, call.operands, strict=True):
        view = lw.contiguous(v)
        reads.append(HostOperand(view.buffer, dtype, view.shape))
    shapes = iter(node.outputs[len(op.results) :])
    writes = []
    views: list[View] = []
    for v, t in zip(node.outputs, op.results, strict=False):
        view = lw.storage.add("arena" if t.dtype is DType.OBJECT else "given", v.dtype, v.shape)
        lw.views[v] = view
        views.append(view)
        shape_buffer = -1
        if is_open(t):
            shape = next(shapes)
            lw.views[shape] = lw.storage.add("arena", DType.I64, shape.shape)
            shape_buffer = lw.views[shape].buffer
        writes.append(HostOperand(view.buffer, t.dtype, t.shape, shape_buffer))
    lw.steps.append(HostStep(op.call, tuple(op.attributes.items()), tuple(reads), tuple(writes), node.loc))
