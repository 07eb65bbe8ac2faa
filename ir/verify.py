"""The rules a graph must obey, as a table that `verify` walks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields

from ..errors import VerifyError
from .dtypes import DType
from .graph import Graph
from .node import Input, Node, Value


def _names(graph: Graph) -> Iterator[VerifyError]:
    for what, names, values in (("input", graph.input_names, graph.inputs), ("output", graph.output_names, graph.outputs)):
        if len(names) != len(values):
            yield VerifyError(f"graph {graph.name} has {len(values)} {what}s and {len(names)} {what} names")
        seen: set[str] = set()
        for name in names:
            if name in seen:
                yield VerifyError(f"two {what}s of graph {graph.name} are named {name!r}", expected="unique names")
            seen.add(name)


def _inputs(graph: Graph) -> Iterator[VerifyError]:
    seen: set[Value] = set()
    for name, v in zip(graph.input_names, graph.inputs, strict=False):
        if not isinstance(v.node.op, Input):
            yield VerifyError(f"graph input {name!r} is a result of {v.node.op.name}", expected="an Input node", loc=_loc(v.node))
        if v in seen:
            yield VerifyError(f"graph input {name!r} is the same value as another input")
        seen.add(v)
    for node in graph.nodes:
        if isinstance(node.op, Input) and node.out not in seen:
            yield VerifyError("a value from outside the graph is used", expected="an input of the graph", loc=_loc(node))


def _sizes(graph: Graph) -> Iterator[VerifyError]:
    seen: set[str] = set()
    for s in graph.sizes:
        t = s.value.type
        if s.symbol in seen:
            yield VerifyError(f"symbol {s.symbol} is given twice", expected="one value for a size")
        seen.add(s.symbol)
        if t.dtype is not DType.I64 or not isinstance(t.numel, int) or not 0 <= s.index < t.numel:
            yield VerifyError(f"size {s.symbol} is element {s.index} of {t}", expected="an element of an i64 tensor of known shape")


def _order(graph: Graph) -> Iterator[VerifyError]:
    done: set[Node] = set()
    for node in graph.nodes:
        for v in node.inputs:
            if v.node not in done:
                yield VerifyError(f"{node.op.name} reads {v} before it is computed", expected="topological order", loc=_loc(node))
        done.add(node)
    for name, v in zip(graph.output_names, graph.outputs, strict=False):
        if v.node not in done:
            yield VerifyError(f"graph output {name!r} is not computed")


def _types(graph: Graph) -> Iterator[VerifyError]:
    for node in graph.nodes:
        for v in (*node.inputs, *(v for v in graph.outputs if v.node is node)):
            if not 0 <= v.index < len(v.node.types):
                yield VerifyError(f"result {v.index} of {v.node.op.name}, which has {len(v.node.types)}", loc=_loc(v.node))
                return
        try:
            want = node.op.infer([v.type for v in node.inputs])
        except VerifyError as e:
            yield VerifyError(f"{node.op.name}: {e.found}", expected=e.expected, remedy=e.remedy, loc=_loc(node))
            continue
        if want != node.types:
            yield VerifyError(f"{node.op.name} carries the types {_show(node.types)}", expected=_show(want), loc=_loc(node))
        for t in node.types:
            if any(isinstance(d, int) and d < 0 for d in t.shape):
                yield VerifyError(f"{node.op.name} gives {t}", expected="dims that are not negative", loc=_loc(node))


def _subgraphs(graph: Graph) -> Iterator[VerifyError]:
    for node in graph.nodes:
        for f in fields(node.op):
            inner = getattr(node.op, f.name)
            if isinstance(inner, Graph):
                for error in problems(inner):
                    yield VerifyError(f"{f.name}: {error.found}", expected=error.expected, loc=error.loc or _loc(node))


# rule -> check; later ones may rely on earlier ones
GRAPH_SPEC: tuple[tuple[str, Callable[[Graph], Iterator[VerifyError]]], ...] = (
    ("inputs and outputs have unique names", _names),
    ("inputs are distinct Input nodes, and nothing else comes from outside", _inputs),
    ("values are computed before they are read", _order),
    ("sizes come from elements of i64 tensors", _sizes),
    ("types are what `infer` says", _types),
    ("subgraphs obey the same rules", _subgraphs),
)


def problems(graph: Graph) -> Iterator[VerifyError]:
    """Every broken rule, in order."""
    for _, check in GRAPH_SPEC:
        yield from check(graph)


def verify(graph: Graph) -> Graph:
    """Returns the graph. Raises VerifyError, with the node's loc, for the first broken rule."""
    for error in problems(graph):
        raise error
    return graph


def _loc(node: Node) -> str:
    return " + ".join(node.loc)


def _show(types: tuple[object, ...]) -> str:
    return ", ".join(map(str, types))
