"""Products multiply what a Concat repeats in many rows only once.

concat(x[…, n, j], expand(g[…, 1, k] → […, n, k]))·w  →  x·w[:j] + g·w[j:]

Features of a whole cloud, image or sequence are repeated like this beside those of each point, pixel or step.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import numpy as np

from ..ir import DType, Graph, Node, Op, Shape, Value, const, prod
from ..ir.ops import Add, Concat, Conv, Expand, MatMul
from .base import Pass, PassContext, apply, const_of, estimate, reshape

_LEAST = 2**18  # multiply-adds saved: a kernel more costs as much as about half of these


@dataclass(frozen=True)
class RepeatedRows(Pass):
    """Runs where constants have folded and transposes are gone: channels are last."""

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        def visit(node: Node, ins: tuple[Value, ...]) -> tuple[Value, ...] | None:
            if node.out.dtype not in (DType.F32, DType.F64) or (w := _matrix(node.op, ins)) is None:
                return None
            joined = ins[0].node
            if not isinstance(joined.op, Concat) or joined.op.axis != len(ins[0].shape) - 1:
                return None
            kept, groups = _split(joined.inputs, w)
            if not groups or (len(kept) > 1 and _read_by_others(graph, node.inputs[0])):
                return None  # nothing to save, or what is kept would be joined once more
            # the product of most rows last: the others are operands of its epilogue
            terms = [_product(node, parts, w) for parts in (*groups, kept) if parts]
            y = reduce(lambda a, b: apply(Add(), a, b, loc=node.loc), terms)
            return (y if y.shape == node.out.shape else apply(Expand(node.out.shape), y, loc=node.loc),)

        return graph.rewrite(visit)


@dataclass(frozen=True)
class _Part:
    """An operand of a Concat, and the rows of the matrix that it meets."""

    x: Value
    start: int
    stop: int


def _read_by_others(graph: Graph, v: Value) -> bool:
    return v in graph.kept or len(graph.uses.get(v, ())) > 1


def _matrix(op: Op, ins: tuple[Value, ...]) -> np.ndarray | None:
    """The constant matrix […, C, O] by which each row of the first operand is multiplied."""
    if len(ins) != 2 or (w := const_of(ins[1])) is None or len(ins[0].shape) < 2:
        return None
    match op:
        case MatMul():
            return w if w.ndim == 2 else None
        case Conv(strides=strides, pads_lo=lo, pads_hi=hi, groups=1):
            return w if all(d == 1 for d in (*strides, *w.shape[:-2])) and not any((*lo, *hi)) else None
    return None


def _split(operands: tuple[Value, ...], w: np.ndarray) -> tuple[list[_Part], list[list[_Part]]]:
    """The operands with rows of their own, and those with repeated ones, each kind of repetition in a list."""
    widths = [v.shape[-1] for v in operands]
    bounds = [0]
    for d in widths:
        if not isinstance(d, int):
            return [], []
        bounds.append(bounds[-1] + d)
    kept: list[_Part] = []
    found: dict[Shape, list[_Part]] = defaultdict(list)
    for v, (start, stop) in zip(operands, pairwise(bounds), strict=True):
        if (few := _unrepeated(v)) is None:
            kept.append(_Part(v, start, stop))
        else:
            found[few.shape[:-1]].append(_Part(few, start, stop))
    rows = estimate(prod(operands[0].shape[:-1]))
    groups: list[list[_Part]] = []
    for shape, parts in found.items():
        channels = sum(p.stop - p.start for p in parts)
        if channels * w.shape[-1] * (rows - estimate(prod(shape))) >= _LEAST:
            groups.append(parts)
        else:
            kept += [_Part(operands[bounds.index(p.start)], p.start, p.stop) for p in parts]
    return sorted(kept, key=lambda p: p.start), groups


def _unrepeated(v: Value) -> Value | None:
    """The operand of an Expand that repeats rows, in as many dims; None for anything else."""
    if not isinstance(v.node.op, Expand):
        return None
    x = v.node.inputs[0]
    few = reshape(x, (1,) * (len(v.shape) - len(x.shape)) + x.shape)
    return few if few.shape[-1] == v.shape[-1] and few.shape[:-1] != v.shape[:-1] else None


def _product(node: Node, parts: list[_Part], w: np.ndarray) -> Value:
    """The same product, of these operands and their rows of the matrix."""
    xs = [p.x for p in parts]
    x = xs[0] if len(xs) == 1 else apply(Concat(len(xs[0].shape) - 1), *xs, loc=node.loc)
    rows = np.concatenate([w[..., p.start : p.stop, :] for p in parts], axis=-2)
    return apply(node.op, x, const(rows, loc=node.inputs[1].node.loc), loc=node.loc)
