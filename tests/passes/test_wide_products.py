"""Float16 products become float32 ones of the same numbers, where weights are known and rows are not few."""

import numpy as np
import pytest
from mlc.ir import DType, Graph, Input, Node, TensorType, const, sym
from mlc.ir.ops import Cast, Conv, Gelu, MatMul
from mlc.passes.base import PassContext, apply
from mlc.passes.wide_products import WideProducts

R = np.random.default_rng(0)


def made(op, shape, weights, dtype=DType.F16):
    x = Node.make(Input(TensorType(dtype, shape)), ()).out
    return Graph((x,), (apply(Gelu(False), apply(op, x, const(weights.astype(dtype.np)))),), ("x",), ("y",))


@pytest.mark.parametrize("op,shape,weights", [
    (MatMul(), (9, 40), R.standard_normal((40, 24))),
    (MatMul(), (sym("n"), 7, 40), R.standard_normal((40, 24))),
    (Conv((1, 1), (1, 1), (1, 1), (1, 1)), (sym("n"), 5, 6, 8), R.standard_normal((3, 3, 8, 12))),
    (Conv((1, 1), (1, 1), (1, 1), (1, 1)), (2, 5, 6, 8), R.standard_normal((3, 3, 8, 12))),
])  # fmt: skip
def test_products_are_of_float32(op, shape, weights):
    g = made(op, shape, weights)
    wide = WideProducts().run(g, PassContext())
    products = [n for n in wide.nodes if isinstance(n.op, (MatMul, Conv))]
    assert [n.out.dtype for n in products] == [DType.F32] and wide.outputs[0].type == g.outputs[0].type
    assert Cast(DType.F32) in [n.op for n in wide.nodes]
    x = R.standard_normal([3 if not isinstance(d, int) else d for d in shape]).astype(np.float16)
    if all(isinstance(d, int) for d in shape):
        (want,), (got,) = (graph.evaluate(x) for graph in (g, wide))
        assert got.dtype == np.float16
        np.testing.assert_allclose(got.astype(np.float32), want.astype(np.float32), rtol=2e-3, atol=2e-3 * float(np.abs(want).max()))


@pytest.mark.parametrize("shape,dtype", [((4, 40), DType.F16), ((sym("n"), 40), DType.F16), ((9, 40), DType.F32), ((9, 40), DType.BF16)])
def test_few_rows_and_other_types_stay(shape, dtype):
    g = made(MatMul(), shape, R.standard_normal((40, 24)), dtype)
    assert WideProducts().run(g, PassContext()) is g


def test_computed_operands_stay():
    a, b = (Node.make(Input(TensorType(DType.F16, s)), ()).out for s in ((9, 40), (40, 24)))
    g = Graph((a, b), (apply(MatMul(), a, b),), ("a", "b"), ("y",))
    assert WideProducts().run(g, PassContext()) is g
