"""What would become of a model's operators, told before anything is compiled."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from onnx import ModelProto, NodeProto

from ..errors import OnnxImportError
from ..ir import Graph, Node
from ..ir.ops.host import Host
from .importer.attempts import import_proto
from .importer.load import imported_opsets, load
from .importer.order import node_loc, subgraphs
from .operators import kind_of


@dataclass(frozen=True)
class Use:
    """An operator of a model: how many nodes, and how they are compiled (a kind of `operators.KINDS`, or "function")."""

    domain: str
    operator: str
    opset: int
    count: int
    kind: str


@dataclass(frozen=True)
class Capability:
    """`refused` is the importer's message, empty when it takes the model."""

    uses: tuple[Use, ...]
    refused: str = ""

    @property
    def complete(self) -> bool:
        return not self.refused


def capability(model: str | os.PathLike[str] | bytes | ModelProto, shapes: Mapping[str, Sequence[int]] | None = None) -> Capability:
    """Import the model (cheap: no code is made) and say how each operator fares.

    Raises OnnxImportError only for what is no ONNX model at all; what the importer refuses is told in the result.
    """
    proto, reader = load(model)
    opsets = imported_opsets(proto)
    local = {(f.domain, f.name) for f in proto.functions}
    refused, on_host = "", None
    try:
        graph = next(import_proto(proto, reader, shapes)).graph
        on_host = {name for node in _nodes_of(graph) if isinstance(node.op, Host) for name in node.loc}
    except OnnxImportError as e:
        refused = str(e)
    counts: Counter[tuple[str, str, str]] = Counter()
    for node in _nodes(proto):
        domain = "" if node.domain == "ai.onnx" else node.domain
        kind = "function" if (node.domain, node.op_type) in local else kind_of(domain, node.op_type, opsets.get(domain, 1))
        if on_host is not None and kind in ("native", "host"):
            kind = "host" if node_loc(node) in on_host else "native"
        counts[domain, node.op_type, kind] += 1
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    uses = tuple(Use(d or "ai.onnx", name, opsets.get(d, 1), count, kind) for (d, name, kind), count in order)
    return Capability(uses, refused)


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Of the main graph, of functions, and of all graphs nested in them."""
    stack = [list(model.graph.node), *(list(f.node) for f in model.functions)]
    while stack:
        nodes = stack.pop()
        yield from nodes
        stack.extend(list(g.node) for g in subgraphs(nodes))


def _nodes_of(graph: Graph) -> Iterator[Node]:
    stack = [graph]
    while stack:
        for node in stack.pop().nodes:
            yield node
            stack.extend(g for f in fields(node.op) if isinstance(g := getattr(node.op, f.name), Graph))
