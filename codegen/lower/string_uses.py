"""What handles of strings are for, which decides what it costs to make them (`runtime/handles.py`)."""

from __future__ import annotations

from dataclasses import fields

from ...ir import Const, DType, Graph, Node, Value
from ...ir.ops.host import Host

_READ, _COMPARED, _COMPARED_TO_CONSTANTS = "text", "str", "key"


def string_uses(graph: Graph) -> dict[Value, str]:
    """By tensor of strings: "str" where handles are compared with each other, "key" where only with those of constants and no string
    is read again, "text" where they are not compared."""
    found: dict[Value, set[str]] = {v: {_READ} for v in graph.outputs}
    for node in reversed(graph.nodes):
        for v in node.inputs:
            if v.dtype is DType.STRING:
                found.setdefault(v, set()).update(_uses(node, v, found))
    return {v: _use(found.get(v, set())) for node in graph.nodes for v in node.outputs if v.dtype is DType.STRING}


def _uses(node: Node, v: Value, found: dict[Value, set[str]]) -> set[str]:
    """Of one operand, by a node whose results' uses are known."""
    if isinstance(node.op, Host):
        return {_READ}
    if any(isinstance(getattr(node.op, f.name), Graph) for f in fields(node.op)):
        return {_COMPARED}
    if any(o.dtype is not DType.STRING for o in node.outputs):
        others = [w for w in node.inputs if w is not v and w.dtype is DType.STRING]
        return {_COMPARED_TO_CONSTANTS if others and all(isinstance(w.node.op, Const) for w in others) else _COMPARED}
    return set().union(*(found.get(o, set()) for o in node.outputs))


def _use(uses: set[str]) -> str:
    if _COMPARED in uses or len(uses) > 1:
        return _COMPARED
    return next(iter(uses), _READ)
