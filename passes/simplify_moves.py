"""Simplification of slices, expands, pads and gathers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import Graph, Node, Trait, Value
from ..ir.ops import Concat, Expand, Gather, Pad, Resize, Slice, Transpose
from .base import apply, const_of, reshape, transpose
from .rewrite import C, P, Rule, X


def drop_expands(graph: Graph) -> Graph:
    """Elementwise ops broadcast by themselves: an Expand in front of one goes, or moves behind it where it matters."""

    def drop(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
        if Trait.ELEMENTWISE not in node.op.traits or not any(isinstance(v.node.op, Expand) for v in inputs):
            return None
        bare = tuple(v.node.inputs[0] if isinstance(v.node.op, Expand) else v for v in inputs)
        made = Node.make(node.op, bare, node.loc)
        if made.types == node.types:
            return made.outputs
        if any(d == 0 for d in node.types[0].shape):
            return None
        return Node.make(Expand(node.types[0].shape), (made.out,), node.loc).outputs

    return graph.rewrite(drop)


def slice_in_place(x: Value, root: Value) -> Value | None:
    """A Slice of everything, or of a Slice."""
    op = root.node.op
    assert isinstance(op, Slice)
    if root.type == x.type and all(s == 1 for s in op.steps) and all(s == 0 for s in op.starts):
        return x
    inner = x.node.op
    if not isinstance(inner, Slice):
        return None
    starts = tuple(a + b * step for a, b, step in zip(inner.starts, op.starts, inner.steps, strict=True))
    steps = tuple(a * b for a, b in zip(inner.steps, op.steps, strict=True))
    return apply(Slice(starts, op.sizes, steps), x.node.inputs[0])


def slice_of_concat(x: Value, root: Value) -> Value | None:
    """A Slice that lies within one operand of a Concat, which may be transposed in between, is a Slice of that operand."""
    op, turn = root.node.op, x.node.op
    assert isinstance(op, Slice)
    perm = turn.perm if isinstance(turn, Transpose) else tuple(range(x.type.rank))
    whole = x.node.inputs[0] if isinstance(turn, Transpose) else x
    joined = whole.node.op
    if not isinstance(joined, Concat):
        return None
    at = perm.index(joined.axis)
    start, size, step = op.starts[at], op.sizes[at], op.steps[at]
    if not (isinstance(start, int) and isinstance(size, int) and isinstance(step, int) and size > 0):
        return None
    first, last = sorted((start, start + (size - 1) * step))
    begin = 0
    for operand in whole.node.inputs:
        length = operand.shape[joined.axis]
        if not isinstance(length, int) or begin > first:
            return None
        if last < begin + length and first >= begin:
            starts = (*op.starts[:at], start - begin, *op.starts[at + 1 :])
            back = [perm.index(i) for i in range(len(perm))]
            of_operand = Slice(tuple(starts[i] for i in back), tuple(op.sizes[i] for i in back), tuple(op.steps[i] for i in back))
            return transpose(apply(of_operand, operand), perm)
        begin += length
    return None


def expand_in_place(x: Value, root: Value) -> Value | None:
    """An Expand that repeats nothing, or of an Expand."""
    if x.shape == root.shape:
        return x
    if x.shape == root.shape[len(root.shape) - len(x.shape) :] and all(d == 1 for d in root.shape[: len(root.shape) - len(x.shape)]):
        return reshape(x, root.shape)
    return apply(Expand(root.shape), x.node.inputs[0]) if isinstance(x.node.op, Expand) else None


def pad_nothing(x: Value, root: Value) -> Value | None:
    op = root.node.op
    assert isinstance(op, Pad)
    return x if all(p == 0 for p in (*op.lo, *op.hi)) else None


def resize_nothing(x: Value, root: Value) -> Value | None:
    op = root.node.op
    assert isinstance(op, Resize)
    same = x.shape == root.shape and all(s in (None, 1.0) for s in op.scales)
    return x if same and op.coord_mode != "tf_crop_and_resize" else None


def gather_is_slice(x: Value, c: Value, root: Value) -> Value | None:
    """Constant indices in arithmetic progression select a Slice."""
    op, idx = root.node.op, const_of(c)
    assert isinstance(op, Gather) and idx is not None
    if idx.size == 0 or idx.ndim > 1 or idx.size > 65536:
        return None
    flat = idx.reshape(-1).astype(np.int64)
    step = int(flat[1] - flat[0]) if flat.size > 1 else 1
    if step == 0 or (np.diff(flat) != step).any() or (flat.min() < 0 <= flat.max()):
        return None
    dim = x.shape[op.axis]
    first = int(flat[0]) if flat[0] >= 0 else dim + int(flat[0])
    if isinstance(dim, int) and isinstance(first, int) and not (0 <= first < dim and 0 <= first + step * (flat.size - 1) < dim):
        return None  # out of range: left to the run-time check
    if not isinstance(dim, int) and flat[0] >= 0 and flat.size > 1:
        return None
    rank = len(x.shape)
    starts = tuple(first if i == op.axis else 0 for i in range(rank))
    sizes = tuple(int(flat.size) if i == op.axis else d for i, d in enumerate(x.shape))
    steps = tuple(step if i == op.axis else 1 for i in range(rank))
    return reshape(apply(Slice(starts, sizes, steps), x), root.shape)


_x = X("x")
MOVE_RULES: tuple[Rule, ...] = (
    Rule(P(Slice, _x, name="root"), slice_in_place),
    Rule(P(Slice, _x, name="root"), slice_of_concat),
    Rule(P(Expand, _x, name="root"), expand_in_place),
    Rule(P(Pad, _x, X(""), name="root"), pad_nothing),
    Rule(P(Resize, _x, name="root"), resize_nothing),
    Rule(P(Gather, _x, C("c"), name="root"), gather_is_slice),
)
