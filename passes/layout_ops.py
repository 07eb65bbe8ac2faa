"""How single ops read when their operands' axes are permuted: the knowledge that layout selection needs.

`permuted(node, perm)`: the same computation with result (or, where ranks differ, first operand) in another axis order.
A perm π of a value v means that v is held as transpose(v, π).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..ir import Dim, Node, Op, Shape, Trait, floordiv
from ..ir.ops import (
    ArgReduce,
    Concat,
    CumSum,
    Expand,
    LayerNorm,
    Pad,
    Reduce,
    Reshape,
    Resize,
    RMSNorm,
    Slice,
    Softmax,
)  # fmt: skip

Perm = tuple[int, ...]


@dataclass(frozen=True)
class Permuted:
    """`op` computes transpose(result, out) from operands permuted by `ins` (None: as they are; ranks are first padded to
    the perm's length with leading axes of size 1)."""

    op: Op
    ins: tuple[Perm | None, ...]
    out: Perm


def permuted(node: Node, perm: Perm) -> Permuted | None:
    """The op with its result held in order `perm`; None when it cannot be."""
    rank = len(node.types[0].shape)
    op = node.op
    if len(node.types) != 1 or len(perm) != rank:
        return None
    if Trait.ELEMENTWISE in op.traits:
        return Permuted(op, (perm,) * len(node.inputs), perm)
    match op:
        case Concat():
            return Permuted(replace(op, axis=perm.index(op.axis)), (perm,) * len(node.inputs), perm)
        case Softmax() | CumSum():
            return Permuted(replace(op, axis=perm.index(op.axis)), (perm, *(None,) * (len(node.inputs) - 1)), perm)
        case Pad():
            return Permuted(replace(op, lo=_pick(op.lo, perm), hi=_pick(op.hi, perm)), (perm, None), perm)
        case Slice():
            new = Slice(_pick(op.starts, perm), _pick(op.sizes, perm), _pick(op.steps, perm))
            return Permuted(new, (perm,), perm)
        case Expand():
            return Permuted(Expand(_pick(op.shape, perm)), (perm,), perm)
        case Resize():
            roi = (*_pick(op.roi[:rank], perm), *_pick(op.roi[rank:], perm)) if op.roi else ()
            return Permuted(replace(op, sizes=_pick(op.sizes, perm), scales=_pick(op.scales, perm), roi=roi), (perm,), perm)
        case LayerNorm() | RMSNorm():
            if perm[op.axis :] != tuple(range(op.axis, rank)):
                return None
            return Permuted(op, (perm, *(None,) * (len(node.inputs) - 1)), perm)
        case Reduce(axes=axes, keepdims=keep) if keep or not axes:
            return Permuted(replace(op, axes=tuple(sorted(perm.index(a) for a in axes))), (perm,), perm)
        case ArgReduce(keepdims=True):
            return Permuted(replace(op, axis=perm.index(op.axis)), (perm,), perm)
        case Reshape():
            x = node.inputs[0].shape
            found = reshape_perm(op.shape, x, perm)
            return None if found is None else Permuted(Reshape(_pick(op.shape, perm)), (found,), perm)
    return None


def forward_perm(node: Node, operand: int, perm: Perm) -> Perm | None:
    """The order of the result that suits operand number `operand` being held in order `perm`; None when there is none."""
    op = node.op
    out_rank = len(node.types[0].shape)
    if len(node.types) != 1:
        return None
    if isinstance(op, Reshape):
        return reshape_perm(node.inputs[0].shape, op.shape, perm)
    return perm if len(perm) == out_rank else None


def reshape_perm(src: Shape, dst: Shape, perm: Perm) -> Perm | None:
    """π′ with reshape(transpose(x, perm)) == transpose(reshape(x), π′) for x of shape `src` reshaped to `dst`, if any."""
    groups = axis_groups(src, dst)
    if groups is None:
        return None
    owner = {a: i for i, (left, _) in enumerate(groups) for a in left}
    walk = [p for p in perm if p in owner]  # axes of size 1 are in no group, and free to move
    out: list[int] = []
    at = 0
    while at < len(walk):
        left, right = groups[owner[walk[at]]]
        if walk[at : at + len(left)] != left:
            return None
        out += right
        at += len(left)
    for a in sorted(set(range(len(dst))) - set(out)):
        out.insert(out.index(a - 1) + 1 if a else 0, a)
    return tuple(out)


def axis_groups(src: Shape, dst: Shape) -> list[tuple[list[int], list[int]]] | None:
    """The finest split of a reshape into runs of axes (of src, of dst) with equal products, without axes of size 1.

    None where symbolic dims hide it, and for empty tensors.
    """
    if 0 in src or 0 in dst:
        return None
    lefts, rights = [a for a, d in enumerate(src) if d != 1], [a for a, d in enumerate(dst) if d != 1]
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(lefts) and j < len(rights):
        left, right = [lefts[i]], [rights[j]]
        i, j = i + 1, j + 1
        a, b = src[left[0]], dst[right[0]]
        while a != b:
            if _divides(a, b) and i < len(lefts):
                left.append(lefts[i])
                a, i = a * src[lefts[i]], i + 1
            elif j < len(rights):
                right.append(rights[j])
                b, j = b * dst[rights[j]], j + 1
            else:
                return None
        groups.append((left, right))
    return groups if i == len(lefts) and j == len(rights) else None


def _divides(a: Dim, b: Dim) -> bool:
    """Whether a is known to divide b properly; for numbers, whether it is smaller (groups need not nest)."""
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    return floordiv(b, a) * a == b


def _pick(items: tuple, perm: Perm) -> tuple:
    return tuple(items[p] for p in perm)
