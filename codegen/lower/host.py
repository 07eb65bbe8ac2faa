"""Host ops: strings and objects become I64 handles, so that kernels move them, and the ops themselves become host steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from ...ir import Const, DType, Graph, Input, Node, Op, TensorType, Value, const, symbols_of
from ...ir.graph import symbols_in
from ...ir.ops.host import Host, StringNormalizer, TfIdf, Tokenize, ZipMap, is_open
from ...ir.ops.move import Reshape
from ..plan import HostOperand, HostStep
from .builder import View
from .state import Lowering

_HANDLES = (DType.STRING, DType.OBJECT)


@dataclass(frozen=True)
class HostCall(Op):
    """A host op whose operands and results are numbers and handles; `operands` are the element types before that."""

    op: Host
    operands: tuple[DType, ...]
    strings: tuple[str, ...] = ()  # of each result, as `HostOperand.strings`

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return tuple(map(_encoded, self.op.infer(types)))


@dataclass(frozen=True)
class HostChain(Host):
    """Ops on texts, one after the other: what is between them needs neither handles nor memory."""

    ops: tuple[Host, ...]
    call: ClassVar[str] = "chain"

    @property
    def attributes(self) -> dict[str, Any]:
        return {"steps": [(op.call, op.attributes) for op in self.ops]}


def chained(graph: Graph) -> Graph:
    """The graph with chains of ops on strings that nothing else reads as one op each."""

    def join(node: Node, ins: tuple[Value, ...]) -> tuple[Value, ...] | None:
        before = _joinable(graph, node)
        if before is None:
            return None
        after: Op = node.op
        assert isinstance(after, Host)
        moved = node.inputs[0].node is not before
        first = ins[0].node.inputs[0].node if moved else ins[0].node
        assert isinstance(first.op, Host)
        own = after.results[0]
        own = TensorType(own.dtype, (*first.op.results[0].shape[:-1], own.shape[-1])) if moved else own
        ops = [part for op in (first.op, after) for part in (op.ops if isinstance(op, HostChain) else (op,))]
        made = Node.make(HostChain((own,), tuple(ops)), first.inputs, first.loc + node.loc)
        if not moved:
            return made.outputs
        shaped = Node.make(Reshape(node.types[0].shape), made.outputs[:1], node.loc)
        unread = (const(np.zeros(len(node.types[0].shape), np.int64)),) * len(node.types[1:])  # its shape
        return (*shaped.outputs, *unread)

    return graph.rewrite(join)


def _joinable(graph: Graph, node: Node) -> Node | None:
    """The node whose only reader is this one, maybe through a Reshape that keeps the rows which it reads; sizes between them go."""
    if not isinstance(node.op, (StringNormalizer, Tokenize, TfIdf)) or node.inputs[0].dtype is not DType.STRING:
        return None
    between, passed = node.inputs[0], [node]
    if isinstance(node.op, TfIdf) and isinstance(between.node.op, Reshape) and not _wanted(graph, node.outputs[1:]):
        before = between.node.inputs[0]
        if not between.shape or not before.shape or between.shape[-1] != before.shape[-1] or not _only(graph, between, node):
            return None
        passed.append(between.node)
        between = before
    made = between.node
    if not isinstance(made.op, (StringNormalizer, Tokenize)) or not _only(graph, between, passed[-1]):
        return None
    fresh = symbols_of(between.shape) - symbols_of(made.inputs[0].shape)
    others = (n for n in graph.nodes if n is not made and n not in passed[1:])
    if any(symbols_in(n) & fresh for n in others) or fresh & symbols_of(d for pair in graph.equal for d in pair):
        return None
    if fresh & symbols_of(d for limit in graph.limits for d in limit.dims) or any(graph.uses.get(v) for v in made.outputs[1:]):
        return None
    return made


def _wanted(graph: Graph, values: Sequence[Value]) -> bool:
    return any(v in graph.kept or graph.uses.get(v) for v in values)


def _only(graph: Graph, v: Value, reader: Node) -> bool:
    return graph.uses.get(v) == (reader,) and v not in graph.kept


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


def encode_handles(graph: Graph, uses: Mapping[Value, str]) -> tuple[Graph, tuple[str, ...]]:
    """The graph without STRING and OBJECT types, and the strings that its constants refer to (handle i is the i-th).

    uses: what handles of tensors of strings are for (`string_uses`).
    """
    if not uses_handles(graph):
        return graph, ()
    strings: dict[str, int] = {}
    return _encode(graph, strings, uses), tuple(strings)


def _encoded(t: TensorType) -> TensorType:
    return TensorType(DType.I64, t.shape) if t.dtype in _HANDLES else t


def _subgraphs(op: Op) -> dict[str, Graph]:
    return {f.name: g for f in fields(op) if isinstance(g := getattr(op, f.name), Graph)}


def uses_handles(graph: Graph) -> bool:
    return any(
        isinstance(n.op, Host) or any(t.dtype in _HANDLES for t in n.types) or any(map(uses_handles, _subgraphs(n.op).values()))
        for n in graph.nodes
    )


def _encode(graph: Graph, strings: dict[str, int], uses: Mapping[Value, str]) -> Graph:
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
            op = HostCall(op, tuple(v.dtype for v in node.inputs), tuple(uses.get(v, "str") for v in node.outputs))
        else:
            changed: dict[str, Any] = {name: _encode(g, strings, {}) for name, g in _subgraphs(op).items()}
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
    for v, t, strings in zip(node.outputs, op.results, call.strings, strict=False):
        view = lw.storage.add("arena" if t.dtype is DType.OBJECT else "given", v.dtype, v.shape)
        lw.views[v] = view
        views.append(view)
        shape_buffer = -1
        if is_open(t):
            shape = next(shapes)
            lw.views[shape] = lw.storage.add("arena", DType.I64, shape.shape)
            shape_buffer = lw.views[shape].buffer
        writes.append(HostOperand(view.buffer, t.dtype, t.shape, shape_buffer, strings))
    lw.steps.append(HostStep(op.call, tuple(op.attributes.items()), tuple(reads), tuple(writes), node.loc))
