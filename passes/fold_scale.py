"""Constant factors after (or before) convolutions and matrix products move into the weights; constant sums merge.

Batch norm, which the importer writes as · scale + shift, so vanishes into the convolution in front of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..ir import Graph, Value, const
from ..ir.ops import Add, Conv, ConvTranspose, Div, MatMul, Mul, Reshape, Transpose
from .base import Pass, PassContext, apply, const_of, is_float
from .rewrite import C, P, Rule, X, rewrite


@dataclass(frozen=True)
class FoldScale(Pass):
    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        return rewrite(graph, RULES)


_x, _w, _a, _b, _c = X("x"), C("w"), C("a"), C("b"), C("c")
_PRODUCTS = (Conv, ConvTranspose, MatMul)


def _data(v: Value) -> np.ndarray:
    data = const_of(v)
    assert data is not None
    return data


def _per_channel(c: Value, channels: object) -> np.ndarray | None:
    """c as one number per channel of the last axis (or a single one), if it is that."""
    data = _data(c)
    if not is_float(c) or (data.size != 1 and (data.size != channels or data.shape[-1] != channels)):
        return None
    return data.reshape(-1)


def scale_after(product: Value, w: Value, c: Value, root: Value) -> Value | None:
    """(x ∗ w) · c → x ∗ (w · c), and so for division."""
    factor = _per_channel(c, product.shape[-1])
    if factor is None or root.type != product.type:
        return None
    if isinstance(root.node.op, Div):
        if (factor == 0).any():
            return None
        factor = 1 / factor
    op = product.node.op
    if isinstance(op, ConvTranspose):  # w[*K, O/groups, C]
        if factor.size > 1 and op.groups != 1:
            return None
        factor = factor[:, None]
    return _reweighed(product, product.node.inputs[0], w, factor)


def scale_before(product: Value, x: Value, w: Value, c: Value) -> Value | None:
    """(x · c) ∗ w → x ∗ (c · w): zero padding stays zero."""
    op = product.node.op
    factor = _per_channel(c, x.shape[-1])
    if factor is None or product.node.inputs[0].type != x.type:
        return None
    if isinstance(op, Conv) and factor.size > 1 and op.groups != 1:
        return None
    return _reweighed(product, x, w, factor if isinstance(op, ConvTranspose) else factor[:, None])


def _reweighed(product: Value, x: Value, w: Value, factor: np.ndarray) -> Value | None:
    """The product of x with weights times a factor; None where that has another shape, or they overflow."""
    with np.errstate(all="ignore"):
        data = (_data(w) * factor).astype(w.dtype.np, copy=False)
        # a sum shows whether all are finite without an array of answers, unless it overflows itself
        sound = data.shape == w.shape and bool(np.isfinite(data.sum()) or np.isfinite(data).all())
    return apply(product.node.op, x, const(data, loc=w.node.loc), loc=product.node.loc) if sound else None


def scale_of_sum(x: Value, b: Value, c: Value, root: Value) -> Value | None:
    """(x + b) · c → x · c + b · c, where x · c then folds further."""
    if not is_float(x) or x.type != root.type:
        return None
    takes_factors = isinstance(x.node.op, (*_PRODUCTS, Mul)) and any(const_of(v) is not None for v in x.node.inputs)
    if not takes_factors or _per_channel(c, x.shape[-1]) is None:
        return None
    both = _combine(np.multiply if isinstance(root.node.op, Mul) else np.divide, b, c)
    return None if both is None else apply(Add(), apply(root.node.op, x, c), both)


def sum_of_sums(x: Value, a: Value, b: Value, root: Value) -> Value | None:
    """(x + a) + b → x + (a + b)."""
    both = _combine(np.add, a, b)
    return None if both is None else apply(Add(), x, both)


def product_of_products(x: Value, a: Value, b: Value, root: Value) -> Value | None:
    """(x · a) · b → x · (a · b), floats only (integers may wrap)."""
    both = _combine(np.multiply, a, b) if is_float(x) else None
    return None if both is None else apply(Mul(), x, both)


def scale_through_move(x: Value, moved: Value, c: Value, root: Value) -> Value | None:
    """move(x) · s → move(x · s) for one number s, where weights that can take it are further up."""
    if root.type != moved.type or _data(c).size != 1 or not is_float(x):
        return None
    v = x
    while not isinstance(v.node.op, _PRODUCTS):
        if not isinstance(v.node.op, (Reshape, Transpose, Add)) or (len(v.node.inputs) == 2 and const_of(v.node.inputs[1]) is None):
            return None
        v = v.node.inputs[0]
    if const_of(v.node.inputs[1]) is None:
        return None
    return apply(moved.node.op, apply(Mul(), x, const(_data(c).reshape(()))))


def _combine(fn: Callable[..., np.ndarray], a: Value, b: Value) -> Value | None:
    """fn(a, b) as a constant, if it is finite and no larger than the larger of the two."""
    p, q = _data(a), _data(b)
    if np.broadcast_shapes(p.shape, q.shape) not in (p.shape, q.shape) and p.size > 1 < q.size:
        return None
    with np.errstate(all="ignore"):
        both = fn(p, q).astype(p.dtype)
    if a.dtype.is_float and not np.isfinite(both).all():
        return None
    return const(both)


_products = P(_PRODUCTS, X(""), _w, name="product")
RULES: tuple[Rule, ...] = (
    *(Rule(P(cls, _products, _c, name="root"), scale_after) for cls in (Mul, Div)),
    Rule(P(_PRODUCTS, P(Mul, _x, _c), _w, name="product"), scale_before),
    *(Rule(P(cls, P(Add, _x, _b), _c, name="root"), scale_of_sum) for cls in (Mul, Div)),
    Rule(P(Mul, P((Reshape, Transpose), _x, name="moved"), _c, name="root"), scale_through_move),
    Rule(P(Add, P(Add, _x, _a), _b, name="root"), sum_of_sums),
    Rule(P(Mul, P(Mul, _x, _a), _b, name="root"), product_of_products),
)
