"""Sums between products in 16 bits are stored in 16 bits, and nothing else is."""

import numpy as np
import pytest
from mlc.codegen.lower import LowerOptions, lower
from mlc.codegen.lower.narrow import narrowed
from mlc.codegen.plan import steps_of
from mlc.ir import DType, Graph, Input, Node, TensorType, const
from mlc.ir.ops import Add, Cast, Concat, LayerNorm, MatMul, Mul, Sin, Softmax
from mlc.passes.base import apply

RNG = np.random.default_rng(0)
WIDTH = 32
HALVES = (DType.F16, DType.BF16)


def placeholder(*shape):
    return Node.make(Input(TensorType(DType.F32, shape)), ()).out


def product(x, dtype=DType.F16, columns=WIDTH):
    w = const((RNG.standard_normal((x.shape[-1], columns)) / 6).astype(dtype.np))
    return apply(Cast(DType.F32), apply(MatMul(), apply(Cast(dtype), x), w))


def norm(x):
    return apply(LayerNorm(1, 1e-5), x, const(np.ones(WIDTH, np.float32)), const(np.zeros(WIDTH, np.float32)))


def graph_of(x, *outputs):
    return Graph((x,), outputs, ("x",), tuple("yz"[: len(outputs)]))


def stored(graph, between):
    """Element types of what kernels write, in order."""
    plan = lower(graph, LowerOptions(between=between))
    return [o.dtype for s in steps_of(plan.steps) for o in s.kernel.operands if o.written]


def layers(dtype):
    """Sums that a norm and the next sum read."""
    x = placeholder(24, WIDTH)
    y = product(x, dtype)
    for _ in range(3):
        y = apply(Add(), product(norm(y), dtype), y)
    return graph_of(x, product(norm(y), dtype))


@pytest.mark.parametrize("dtype", HALVES)
def test_residual_sums(dtype):
    graph = layers(dtype)
    assert stored(graph, None).count(DType.F32) == 5
    assert stored(graph, dtype).count(DType.F32) == 1  # the result
    assert len(stored(graph, dtype)) == len(stored(graph, None))
    data = RNG.standard_normal((24, WIDTH)).astype(np.float32)
    (want,), (got,) = graph.evaluate(data), narrowed(graph, dtype, True).evaluate(data)
    assert got.dtype == np.float32
    assert 0 < np.linalg.norm(got - want) <= (2e-3 if dtype is DType.F16 else 1.6e-2) * np.linalg.norm(want)


def test_moves_are_of_rounded_numbers():
    x = placeholder(24, WIDTH)
    y = apply(Concat(0), product(x), product(apply(Mul(), x, x)))
    graph = graph_of(x, product(apply(Add(), product(norm(y)), y)))
    assert stored(graph, DType.F16).count(DType.F32) == 1
    (moved,) = (n for n in narrowed(graph, DType.F16, True).nodes if isinstance(n.op, Concat))
    assert moved.out.dtype is DType.F16


def test_what_stays():
    x = placeholder(24, WIDTH)
    before = apply(Add(), x, const(np.float32(1)))  # of no product
    first = product(norm(before))
    behind = apply(Add(), first, before)  # leads to no other
    for outputs in ((norm(behind),), (apply(Softmax(1), first), apply(Add(), product(first), first)),
                    (product(apply(Add(), norm(apply(Sin(), first)), first)),), (first, product(norm(first)))):  # fmt: skip
        graph = graph_of(x, *outputs)
        assert narrowed(graph, DType.F16, True) is graph
    graph = layers(DType.F16)
    assert narrowed(graph, DType.BF16, True) is graph
