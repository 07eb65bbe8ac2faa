"""Layout selection: which values to hold with permuted axes, so that transposes cancel, by what they move.

Every value next to a Transpose may be held in its own order or in the order that makes the Transpose vanish, and hands
that choice on to the ops around it which can work in either (`layout_ops`). Each held-in-the-other-order mismatch costs a
Transpose of that value. The cheapest assignment over the whole graph is a minimum cut.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from ..ir import Const, Graph, Node, Value
from ..ir.ops import ArgReduce, Reduce, Reshape, Transpose
from .base import Pass, PassContext, const_of, estimate, inverse, is_trivial, reshape, transpose
from .layout_ops import Perm, Permuted, forward_perm, permuted


@dataclass(frozen=True)
class SinkTransposes(Pass):
    """Never increases the number of elements that transposes move."""

    rounds: int = 6

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        cost = moved_elements(graph)
        for _ in range(self.rounds):
            if cost == 0:
                break
            # orders may be asked for from above (a producer's transposed result) or from below: whichever does better
            plain = graph.rewrite(keep_dims)
            new = _Layout(plain, backward=False).apply()
            new_cost = moved_elements(new)
            if new_cost and (other_cost := moved_elements(other := _Layout(plain, backward=True).apply())) < new_cost:
                new, new_cost = other, other_cost
            if new_cost >= cost or [v.type for v in new.outputs] != [v.type for v in graph.outputs]:
                break
            graph, cost = new, new_cost
        return graph


def moved_elements(graph: Graph) -> int:
    """Elements that the graph's transposes move; those of constants are free, as they fold."""
    return sum(
        size_of(n.out)
        for n in graph.nodes
        if isinstance(n.op, Transpose) and const_of(n.inputs[0]) is None and not is_trivial(n.op.perm, n.inputs[0].shape)
    )


class _Flow:
    """A cut problem: every value ends on the side "own" or "other"; an edge costs when its tail is own and its head other."""

    def __init__(self) -> None:
        self.capacity: dict[tuple[Hashable, Hashable], int | None] = {}  # None: infinite

    def edge(self, a: Hashable, b: Hashable, capacity: int | None) -> None:
        old = self.capacity.get((a, b), 0)
        shared = (type(a) is tuple) != (type(b) is tuple)  # between a value and one of its orders: priced once
        if capacity is None or old is None:
            self.capacity[a, b] = None
        else:
            self.capacity[a, b] = max(old, capacity) if shared else old + capacity

    def unary(self, v: Value, own: int, other: int) -> None:
        """`own`: the cost of holding v as it is; `other`: of holding it otherwise."""
        low = min(own, other)
        self.edge("own", v, other - low)
        self.edge(v, "other", own - low)

    def other_side(self) -> set[Hashable]:
        """Values on the side "other" of the cheapest cut; what is indifferent stays on the side "own"."""
        merged, numbers = self._merged(), dict[Hashable, int]()
        joined: dict[tuple[int, int], int | None] = {}
        for (a, b), capacity in self.capacity.items():
            if capacity != 0:
                # reversed, for the side of what is indifferent
                tail, head = (numbers.setdefault(merged.get(x, x), len(numbers)) for x in (b, a))
                old = joined.get((tail, head), 0)
                joined[tail, head] = None if capacity is None or old is None else old + capacity
        own, other = numbers.get("own"), numbers.get("other")
        if other is None:
            return set()
        import networkx as nx  # a fifth of the time of importing the compiler, which only layouts to choose from need

        graph = nx.DiGraph()
        graph.add_nodes_from(numbers.values())
        graph.add_edges_from((a, b, {} if c is None else {"capacity": c}) for (a, b), c in joined.items() if a != b)
        if own is None:
            found = nx.descendants(graph, other)
        else:
            _, (found, _) = nx.minimum_cut(graph, other, own, flow_func=nx.algorithms.flow.boykov_kolmogorov)
        return {x for x, number in numbers.items() if number in found}

    def _merged(self) -> dict[Hashable, Hashable]:
        """Orders of values that are asked for by one reader, or made for one: a cheapest cut has them on its side."""
        before: dict[Hashable, list[Hashable]] = {}
        behind: dict[Hashable, list[Hashable]] = {}
        for (a, b), capacity in self.capacity.items():
            if capacity != 0:
                if type(a) is tuple:
                    behind.setdefault(a, []).append(b if capacity is None else a)
                if type(b) is tuple:
                    before.setdefault(b, []).append(a if capacity is None else b)
        return {x: only[0] for ends in (before, behind) for x, only in ends.items() if len(only) == 1 and only[0] is not x}


class _Layout:
    def __init__(self, graph: Graph, backward: bool) -> None:
        self.graph, self.backward = graph, backward
        self.perms: dict[Value, Perm] = {}  # the alternative order of a value,
        self.held: dict[Value, Permuted] = {}  # and how it is computed in that, unless by a Transpose
        self.label()

    # --- which values may be held otherwise, and how ------------------------------------------------------------------
    def label(self) -> None:
        queue: deque[Value] = deque()

        def give(v: Value, perm: Perm | None) -> None:
            if perm is None or v in self.perms or isinstance(v.node.op, Const):
                return
            if not isinstance(v.node.op, Transpose):
                how = permuted(v.node, perm)
                if how is None:
                    return
                self.held[v] = how
            self.perms[v] = perm
            queue.append(v)

        moving = [n for n in self.graph.nodes if isinstance(n.op, Transpose) and const_of(n.inputs[0]) is None]
        for backward in (self.backward, not self.backward):
            for node in reversed(moving) if backward else moving:
                assert isinstance(node.op, Transpose)
                # one side only: two sides that both could absorb the transpose would contradict each other
                if backward and self.perms.get(node.out) != inverse(node.op.perm):
                    give(node.inputs[0], node.op.perm)
                elif not backward and self.perms.get(node.inputs[0]) != node.op.perm:
                    give(node.out, inverse(node.op.perm))
                self.spread(queue, give)

    def spread(self, queue: deque[Value], give: Callable[[Value, Perm | None], None]) -> None:
        while queue:
            v = queue.popleft()
            perm = self.perms[v]
            for user in dict.fromkeys(self.graph.uses.get(v, ())):
                if isinstance(user.op, Transpose):
                    continue
                for i, operand in enumerate(user.inputs):
                    if operand == v:
                        give(user.out, forward_perm(user, i, perm))
            if v in self.held:
                for u, want in zip(v.node.inputs, self.held[v].ins, strict=True):
                    if want is not None and len(u.shape) == len(want):
                        give(u, want)

    # --- what to hold how ---------------------------------------------------------------------------------------------
    def choose(self) -> set[Value]:
        """The values to hold in their alternative order: those on the "other" side of the cheapest cut."""
        flow = _Flow()
        for node in self.graph.nodes:
            v = node.out if node.types else None
            perm = self.perms.get(v) if v is not None else None
            if isinstance(node.op, Transpose):
                self.price_transpose(flow, node, perm)
                continue
            how = self.held[v] if v is not None and perm else None
            for i, u in enumerate(node.inputs):
                want = how.ins[i] if how else None
                self.price_operand(flow, u, v if want else None, want)
        for v in self.graph.outputs:
            self.price_operand(flow, v, None, None)
        return {v for v in flow.other_side() if v in self.perms}

    def price_operand(self, flow: _Flow, u: Value, reader: Value | None, want: Perm | None) -> None:
        """The reader takes u in its own order, or, when itself held otherwise, in order `want`. Each order is paid once."""
        if isinstance(u.node.op, Const):
            return
        mine = self.perms.get(u)
        same_rank = want is not None and len(want) == len(u.shape)
        if mine:
            flow.edge((u, "to own"), u, 0 if is_trivial(mine, u.shape) else size_of(u))
            flow.edge(reader if same_rank else "own", (u, "to own"), None)
        if want is None or reader is None:
            return
        shape = (1,) * (len(want) - len(u.shape)) + tuple(u.shape)
        source, price = (u if mine == want else "own"), 0 if is_trivial(want, shape) else size_of(u)
        flow.edge(source, (u, want), price)
        flow.edge((u, want), reader, None)

    def price_transpose(self, flow: _Flow, node: Node, perm: Perm | None) -> None:
        op, u, v = node.op, node.inputs[0], node.out
        assert isinstance(op, Transpose)
        mine, size = self.perms.get(u), size_of(v)
        left: tuple[Perm | None, ...] = (None, mine) if mine else (None,)
        right: tuple[Perm | None, ...] = (None, perm) if perm else (None,)
        c = [[self.transpose_cost(op.perm, u, a, b) * size for b in right] for a in left]
        if not perm and mine:
            flow.unary(u, c[0][0], c[1][0])
        elif perm and (not mine or c[0][0] + c[1][1] > c[0][1] + c[1][0]):
            flow.unary(v, c[0][0], c[0][1])  # (two that disagree are no cut: as if u were held in its own order)
        elif perm:
            flow.unary(u, c[0][0], c[1][0])
            flow.unary(v, c[1][0], c[1][1])
            flow.edge(u, v, c[0][1] + c[1][0] - c[0][0] - c[1][1])

    @staticmethod
    def transpose_cost(perm: Perm, u: Value, held: Perm | None, result: Perm | None) -> int:
        """Whether a Transpose remains between u held in order `held` and its result held in order `result`."""
        total = perm if result is None else tuple(perm[r] for r in result)
        if held is not None:
            back = inverse(held)
            return int(not is_trivial([back[t] for t in total], tuple(u.shape[h] for h in held)))
        return int(not is_trivial(total, u.shape))

    # --- rebuild ------------------------------------------------------------------------------------------------------
    def apply(self) -> Graph:
        chosen = self.choose()
        if not chosen:
            return self.graph
        held: dict[Value, Value] = {}  # old value -> new value, in its own or in its alternative order
        cache: dict[tuple[Value, Perm | None], Value] = {}

        def get(v: Value, want: Perm | None) -> Value:
            """v in order `want` (None: its own)."""
            key = (v, want)
            if key not in cache:
                have = self.perms[v] if v in chosen else None
                rank = len(v.shape)
                now = held.get(v, v)
                if want is not None and len(want) > rank:
                    now = reshape(get(v, None), (1,) * (len(want) - rank) + tuple(v.shape))
                    cache[key] = transpose(now, want)
                else:
                    back = inverse(have) if have else tuple(range(rank))
                    cache[key] = transpose(now, tuple(back[w] for w in (want or range(rank))))
            return cache[key]

        for node in self.graph.nodes:
            if len(node.types) == 1 and node.out in chosen:
                perm = self.perms[node.out]
                if isinstance(node.op, Transpose):
                    held[node.out] = get(node.inputs[0], tuple(node.op.perm[p] for p in perm))
                    continue
                how = self.held[node.out]
                ins = tuple(get(u, w) for u, w in zip(node.inputs, how.ins, strict=True))
                held[node.out] = Node.make(how.op, ins, node.loc).out
                continue
            ins = tuple(get(u, None) for u in node.inputs)
            if ins != node.inputs:
                if isinstance(node.op, Transpose):
                    held[node.out] = transpose(ins[0], node.op.perm)
                    continue
                made = node.with_inputs(ins)
                held.update(zip(node.outputs, made.outputs, strict=True))
        return self.graph.mapped(lambda v: get(v, None))


def keep_dims(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    """Reductions that drop axes as reductions that keep them, then a reshape: axes of size 1 are free to move."""
    if not isinstance(node.op, (Reduce, ArgReduce)) or node.op.keepdims:
        return None
    kept = Node.make(replace(node.op, keepdims=True), inputs, node.loc)
    return Node.make(Reshape(node.types[0].shape), kept.outputs, node.loc).outputs


def size_of(v: Value) -> int:
    return math.prod(map(estimate, v.shape))
