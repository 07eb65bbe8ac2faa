"""Products of dequantized float8 operands multiply these as they are, and scale what comes out:

    matmul(f32(x) · s, f32(w) · t)   →   float8matmul(x, w) · (s · t)

Every float8 product is exact in float32, and so are sums as far as products were rounded before. Weights stay float8: it runs before
constants fold. Only products by constants: those of attention are for its own kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import DType, Graph, Node, Value, const
from ..ir.ops import Cast, Conv, Float8Conv, Float8MatMul, MatMul, Mul, Reshape, Transpose
from .base import Pass, PassContext, apply, const_of, reshape, transpose


@dataclass(frozen=True)
class Float8Products(Pass):
    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        if not any(n.inputs and n.inputs[0].dtype is DType.F8E4M3FN for n in graph.nodes):
            return graph
        return graph.rewrite(_visit)


def _visit(node: Node, ins: tuple[Value, ...]) -> Sequence[Value] | None:
    if type(node.op) not in (MatMul, Conv) or len(ins) != 2:
        return None
    x, w = _levels(ins[0]), _levels(ins[1])
    if x is None or w is None or const_of(_origin(w.levels)) is None:
        return None
    if isinstance(node.op, Conv):
        scales = [s.reshape(-1) for s in (x.scale, w.scale)]
        if scales[0].size != 1 or scales[1].size not in (1, w.levels.shape[-1]):
            return None
        product = apply(node.op.of_kind(Float8Conv), x.levels, w.levels, loc=node.loc)
    else:
        if (x.scale.size != 1 and x.scale.shape[-1] != 1) or (w.scale.size != 1 and (w.scale.ndim < 2 or w.scale.shape[-2] != 1)):
            return None
        scales = [s.reshape(()) if s.size == 1 else s for s in (x.scale, w.scale)]
        product = apply(Float8MatMul(), x.levels, w.levels, loc=node.loc)
    y = apply(Mul(), product, const(np.multiply(*scales)), loc=node.loc)
    return [y if y.dtype is node.out.dtype else apply(Cast(node.out.dtype), y, loc=node.loc)]


@dataclass(frozen=True)
class _Levels:
    """f32(levels) · scale."""

    levels: Value
    scale: np.ndarray


def _levels(v: Value) -> _Levels | None:
    """What a float value is made of, seen through moves of whole axes."""
    moves: list[Transpose | Reshape] = []
    while isinstance(v.node.op, (Transpose, Reshape)) or (isinstance(v.node.op, Cast) and v.node.inputs[0].dtype is DType.F32):
        if isinstance(v.node.op, (Transpose, Reshape)):
            moves.append(v.node.op)
        v = v.node.inputs[0]
    if not isinstance(v.node.op, Mul):
        return None
    for widened, factor in (v.node.inputs, v.node.inputs[::-1]):
        scale = const_of(factor)
        inner = widened.node.inputs[0] if isinstance(widened.node.op, Cast) else None
        if scale is not None and inner is not None and inner.dtype is DType.F8E4M3FN and inner.shape == v.shape:
            break
    else:
        return None
    for move in reversed(moves):
        if scale.size != 1:
            if isinstance(move, Reshape) or scale.ndim != inner.type.rank:
                return None
            scale = scale.transpose(move.perm)
        inner = transpose(inner, move.perm) if isinstance(move, Transpose) else reshape(inner, move.shape)
    return _Levels(inner, scale)


def _origin(v: Value) -> Value:
    while isinstance(v.node.op, (Transpose, Reshape)):
        v = v.node.inputs[0]
    return v
