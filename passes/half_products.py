"""Products of 16-bit floats as models have them, on machines without instructions that multiply such numbers and round as they say.

Sums are float32 in any case, and results are rounded to 16 bits as they were. What is multiplied is the same numbers:

    bfloat16, where there are dot products of it    →  dotmatmul, dotconv: a product of two is exact in float32
    float16, weights known, rows many or not known  →  groupedmatmul of 16 bits: half the bytes for few rows, three products of
                                                       bfloat16 on AMX tiles for many
    either, weights known, rows not few             →  float32: weights converted at compile time, activations where they are made
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..ir import DType, Graph, Node, Value, const, evaluate, prod, symbols_of
from ..ir.ops import Attention, Cast, Conv, DotConv, DotMatMul, GroupedMatMul, MatMul
from .base import Pass, PassContext, apply, const_of, reshape

_FEW_ROWS = 4  # or that may be so few: they read weights for so little work that half of the bytes are worth converting them each time
_MANY_ROWS = 12  # from which on AMX tiles pay
_LEAST = 4096  # weights; fewer are as well off in float32
_HALVES = (DType.F16, DType.BF16)


@dataclass(frozen=True)
class HalfProducts(Pass):
    """dots: there are dot products of bfloat16. split: three of them, on tiles, take less time than one of float32."""

    dots: bool = False
    split: bool = False

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        def visit(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
            if node.out.dtype not in _HALVES:
                return None
            match node.op:
                case Attention():
                    return self._attention(node, node.op, inputs)
                case MatMul() | Conv() as op if type(op) in (MatMul, Conv):
                    y = self._product(node, op, inputs)
                    return None if y is None else (apply(Cast(node.out.dtype), y, loc=node.loc),)
            return None

        return graph.rewrite(visit)

    def _product(self, node: Node, op: MatMul | Conv, inputs: tuple[Value, ...]) -> Value | None:
        """The float32 result of a product, or None where it stays as it is."""
        x, w = inputs
        if self.dots and node.out.dtype is DType.BF16 and not _is_depthwise(node):
            return apply(_dot(op), x, w, loc=node.loc)
        weights, rows = const_of(w), node.out.shape[:-1]
        if weights is None:
            return None
        fewest = evaluate(prod(rows), dict.fromkeys(symbols_of(rows), 1))
        few = isinstance(op, MatMul) and fewest <= _FEW_ROWS
        grouped = (self.split and fewest >= _MANY_ROWS) or (few and symbols_of(rows))
        if grouped and node.out.dtype is DType.F16 and _is_matrix(op, weights) and _readable(weights):
            return _levels(node, x, weights.reshape(weights.shape[-2:]))
        if few:
            return None
        return _wide(node, inputs)

    def _attention(self, node: Node, op: Attention, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        """The float32 kernel, whose scores stay in cache; few queries read keys and values as they are."""
        rows = node.out.shape[2]
        if isinstance(rows, int) and rows <= _FEW_ROWS:
            return None
        heads = (apply(Cast(DType.F32), v, loc=node.loc) for v in inputs)  # and the mask, if there is one
        exact = replace(op, rounded=op.rounded or (self.dots and node.out.dtype is DType.BF16))
        return (apply(Cast(node.out.dtype), apply(exact, *heads, loc=node.loc), loc=node.loc),)


@dataclass(frozen=True)
class WideLayers(Pass):
    """Products of 16-bit floats are of float32, between casts: layers whose precision can be chosen."""

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        def visit(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
            if type(node.op) not in (MatMul, Conv) or node.out.dtype not in _HALVES:
                return None
            return (apply(Cast(node.out.dtype), _wide(node, inputs), loc=node.loc),)

        return graph.rewrite(visit)


@dataclass(frozen=True)
class HalfLayers(Pass):
    """What `WideLayers` made and nobody lowered is of 16 bits again, as the model has it."""

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        def visit(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
            product = inputs[0].node if isinstance(node.op, Cast) and node.out.dtype in _HALVES else None
            if product is None or type(product.op) not in (MatMul, Conv):
                return None
            halves = [_half(v, node.out.dtype) for v in product.inputs]
            return None if None in halves else (apply(product.op, *(v for v in halves if v is not None), loc=product.loc),)

        return graph.rewrite(visit)


def _half(v: Value, dtype: DType) -> Value | None:
    """The 16-bit numbers that a float32 value is made of, if it is."""
    data = const_of(v)
    if data is None:
        return v.node.inputs[0] if isinstance(v.node.op, Cast) and v.node.inputs[0].dtype is dtype else None
    with np.errstate(over="ignore"):
        half = data.astype(dtype.np)
    return const(half, loc=v.node.loc) if np.array_equal(half.astype(np.float32), data) else None


def _wide(node: Node, inputs: tuple[Value, ...]) -> Value:
    """The product of the same numbers in float32, what is constant converted now."""

    def wide(v: Value) -> Value:
        data = const_of(v)
        return apply(Cast(DType.F32), v, loc=node.loc) if data is None else const(data.astype(np.float32), loc=v.node.loc)

    return apply(node.op, *map(wide, inputs), loc=node.loc)


def _dot(op: MatMul | Conv) -> DotMatMul | DotConv:
    return op.of_kind(DotConv) if isinstance(op, Conv) else DotMatMul()


def _is_depthwise(node: Node) -> bool:
    """Dot products would add up one number only."""
    return isinstance(node.op, Conv) and node.op.groups > 1 and node.inputs[1].shape[-2] == 1


def _is_matrix(op: MatMul | Conv, weights: np.ndarray) -> bool:
    """Whether rows of x, pixels of an image too, are multiplied by one matrix."""
    if isinstance(op, Conv) and (op.groups > 1 or any((*op.pads_lo, *op.pads_hi)) or any(s > 1 for s in op.strides)):
        return False
    return prod(weights.shape[:-2]) == 1


def _readable(weights: np.ndarray) -> bool:
    """Whether they are worth their own packing, of numbers that two bfloat16 can make."""
    return weights.size >= _LEAST and bool(np.isfinite(weights).all())


def _levels(node: Node, x: Value, weights: np.ndarray) -> Value:
    """x·w, the weights read as they are: one group, scaled by 1."""
    k, n = weights.shape
    sides = (const(np.full((1, n), v, np.float32)) for v in (1, 0))
    halves = const(np.ascontiguousarray(weights), loc=node.inputs[1].node.loc)
    y = apply(GroupedMatMul(16, k), apply(Cast(DType.F32), x, loc=node.loc), halves, *sides, loc=node.loc)
    return reshape(y, node.out.shape)  # the weights may have had axes of size 1 in front
