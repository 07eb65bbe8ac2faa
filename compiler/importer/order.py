"""The order of a model's nodes: onnxruntime takes any, what comes after the importer's check needs operands first."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from ...errors import OnnxImportError


def subgraphs(nodes: Iterable[NodeProto]) -> Iterator[GraphProto]:
    """Graphs held by attributes of nodes."""
    for node in nodes:
        for a in node.attribute:
            if a.type == AttributeProto.GRAPH:
                yield a.g
            yield from a.graphs


def graphs_of(model: ModelProto) -> Iterator[GraphProto]:
    """The main graph and all graphs nested in it."""
    stack = [model.graph]
    while stack:
        graph = stack.pop()
        yield graph
        stack.extend(subgraphs(graph.node))


def free_names(node: NodeProto) -> set[str]:
    """Names that a node reads: its inputs, and what its subgraphs read from outside (or name themselves)."""
    names = set(node.input)
    stack = list(subgraphs([node]))
    while stack:
        graph = stack.pop()
        for inner in graph.node:
            names.update(inner.input)
            stack.extend(subgraphs([inner]))
        names.update(o.name for o in graph.output)
    return names


def ordered(model: ModelProto, loc: str = "the model") -> ModelProto:
    """The model with every node behind those that it reads: itself where they lie so, else a copy. Raises OnnxImportError for cycles.

    Tools that append casts at the end, as onnxruntime's converters to float16 do, leave the order to onnxruntime.
    """
    if all(_order(graph, loc) is None for graph in graphs_of(model)):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    for graph in graphs_of(copy):
        order = _order(graph, loc)
        if order is not None:
            nodes = [graph.node[i] for i in order]
            del graph.node[:]
            graph.node.extend(nodes)
    return copy


def _order(graph: GraphProto, loc: str) -> list[int] | None:
    """Numbers of nodes, each behind those that it reads and otherwise as before; None where they lie so."""
    nodes = graph.node
    producer = {out: i for i, node in enumerate(nodes) for out in node.output if out}
    reads = [{producer[name] for name in _reads(node) if name in producer} for node in nodes]
    if all(max(found, default=-1) < i for i, found in enumerate(reads)):
        return None
    readers: list[list[int]] = [[] for _ in nodes]
    for i, found in enumerate(reads):
        for j in found:
            readers[j].append(i)
    missing = [len(found) for found in reads]
    ready = [i for i, count in enumerate(missing) if not count]
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for i in readers[order[-1]]:
            missing[i] -= 1
            if not missing[i]:
                heapq.heappush(ready, i)
    if len(order) < len(nodes):
        raise OnnxImportError(f"the graph is cyclic: {' -> '.join(_cycle(graph))}", expected="a directed acyclic graph", loc=loc)
    return order


def _cycle(graph: GraphProto) -> list[str]:
    """Names of nodes along a cycle, first one repeated; empty when there is none."""
    producer = {out: i for i, node in enumerate(graph.node) for out in node.output if out}
    done: set[int] = set()
    for root in range(len(graph.node)):
        path: list[int] = []
        on_path: set[int] = set()
        stack: list[tuple[int, Iterator[str] | None]] = [(root, None)]
        while stack:
            i, names = stack.pop()
            if names is None:
                if i in done:
                    continue
                if i in on_path:
                    ring = [*path[path.index(i) :], i]
                    return [node_loc(graph.node[j]) for j in ring]
                path.append(i)
                on_path.add(i)
                names = iter(_reads(graph.node[i]))
            after = next((n for n in names if n in producer), None)
            if after is None:
                done.add(i)
                on_path.discard(i)
                path.pop()
            else:
                stack.append((i, names))
                stack.append((producer[after], None))
    return []


def _reads(node: NodeProto) -> list[str]:
    """Names that a node reads from the graph that it is in."""
    inner = {o for g in subgraphs([node]) for o in _defined(g)}
    return sorted(free_names(node) - inner) if inner else list(node.input)


def _defined(graph: GraphProto) -> set[str]:
    """Names that a graph, or one nested in it, defines."""
    names: set[str] = set()
    stack = [graph]
    while stack:
        g = stack.pop()
        names.update(v.name for v in (*g.input, *g.initializer))
        names.update(o for n in g.node for o in n.output)
        stack.extend(subgraphs(g.node))
    return names


def node_loc(node: NodeProto) -> str:
    """How a node is called in messages and `loc`: its name, else 'OpType:firstoutput'."""
    return node.name or f"{node.op_type}:{next((o for o in node.output if o), '')}"
