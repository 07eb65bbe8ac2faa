"""x·cos + concat(−x₂, x₁)·sin as one op, as exporters write the rotary position embedding of decoders."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import Graph, Value
from ..ir.ops import Add, Concat, Mul, Neg, Rotary, Slice
from .base import Pass, PassContext, apply, is_float
from .rewrite import P, Rule, X, rewrite


@dataclass(frozen=True)
class FuseRotary(Pass):
    """Also where the factors broadcast; halves that alternate stay as they are."""

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        return rewrite(graph, RULES)


def rotary(x: Value, cos: Value, sin: Value, high: Value, low: Value, turned: Value, root: Value) -> Value | None:
    size, rank = x.shape[-1], len(x.shape)
    if not is_float(x) or x.type != root.type or not isinstance(size, int) or size % 2 or not size:
        return None
    op = turned.node.op
    assert isinstance(op, Concat)
    if op.axis != rank - 1 or turned.shape != x.shape or not (_is_half(high, size // 2, size) and _is_half(low, 0, size)):
        return None
    fits = all(0 < len(t.shape) <= rank and t.shape[-1] == size and t.dtype is x.dtype for t in (cos, sin))
    return apply(Rotary(), x, cos, sin) if fits else None


def _is_half(part: Value, start: int, size: int) -> bool:
    op, whole = part.node.op, part.node.inputs[0].shape
    assert isinstance(op, Slice)
    lead = len(whole) - 1
    return op.starts == (*(0,) * lead, start) and part.shape == (*whole[:-1], size // 2) and set(op.steps) == {1}


_x = X("x")
_turned = P(Concat, P(Neg, P(Slice, _x, name="high")), P(Slice, _x, name="low"), name="turned")
RULES: tuple[Rule, ...] = (Rule(P(Add, P(Mul, _x, X("cos")), P(Mul, _turned, X("sin")), name="root"), rotary),)
