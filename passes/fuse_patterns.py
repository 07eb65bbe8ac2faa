"""Names for what models spell out: activations, softmax and norms written as many ops become the one op they mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..ir import Graph, Value
from ..ir.ops import (
    Add,
    Div,
    Erf,
    Exp,
    Gelu,
    HardSigmoid,
    HardSwish,
    LayerNorm,
    Min,
    Mish,
    Mul,
    Neg,
    Reciprocal,
    Reduce,
    Relu,
    RMSNorm,
    Sigmoid,
    Silu,
    Softmax,
    Softplus,
    Sqrt,
    Sub,
    Tanh,
)  # fmt: skip
from .base import Pass, PassContext, apply, behind_transpose, close, is_float, like, scalar_of
from .rewrite import C, Num, P, Pattern, Rule, X, rewrite


@dataclass(frozen=True)
class FusePatterns(Pass):
    """`moved_norms`: also norms of what a transpose gave. Before layout selection they wait: reductions and arithmetic work in
    either order, norms only over trailing axes."""

    moved_norms: bool = True

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        return rewrite(graph, RULES if self.moved_norms else (*_FUNCTIONS, *_in_place(_NORMS)))


_x = X("x", is_float)


def gelu(x: Value, root: Value) -> Value | None:
    return apply(Gelu(False), x) if x.type == root.type else None


def gelu_tanh(x: Value, root: Value) -> Value | None:
    return apply(Gelu(True), x) if x.type == root.type else None


def _gelu_forms(inner: Pattern) -> tuple[P, ...]:
    """x · ½ · (1 + inner), in every association."""
    one = P(Add, inner, Num(1))
    return (
        P(Mul, P(Mul, _x, one), Num(0.5), name="root"),
        P(Mul, P(Mul, _x, Num(0.5)), one, name="root"),
        P(Mul, _x, P(Mul, one, Num(0.5)), name="root"),
    )


_ERF = (
    P(Erf, P(Div, _x, Num(math.sqrt(2), 1e-5))),
    P(Erf, P(Mul, _x, Num(math.sqrt(0.5), 1e-5))),
)
_K = Num(0.044715, 1e-5)
_square = P(Mul, _x, _x, shared=True)
_cubes = (P(Mul, P(Mul, _square, _x), _K), P(Mul, P(Mul, _K, _x), _square), P(Mul, P(Mul, P(Mul, _K, _x), _x), _x),
          P(Mul, P(Mul, _K, _square), _x))  # fmt: skip
_POLYNOMIALS = (*(P(Add, _x, c) for c in _cubes), P(Mul, _x, P(Add, P(Mul, _square, _K), Num(1))))
_ROOT_2_PI = Num(math.sqrt(2 / math.pi), 1e-5)
_TANH = (*(P(Tanh, P(Mul, p, _ROOT_2_PI)) for p in _POLYNOMIALS),
         P(Tanh, P(Mul, P(Mul, _x, _ROOT_2_PI), P(Add, P(Mul, _square, _K), Num(1)))))  # fmt: skip


def silu(x: Value) -> Value:
    return apply(Silu(), x)


def sigmoid(x: Value, root: Value) -> Value | None:
    """1 / (1 + exp(−x))"""
    return apply(Sigmoid(), x) if x.type == root.type else None


def mish(x: Value) -> Value:
    return apply(Mish(), x)


def hard_sigmoid(x: Value, root: Value) -> Value | None:
    """min(max(x + 3, 0), 6) / 6"""
    return apply(HardSigmoid(1 / 6, 0.5), x) if x.type == root.type else None


def hard_swish(x: Value, root: Value) -> Value | None:
    return apply(HardSwish(), x) if x.type == root.type else None


def _is_sixth(v: Value) -> bool:
    op = v.node.op
    return isinstance(op, HardSigmoid) and close(op.alpha, 1 / 6, 1e-5) and close(op.beta, 0.5)


def hard_swish_of_sigmoid(x: Value, gate: Value) -> Value | None:
    return apply(HardSwish(), x) if _is_sixth(gate) else None


_relu6 = P(Min, P(Relu, P(Add, _x, Num(3))), Num(6))
_SIXTH = Num(1 / 6, 1e-5)


def _reduces(v: Value, kind: str) -> tuple[int, ...] | None:
    op = v.node.op
    return op.axes if isinstance(op, Reduce) and op.kind == kind and op.keepdims else None


def _trailing(v: Value, *means: Value) -> int | None:
    """The axis from which on all the `means` are taken, if they are taken over trailing axes of v."""
    axes = {_reduces(m, "mean") for m in means}
    rank = len(v.shape)
    if len(axes) != 1 or not (found := axes.pop()) or tuple(found) != tuple(range(found[0], rank)):
        return None
    return found[0]


def softmax(x: Value, top: Value, total: Value) -> Value | None:
    """e / Σe with e = exp(x − max x)"""
    axes = _reduces(top, "max")
    if axes is None or len(axes) != 1 or _reduces(total, "sum") != axes:
        return None
    return apply(Softmax(axes[0]), x)


_exp = P(Exp, P(Sub, _x, P(Reduce, _x, name="top")), name="e")


def layer_norm(x: Value, mean: Value, var: Value, eps: Value, root: Value) -> Value | None:
    axis, epsilon = _trailing(x, mean, var), scalar_of(eps)
    if axis is None or epsilon is None or x.type != root.type:
        return None
    return apply(LayerNorm(axis, epsilon), x, like(x, 1), like(x, 0))


def rms_norm(x: Value, var: Value, eps: Value, root: Value) -> Value | None:
    axis, epsilon = _trailing(x, var), scalar_of(eps)
    if axis is None or epsilon is None or x.type != root.type:
        return None
    return apply(RMSNorm(axis, epsilon), x, like(x, 1))


def _fits_norm(c: Value, norm: Value) -> bool:
    op = norm.node.op
    assert isinstance(op, (LayerNorm, RMSNorm))
    tail = norm.shape[op.axis :]
    return len(c.shape) <= len(tail) and all(d in (1, t) for d, t in zip(reversed(c.shape), reversed(tail), strict=False))


def norm_scale(norm: Value, c: Value) -> Value | None:
    """A factor after a norm that has none yet (and no bias)."""
    ins = norm.node.inputs
    if not close(scalar_of(ins[1]), 1) or (len(ins) == 3 and not close(scalar_of(ins[2]), 0)) or not _fits_norm(c, norm):
        return None
    return apply(norm.node.op, ins[0], c, *ins[2:])


def norm_bias(norm: Value, c: Value) -> Value | None:
    ins = norm.node.inputs
    return apply(norm.node.op, ins[0], ins[1], c) if close(scalar_of(ins[2]), 0) and _fits_norm(c, norm) else None


_centred = P(Sub, _x, P(Reduce, _x, name="mean", shared=True), name="d", shared=True)
_variance = P(Reduce, P(Mul, _centred, _centred), name="var")
_deviation = P(Sqrt, P(Add, _variance, C("eps")))
_rms = P(Sqrt, P(Add, P(Reduce, P(Mul, _x, _x), name="var"), C("eps")))


def _without(fn: Callable[..., Value | None], *names: str) -> Callable[..., Value | None]:
    """A rule body that does not want some captures."""

    def body(**captures: Value) -> Value | None:
        return fn(**{k: v for k, v in captures.items() if k not in names})

    body.__name__ = fn.__name__
    return body


_FUNCTIONS: tuple[Rule, ...] = (
    *(Rule(form, gelu) for erf in _ERF for form in _gelu_forms(erf)),
    *(Rule(form, gelu_tanh) for tanh in _TANH for form in _gelu_forms(tanh)),
    Rule(P(Reciprocal, P(Add, P(Exp, P(Neg, _x)), Num(1)), name="root"), sigmoid),
    Rule(P(Mul, _x, P(Sigmoid, _x)), silu),
    Rule(P(Mul, _x, P(Tanh, P(Softplus, _x))), mish),
    Rule(P(Div, P(Mul, _x, _relu6), Num(6), name="root"), hard_swish),
    Rule(P(Mul, P(Mul, _x, _relu6), _SIXTH, name="root"), hard_swish),
    Rule(P(Div, _relu6, Num(6), name="root"), hard_sigmoid),
    Rule(P(Mul, _relu6, _SIXTH, name="root"), hard_sigmoid),
    Rule(P(Mul, _x, P(HardSigmoid, _x, name="gate")), hard_swish_of_sigmoid),
    Rule(P(Div, _exp, P(Reduce, _exp, name="total")), _without(softmax, "e")),
)

_NORMS: tuple[Rule, ...] = (
    Rule(P(Div, _centred, _deviation, name="root"), _without(layer_norm, "d")),
    Rule(P(Div, _x, _rms, name="root"), rms_norm),
    *(Rule(P(Mul, P(cls, name="norm"), X("c")), norm_scale) for cls in (LayerNorm, RMSNorm)),
    Rule(P(Add, P(LayerNorm, name="norm"), X("c")), norm_bias),
)

RULES: tuple[Rule, ...] = (*_FUNCTIONS, *_NORMS)


def _in_place(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules, declining where the operand x is elementwise behind a transpose."""

    def guarded(fn: Callable[..., Value | None]) -> Callable[..., Value | None]:
        def body(**captures: Value) -> Value | None:
            return None if "x" in captures and behind_transpose(captures["x"]) else fn(**captures)

        body.__name__ = fn.__name__
        return body

    return tuple(replace(r, fn=guarded(r.fn)) for r in rules)
