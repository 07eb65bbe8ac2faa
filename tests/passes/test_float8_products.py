"""Scales of float8 operands come behind their product; what is no such product stays."""

import numpy as np
import pytest
from mlc.ir import DType, Graph, Input, Node, TensorType, const
from mlc.ir.ops import Cast, Conv, Float8Conv, Float8MatMul, MatMul, Mul, Transpose
from mlc.passes.base import PassContext, apply
from mlc.passes.float8_products import Float8Products

RNG = np.random.default_rng(2)
F8 = DType.F8E4M3FN


def levels(*shape):
    return RNG.standard_normal(shape).astype(F8.np)


def dequantized(v, scale):
    return apply(Mul(), apply(Cast(DType.F32), v), const(np.asarray(scale, np.float32)))


def given(*shape, dtype=F8):
    return Node.make(Input(TensorType(dtype, shape)), ()).out


def converted(x, y):
    graph = Graph((x,), (y,), ("x",), ("y",))
    return graph, Float8Products().run(graph, PassContext(verify=True))


def agree(graph, new, shape) -> None:
    x = levels(*shape)
    np.testing.assert_allclose(new.evaluate(x)[0], graph.evaluate(x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("x_scale,w_scale", [(0.5, 2.0), (0.5, [[1.0, 2.0, 4.0]]), ([[1.0], [3.0]], [[1.0, 2.0, 4.0]])])
@pytest.mark.parametrize("turned", [False, True])
def test_matmul(x_scale, w_scale, turned) -> None:
    x, w = given(2, 5), const(levels(*((3, 5) if turned else (5, 3))))
    scale = np.asarray(w_scale)
    right = dequantized(w, scale.T if turned else scale)
    graph, new = converted(x, apply(MatMul(), dequantized(x, x_scale), apply(Transpose((1, 0)), right) if turned else right))
    assert [type(n.op) for n in new.nodes if isinstance(n.op, (MatMul, Float8MatMul))] == [Float8MatMul]
    agree(graph, new, (2, 5))


def test_conv() -> None:
    x, w = given(1, 4, 4, 2), const(levels(3, 3, 2, 5))
    op = Conv((1, 1), (1, 1), (1, 1), (1, 1))
    graph, new = converted(x, apply(op, dequantized(x, 0.25), dequantized(w, [1.0, 2.0, 3.0, 4.0, 5.0])))
    assert any(isinstance(n.op, Float8Conv) for n in new.nodes)
    agree(graph, new, (1, 4, 4, 2))


def test_what_stays() -> None:
    x, w = given(2, 5), levels(5, 3)
    rows = apply(MatMul(), dequantized(x, 1.0), dequantized(const(w), np.ones((5, 1))))
    columns = apply(MatMul(), dequantized(x, np.ones((1, 5))), dequantized(const(w), 1.0))
    plain = apply(MatMul(), dequantized(x, 1.0), const(w.astype(np.float32)))
    for y in (rows, columns, plain):
        graph, new = converted(x, y)
        assert new is graph
    square = given(4, 4)
    graph, new = converted(square, apply(MatMul(), dequantized(square, 1.0), dequantized(square, 2.0)))
    assert new is graph
