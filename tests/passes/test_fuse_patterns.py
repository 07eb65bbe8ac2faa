"""Spelled-out activations, softmax, norms and attention, in the orderings that exporters write; and what only looks alike."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from mlc.ir import DType, Graph, Input, TensorType, const
from mlc.ir.ops import (
    Add,
    Div,
    Erf,
    Exp,
    Expand,
    Greater,
    IsNaN,
    MatMul,
    Max,
    Min,
    Mul,
    Neg,
    Pow,
    Reciprocal,
    Reduce,
    Reshape,
    Sigmoid,
    Softmax,
    Softplus,
    Sqrt,
    Sub,
    Tanh,
    Transpose,
    Where,
)  # fmt: skip
from mlc.ir.verify import verify
from mlc.passes import PassContext, run_passes
from mlc.passes.base import apply
from mlc.passes.fuse_attention import FuseAttention
from mlc.passes.fuse_patterns import FusePatterns
from mlc.passes.simplify import Simplify

PASSES = (Simplify(), FusePatterns(), FusePatterns())


def c(value):
    return const(np.asarray(value, np.float32))


def source(*shape):
    return apply(Input(TensorType(DType.F32, shape)))


def compute(graph):
    return [n.op.name for n in graph.nodes if n.op.name not in ("input", "const")]


def fused(numbers, fn, *shapes, passes=PASSES):
    xs = tuple(source(*s) for s in shapes)
    g = verify(Graph(xs, (fn(*xs),), tuple(f"x{i}" for i in range(len(xs))), ("y",)))
    new = verify(run_passes(g, passes, PassContext(verify=True)))
    numbers(g, new, rtol=1e-4)
    return new


def both(op, a, b, swap):
    return apply(op, b, a) if swap else apply(op, a, b)


@pytest.mark.parametrize("swap", list(itertools.product((False, True), repeat=3)))
@pytest.mark.parametrize("form", range(3))
@pytest.mark.parametrize("inner", ["div", "mul", "tanh", "tanh3"])
def test_gelu(numbers, swap, form, inner):
    def gelu(x):
        if inner == "div":
            e = apply(Erf(), apply(Div(), x, c(1.41421)))
        elif inner == "mul":
            e = apply(Erf(), both(Mul(), x, c(math.sqrt(0.5)), swap[0]))
        else:
            cube = apply(Pow(), x, c(3)) if inner == "tanh" else apply(Mul(), apply(Mul(), x, x), x)
            e = apply(Tanh(), apply(Mul(), c(math.sqrt(2 / math.pi)), apply(Add(), x, apply(Mul(), c(0.044715), cube))))
        one = both(Add(), e, c(1), swap[0])
        if form == 0:
            return both(Mul(), both(Mul(), x, one, swap[1]), c(0.5), swap[2])
        if form == 1:
            return both(Mul(), both(Mul(), x, c(0.5), swap[1]), one, swap[2])
        return both(Mul(), x, both(Mul(), one, c(0.5), swap[1]), swap[2])

    assert compute(fused(numbers, gelu, (2, 5))) == ["gelu"]


def relu6(x):
    return apply(Min(), apply(Max(), apply(Add(), x, c(3)), c(0)), c(6))


FORMS = {
    "silu": lambda x: apply(Mul(), apply(Sigmoid(), x), x),
    "sigmoid": lambda x: apply(Div(), c(1), apply(Add(), c(1), apply(Exp(), apply(Neg(), x)))),
    "mish": lambda x: apply(Mul(), x, apply(Tanh(), apply(Softplus(), x))),
    "hardsigmoid": lambda x: apply(Div(), relu6(x), c(6)),
    "hardswish": lambda x: apply(Div(), apply(Mul(), relu6(x), x), c(6)),
    "hardswish ": lambda x: apply(Mul(), x, apply(Mul(), relu6(x), c(1 / 6))),
    "hardswish  ": lambda x: apply(Mul(), apply(Mul(), x, relu6(x)), c(1 / 6)),
}


@pytest.mark.parametrize("name", FORMS)
def test_activations(numbers, name):
    assert compute(fused(numbers, FORMS[name], (3, 7))) == [name.strip()]


def softmax(x, axis=1):
    e = apply(Exp(), apply(Sub(), x, apply(Reduce("max", (axis,), True), x)))
    return apply(Div(), e, apply(Reduce("sum", (axis,), True), e))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax(numbers, axis):
    assert compute(fused(numbers, lambda x: softmax(x, axis), (2, 3, 4))) == ["softmax"]


def mean(x, axes=(2,)):
    return apply(Reduce("mean", axes, True), x)


def layer_norm(x, axes=(2,), square=lambda d: apply(Pow(), d, c(2)), invert=False, affine=True):
    d = apply(Sub(), x, mean(x, axes))
    s = apply(Sqrt(), apply(Add(), mean(square(d), axes), c(1e-5)))
    y = apply(Mul(), d, apply(Reciprocal(), s)) if invert else apply(Div(), d, s)
    shape = x.shape[axes[0] :]
    if not affine:
        return y
    return apply(Add(), apply(Mul(), y, c(np.arange(np.prod(shape)).reshape(shape))), c(np.ones(shape)))


@pytest.mark.parametrize("axes", [(2,), (1, 2)])
@pytest.mark.parametrize("square", [lambda d: apply(Pow(), d, c(2)), lambda d: apply(Mul(), d, d)])
@pytest.mark.parametrize("invert", [False, True])
def test_layer_norm(numbers, axes, square, invert):
    assert compute(fused(numbers, lambda x: layer_norm(x, axes, square, invert), (2, 3, 4))) == ["layernorm"]
    assert compute(fused(numbers, lambda x: layer_norm(x, axes, square, invert, False), (2, 3, 4))) == ["layernorm"]


def test_rms_norm(numbers):
    def rms(x):
        s = apply(Sqrt(), apply(Add(), mean(apply(Pow(), x, c(2))), c(1e-6)))
        return apply(Mul(), c([1, 2, 3, 4]), apply(Mul(), x, apply(Div(), c(1), s)))

    assert compute(fused(numbers, rms, (2, 3, 4))) == ["rmsnorm"]


ALIKE = {
    "gelu of another constant": lambda x: apply(Mul(), apply(Mul(), x, c(0.5)), apply(Add(), apply(Erf(), apply(Div(), x, c(1.5))), c(1))),
    "gate of something else": lambda x: apply(Mul(), apply(Neg(), x), apply(Sigmoid(), x)),
    "softmax over two axes": lambda x: apply(Div(), apply(Exp(), x), apply(Reduce("sum", (1,), True), apply(Exp(), x))),
    "norm over a middle axis": lambda x: layer_norm(x, (1,), affine=False),
    "clip at 5": lambda x: apply(Div(), apply(Min(), apply(Max(), apply(Add(), x, c(3)), c(0)), c(5)), c(6)),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_must_not_fire(numbers, name):
    ops = set(compute(fused(numbers, ALIKE[name], (2, 3, 4))))
    assert not ops & {"gelu", "silu", "softmax", "layernorm", "hardsigmoid", "hardswish"}


def attention(q, k, v, mask=None, scale="after", nan=False):
    s = c(0.5)
    if scale == "both":
        q, k = apply(Mul(), q, c(math.sqrt(0.5))), apply(Mul(), k, c(math.sqrt(0.5)))
    kt = apply(Transpose((*range(len(k.shape) - 2), len(k.shape) - 1, len(k.shape) - 2)), k)
    scores = apply(MatMul(), apply(Div(), q, c(2)) if scale == "q" else q, kt)
    if scale == "after":
        scores = apply(Mul(), scores, s)
    if scale in ("div", "zero"):
        scores = apply(Div(), scores, c(2 if scale == "div" else 0))
    if mask is not None:
        scores = apply(Add(), scores, mask)
    p = apply(Softmax(len(q.shape) - 1), scores)
    if nan:
        p = apply(Where(), apply(IsNaN(), p), c(0), p)
    return apply(MatMul(), p, v)


@pytest.mark.parametrize("scale", ["after", "div", "q", "both", "none"])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("nan", [False, True])
def test_attention(numbers, scale, mask, nan):
    shapes = [(1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 6)] + [(1, 1, 3, 5)] * mask
    new = fused(numbers, lambda q, k, v, m=None: attention(q, k, v, m, scale, nan), *shapes,
                passes=(Simplify(), FuseAttention(), Simplify()))  # fmt: skip
    assert compute(new) == ["attention"]
    op = next(n.op for n in new.nodes if n.op.name == "attention")
    assert op.scale == pytest.approx(1.0 if scale == "none" else 0.5) and not op.causal


def test_scores_divided_by_zero_stay(numbers):
    shapes = [(1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 6)]
    new = fused(numbers, lambda q, k, v: attention(q, k, v, scale="zero"), *shapes, passes=(FuseAttention(),))
    assert "attention" not in compute(new)


def replaced(q, k, v, seen, fill, hidden=False, bias=None, order="bias first"):
    """Scores of hidden keys replaced by a number, as masked_fill writes it."""
    scores = apply(MatMul(), q, apply(Transpose((0, 1, 3, 2)), k))
    if bias is not None and order == "bias first":
        scores = apply(Add(), scores, bias)
    scores = apply(Where(), seen, c(fill), scores) if hidden else apply(Where(), seen, scores, c(fill))
    if bias is not None and order != "bias first":
        scores = apply(Add(), scores, bias)
    return apply(MatMul(), apply(Softmax(3), scores), v)


_SEEN = np.tril(np.ones((1, 1, 3, 5), bool), 2)
_QKV = [(1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 6)]


@pytest.mark.parametrize("fill", [-np.inf, float(np.finfo(np.float32).min), -1e9, -1e4])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("order", ["bias first", "bias last", None])
def test_attention_with_replaced_scores(numbers, fill, hidden, order):
    seen = const(~_SEEN if hidden else _SEEN)
    bias = [(1, 2, 3, 5)] * (order is not None)
    new = fused(numbers, lambda q, k, v, b=None: replaced(q, k, v, seen, fill, hidden, b, order), *_QKV, *bias,
                passes=(Simplify(), FuseAttention(), Simplify()))  # fmt: skip
    assert "attention" in compute(new) and "softmax" not in compute(new)


@pytest.mark.parametrize("case", ["small number", "a row that sees nothing", "unknown rows"])
def test_replaced_scores_that_are_not_a_mask(numbers, case):
    blind = _SEEN.copy()
    blind[0, 0, 1] = False
    seen = const(blind if case == "a row that sees nothing" else _SEEN)
    fill = -5.0 if case == "small number" else -1e4

    def build(q, k, v, x=None):
        return replaced(q, k, v, seen if x is None else apply(Greater(), x, c(0)), fill)

    shapes = _QKV + [(1, 1, 3, 5)] * (case == "unknown rows")
    new = fused(numbers, build, *shapes, passes=(Simplify(), FuseAttention(), Simplify()))
    assert "attention" not in compute(new)


@pytest.mark.parametrize("turned", ["after", "before", "of rank 3", "never"])
def test_attention_of_repeated_keys(numbers, turned):
    """Groups of query heads that share a key head: the copies go, if those of keys and of values do."""

    def repeated(t, *rest):
        return apply(Reshape((2, 6, *rest)), apply(Expand((2, 2, 3, *rest)), apply(Reshape((2, 2, 1, *rest)), t)))

    def build(q, k, v):
        v = repeated(v, 5, 4)
        if turned == "before":
            kt = repeated(apply(Transpose((0, 1, 3, 2)), k), 4, 5)
        elif turned == "of rank 3":
            kt = apply(Transpose((0, 2, 1)), apply(Reshape((12, 5, 4)), repeated(k, 5, 4)))
            kt = apply(Reshape((2, 6, 4, 5)), kt)
        else:
            kt = apply(Transpose((0, 1, 3, 2)), repeated(k, 5, 4) if turned == "after" else k)
        return apply(MatMul(), apply(Softmax(3), apply(MatMul(), q, kt)), v)

    keys = (2, 6 if turned == "never" else 2, 5, 4)
    new = fused(numbers, build, (2, 6, 3, 4), keys, (2, 2, 5, 4), passes=(Simplify(), FuseAttention(), Simplify()))
    assert compute(new) == (["reshape", "expand", "reshape"] if turned == "never" else []) + ["attention"]


@pytest.mark.parametrize("one", [(2, 2, 1, 5, 4), (2, 2, 1, 1, 5, 4), (1, 2, 2, 1, 5, 4)])
def test_repeated_keys_are_found_through_axes_of_one(numbers, one):
    """Groups of query heads that share a key head: the copies go, by Expand or by Tile."""
    many = tuple(3 if i == one.index(1, 1) else d for i, d in enumerate(one))

    def build(q, k, v):
        k, v = (apply(Reshape((2, 6, 5, 4)), apply(Expand(many), apply(Reshape(one), t))) for t in (k, v))
        return attention(q, k, v)

    new = fused(numbers, build, (2, 6, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4), passes=(Simplify(), FuseAttention(), Simplify()))
    assert compute(new) == ["attention"]


def test_attention_of_rank_3_and_causal(numbers):
    mask = c(np.triu(np.full((4, 4), -1e30), 1))
    new = fused(numbers, lambda q, k, v: attention(q, k, v, mask), *[(2, 4, 3)] * 3,
                passes=(Simplify(), FuseAttention()))  # fmt: skip
    assert "attention" in compute(new) and next(n.op for n in new.nodes if n.op.name == "attention").causal
