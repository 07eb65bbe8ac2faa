"""Graphs of nodes. Immutable: a pass builds a new graph that shares what it kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property

import numpy as np

from ..errors import VerifyError
from .dims import Dim, Expr, symbols_of
from .node import Const, Input, Node, Value
from .op import Op
from .types import TensorType


@dataclass(frozen=True, slots=True)
class RunTimeSize:
    """What a symbol is that no input shape gives: element `index` (row-major) of an I64 value, read when the model runs.

    One that is `wanted` is read even if no node mentions it: what the graph is depends on it.
    """

    symbol: str
    value: Value
    index: int = 0
    wanted: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """`dim` has to be within lo to hi, both included, for the node at `loc` to make sense."""

    dim: Dim
    lo: Dim
    hi: Dim
    loc: str = ""

    @property
    def dims(self) -> tuple[Dim, Dim, Dim]:
        return self.dim, self.lo, self.hi


@dataclass(frozen=True, eq=False)
class Graph:
    """inputs are values of `Input` nodes, in order; outputs any values. Names live here, not on values.

    `equal` are pairs of dims that have to agree for the model to be legal; they are checked when sizes are bound.
    `limits` likewise; those of a graph inside of another are checked when it runs.
    `sizes` say where symbols of data-dependent dims come from. A node that mentions such a symbol comes after the value, and
    the value is computed when some node mentions the symbol, or it is wanted, even if nothing else reads it.
    `metadata` is what the model's author wrote beside it, by key.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    name: str = "main"
    equal: tuple[tuple[Dim, Dim], ...] = ()
    sizes: tuple[RunTimeSize, ...] = ()
    limits: tuple[Limit, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def bound(self) -> tuple[RunTimeSize, ...]:
        """The `sizes` whose symbols some node mentions, or something that has to hold, and those wanted."""
        if not self.sizes:
            return ()
        mentioned = self._after_sizes[1] | symbols_of(d for pair in self.equal for d in pair)
        mentioned |= symbols_of(d for limit in self.limits for d in limit.dims)
        return tuple(s for s in self.sizes if s.symbol in mentioned or s.wanted)

    @cached_property
    def kept(self) -> frozenset[Value]:
        """Values that are wanted whoever else reads them: outputs, and those that give sizes."""
        return frozenset(self.outputs) | {s.value for s in self.bound}

    def mapped(self, new: Callable[[Value], Value]) -> Graph:
        """The same graph with other values in the place of its outputs and of those that give sizes."""
        return replace(self, outputs=tuple(map(new, self.outputs)), sizes=tuple(replace(s, value=new(s.value)) for s in self.bound))

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes that the outputs need, inputs first, in a deterministic topological order (no recursion)."""
        if self.sizes:
            return self._after_sizes[0]
        order: dict[Node, None] = {v.node: None for v in self.inputs}
        stack: list[tuple[Node, int]] = [(v.node, 0) for v in reversed(self.outputs)]
        while stack:
            node, i = stack.pop()
            if node in order:
                continue
            while i < len(node.inputs) and node.inputs[i].node in order:
                i += 1
            if i == len(node.inputs):
                order[node] = None
            else:
                stack.append((node, i + 1))
                stack.append((node.inputs[i].node, 0))
        return tuple(order)

    @cached_property
    def _after_sizes(self) -> tuple[tuple[Node, ...], set[str]]:
        """All nodes, each after those that give the sizes it mentions, and the symbols that nodes mention."""
        given = {s.symbol: s.value.node for s in self.sizes}
        mentioned: set[str] = set()
        order: dict[Node, None] = {v.node: None for v in self.inputs}
        before: dict[Node, tuple[Node, ...]] = {}
        open_: set[Node] = set()

        def needs(node: Node) -> tuple[Node, ...]:
            found = before.get(node)
            if found is None:
                found = tuple([v.node for v in node.inputs])
                if symbols := symbols_in(node):
                    mentioned.update(symbols)
                    found += tuple(n for s in sorted(symbols & given.keys()) if (n := given[s]) is not node)
                before[node] = found
            return found

        stack: list[tuple[Node, int]] = [(v.node, 0) for v in reversed(self.outputs)]
        stack += [(s.value.node, 0) for s in self.sizes if s.wanted]
        stack += [(n, 0) for v in self.inputs for n in needs(v.node)]
        while stack:
            node, i = stack.pop()
            if node in order:
                continue
            if i == 0 and node in open_:
                raise VerifyError(f"{node.op.name} computes a size that it depends on itself", loc=" + ".join(node.loc))
            open_.add(node)
            wanted = needs(node)
            while i < len(wanted) and wanted[i] in order:
                i += 1
            if i == len(wanted):
                order[node] = None
                open_.discard(node)
            else:
                stack.append((node, i + 1))
                stack.append((wanted[i], 0))
        return tuple(order), mentioned

    @cached_property
    def uses(self) -> Mapping[Value, tuple[Node, ...]]:
        """Value -> nodes that read it (once per operand position). Graph outputs are not counted here."""
        return {v: tuple(node for node, _ in places) for v, places in self.places.items()}

    @cached_property
    def places(self) -> Mapping[Value, tuple[tuple[Node, int], ...]]:
        """Value -> nodes that read it, each with the position of the operand: looking for it takes long where a node has thousands."""
        found: dict[Value, list[tuple[Node, int]]] = {}
        for node in self.nodes:
            for position, v in enumerate(node.inputs):
                found.setdefault(v, []).append((node, position))
        return {v: tuple(ps) for v, ps in found.items()}

    def rewrite(self, fn: Callable[[Node, tuple[Value, ...]], Sequence[Value] | None]) -> Graph:
        """Rebuild in topological order. `fn(old_node, new_inputs)` returns replacement values, or None to keep.

        Returns this same object when nothing changed. Raises VerifyError where values are replaced by others of another dtype,
        rank or known size; symbols may become numbers.
        """
        new: dict[Value, Value] = {}
        changed = False
        for node in self.nodes:
            ins = tuple(map(new.get, node.inputs, node.inputs))
            got = fn(node, ins)
            if got is None:
                if ins == node.inputs:
                    continue
                got = node.with_inputs(ins).outputs
            changed = True
            if len(got) != len(node.types):
                raise VerifyError(f"rewrite of {node.op.name} returned {len(got)} values", expected=str(len(node.types)))
            for v, t in zip(got, node.types, strict=True):
                found = v.type
                if found is not t and found != t and not found.stands_for(t):
                    raise VerifyError(f"rewrite of {node.op.name} returned {found}", expected=str(t), loc=" + ".join(node.loc))
            new.update(zip(node.outputs, got, strict=True))
        if not changed:
            return self
        inputs = tuple(new.get(v, v) for v in self.inputs)
        return replace(self.mapped(lambda v: new.get(v, v)), inputs=inputs)

    def evaluate(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        """Run every node's `reference` (static shapes only): the slow oracle."""
        env: dict[Value, np.ndarray] = dict(zip(self.inputs, args, strict=True))
        for node in self.nodes:
            if not isinstance(node.op, Input):
                env.update(zip(node.outputs, node.op.reference(*(env[v] for v in node.inputs)), strict=True))
        return tuple(env[v] for v in self.outputs)


def symbols_in(node: Node) -> frozenset[str]:
    """Symbols that the types or fields of a node mention, nested graphs included (not those that such a graph binds itself)."""
    found: set[str] = set()
    for t in node.types:
        _add_mentioned(t.shape, found)
    if not isinstance(node.op, (Const, Input)):
        for name in _field_names(type(node.op)):  # type: ignore[arg-type]  # mypy takes its objects' hash for that of the class
            _add_mentioned(getattr(node.op, name), found)
    return frozenset(found)


@cache
def _field_names(op: type[Op]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(op))


def _add_mentioned(attribute: object, found: set[str]) -> None:
    if isinstance(attribute, Expr):
        found |= attribute.symbols
    elif isinstance(attribute, tuple):
        for x in attribute:
            if not isinstance(x, int):  # as most are
                _add_mentioned(x, found)
    elif isinstance(attribute, TensorType):
        _add_mentioned(attribute.shape, found)
    elif isinstance(attribute, Graph):
        limits = symbols_of(d for limit in attribute.limits for d in limit.dims)
        found |= ({s for n in attribute.nodes for s in symbols_in(n)} | limits) - {s.symbol for s in attribute.sizes}
