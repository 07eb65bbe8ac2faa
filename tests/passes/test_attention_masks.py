"""Masks of attention: causal ones however they are computed, several at once, and those that windows of an image add."""

from __future__ import annotations

import numpy as np
import pytest
from mlc.ir import DType, Graph, Input, TensorType, const, dim_min, sym
from mlc.ir.ops import (
    Add,
    Cast,
    Equal,
    Expand,
    Greater,
    GreaterEqual,
    Iota,
    Less,
    LessEqual,
    MatMul,
    Mul,
    Not,
    Reshape,
    Slice,
    Softmax,
    Sub,
    Transpose,
    Where,
)
from mlc.ir.verify import verify
from mlc.passes import PassContext, run_passes
from mlc.passes.base import apply
from mlc.passes.fuse_attention import FuseAttention
from mlc.passes.simplify import Simplify
from mlc.passes.triangle import halves

PASSES = (Simplify(), FuseAttention(), Simplify())
LOW = float(np.finfo(np.float32).min)


def c(value, dtype=np.float32):
    return const(np.asarray(value, dtype))


def source(*shape):
    return apply(Input(TensorType(DType.F32, shape)))


def graph(build, *shapes):
    xs = tuple(source(*s) for s in shapes)
    return verify(Graph(xs, (build(*xs),), tuple(f"x{i}" for i in range(len(xs))), ("y",)))


def optimized(g):
    return verify(run_passes(g, PASSES, PassContext(verify=True)))


def same(a, b, shapes):
    args = [np.random.default_rng(i).standard_normal(s).astype(np.float32) for i, s in enumerate(shapes)]
    for x, y in zip(a.evaluate(*args), b.evaluate(*args), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def attention(q, k, v, finish):
    scores = apply(MatMul(), q, apply(Transpose((0, 1, 3, 2)), k))
    return apply(MatMul(), apply(Softmax(3), finish(scores)), v)


def rows(n, shift=0):
    x = apply(Reshape((n, 1)), apply(Iota(n)))
    return apply(Add(), x, c([[shift]], np.int64)) if shift else x


def columns(n):
    return apply(Reshape((1, n)), apply(Iota(n)))


def hide(hidden, low=LOW):
    return apply(Where(), hidden, c(low), c(0.0))


def trilu(n):
    ones = apply(Expand((n, n)), c([1.0]))
    return apply(Where(), apply(LessEqual(), columns(n), rows(n)), ones, c(0.0))


CAUSAL = {
    "column > row": lambda n: hide(apply(Greater(), columns(n), rows(n))),
    "row < column": lambda n: hide(apply(Less(), rows(n), apply(Iota(n)))),
    "upper part of a full matrix": lambda n: apply(Where(), apply(GreaterEqual(), columns(n), rows(n, 1)), apply(Expand((n, n)), c(LOW)), c(0.0)),
    "zeros of a lower part": lambda n: hide(apply(Equal(), trilu(n), c([0.0])), -np.inf),
    "not": lambda n: hide(apply(Not(), apply(Cast(DType.BOOL), trilu(n)))),
    "arithmetic": lambda n: apply(Mul(), apply(Sub(), c(1.0), trilu(n)), c(-1e30)),
    "cut from a table": lambda n: apply(Slice((0, 0, 0, 0), (1, 1, dim_min(n, 64), dim_min(n, 64)), (1, 1, 1, 1)),
                                        c(np.triu(np.full((1, 1, 64, 64), -1e30), 1))),
}  # fmt: skip


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("symbolic", [False, True])
def test_causal(name, symbolic):
    n = sym("s", 1, 999) if symbolic else 5
    shapes = [(1, 2, n, 4)] * 3
    g = graph(lambda q, k, v: attention(q, k, v, lambda s: apply(Add(), s, CAUSAL[name](n))), *shapes)
    new = optimized(g)
    (op,) = (x.op for x in new.nodes if x.op.name == "attention")
    assert op.causal and len(new.nodes) == 4
    if not symbolic:
        same(g, new, shapes)


OTHER = {
    "also the diagonal": lambda n: hide(apply(GreaterEqual(), columns(n), rows(n))),
    "one more": lambda n: hide(apply(Greater(), columns(n), rows(n, 1))),
    "turned": lambda n: hide(apply(Less(), columns(n), rows(n))),
    "a little": lambda n: hide(apply(Greater(), columns(n), rows(n)), -5.0),
    "a window": lambda n: hide(apply(Greater(), apply(Sub(), rows(n), columns(n)), c(3, np.int64))),
    "first rows of a table with others": lambda n: c(np.triu(np.full((n, n), -1e30), 1) + np.tril(np.ones((n, n)), -2)),
    "by head": lambda n: apply(Reshape((1, 1, n, n)), hide(apply(Greater(), columns(n), rows(n)))),
}


@pytest.mark.parametrize("name", OTHER)
def test_not_causal(name):
    mask = OTHER[name](5)
    if name == "by head":
        mask = apply(Add(), mask, c(np.zeros((1, 2, 1, 1))))
    shapes = [(1, 2, 5, 4)] * 3
    g = graph(lambda q, k, v: attention(q, k, v, lambda s: apply(Add(), s, mask)), *shapes)
    new = optimized(g)
    (op,) = (x.op for x in new.nodes if x.op.name == "attention")
    assert not op.causal
    same(g, new, shapes)


def test_halves():
    assert halves(trilu(7)) == (1, 0) and halves(c(3.0)) == (3, 3)
    assert halves(c(np.arange(9).reshape(3, 3))) is None and halves(source(4, 4)) is None


def test_two_masks_become_one():
    shapes = [(1, 2, 5, 4)] * 3 + [(1, 2, 5, 5), (1, 1, 1, 5)]

    def build(q, k, v, bias, hidden):
        return attention(q, k, v, lambda s: apply(Add(), apply(Add(), s, bias), hidden))

    g = graph(build, *shapes)
    new = optimized(g)
    assert [x.op.name for x in new.nodes if x.op.name != "input"] == ["add", "attention"]
    same(g, new, shapes)


@pytest.mark.parametrize("mask", [(1, 3, 1, 5, 5), (3, 1, 5, 5), (1, 1, 1, 5, 5), (2, 3, 1, 1, 5), (1, 3, 2, 5, 5)])
@pytest.mark.parametrize("bias", [False, True])
def test_masks_of_windows(mask, bias):
    """The batch is split into images and windows while a mask of windows is added."""
    shapes = [(6, 2, 5, 4)] * 3 + [mask]

    def build(q, k, v, m):
        def finish(s):
            s = apply(Add(), s, c(np.random.default_rng(9).standard_normal((1, 2, 5, 5)))) if bias else s
            return apply(Reshape((6, 2, 5, 5)), apply(Add(), apply(Reshape((2, 3, 2, 5, 5)), s), m))

        return attention(q, k, v, finish)

    g = graph(build, *shapes)
    new = optimized(g)
    assert "attention" in {x.op.name for x in new.nodes} and "softmax" not in {x.op.name for x in new.nodes}
    same(g, new, shapes)


def test_reshapes_that_split_other_axes_stay():
    def finish(s):
        return apply(Reshape((1, 2, 6, 6)), apply(Add(), apply(Reshape((1, 2, 6, 2, 3)), s), c(np.ones((1, 1, 1, 2, 1)))))

    shapes = [(1, 2, 6, 4)] * 3
    g = graph(lambda q, k, v: attention(q, k, v, finish), *shapes)
    new = optimized(g)
    assert "attention" not in {x.op.name for x in new.nodes}
    same(g, new, shapes)
