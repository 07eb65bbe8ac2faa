"""Subgraphs that become graphs of their own: bodies of loops, branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...ir import DType, Graph, Input, Limit, Node, RunTimeSize, TensorType, Value

Loc = tuple[str, ...]


def formal(type_: TensorType, loc: Loc) -> Value:
    """An input of a region."""
    return Node.make(Input(type_), (), loc).out


def iteration(loc: Loc) -> tuple[Value, Value]:
    """What the body of a Loop takes first: how many iterations are done (I64), and whether the condition holds (BOOL)."""
    return formal(TensorType(DType.I64, ()), loc), formal(TensorType(DType.BOOL, ()), loc)


@dataclass
class Region:
    """A subgraph being imported as a graph of its own: its inputs for values from outside, its run-time sizes, and what it needs of
    sizes known before it runs."""

    captures: dict[Value, Value] = field(default_factory=dict)
    sizes: list[RunTimeSize] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)

    def capture(self, value: Value, loc: Loc) -> Value:
        """The input for a value from outside, whatever that is (`ImportContext.captured` reads what is known directly)."""
        if value not in self.captures:
            self.captures[value] = formal(value.type, loc)
        return self.captures[value]

    def drop_unused(self, *graphs: Graph) -> None:
        """Forget captured values that none of these graphs, which have them as inputs, reads."""
        self.captures = {v: inner for v, inner in self.captures.items() if any(inner in g.uses or inner in g.kept for g in graphs)}

    def graph(self, outputs: Sequence[Value], formals: Sequence[Value], name: str) -> Graph:
        """The region: formals, then captures, are its inputs."""
        inputs = (*formals, *self.captures.values())
        names = tuple(f"i{k}" for k in range(len(inputs))), tuple(f"o{k}" for k in range(len(outputs)))
        return Graph(inputs, tuple(outputs), *names, name, sizes=tuple(self.sizes), limits=tuple(dict.fromkeys(self.limits)))

    def trimmed(self, outputs: Sequence[Value], formals: Sequence[Value], name: str) -> Graph:
        """`graph`, without captures that nothing in it reads."""
        self.drop_unused(self.graph(outputs, formals, name))
        return self.graph(outputs, formals, name)
