"""Subgraphs of If and Loop: constants move in, then the same passes run inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ..ir import Const, Graph, Input, Node, Op, Value, const
from ..ir.ops import Loop
from .base import Pass, PassContext


@dataclass(frozen=True)
class Subgraphs(Pass):
    """Run `passes` in every subgraph, to any depth (passes that nest this one are not needed)."""

    passes: tuple[Pass, ...]

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        inner = replace(ctx, dump=None)

        def inside(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
            names = [f.name for f in fields(node.op) if isinstance(getattr(node.op, f.name), Graph)]
            if not names:
                return None
            op, kept = sink_constants(node.op, names, inputs)
            for name in names:
                sub = getattr(op, name)
                for p in (*self.passes, self):
                    sub = p.run(sub, inner)
                if sub is not getattr(op, name):
                    op = with_graphs(op, {name: sub})
            if op is node.op and kept == inputs:
                return None
            return Node.make(op, kept, node.loc).outputs

        return graph.rewrite(inside)


def with_graphs(op: Op, graphs: Mapping[str, Any]) -> Op:
    """The op with other subgraphs in the named fields."""
    return replace(op, **graphs)


def sink_constants(op: Op, names: Sequence[str], inputs: tuple[Value, ...]) -> tuple[Op, tuple[Value, ...]]:
    """The op with captured constants as constants of its subgraphs, so that folding and packing see them."""
    first = getattr(op, names[0])
    offset = len(inputs) - len(first.inputs)  # operands before those the subgraphs see
    start = 2 + op.n_state if isinstance(op, Loop) else offset
    moved = [i for i in range(start, len(inputs)) if isinstance(inputs[i].node.op, Const)]
    if not moved:
        return op, inputs
    changes: dict[str, Graph] = {}
    for name in names:
        graph: Graph = getattr(op, name)
        known: dict[Node, Value] = {}
        for i in moved:
            source = inputs[i].node
            assert isinstance(source.op, Const)
            known[graph.inputs[i - offset].node] = const(source.op.data, inputs[i].dtype, source.loc)

        def fill(node: Node, ins: tuple[Value, ...], known: dict[Node, Value] = known) -> Sequence[Value] | None:
            return (known[node],) if isinstance(node.op, Input) and node in known else None

        filled = graph.rewrite(fill)
        keep = [i for i in range(len(graph.inputs)) if i + offset not in moved]
        changes[name] = replace(
            filled, inputs=tuple(filled.inputs[i] for i in keep), input_names=tuple(filled.input_names[i] for i in keep)
        )
    return with_graphs(op, changes), tuple(v for i, v in enumerate(inputs) if i not in moved)
