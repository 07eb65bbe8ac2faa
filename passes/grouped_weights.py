"""Constant weights in few bits stay so: products of floats with dequantized weights read the levels and expand them in registers.

    matmul(x, dequantize(q, scales, zeros))  →  groupedmatmul(x, levels, scales, zeros)

Products in half precision become float32 ones between casts: sums are float32 in either.

Both run before constants fold, or the weights would become floats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import DType, Graph, Node, Trait, Value, const
from ..ir.ops import Cast, Dequantize, GroupedMatMul, MatMul, Mul, Transpose
from .base import Pass, PassContext, apply, const_of

_OFFSET = {DType.U4: 0, DType.I4: 8, DType.U8: 0, DType.I8: 128}  # added to levels, so that they are not negative
_FLOATS = (DType.F32, DType.F16, DType.BF16)
_LEAST = 4096  # weights; fewer are as well off as floats
_LEAST_GROUP = 8
_DEEPEST = 8  # operations that spread scales over their blocks


@dataclass(frozen=True)
class NameDequantizers(Pass):
    """f32(q)·scale of constant integers, as some exporters write it, is a dequantizer."""

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        return graph.rewrite(_named)


@dataclass(frozen=True)
class GroupedWeights(Pass):
    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        if not any(isinstance(n.op, Dequantize) for n in graph.nodes):
            return graph
        return graph.rewrite(_grouped)


def _named(node: Node, ins: tuple[Value, ...]) -> Sequence[Value] | None:
    if not isinstance(node.op, Mul) or node.out.dtype is not DType.F32:
        return None
    for cast, scale in (ins, ins[::-1]):
        if not isinstance(cast.node.op, Cast) or const_of(scale) is None:
            continue
        (q,) = cast.node.inputs
        if q.dtype in _OFFSET and const_of(q) is not None and q.shape == node.out.shape and int(q.type.numel) >= _LEAST:
            return Node.make(Dequantize(), (q, scale), node.loc).outputs
    return None


def _grouped(node: Node, ins: tuple[Value, ...]) -> Sequence[Value] | None:
    if not isinstance(node.op, MatMul) or len(ins) != 2 or node.out.dtype not in _FLOATS or _fine(ins[0]):
        return None
    found = _weights(ins[1])
    if found is None:
        return None
    levels, scales, zeros, bits = found
    k = len(levels)
    group = math.gcd(_run(scales), _run(zeros)) or k
    if group < _LEAST_GROUP:
        return None
    tables = (np.ascontiguousarray(np.broadcast_to(t, levels.shape)[::group]).astype(np.float32) for t in (scales, zeros))
    weights = (const(np.ascontiguousarray(levels)), *(const(t) for t in tables))
    wanted = node.out.dtype
    x = ins[0] if wanted is DType.F32 else apply(Cast(DType.F32), ins[0], loc=node.loc)
    y = apply(GroupedMatMul(bits, group), x, *weights, loc=node.loc)
    return [y if wanted is DType.F32 else apply(Cast(wanted), y, loc=node.loc)]


def _fine(v: Value) -> bool:
    """Whether numbers are levels of 16 bits, as products of them become again: what a grouped product of many rows loses on tiles,
    4·10⁻⁶ of the norm, would be one level in thirty turned over, ten times as many as by the sums of floats."""
    while v.node.op.traits & {Trait.MOVE, Trait.VIEW} and v.node.inputs:
        v = v.node.inputs[0]
    return isinstance(v.node.op, Dequantize) and v.node.inputs[0].dtype in (DType.U16, DType.I16)


def _weights(v: Value) -> tuple[np.ndarray, np.ndarray, np.ndarray, int] | None:
    """Levels u8 [K, N], scales and zeros that broadcast to them, and the bits of a level."""
    turned = False
    while (isinstance(v.node.op, Transpose) and v.node.op.perm == (1, 0)) or _narrows(v):
        turned ^= isinstance(v.node.op, Transpose)
        (v,) = v.node.inputs
    if not isinstance(v.node.op, Dequantize):
        return None
    q, scale, *rest = v.node.inputs
    data = const_of(q)
    if data is None or data.ndim != 2 or data.size < _LEAST or q.dtype not in _OFFSET:
        return None
    sides = [side for s in (scale, *rest) if (side := _evaluated(s)) is not None]
    if len(sides) < 1 + len(rest):
        return None
    offset = _OFFSET[q.dtype]
    levels = (data.astype(np.int16) + offset).astype(np.uint8)
    scales = np.atleast_2d(sides[0])
    zeros = np.atleast_2d(np.asarray(sides[1] if rest else 0, np.float32)) + np.float32(offset)
    if turned:
        levels, scales, zeros = levels.T, scales.T, zeros.T
    return levels, scales, zeros, 4 if q.dtype in (DType.U4, DType.I4) else 8


def _narrows(v: Value) -> bool:
    """Rounding of dequantized weights to half precision."""
    return isinstance(v.node.op, Cast) and v.dtype in _FLOATS and v.node.inputs[0].dtype is DType.F32


def _evaluated(v: Value, depth: int = _DEEPEST) -> np.ndarray | None:
    """A constant, or what moves and casts make of one: scales are repeated over their blocks."""
    data = const_of(v)
    if data is not None:
        return data.astype(np.float32)
    node = v.node
    if depth == 0 or not (isinstance(node.op, Cast) or node.op.traits & {Trait.MOVE, Trait.VIEW}):
        return None
    ins = [data for u in node.inputs if (data := _evaluated(u, depth - 1)) is not None]
    if not ins or len(ins) < len(node.inputs) or not node.out.type.static:
        return None
    return node.op.reference(*ins)[0]


def _run(table: np.ndarray) -> int:
    """The greatest length of equal blocks of rows; 0 where all rows are one."""
    if len(table) == 1:
        return 0
    changes = np.flatnonzero((table[1:] != table[:-1]).any(axis=1)) + 1
    return int(np.gcd.reduce(changes)) if changes.size else 0
