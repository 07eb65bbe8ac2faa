"""What products round to 16 bits is rounded once, where it is computed, for all of its readers.

    y = conv(…);  dotconv(cast<bf16>(y), …);  add(y, …)   →   z = cast<bf16>(y);  dotconv(z, …);  add(cast<f32>(z), …)

A layer's result is then stored in 16 bits alone: residual sums, pools and depthwise convolutions between layers read half the bytes,
and no kernel only converts. Of two products that are summed and rounded then, the first is stored too, and so is rounded as any
other residual is. Sums, norms and softmax still compute in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import Const, DType, Elementwise, Graph, Input, Node, Value
from ..ir.ops import Cast, Concat, Conv, DotConv, DotMatMul, Pool, Reduce, Reshape, Slice, Transpose
from .base import Pass, PassContext, apply

_MOVES = (Concat, Transpose, Reshape, Slice)
_READERS = (Elementwise, Pool, Reduce, *_MOVES)  # whose results are no more sensitive than the product's
_ROUNDS = 8  # moves behind one another that a rounding goes past


@dataclass(frozen=True)
class SharedRounding(Pass):
    """`dtype`: the 16-bit type that products take."""

    dtype: DType = DType.BF16

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        if not any(self._rounds(n) for n in graph.nodes):
            return graph
        for _ in range(_ROUNDS):
            new = self._hoisted(graph)
            if new is graph:
                break
            graph = new
        return self._shared(graph, self._summands(graph))

    def _rounds(self, node: Node) -> bool:
        return isinstance(node.op, Cast) and node.op.dtype is self.dtype and node.inputs[0].dtype is DType.F32

    def _wanted(self, graph: Graph, v: Value) -> bool:
        """Whether somebody rounds v, and everybody may read it rounded."""
        users = graph.uses.get(v, ())
        return (
            v not in graph.kept
            and v.dtype is DType.F32
            and any(self._rounds(n) or self._between(graph, n, v) for n in users)
            and all(self._rounds(n) or isinstance(n.op, _READERS) or self._between(graph, n, v) for n in users)
        )

    def _between(self, graph: Graph, node: Node, v: Value) -> bool:
        """Whether the node is a depthwise convolution of v whose result is rounded, maybe behind elementwise operations: bytes
        are what takes its time."""
        if type(node.op) is not Conv or node.op.groups == 1 or node.inputs[1].shape[-2] != 1 or node.inputs[0] != v:
            return False
        out = node.out
        for _ in range(_ROUNDS):
            users = graph.uses.get(out, ())
            if out not in graph.kept and any(self._rounds(n) for n in users):
                return True
            if not self._alone(graph, out) or not isinstance(users[0].op, Elementwise):
                return False
            out = users[0].out
        return False

    def _hoisted(self, graph: Graph) -> Graph:
        """Moves and maxima of what is rounded next: of the rounded operands. Rounding keeps order."""

        def before(v: Value) -> bool:
            op = v.node.op
            moves = isinstance(op, _MOVES) or (isinstance(op, Pool) and op.kind == "max")
            return moves and self._wanted(graph, v) and all(self._free(graph, u) for u in v.node.inputs)

        def visit(node: Node, ins: tuple[Value, ...]) -> tuple[Value, ...] | None:
            if len(node.types) != 1 or not before(node.out):
                return None
            rounded = apply(node.op, *(apply(Cast(self.dtype), v, loc=node.loc) for v in ins), loc=node.loc)
            return (apply(Cast(DType.F32), rounded, loc=node.loc),)

        return graph.rewrite(visit)

    def _free(self, graph: Graph, v: Value) -> bool:
        readers = graph.uses.get(v, ())
        return v not in graph.kept and not isinstance(v.node.op, Input) and all(isinstance(n.op, _READERS) for n in readers)

    def _summands(self, graph: Graph) -> set[Value]:
        """Products, and what is pointwise behind them, that one of later products is combined with."""
        position = {node: x for x, node in enumerate(graph.nodes)}
        behind: dict[Value, Node] = {}  # value -> the product whose kernel computes it
        found: set[Value] = set()
        for node in graph.nodes:
            if isinstance(node.op, (DotConv, DotMatMul)):
                behind[node.out] = node
            if not isinstance(node.op, Elementwise):
                continue
            products = {v: behind[v] for v in node.inputs if v in behind}
            if not products:
                continue
            last = max(products.values(), key=position.__getitem__)
            behind[node.out] = last
            if self._rounded_later(graph, node.out):
                found.update(v for v, p in products.items() if p is not last and self._alone(graph, v) and v.shape == node.out.shape)
        return found

    def _rounded_later(self, graph: Graph, v: Value) -> bool:
        """Whether v, or what alone is made of it element by element, is rounded."""
        for _ in range(_ROUNDS):
            if self._wanted(graph, v):
                return True
            readers = graph.uses.get(v, ())
            if not self._alone(graph, v) or not isinstance(readers[0].op, Elementwise):
                return False
            v = readers[0].out
        return False

    def _alone(self, graph: Graph, v: Value) -> bool:
        return v not in graph.kept and v.dtype is DType.F32 and len(graph.uses.get(v, ())) == 1

    def _shared(self, graph: Graph, summands: set[Value]) -> Graph:
        def visit(node: Node, ins: tuple[Value, ...]) -> tuple[Value, ...] | None:
            if len(node.types) != 1 or isinstance(node.op, (Const, Input)):
                return None
            shared = self._wanted(graph, node.out) and not all(self._rounds(n) for n in graph.uses[node.out])
            if not shared and node.out not in summands:
                return None
            result = node.out if ins == node.inputs else node.with_inputs(ins).out
            return (apply(Cast(DType.F32), apply(Cast(self.dtype), result, loc=node.loc), loc=node.loc),)

        return graph.rewrite(visit)
