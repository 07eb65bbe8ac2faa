"""softmax(q·kᵀ · scale + mask)·v as one Attention op, so that lowering may keep the scores in cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..ir import Dim, Graph, Value, lower
from ..ir.dims import Atom, factor_of
from ..ir.ops import Add, Attention, Div, Expand, IsNaN, MatMul, Mul, Reshape, Softmax, Transpose, Where
from .base import Pass, PassContext, apply, const_of, is_float, like, reshape, scalar_of, transpose
from .rewrite import Num, P, Pattern, Rule, X, rewrite
from .triangle import halves

_LOW = -1e4  # exp of this less a maximum is 0, for scores that are not as large themselves
_SWALLOWS = -1e9  # a score added to this leaves it as it is, nearly


@dataclass(frozen=True)
class FuseAttention(Pass):
    """The option `fuse_attention=False` turns it off."""

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        return rewrite(graph, RULES)


def attention(q: Value, kt: Value, v: Value, p: Value, scaled: Value, product: Value, root: Value,
              mask: Value | None = None) -> Value | None:  # fmt: skip
    """Operands of rank 4, or of rank 3 (heads in the batch), with nothing but equal leading dims."""
    rank = len(root.shape)
    op = p.node.op
    if not isinstance(op, Softmax) or op.log or op.axis != rank - 1 or rank not in (3, 4) or not is_float(root):
        return None
    if any(len(t.shape) != rank for t in (q, kt, v)) or not q.shape[:-2] == kt.shape[:-2] == v.shape[:-2]:
        return None
    (unscaled, scale), (q, sq), (kt, sk) = _unscaled(scaled), _unscaled(q), _unscaled(kt)
    scale *= sq * sk
    if unscaled != product or not np.isfinite(scale):
        return None
    k = _turned(kt)
    causal = mask is not None and _is_causal(mask, product)
    extra = [mask] if mask is not None and not causal else []
    if any(len(m.shape) > rank for m in extra):
        return None
    if rank == 4:
        shared = _ungrouped(_turned(_ungrouped(kt))), _ungrouped(v)
        k, v = shared if shared[0].shape[1] == shared[1].shape[1] else (k, v)
    if rank == 3:
        q, k, v = (reshape(t, (1, *t.shape)) for t in (q, k, v))
        extra = [reshape(m, (1, *m.shape)) if len(m.shape) == 3 else m for m in extra]
    return reshape(apply(Attention(scale, causal), q, k, v, *extra), root.shape)


def _turned(v: Value) -> Value:
    """v with its last two axes exchanged; two such turns cancel, also when reshapes of the leading axes stand between."""
    inner = _same_matrices(v)
    rank = len(inner.shape)
    if isinstance(inner.node.op, Transpose) and inner.node.op.perm == (*range(rank - 2), rank - 1, rank - 2):
        return reshape(_same_matrices(inner.node.inputs[0]), (*v.shape[:-2], v.shape[-1], v.shape[-2]))
    rank = len(v.shape)
    return transpose(v, (*range(rank - 2), rank - 1, rank - 2))


def _same_matrices(v: Value) -> Value:
    """What is behind reshapes that keep the last two axes."""
    while isinstance(v.node.op, Reshape) and len(v.node.inputs[0].shape) >= 2 and v.node.inputs[0].shape[-2:] == v.shape[-2:]:
        v = v.node.inputs[0]
    return v


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
    """A mask of zeros on and below the diagonal and (nearly) −∞ above, for square scores."""
    rows, cols = scores.shape[-2:]
    if rows != cols or not all(_covers(d, rows) for d in mask.shape[-2:]) or any(d != 1 for d in mask.shape[:-2]):
        return False
    found = halves(mask)
    return found is not None and bool(found[0] == 0 and found[1] <= _SWALLOWS)


def _covers(dim: Dim, size: Dim) -> bool:
    """Whether an axis of a mask is as long as scores are: equal, or cut to what a table has, from which scores must not differ."""
    if dim == size:
        return True
    match factor_of(dim):
        case Atom("min", (a, b)):
            return size in (a, b) and lower(b if a == size else a) >= 2
    return False


def _ungrouped(v: Value) -> Value:
    """[B, H/G, L, D] of a value of [B, H, L, D] in which groups of G heads are copies, as exporters repeat shared keys."""
    op = v.node.op
    if not isinstance(op, Reshape) or not isinstance(v.node.inputs[0].node.op, Expand) or len(v.shape) != 4:
        return v
    copies, one = v.node.inputs[0], v.node.inputs[0].node.inputs[0]
    batch, heads, *rest = v.shape
    if len(one.shape) != len(copies.shape) or not isinstance(heads, int):
        return v
    pairs = [(o, c) for o, c in zip(one.shape, copies.shape, strict=True) if (o, c) != (1, 1)]
    times = next((c for o, c in pairs if o != c), 1)
    if not isinstance(times, int) or times < 2 or heads % times:
        return v
    alone = heads // times
    wanted = [(d, d) for d in (batch, alone) if d != 1] + [(1, times)] + [(d, d) for d in rest if d != 1]
    return reshape(one, (batch, alone, *rest)) if pairs == wanted else v


def _masked(seen: Value, shown: bool, fill: Value, scores: Value) -> Value | None:
    """What to add to scores instead of replacing those where `seen` is not `shown` by the number `fill`; None where that differs.

    It is the same once exp(fill − maximum) is 0, which takes a score that is kept in each row, or a number that swallows scores.
    """
    number = scalar_of(fill)
    if number is None or np.isnan(number) or number > _LOW:
        return None
    kept = const_of(seen)
    if number > _SWALLOWS and (kept is None or kept.shape[-1:] != scores.shape[-1:] or not (kept == shown).any(axis=-1).all()):
        return None
    zero, low = like(scores, 0.0), like(scores, number)
    return apply(Where(), seen, zero, low) if shown else apply(Where(), seen, low, zero)


def _fill(name: str) -> Pattern:
    return X(name, lambda v: scalar_of(v) is not None)


def _scores() -> Iterator[Pattern]:
    product = P(MatMul, X("q"), X("kt"), name="product")
    for scaled in (P(Mul, product, _fill(""), name="scaled"), P(Div, product, _fill(""), name="scaled"), product):
        biased = P(Add, scaled, X("mask"), where=is_float)
        yield biased
        yield P(Add, biased, X("more"), where=is_float)  # a bias by position, and what is hidden
        yield scaled
        for inside in (scaled, biased):
            yield P(Where, X("shown"), inside, _fill("fill"), name="replaced")
            yield P(Where, X("hidden"), _fill("fill"), inside, name="replaced")
        for replaced in (P(Where, X("shown"), scaled, _fill("fill"), name="replaced"),
                         P(Where, X("hidden"), _fill("fill"), scaled, name="replaced")):  # fmt: skip
            yield P(Add, replaced, X("mask"), where=is_float)


def _body(fn: Callable[..., Value | None]) -> Callable[..., Value | None]:
    def attention(replaced: Value | None = None, fill: Value | None = None, shown: Value | None = None,
                  hidden: Value | None = None, **captures: Value) -> Value | None:  # fmt: skip
        captures.setdefault("scaled", captures["product"])
        if "more" in captures:
            captures["mask"] = apply(Add(), captures["mask"], captures.pop("more"))
        if ("mask" in captures or replaced is not None) and captures["p"].type != captures["product"].type:
            return None
        if replaced is not None and fill is not None:
            seen = shown if shown is not None else hidden
            assert seen is not None
            extra = _masked(seen, shown is not None, fill, captures["product"])
            if extra is None:
                return None
            captures["mask"] = apply(Add(), extra, captures["mask"]) if "mask" in captures else extra
        return fn(**captures)

    return attention


def windows(x: Value, split: Value, mask: Value, p: Value) -> Value | None:
    """softmax of x + mask, where x gets another axis for the addition: the mask is repeated instead (windows of an image)."""
    inner, rank = split.shape, len(x.shape)
    op = p.node.op
    same = next((n for n in range(min(rank, len(inner))) if x.shape[-1 - n] != inner[-1 - n]), min(rank, len(inner)))
    if (
        not isinstance(op, Softmax)
        or op.axis != rank - 1
        or p.shape != x.shape
        or not 2 <= same < len(inner)
        or len(mask.shape) > len(inner)
    ):
        return None
    full = (*(1,) * (len(inner) - len(mask.shape)), *mask.shape)
    own, lead = full[-same:], inner[:-same]
    if full[:-same] == (1,) * len(lead):
        extra = reshape(mask, (*(1,) * (rank - same), *own))
    else:
        extra = reshape(apply(Expand((*lead, *own)), reshape(mask, full)), (*x.shape[:-same], *own))
    return apply(op, apply(Add(), x, extra))


_split = P(Reshape, X("x"), name="split")
_rules: list[Rule] = [Rule(P(Softmax, P(Reshape, P(Add, _split, X("mask"), where=is_float)), name="p"), windows)]
for _pattern in _scores():
    _p = P(Softmax, _pattern, name="p")
    # torch writes where(isnan(p), 0, p) against rows that see nothing; Attention gives zeros there
    for _weights in (P(Where, P(IsNaN, _p), Num(0), _p), _p):
        _rules.append(Rule(P(MatMul, _weights, X("v"), name="root"), _body(attention)))
RULES: tuple[Rule, ...] = tuple(_rules)
