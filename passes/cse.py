"""Common subexpression elimination: one node for equal pure ops of equal operands, one constant for equal bytes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import Const, Graph, Input, Node, Trait, Value
from .base import Pass, PassContext


@dataclass(frozen=True)
class Cse(Pass):
    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        seen: dict[Hashable, Node] = {}
        consts: dict[Hashable, list[Node]] = {}

        def share(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
            if isinstance(node.op, Input) or Trait.PURE not in node.op.traits:
                return None
            if isinstance(node.op, Const):
                # hashing all weights would cost more than the pass: compare bytes only where a sample agrees
                bucket = consts.setdefault(_sample(node.op.data), [])
                for other in bucket:
                    if _same(other.op, node.op):
                        return other.outputs
                bucket.append(node)
                return None
            commutes = Trait.COMMUTATIVE in node.op.traits and len(inputs) == 2 and inputs[0] != inputs[1]
            key = (node.op, frozenset(inputs) if commutes else inputs)
            other_node = seen.get(key)
            if other_node is not None:
                return other_node.outputs
            kept = node if inputs == node.inputs else node.with_inputs(inputs)
            seen[key] = kept
            return None if kept is node else kept.outputs

        return graph.rewrite(share)


def _sample(data: np.ndarray) -> Hashable:
    flat = data.reshape(-1) if data.flags.c_contiguous else data.flat
    step = max(1, data.size // 8)
    if data.dtype.kind == "O":
        return data.dtype.str, data.shape, repr([flat[i] for i in range(0, data.size, step)])
    return data.dtype.name, data.shape, b"".join(flat[i].tobytes() for i in range(0, data.size, step))


def _same(a: object, b: object) -> bool:
    if not isinstance(a, Const) or not isinstance(b, Const):
        return False
    if a.data is b.data:
        return True
    if a.data.dtype.kind == "O":
        return a.data.tolist() == b.data.tolist()
    return np.ascontiguousarray(a.data).tobytes() == np.ascontiguousarray(b.data).tobytes()
