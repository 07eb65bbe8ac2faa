"""Names of a file's graphs: what they stand for at a node, in which scope, and what that is inside of a region."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, TypeProto

from ...errors import OnnxImportError
from ...ir import Const, Input, Node, Value
from ...ir.ops import DimTensor
from .context import ImportContext
from .held import Element, Held, declared
from .region import Region
from .stacked import stack_of
from .tensors import TensorReader


class PoisonedError(Exception):
    """A value that depends on an unsupported node is needed."""


@dataclass
class Scope:
    """Names visible at one level. `captures`, if not None, marks the border of a region: outer values become its inputs."""

    parent: Scope | None = None
    values: dict[str, Value | None] = field(default_factory=dict)  # None: depends on an unsupported node
    initializers: dict[str, TensorProto] = field(default_factory=dict)
    captures: dict[Value, Value] | None = None
    declared: dict[str, TypeProto] = field(default_factory=dict)  # from value_info


class Names(ImportContext):
    """An import that knows what names stand for."""

    def __init__(self, opsets: Mapping[str, int], reader: TensorReader, graph: GraphProto) -> None:
        super().__init__(opsets, reader)
        self.reader = reader
        self.scope = Scope()
        self.depth = 0
        # constants that the model differentiates by stand as inputs until it is imported, so that what they lead to is not folded
        self.differentiated = {name for node in graph.node for name in _differentiates_by(node)}
        self.variables: dict[Value, np.ndarray] = {}

    def constant(self, name: str, array: np.ndarray, scope: Scope) -> Value:
        """What a name of a graph in the file stands for whose content is known."""
        value = Node.make(Const(array), (), (f"initializer:{name}",)).out
        if name not in self.differentiated or scope.parent is not None:
            return value
        variable = Node.make(Input(value.type), (), value.node.loc).out
        self.variables[variable] = array
        return variable

    def declared(self, name: str) -> Element | Held | None:
        return declared(self.scope.declared[name]) if name in self.scope.declared else None

    def enter_graph(self, proto: GraphProto) -> None:
        """Names of its weights and declared types are in scope from here on."""
        self.scope.initializers.update({t.name: t for t in proto.initializer})
        for s in proto.sparse_initializer:
            self.scope.values[s.values.name] = self.const(self.reader.sparse(s))
        for info in (*proto.value_info, *proto.output, *proto.input):
            self.scope.declared[info.name] = info.type

    def _scopes(self) -> Iterator[Scope]:
        """From the innermost to that of the main graph."""
        scope: Scope | None = self.scope
        while scope is not None:
            yield scope
            scope = scope.parent

    def lookup(self, name: str) -> Value:
        """The value that a name stands for here. Raises PoisonedError, and OnnxImportError where there is none."""
        crossed: list[dict[Value, Value]] = []
        for scope in self._scopes():
            if name in scope.initializers and name not in scope.values:
                scope.values[name] = self.constant(name, self.reader(scope.initializers[name]), scope)
            if name in scope.values:
                value = scope.values[name]
                if value is None:
                    raise PoisonedError
                return self._capture(value, crossed)
            if scope.captures is not None:
                crossed.append(scope.captures)
        raise OnnxImportError(f"value {name!r} is not defined", loc=", ".join(self.loc))

    def _capture(self, value: Value, crossed: Sequence[dict[Value, Value]]) -> Value:
        """What a value is behind the borders of regions, the innermost first."""
        if isinstance(value.node.op, (Const, DimTensor)):
            return value
        for captures in reversed(crossed):
            if value not in captures:
                inner = Node.make(Input(value.type), (), self.loc).out
                content = self._contents.get(value)
                if content is not None:
                    self.set_content(inner, content)
                if value in self.held:
                    stacked = stack_of(self, value)
                    within = None if stacked is None else self._capture(stacked, [captures])
                    self.held[inner] = replace(self.held[value].abroad(frozenset()), stacked=within)
                captures[value] = inner
            value = captures[value]
        return value

    def check_poison(self, name: str) -> None:
        """Raises PoisonedError for a name whose value `lookup` would not give."""
        scope = next((s for s in self._scopes() if name in s.values), None)
        if scope is not None and scope.values[name] is None:
            raise PoisonedError

    def poison(self, node: NodeProto) -> None:
        """What a node that is not imported would have given is missing."""
        for name in node.output:
            if name and self.scope.values.get(name) is None:
                self.scope.values[name] = None

    def captured(self, region: Region, value: Value) -> Value:
        return self._capture(value, [region.captures])

    def inside(self, region: Region) -> AbstractContextManager[None]:
        return self.nested(region)

    @contextmanager
    def nested(self, region: Region | None) -> Iterator[None]:
        """Names of their own; with a region also its border."""
        saved = self.scope, self.in_region, self.sizes, self.open_sizes, self.limits
        self.scope = Scope(saved[0], captures=None if region is None else region.captures)
        if region is not None:
            self.in_region, self.sizes, self.open_sizes = True, region.sizes, [*self.open_sizes, region.sizes]
            self.limits = region.limits
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            self.scope, self.in_region, self.sizes, self.open_sizes, self.limits = saved


def _differentiates_by(node: NodeProto) -> Iterator[str]:
    if (node.domain, node.op_type) == ("ai.onnx.preview.training", "Gradient"):
        yield from (s.decode() for a in node.attribute if a.name in ("xs", "zs") for s in a.strings)
