"""Products of 16-bit floats become dot products, products with levels of 16 bits, or float32 ones of the same numbers."""

from dataclasses import replace

import numpy as np
import pytest
from mlc.ir import DType, Graph, Input, Node, TensorType, const, sym
from mlc.ir.ops import Attention, Cast, Conv, DotConv, DotMatMul, Gelu, GroupedMatMul, MatMul
from mlc.passes.base import PassContext, apply
from mlc.passes.half_products import HalfLayers, HalfProducts, WideLayers
from mlc.passes.precision import layers

R = np.random.default_rng(0)
PADDED = Conv((1, 1), (1, 1), (1, 1), (1, 1))
TILES = HalfProducts(dots=True, split=True)


def made(op, shape, weights, dtype=DType.F16):
    x = Node.make(Input(TensorType(dtype, shape)), ()).out
    return Graph((x,), (apply(Gelu(False), apply(op, x, const(weights.astype(dtype.np)))),), ("x",), ("y",))


def compared(g, new, *arrays):
    (want,), (got,) = (graph.evaluate(*arrays) for graph in (g, new))
    assert got.dtype == want.dtype
    step = 2e-3 if want.dtype == np.float16 else 1.6e-2
    want, got = (a.astype(np.float32) for a in (want, got))
    np.testing.assert_allclose(got, want, rtol=step, atol=step * float(np.abs(want).max()))


def products(g):
    return [n for n in g.nodes if isinstance(n.op, (MatMul, Conv))]


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
@pytest.mark.parametrize("op,shape,weights", [
    (MatMul(), (9, 40), R.standard_normal((40, 24))),
    (MatMul(), (sym("n"), 7, 40), R.standard_normal((40, 24))),
    (PADDED, (sym("n"), 5, 6, 8), R.standard_normal((3, 3, 8, 12))),
    (PADDED, (2, 5, 6, 8), R.standard_normal((3, 3, 8, 12))),
])  # fmt: skip
def test_products_are_of_float32(op, shape, weights, dtype):
    g = made(op, shape, weights, dtype)
    wide = HalfProducts().run(g, PassContext())
    assert [n.out.dtype for n in products(wide)] == [DType.F32] and wide.outputs[0].type == g.outputs[0].type
    assert [type(n.op) for n in products(wide)] == [type(op)] and Cast(DType.F32) in [n.op for n in wide.nodes]
    if all(isinstance(d, int) for d in shape):
        compared(g, wide, R.standard_normal(shape).astype(dtype.np))


@pytest.mark.parametrize("by", [HalfProducts(), TILES])
def test_weights_with_axes_of_size_1_in_front_give_the_result_those(by):
    g = made(MatMul(), (48, 80), R.standard_normal((1, 80, 64)))
    new = by.run(g, PassContext(verify=True))
    assert new is not g and new.outputs[0].shape == (1, 48, 64)
    compared(g, new, R.standard_normal((48, 80)).astype(np.float16))


@pytest.mark.parametrize("shape,dtype", [((4, 40), DType.F16), ((9, 40), DType.F32), ((4, 40), DType.BF16), ((sym("n"), 40), DType.F16)])
def test_few_rows_small_weights_and_other_types_stay(shape, dtype):
    g = made(MatMul(), shape, R.standard_normal((40, 24)), dtype)
    assert HalfProducts().run(g, PassContext()) is g


def test_computed_operands_stay_in_float16():
    a, b = (Node.make(Input(TensorType(DType.F16, s)), ()).out for s in ((9, 40), (40, 24)))
    g = Graph((a, b), (apply(MatMul(), a, b),), ("a", "b"), ("y",))
    assert TILES.run(g, PassContext()) is g


@pytest.mark.parametrize("op,shape,weights,found", [
    (MatMul(), (3, 40), (40, 24), DotMatMul()),
    (MatMul(), (2, 9, 40), (2, 40, 24), DotMatMul()),
    (PADDED, (2, 5, 6, 8), (3, 3, 8, 12), DotConv((1, 1), (1, 1), (1, 1), (1, 1))),
    (replace(PADDED, groups=2), (2, 5, 6, 8), (3, 3, 4, 12), DotConv((1, 1), (1, 1), (1, 1), (1, 1), 2)),
    (replace(PADDED, groups=8), (2, 5, 6, 8), (3, 3, 1, 8), replace(PADDED, groups=8)),
])  # fmt: skip
def test_bfloat16_takes_dot_products(op, shape, weights, found):
    g = made(op, shape, R.standard_normal(weights), DType.BF16)
    new = TILES.run(g, PassContext())
    assert [n.op for n in products(new)] == [found] and [n.out.dtype for n in products(new)] == [DType.F32]
    compared(g, new, R.standard_normal(shape).astype(DType.BF16.np))


def test_computed_operands_take_dot_products_too():
    a, b = (Node.make(Input(TensorType(DType.BF16, s)), ()).out for s in ((9, 40), (40, 24)))
    g = Graph((a, b), (apply(MatMul(), a, b),), ("a", "b"), ("y",))
    new = TILES.run(g, PassContext())
    assert [n.op for n in products(new)] == [DotMatMul()]
    compared(g, new, *(R.standard_normal(s).astype(DType.BF16.np) for s in ((9, 40), (40, 24))))


@pytest.mark.parametrize("by,shape", [(TILES, (16, 80)), (TILES, (sym("n"), 80)), (HalfProducts(), (sym("n"), 2, 80))])
def test_float16_weights_are_read_as_they_are(by, shape):
    g = made(MatMul(), shape, R.standard_normal((80, 60)))
    new = by.run(g, PassContext())
    (product,) = products(new)
    assert product.op == GroupedMatMul(16, 80) and product.inputs[1].dtype is DType.F16 and new.outputs[0].type == g.outputs[0].type
    if all(isinstance(d, int) for d in shape):
        compared(g, new, R.standard_normal(shape).astype(np.float16))


POINTS = Conv((1, 1), (0, 0), (0, 0), (1, 1))


@pytest.mark.parametrize(
    "op,found", [(POINTS, GroupedMatMul(16, 80)), (replace(POINTS, strides=(2, 1)), Conv), (replace(POINTS, pads_hi=(1, 0)), Conv)]
)
def test_convolutions_of_single_pixels_are_products(op, found):
    g = made(op, (2, 5, 6, 80), R.standard_normal((1, 1, 80, 60)))
    new = TILES.run(g, PassContext())
    assert [n.op for n in products(new)] == ([found] if found is not Conv else [op])
    compared(g, new, R.standard_normal((2, 5, 6, 80)).astype(np.float16))


def test_weights_that_are_infinite_stay_float32():
    weights = R.standard_normal((80, 60))
    weights[3, 4] = np.inf
    new = TILES.run(made(MatMul(), (16, 80), weights), PassContext())
    assert [n.op for n in products(new)] == [MatMul()]


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
@pytest.mark.parametrize("by", [HalfProducts(), TILES])
def test_attention_of_many_queries_is_of_float32(dtype, by):
    shapes = (1, 2, 9, 8), (1, 2, 11, 8), (1, 2, 11, 8), (1, 1, 9, 11)
    ins = [Node.make(Input(TensorType(dtype, s)), ()).out for s in shapes]
    g = Graph(tuple(ins), (apply(Attention(0.3), *ins),), tuple("qkvm"), ("y",))
    new = by.run(g, PassContext())
    (node,) = (n for n in new.nodes if isinstance(n.op, Attention))
    assert node.out.dtype is DType.F32 and node.op.rounded == (by.dots and dtype is DType.BF16)
    compared(g, new, *(R.standard_normal(s).astype(dtype.np) for s in shapes))


def test_attention_of_few_queries_stays():
    ins = [Node.make(Input(TensorType(DType.F16, (1, 2, s, 8))), ()).out for s in (1, 11, 11)]
    g = Graph(tuple(ins), (apply(Attention(0.3), *ins),), tuple("qkv"), ("y",))
    assert TILES.run(g, PassContext()) is g


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_layers_of_16_bits_can_be_layers_of_float32(dtype):
    for g in (
        made(MatMul(), (3, 40), R.standard_normal((40, 24)), dtype),
        made(PADDED, (2, 5, 6, 8), R.standard_normal((3, 3, 8, 12)), dtype),
    ):
        new = WideLayers().run(g, PassContext())
        assert [n.out.dtype for n in products(new)] == [DType.F32] and list(layers(new).values()) == products(new)
        compared(g, new, R.standard_normal(g.inputs[0].shape).astype(dtype.np))
        again = HalfLayers().run(new, PassContext())
        assert [n.op for n in again.nodes] == [n.op for n in g.nodes] and [n.out.type for n in again.nodes] == [n.out.type for n in g.nodes]
        (held,) = (n.inputs[1] for n in products(new))
        held.data.flat[0] = 1 + 2.0**-20  # no number of 16 bits
        assert HalfLayers().run(new, PassContext()) is new
    g = made(MatMul(), (3, 40), R.standard_normal((40, 24)), DType.F32)
    assert HalfLayers().run(g, PassContext()) is g
    assert WideLayers().run(g, PassContext()) is g
