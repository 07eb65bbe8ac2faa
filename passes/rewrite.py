"""Patterns as data, and the driver that applies rules of them to a whole graph in linear time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ..errors import PassError
from ..ir import Const, Graph, Node, Op, Trait, Value
from ..ir.ops import Expand, Reshape
from .base import close, const_of, scalar_of

MAX_LOC = 16  # merged nodes name at most this many ONNX nodes
MAX_SWEEPS = 64


@dataclass(frozen=True)
class X:
    """Any value, captured as `name` (unless ""); the same name twice must be the same value."""

    name: str
    where: Callable[[Value], bool] | None = None


@dataclass(frozen=True)
class C(X):
    """A constant."""


@dataclass(frozen=True)
class Num:
    """A constant all of whose elements are `value`, up to rounding of the literal (relative `tolerance`)."""

    value: float
    tolerance: float = 1e-6


@dataclass(frozen=True, init=False)
class P:
    """A node of one of some op classes, with all its operands described (or none of them); commutative ops match in both orders.

    `name` captures its (first) result. `shared=True` lifts the rule that an interior value has no other users.
    """

    classes: tuple[type[Op], ...]
    operands: tuple[Pattern, ...]
    name: str
    where: Callable[[Value], bool] | None
    shared: bool

    def __init__(self, classes: type[Op] | tuple[type[Op], ...], *operands: Pattern, name: str = "",
                 where: Callable[[Value], bool] | None = None, shared: bool = False) -> None:  # fmt: skip
        found = {"classes": classes if isinstance(classes, tuple) else (classes,), "operands": operands, "name": name,
                 "where": where, "shared": shared}  # fmt: skip
        for key, value in found.items():
            object.__setattr__(self, key, value)


Pattern = P | X | Num


@dataclass(frozen=True)
class Rule:
    """`fn(**captures)` gives the value that replaces the root, or None to decline."""

    pattern: P
    fn: Callable[..., Value | None]

    @property
    def name(self) -> str:
        return self.fn.__name__


class _Bound(NamedTuple):
    values: tuple[tuple[str, Value], ...] = ()
    interior: tuple[tuple[Node, bool], ...] = ()  # (node, may be shared)


_NOTHING = _Bound()


def match(pattern: Pattern, value: Value, bound: _Bound = _NOTHING) -> Iterator[_Bound]:
    """Every way in which `value` fits (recursion is over the pattern, never over the graph)."""
    if isinstance(pattern, Num):
        if close(scalar_of(value), pattern.value, pattern.tolerance):
            yield bound
        return
    orders: Sequence[tuple[Value, ...]] = ()
    if isinstance(pattern, P):
        if value.index or not isinstance(value.node.op, pattern.classes) or not (orders := _orders(pattern, value.node)):
            return
    elif isinstance(pattern, C) and const_of(value) is None:
        return
    if pattern.where is not None and not pattern.where(value):
        return
    values, interior = bound.values, bound.interior
    if pattern.name:
        known = next((v for name, v in values if name == pattern.name), None)
        if known is None:
            values = (*values, (pattern.name, value))
        elif known != value:
            return
    if not isinstance(pattern, P):
        yield _Bound(values, interior)
        return
    bound = _Bound(values, (*interior, (value.node, pattern.shared)))
    for order in orders:
        yield from _match_all(pattern.operands, order, bound)


def _orders(pattern: P, node: Node) -> list[tuple[Value, ...]]:
    """The orders of a node's operands in which they are of the pattern's classes: most patterns fail here, so it is asked first."""
    if not pattern.operands:
        return [()]
    if len(node.inputs) != len(pattern.operands):
        return []
    orders = [node.inputs]
    if len(node.inputs) == 2 and Trait.COMMUTATIVE in node.op.traits:
        orders.append(node.inputs[::-1])
    classes = [_classes(p) for p in pattern.operands]
    return [order for order in orders if all(isinstance(v.node.op, cls) for v, cls in zip(order, classes, strict=True))]


def _classes(pattern: Pattern) -> tuple[type[Op], ...]:
    """What the op is of a value that fits."""
    match pattern:
        case P():
            return pattern.classes
        case C():
            return (Const,)
        case Num():
            return _NUMBERS
        case X():
            return (Op,)


_NUMBERS = (Const, Expand, Reshape)  # what `scalar_of` looks through


def _match_all(patterns: Sequence[Pattern], values: Sequence[Value], bound: _Bound) -> Iterator[_Bound]:
    if not patterns:
        yield bound
        return
    for b in match(patterns[0], values[0], bound):
        yield from _match_all(patterns[1:], values[1:], b)


def rewrite(graph: Graph, rules: Sequence[Rule]) -> Graph:
    """Apply rules until none fires. Returns the same graph when none does.

    Raises PassError when a replacement has another type than what it replaces, or rules keep firing.
    """
    by_class = _Rules(rules)
    for _ in range(MAX_SWEEPS):
        new = _Sweep(graph, by_class).run()
        if new is graph:
            return graph
        graph = new
    raise PassError(f"rules {', '.join(r.name for r in rules)} still fire after {MAX_SWEEPS} sweeps", expected="a fixpoint")


class _Rules:
    """Rules by what their roots and its operands are: most nodes fit the classes of few patterns, or of none."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.of_root: dict[type[Op], list[Rule]] = {}
        for rule in rules:
            for cls in rule.pattern.classes:
                self.of_root.setdefault(cls, []).append(rule)
        self.known: dict[tuple[type[Op], ...], tuple[Rule, ...]] = {}

    def of(self, node: Node) -> tuple[Rule, ...]:
        """Those whose root and operands may be this node and its operands, in order."""
        rules = self.of_root.get(type(node.op))
        if rules is None:
            return ()
        key = (type(node.op), *[type(v.node.op) for v in node.inputs])
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = tuple(r for r in rules if _orders(r.pattern, node))
        return found


class _Sweep:
    """One walk in topological order. Operands of the node at hand are final, so whatever a firing enables downstream
    fires in the same walk. `users` is exact throughout: nodes not yet walked count under what their operands became."""

    def __init__(self, graph: Graph, rules: _Rules) -> None:
        self.graph = graph
        self.rules = rules
        self.forward: dict[Value, Value] = {}
        self.budget = 20 * len(graph.nodes) + 1000

    @cached_property
    def known(self) -> set[Node]:
        return set(self.graph.nodes)

    @cached_property
    def users(self) -> dict[Value, set[Node | None]]:
        """Readers of values; asked for by the first pattern that fits, as nothing is replaced before."""
        users: dict[Value, set[Node | None]] = {}
        for node in self.graph.nodes:
            for v in node.inputs:
                users.setdefault(v, set()).add(node)
        for v in self.graph.kept:
            users.setdefault(v, set()).add(None)  # None: read by the outside
        return users

    def run(self) -> Graph:
        nodes = self.graph.nodes
        for i, node in enumerate(nodes):
            fresh = self.fire(node)
            if fresh is not None:
                self.walk([*reversed(nodes[i + 1 :]), *reversed(fresh)])
                return self.graph.mapped(self.resolve)
        return self.graph

    def walk(self, agenda: list[Node]) -> None:
        while agenda:
            node = agenda.pop()
            if node in self.known:
                agenda.extend(reversed(self.visit(node)))

    def resolve(self, v: Value) -> Value:
        if v not in self.forward:
            return v
        path = []
        while v in self.forward:
            path.append(v)
            v = self.forward[v]
        for p in path[:-1]:
            self.forward[p] = v
        return v

    def visit(self, node: Node) -> list[Node]:
        """Bring the operands up to date and try the rules; returns the new nodes of a replacement, to be walked next."""
        ins = tuple([self.resolve(v) for v in node.inputs])
        if ins != node.inputs:
            for v in ins:
                self.users[v].discard(node)
            old, node = node, node.with_inputs(ins)
            self.known.discard(old)
            self.register(node)
            for a, b in zip(old.outputs, node.outputs, strict=True):
                self.redirect(a, b)
        return self.fire(node) or []

    def fire(self, node: Node) -> list[Node] | None:
        """Replace the node's result by the first rule that applies: the new nodes; None where none does."""
        rules = self.rules.of(node)
        if not rules or len(node.types) != 1:
            return None
        root = node.out
        if self.forward and root not in self.users:
            return None
        for rule in rules:
            for bound in match(rule.pattern, root):
                if not self.interior_is_private(node, bound.interior):
                    continue
                got = rule.fn(**dict(bound.values))
                if got is not None and got != root:
                    return self.replace(rule, node, got, bound)
        return None

    def interior_is_private(self, root: Node, interior: tuple[tuple[Node, bool], ...]) -> bool:
        inside = {n for n, _ in interior}
        return all(shared or n is root or all(u in inside for v in n.outputs for u in self.users.get(v, ())) for n, shared in interior)

    def replace(self, rule: Rule, root: Node, got: Value, bound: _Bound) -> list[Node]:
        self.budget -= 1
        if self.budget < 0:
            raise PassError(f"rule {rule.name} keeps firing", expected="a fixpoint", loc=" + ".join(root.loc))
        if got.type != root.types[0]:
            raise PassError(f"rule {rule.name} turned {root.types[0]} into {got.type}", expected="the same type",
                            loc=" + ".join(root.loc))  # fmt: skip
        loc = tuple(dict.fromkeys(name for n, _ in reversed(bound.interior) for name in n.loc))[:MAX_LOC]
        fresh, got = self.adopt(got, root, loc, rule)
        self.redirect(root.out, got)
        self.release(root)
        return fresh

    def adopt(self, got: Value, root: Node, loc: tuple[str, ...], rule: Rule) -> tuple[list[Node], Value]:
        """Register the nodes that a replacement brought, with the loc of what they replace."""
        mine: Mapping[Node, Node]
        made: dict[Node, Node] = {}
        mine = made
        stack = [(got.node, 0)]
        while stack:
            node, i = stack.pop()
            if node in self.known or node in made:
                continue
            while i < len(node.inputs) and (node.inputs[i].node in self.known or node.inputs[i].node in made):
                i += 1
            if i < len(node.inputs):
                stack += [(node, i), (node.inputs[i].node, 0)]
                continue
            ins = tuple(Value(mine.get(v.node, v.node), v.index) for v in node.inputs)
            if any(v.node is root for v in ins):
                raise PassError(f"rule {rule.name} computes from the value it replaces", loc=" + ".join(root.loc))
            made[node] = Node(node.op, ins, node.types, node.loc or loc)
        for node in made.values():
            self.register(node)
        return list(made.values()), Value(mine.get(got.node, got.node), got.index)

    def register(self, node: Node) -> None:
        self.known.add(node)
        for v in node.inputs:
            self.users.setdefault(v, set()).add(node)

    def redirect(self, old: Value, new: Value) -> None:
        self.forward[old] = new
        if old in self.users:
            self.users.setdefault(new, set()).update(self.users.pop(old))

    def release(self, node: Node) -> None:
        """Forget nodes that nobody reads any more, so that their operands may become private to another."""
        dead = [node]
        while dead:
            n = dead.pop()
            if n not in self.known or any(v in self.users for v in n.outputs) or not n.inputs:
                continue
            self.known.discard(n)
            for v in n.inputs:
                users = self.users.get(v)
                if users is not None:
                    users.discard(n)
                    if not users:
                        del self.users[v]
                        dead.append(v.node)
