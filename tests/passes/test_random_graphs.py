"""Whatever small graph: every optimisation level computes what the graph as given computes, and text round-trips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlc.errors import PassError, VerifyError
from mlc.ir import DType, Graph, Input, TensorType, const
from mlc.ir.ops import (
    Abs,
    Add,
    Concat,
    Conv,
    Div,
    Exp,
    Expand,
    Greater,
    MatMul,
    Max,
    Min,
    Mul,
    Neg,
    Pad,
    Reduce,
    Relu,
    Reshape,
    Sigmoid,
    Slice,
    Softmax,
    Sub,
    Tanh,
    Transpose,
    Where,
)  # fmt: skip
from mlc.ir.parser import parse
from mlc.ir.printer import constants_of, print_graph
from mlc.ir.verify import verify
from mlc.passes import PassContext, optimize
from mlc.passes.base import apply

UNARY = (Abs(), Neg(), Relu(), Sigmoid(), Tanh())
BINARY = (Add(), Sub(), Mul(), Max(), Min())


@st.composite
def graphs(draw):
    """A handful of rank-3 and rank-4 values, each computed from earlier ones; many permutations, reshapes and constants."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    shapes = draw(st.sampled_from([[(1, 2, 3, 4)], [(2, 3, 4)], [(1, 2, 4, 4), (1, 2, 4, 4)], [(1, 4, 1, 1), (1, 4, 2, 2)]]))
    values = [apply(Input(TensorType(DType.F32, s))) for s in shapes]
    inputs = tuple(values)
    for _ in range(draw(st.integers(1, 12))):
        x = draw(st.sampled_from(values))
        rank = len(x.shape)
        kind = draw(st.sampled_from(
            ["unary", "binary", "constant", "neutral", "transpose", "transpose", "transpose", "reshape", "reduce", "softmax", "concat",
             "slice", "pad", "expand", "where", "matmul", "conv", "div"]))  # fmt: skip
        match kind:
            case "unary":
                y = apply(draw(st.sampled_from(UNARY)), x)
            case "binary":
                other = draw(st.sampled_from(values))
                try:
                    y = apply(draw(st.sampled_from(BINARY)), x, other)
                except VerifyError:
                    continue
            case "constant":
                axes = draw(st.lists(st.booleans(), min_size=rank, max_size=rank))
                c = rng.integers(-4, 5, [d if keep else 1 for d, keep in zip(x.shape, axes, strict=True)]).astype(np.float32) / 4
                pair = (x, const(c)) if draw(st.booleans()) else (const(c), x)
                y = apply(draw(st.sampled_from(BINARY)), *pair)
            case "neutral":
                y = apply(*draw(st.sampled_from([(Add(), x, const(np.float32(0))), (Mul(), const(np.float32(1)), x)])))
            case "div":
                y = apply(Div(), x, const(np.float32(draw(st.sampled_from([2, 3, -0.5])))))
            case "transpose":
                y = apply(Transpose(tuple(draw(st.permutations(range(rank))))), x)
            case "reshape":
                n = int(np.prod(x.shape))
                k = draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0]))
                y = apply(Reshape(draw(st.sampled_from([(k, n // k), (1, k, n // k), (k, n // k, 1), (1, k, 1, n // k)]))), x)
            case "reduce":
                axes = tuple(sorted(draw(st.sets(st.integers(0, rank - 1), min_size=1, max_size=2))))
                if len(axes) == rank:
                    continue
                y = apply(Reduce(draw(st.sampled_from(["sum", "mean", "max"])), axes, draw(st.booleans())), x)
            case "softmax":
                y = apply(Softmax(draw(st.integers(0, rank - 1))), x)
            case "concat":
                y = apply(Concat(draw(st.integers(0, rank - 1))), x, apply(Neg(), x))
            case "slice":
                a = draw(st.integers(0, rank - 1))
                step = draw(st.sampled_from([1, 2, -1]))
                size = -(-x.shape[a] // abs(step))
                start = x.shape[a] - 1 if step < 0 else 0
                y = apply(Slice(tuple(start if i == a else 0 for i in range(rank)),
                                tuple(size if i == a else d for i, d in enumerate(x.shape)),
                                tuple(step if i == a else 1 for i in range(rank))), x)  # fmt: skip
            case "pad":
                lo = tuple(draw(st.integers(0, 1)) for _ in range(rank))
                y = apply(Pad(lo, lo[::-1], draw(st.sampled_from(["constant", "edge"]))), x, const(np.float32(0.5)))
            case "expand":
                y = apply(Expand(tuple(2 if d == 1 else d for d in x.shape)), x)
            case "where":
                y = apply(Where(), apply(Greater(), x, const(np.float32(0))), x, apply(Exp(), apply(Min(), x, const(np.float32(1)))))
            case "matmul":
                if rank < 2:
                    continue
                y = apply(MatMul(), x, const(rng.standard_normal((x.shape[-1], 3)).astype(np.float32)))
            case "conv":
                if rank != 4:
                    continue
                y = apply(Conv((1, 1), (1, 1), (1, 1), (1, 1)), x, const(rng.standard_normal((3, 3, x.shape[-1], 2)).astype(np.float32)))
        if np.prod(y.shape) <= 600:
            values.append(y)
    outputs = tuple(values[-draw(st.integers(1, 2)) :])
    return verify(Graph(inputs, outputs, tuple(f"x{i}" for i in range(len(inputs))), tuple(f"y{i}" for i in range(len(outputs)))))


@settings(max_examples=150)
@given(graphs(), st.integers(1, 3))
def test_optimised_graphs_compute_the_same(g, level):
    new = optimize(g, PassContext(opt_level=level, verify=True))
    rng = np.random.default_rng(1)
    args = [rng.standard_normal(v.shape).astype(np.float32) for v in g.inputs]
    for x, y in zip(g.evaluate(*args), new.evaluate(*args), strict=True):
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)


@settings(max_examples=60)
@given(graphs())
def test_text_round_trips(g):
    text = print_graph(g)
    assert print_graph(parse(text, constants_of(g))) == text


def test_levels():
    x = apply(Input(TensorType(DType.F32, (2,))))
    g = Graph((x,), (apply(Add(), x, const(np.float32(0))),), ("x",), ("y",))
    assert optimize(g, PassContext(opt_level=0)) is g
    assert optimize(g).outputs == (x,)
    with pytest.raises(PassError, match="level 9"):
        optimize(g, PassContext(opt_level=9))


def test_dump_sees_every_pass_that_changed_something():
    x = apply(Input(TensorType(DType.F32, (2,))))
    g = Graph((x,), (apply(Add(), x, const(np.float32(0))),), ("x",), ("y",))
    seen = []
    optimize(g, PassContext(dump=lambda name, graph: seen.append((name, len(graph.nodes)))))
    assert seen == [("import", 3), ("simplify", 1)]
