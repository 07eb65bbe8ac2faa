"""softmax(q·kᵀ · scale + mask)·v as one Attention op, so that lowering may keep the scores in cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..ir import Graph, Value
from ..ir.ops import Add, Attention, Div, IsNaN, MatMul, Mul, Softmax, Transpose, Where
from .base import Pass, PassContext, apply, const_of, is_float, reshape, scalar_of, transpose
from .rewrite import Num, P, Pattern, Rule, X, rewrite


@dataclass(frozen=True)
class FuseAttention(Pass):
    """The option `fuse_attention=False` turns it off."""

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        return rewrite(graph, RULES) if ctx.options.get("fuse_attention", True) else graph


def attention(q: Value, kt: Value, v: Value, p: Value, scaled: Value, product: Value, root: Value,
              mask: Value | None = None) -> Value | None:  # fmt: skip
    """Operands of rank 4, or of rank 3 (heads in the batch), with nothing but equal leading dims."""
    rank = len(root.shape)
    op = p.node.op
    if not isinstance(op, Softmax) or op.log or op.axis != rank - 1 or rank not in (3, 4) or not is_float(root):
        return None
    if any(len(t.shape) != rank for t in (q, kt, v)) or not q.shape[:-2] == kt.shape[:-2] == v.shape[:-2]:
        return None
    scale = 1.0
    if scaled != product:
        factors = [s for t in scaled.node.inputs if (s := scalar_of(t)) is not None]
        if len(factors) != 1:
            return None
        scale = 1 / factors[0] if isinstance(scaled.node.op, Div) else factors[0]
        if scaled.type != product.type:
            return None
    (q, sq), (kt, sk) = _unscaled(q), _unscaled(kt)
    scale *= sq * sk
    if not np.isfinite(scale):
        return None
    k = transpose(kt, (*range(rank - 2), rank - 1, rank - 2))
    causal = mask is not None and _is_causal(mask, product)
    extra = [mask] if mask is not None and not causal else []
    if any(len(m.shape) > rank for m in extra):
        return None
    if rank == 3:
        q, k, v = (reshape(t, (1, *t.shape)) for t in (q, k, v))
        extra = [reshape(m, (1, *m.shape)) if len(m.shape) == 3 else m for m in extra]
    return reshape(apply(Attention(scale, causal), q, k, v, *extra), root.shape)


def _unscaled(v: Value) -> tuple[Value, float]:
    """v = value · factor."""
    op = v.node.op
    if isinstance(op, Transpose) and isinstance(v.node.inputs[0].node.op, (Mul, Div)):
        x, factor = _unscaled(v.node.inputs[0])
        return (v, 1.0) if x == v.node.inputs[0] else (transpose(x, op.perm), factor)
    if isinstance(op, (Mul, Div)):
        for x, c in (v.node.inputs, v.node.inputs[::-1]):
            number = scalar_of(c)
            if number is not None and x.type == v.type:
                if isinstance(op, Mul):
                    return x, number
                if c is v.node.inputs[1] and number != 0:
                    return x, 1 / number
    return v, 1.0


def _is_causal(mask: Value, scores: Value) -> bool:
    """A constant mask of zeros on and below the diagonal and (nearly) −∞ above, for square scores."""
    data = const_of(mask)
    rows, cols = scores.shape[-2:]
    if data is None or rows != cols or data.shape[-2:] != (rows, cols) or data.size != rows * cols:
        return False
    seen = data.reshape(rows, cols).astype(np.float64)
    return bool((np.triu(seen, 1)[np.triu_indices(rows, 1)] <= -1e9).all() and (seen[np.tril_indices(rows)] == 0).all())


def _scores() -> Iterator[Pattern]:
    product = P(MatMul, X("q"), X("kt"), name="product")
    for scaled in (P(Mul, product, X("", lambda v: scalar_of(v) is not None), name="scaled"),
                   P(Div, product, X("", lambda v: scalar_of(v) is not None), name="scaled"), product):  # fmt: skip
        yield P(Add, scaled, X("mask"), where=is_float)
        yield scaled


def _body(fn):  # type: ignore[no-untyped-def]
    def attention(**captures: Value) -> Value | None:
        captures.setdefault("scaled", captures["product"])
        if "mask" in captures and not _same_scores(captures):
            return None
        return fn(**captures)

    return attention


def _same_scores(captures: dict[str, Value]) -> bool:
    return captures["p"].type == captures["product"].type


_rules: list[Rule] = []
for _pattern in _scores():
    _p = P(Softmax, _pattern, name="p")
    # torch writes where(isnan(p), 0, p) against rows that see nothing; Attention gives zeros there
    for _weights in (P(Where, P(IsNaN, _p), Num(0), _p), _p):
        _rules.append(Rule(P(MatMul, _weights, X("v"), name="root"), _body(attention)))
RULES: tuple[Rule, ...] = tuple(_rules)
