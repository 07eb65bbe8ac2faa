"""What a graph does to texts and sequences before anything else becomes a prologue: calls of Python on what a run is given.

There strings and lists stay what they are; inside a program each would be a handle, and each call a stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...ir import Const, DType, Graph, Input, Node, Value, is_symbol, symbols_of
from ...ir.graph import symbols_in
from ...ir.ops import Equal
from ...ir.ops.host import Host, ListAppend
from ...ir.ops.move import Reshape
from ..plan import Prologue, PrologueCall

_MOST_STRINGS = 1 << 12  # of a constant operand
_MOST_NUMBERS = 64
_NUMBERS = (DType.I64, DType.I32, DType.BOOL)


def split(graph: Graph, labelled: Sequence[int] = ()) -> tuple[Graph, Prologue | None]:
    """The graph without those nodes, which reads what they give as inputs; (graph, None) where none can be taken out.

    Outputs that they give are none of the graph any more, but for those at the positions `labelled`.
    """
    if not any(t.dtype in (DType.STRING, DType.OBJECT) for n in graph.nodes for t in n.types) or not all(map(_plain, graph.inputs)):
        return graph, None
    found = _Calls(graph)
    if not found.calls:
        return graph, None
    direct: dict[int, int] = {}  # by position of an output, the number of the value
    for at, v in enumerate(graph.outputs):
        number = found.given.get(v)
        if number is not None and at not in labelled and number not in direct.values():
            direct[at] = number
    rest, numbers = _rest(graph, found, [at for at in range(len(graph.outputs)) if at not in direct])
    if rest is None:
        return graph, None
    names = tuple(n for at, n in enumerate(graph.output_names) if at not in direct)
    prologue = Prologue(
        graph.input_names, tuple(v.type for v in graph.inputs), tuple(found.constants), tuple(found.calls), tuple(numbers),
        graph.output_names, tuple(direct.get(at, -1) for at in range(len(graph.outputs))),
    )  # fmt: skip
    return replace(rest, output_names=names), prologue


def _plain(v: Value) -> bool:
    """A tensor whose sizes are numbers or symbols."""
    return all(isinstance(d, int) or is_symbol(d) for d in v.shape)


@dataclass
class _Calls:
    """Nodes that need inputs only, as calls; `numbers` of values: inputs, constants, then results of the calls in order."""

    graph: Graph
    calls: list[PrologueCall] = field(default_factory=list)
    constants: list[np.ndarray] = field(default_factory=list)
    numbers: dict[Value, int] = field(default_factory=dict)
    given: dict[Value, int] = field(default_factory=dict)  # results of functions of the runtime, which are arrays of their own
    shapes: set[Value] = field(default_factory=set)  # what the nodes say of the shapes of their results

    def __post_init__(self) -> None:
        inputs, nodes = self.graph.inputs, self.graph.nodes
        known = {*inputs}
        taken: list[Node] = []
        for node in nodes:
            if all(v in known or _small(v) for v in node.inputs) and _callable(node):
                taken.append(node)
                known |= {*node.outputs}
        wanted = {v for n in taken if isinstance(n.op, Host) for v in n.inputs}  # others serve those that call the runtime
        taken = [n for n in taken if (isinstance(n.op, (Host, Equal)) and n.inputs) or n.outputs[0] in wanted]
        constants = dict.fromkeys(v for n in taken for v in n.inputs if _small(v))
        self.constants = [v.data for v in constants]
        self.numbers = {v: i for i, v in enumerate((*inputs, *constants))}
        end = len(self.numbers)
        for node in taken:
            reads = tuple(self.numbers[v] for v in node.inputs)
            results = node.op.results if isinstance(node.op, Host) else node.types
            made = {v: end + i for i, v in enumerate(node.outputs[: len(results)])}
            self.numbers |= made
            self.given |= {} if isinstance(node.op, Reshape) else made
            self.shapes |= {*node.outputs[len(results) :]}
            self.calls.append(PrologueCall(*_call(node), reads, tuple(results), node.loc))
            end += len(results)


def _small(v: Value) -> bool:
    """A constant that calls may read."""
    if not isinstance(v.node.op, Const):
        return False
    most = _MOST_STRINGS if v.dtype is DType.STRING else _MOST_NUMBERS if v.dtype in _NUMBERS else 0
    return v.node.op.data.size <= most


def _callable(node: Node) -> bool:
    op = node.op
    if isinstance(op, Host):
        return not isinstance(op, ListAppend)  # which changes its list
    if any(v.dtype is not DType.STRING or isinstance(v.node.op, Const) for v in node.inputs):
        return False
    if isinstance(op, Reshape):
        return sum(not isinstance(d, int) for d in op.shape) <= 1 and 0 not in op.shape
    return isinstance(op, Equal) and node.inputs[0].shape == node.inputs[1].shape


def _call(node: Node) -> tuple[str, tuple[tuple[str, object], ...]]:
    op = node.op
    if isinstance(op, Host):
        return op.call, tuple(op.attributes.items())
    if isinstance(op, Reshape):
        return "string_reshape", (("shape", tuple(d if isinstance(d, int) else -1 for d in op.shape)),)
    return "string_equal", ()


def _rest(graph: Graph, found: _Calls, positions: Sequence[int]) -> tuple[Graph | None, list[int]]:
    """The graph of the outputs at these positions that reads what the calls give, and the numbers of its inputs; None where sizes
    would be unknown."""
    numbers = found.numbers
    made = {v: Node.make(Input(v.type), (), v.node.loc).out for v in (*numbers, *found.shapes) if not isinstance(v.node.op, (Const, Input))}
    inner = graph.rewrite(lambda node, _: [made[v] for v in node.outputs] if node.outputs[0] in made else None)
    shapes = {made[v] for v in found.shapes}
    sizes = tuple(s for s in inner.sizes if s.value not in shapes)
    bare = replace(inner, inputs=(), outputs=tuple(inner.outputs[at] for at in positions), input_names=(), sizes=sizes)
    source = {v: i for i, v in enumerate(inner.inputs)} | {new: numbers[v] for v, new in made.items() if v in numbers}
    read = {n.outputs[0] for n in bare.nodes if isinstance(n.op, Input)}
    inputs = sorted(read & source.keys(), key=source.__getitem__)
    bound = {str(d) for v in inputs for d in v.shape if is_symbol(d)} | {s.symbol for s in sizes}
    needed = {s for n in bare.nodes for s in symbols_in(n)}
    needed |= symbols_of(d for pair in graph.equal for d in pair) | symbols_of(d for limit in graph.limits for d in limit.dims)
    if read & shapes or needed - bound:
        return None, []
    names = [graph.input_names[n] if n < len(graph.inputs) else f"{n} " for n in map(source.__getitem__, inputs)]
    for i, v in enumerate(inputs):
        while source[v] >= len(graph.inputs) and names[i] in graph.input_names:
            names[i] += " "
    return replace(bare, inputs=tuple(inputs), input_names=tuple(names)), [source[v] for v in inputs]
