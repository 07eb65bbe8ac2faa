"""Graph to plan: every op becomes kernels, elementwise neighbours join them, reshapes cost nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import CodegenError
from ...ir import Const, DType, Elementwise, Graph, Input, Node, TensorType, Trait, Value, prod
from ...ir import ops
from ..expr import E
from ..kernel import Plan, PlanStep
from . import contract, moves, resize, rows, sequence
from .core import MAX_NODES, Lowering, Pending, Stored, Virtual

Rule = Callable[[Lowering, Node], None]

RULES: dict[type, Rule] = {
    ops.Concat: moves.concat, ops.Reshape: moves.reshape, ops.Reduce: rows.reduce, ops.ArgReduce: rows.arg_reduce,
    ops.Softmax: rows.softmax, ops.LayerNorm: rows.norm, ops.RMSNorm: rows.norm, ops.Pool: rows.pool, ops.LRN: rows.lrn,
    ops.CumSum: rows.cum_sum, ops.TopK: rows.top_k, ops.MatMul: contract.matmul, ops.Conv: contract.conv,
    ops.ConvTranspose: contract.conv_transpose, ops.Resize: resize.resize, ops.Recurrent: sequence.recurrent,
    ops.ScatterElements: sequence.scatter, ops.ScatterND: sequence.scatter, ops.If: sequence.branch, ops.Loop: sequence.loop,
}  # fmt: skip


@dataclass(frozen=True)
class LowerOptions:
    """`opt_level` 0 stores every value; from 1 on elementwise ops and movements fuse."""

    opt_level: int = 3


class GraphLowering(Lowering):
    """Walks graphs node by node."""

    def __init__(self, options: LowerOptions) -> None:
        super().__init__()
        self.options = options
        self.arrays: dict[int, int] = {}  # id(array) -> constant buffer

    def run(self, graph: Graph) -> None:
        """Lower all nodes; every output ends up in its target buffer."""
        for v, users in graph.uses.items():
            self.uses[v] = self.uses.get(v, 0) + len(users)
        for v in graph.outputs:
            self.uses[v] = self.uses.get(v, 0) + 1
        for node in graph.nodes:
            if not isinstance(node.op, Input):
                self.node(node)

    def node(self, node: Node) -> None:
        op = node.op
        if isinstance(op, Const):
            if op.data.dtype.kind == "O":
                raise CodegenError("a string constant", expected="numbers", loc=" + ".join(node.loc))
            key = id(op.data)
            if key not in self.arrays:
                self.arrays[key] = self.constant(op.data)
            self.forms[node.out] = Stored(node.out.type, self.arrays[key])
            return
        if any(t.dtype in (DType.STRING, DType.C64, DType.C128) for t in node.types):
            raise CodegenError(f"{op.name} of {node.types[0].dtype.value}", expected="a numeric type", loc=" + ".join(node.loc))
        if isinstance(op, Elementwise):
            self.elementwise(node)
        elif type(op) in RULES:
            RULES[type(op)](self, node)
        else:
            operands = [self.source(v) for v in node.inputs]
            form = moves.move(node, operands)
            if form is None:
                raise CodegenError(f"no lowering of op {op.name}", loc=" + ".join(node.loc))
            self.forms[node.out] = form
        self.settle(node)

    def source(self, value: Value) -> Virtual:
        """An operand as a function; a big or pending one is stored first."""
        form = self.forms[value]
        if isinstance(form, Virtual) and form.nodes > MAX_NODES:
            self.stored(value)
        return self.virtual(value)

    def elementwise(self, node: Node) -> None:
        op, t = node.op, node.types[0]
        assert isinstance(op, Elementwise)
        count = moves.weight(op, [v.type for v in node.inputs])
        if self.options.opt_level > 0:
            for i, v in enumerate(node.inputs):
                form = self.forms[v]
                if isinstance(form, Pending) and self.uses[v] == 1 and v.shape == t.shape and form.nodes + count[0] <= MAX_NODES:
                    joined = self.join(node, i, form, count[0])
                    if joined is not None:
                        self.forms[node.out] = joined
                        return
        self.forms[node.out] = moves.elementwise(node, [self.source(v) for v in node.inputs], count)

    def join(self, node: Node, position: int, form: Pending, cost: int) -> Pending | None:
        """The pending kernel with this elementwise op applied before the store, or None if an operand is out of reach."""
        op = node.op
        assert isinstance(op, Elementwise)
        args: list[E] = []
        for i, v in enumerate(node.inputs):
            if i == position:
                args.append(form.value)
                continue
            if isinstance(self.forms[v], Pending) and self.forms[v] is not form:
                self.stored(v)
            e = form.value if self.forms[v] is form else form.read(v)
            if e is None:
                return None
            args.append(e)
        value = moves.body_of(op, node.types[0].dtype, args)
        return Pending(node.types[0], value, form.read, form.finish, form.nodes + cost, form.loc + node.loc)

    def settle(self, node: Node) -> None:
        """Store now what must not be computed twice, or is too large to inline, or is an output."""
        for v in node.outputs:
            form = self.forms[v]
            if isinstance(form, Stored):
                if v in self.targets and form.buffer != self.targets[v]:
                    self.store_virtual(self.load(form.buffer, v.type), self.targets[v])
                    self.forms[v] = Stored(v.type, self.targets[v])
                continue
            shared = self.uses.get(v, 0) > 1
            if self.options.opt_level == 0 or v in self.targets:
                self.stored(v)
            elif isinstance(form, Virtual):
                small = form.nodes <= 2 or (prod(v.shape) == 1 and not form.heavy and form.nodes <= 8)
                if form.nodes > MAX_NODES or (shared and not small):
                    self.stored(v)
            elif shared:
                self.stored(v)

    def nested(self, graph: Graph, inputs: Sequence[int], outs: Sequence[int]) -> list[PlanStep]:
        """The steps of a subgraph whose inputs are in given buffers and whose outputs go to given ones."""
        outer, self.steps = self.steps, []
        for v, b in zip(graph.inputs, inputs, strict=True):
            self.forms[v] = Stored(v.type, b)
        self.place_outputs(graph, outs)
        steps, self.steps = self.steps, outer
        return steps

    def place_outputs(self, graph: Graph, outs: Sequence[int]) -> None:
        """Lower a graph; copies values that are passed straight through, or appear twice among the outputs."""
        for v, b in zip(graph.outputs, outs, strict=True):
            if v not in self.targets and not isinstance(v.node.op, (Input, Const)):
                self.targets[v] = b
                self._through_reshape(graph, v, b)
        self.run(graph)
        for v, b in zip(graph.outputs, outs, strict=True):
            if self.stored(v) != b:
                self.store_virtual(self.load(self.stored(v), v.type), b)

    def _through_reshape(self, graph: Graph, v: Value, b: int) -> None:
        """A reshaped output is written by whoever computes it, if nobody else needs that."""
        while v.node.op.traits & {Trait.VIEW}:
            source = v.node.inputs[0]
            if len(graph.uses[source]) != 1 or source in graph.outputs or isinstance(source.node.op, (Input, Const)):
                return
            self.targets[source] = self.alias(b, source.type)
            v = source


def lower(graph: Graph, options: LowerOptions = LowerOptions()) -> Plan:  # noqa: B008 (frozen)
    """Lower a verified graph to a plan. Raises CodegenError naming the node that has no lowering."""
    lo = GraphLowering(options)
    for i, v in enumerate(graph.inputs):
        lo.forms[v] = Stored(v.type, lo.buffer("input", v.type, index=i))
    outs = [lo.buffer("output", v.type, index=i) for i, v in enumerate(graph.outputs)]
    lo.place_outputs(graph, outs)
    return Plan(tuple(lo.buffers), tuple(lo.steps), lo.constants, graph.input_names, graph.output_names)
