"""Dequantized operands → integer products; quantizing behind them → one rescaling; what must stay as it is."""

import numpy as np
import pytest
from mlc.ir import DType, Graph, Input, Node, TensorType, const
from mlc.ir.ops import (
    Add,
    Concat,
    Conv,
    ConvTranspose,
    Dequantize,
    Expand,
    Gather,
    IntegerConv,
    IntegerMatMul,
    MatMul,
    Max,
    Min,
    Mul,
    Pad,
    Pool,
    Quantize,
    Relu,
    Reshape,
    Slice,
    Transpose,
)
from mlc.passes.base import PassContext
from mlc.passes.integer_products import IntegerProducts
from mlc.passes.pipelines import optimize

R = np.random.default_rng(5)
U8, I8 = DType.U8, DType.I8


def tensor(*shape, dtype=U8):
    return Node.make(Input(TensorType(dtype, shape)), (), ("x",)).out


def ap(op, *args):
    return Node.make(op, args, (f"the {op.name}",)).out


def graph(x, y):
    return Graph((x,), (y,), ("x",), ("y",))


def number(value, dtype):
    return const(np.asarray(value, dtype.np))


def dequantized(q, scale=0.05, zero=3):
    return ap(Dequantize(), q, number(scale, DType.F32), number(zero, q.dtype))


def quantized(x, scale=0.3, zero=0, dtype=U8):
    return ap(Quantize(dtype), x, number(scale, DType.F32), number(zero, dtype))


def weights(shape, axis=None):
    q = const(R.integers(-127, 128, shape).astype(np.int8))
    if axis is None:
        return ap(Dequantize(), q, number(0.01, DType.F32))
    wide = [n if i == axis else 1 for i, n in enumerate(shape)]
    return ap(Dequantize(), q, const(R.uniform(0.001, 0.02, wide).astype(np.float32)))


def ops(g):
    return [type(n.op) for n in g.nodes]


def check(g, *present, absent=(), tolerance=1):
    """The pass leaves the meaning (up to ties of rounding), makes the ops `present`, and none of `absent`."""
    new = IntegerProducts().run(g, PassContext())
    found = ops(new)
    for op in present:
        assert op in found, found
    for op in absent:
        assert op not in found, found
    assert all(n.loc for n in new.nodes if n.inputs != () and n not in g.nodes)
    x = R.integers(0, 255, g.inputs[0].shape).astype(g.inputs[0].dtype.np)
    want, got = (h.evaluate(x)[0] for h in (g, new))
    assert got.dtype == want.dtype and got.shape == want.shape
    if want.dtype.kind in "iu":
        assert np.abs(got.astype(int) - want.astype(int)).max() <= tolerance
    else:
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    (final,) = optimize(g, PassContext(verify=True)).evaluate(x)
    assert np.abs(final.astype(float) - want.astype(float)).max() <= max(tolerance, 1e-4 * np.abs(want).max())
    return new


def convolution(x, w):
    """A convolution as the importer writes it: channels first outside."""
    return ap(Conv((1, 1), (1, 1), (1, 1), (1, 1)), ap(Transpose((0, 2, 3, 1)), x), ap(Transpose((2, 3, 1, 0)), w))


def test_quantized_layer_is_one_integer_product():
    x = tensor(1, 4, 5, 6)
    bias = ap(Dequantize(), const(R.integers(-500, 500, 8).astype(np.int32)), number(0.05 * 0.01, DType.F32))
    y = ap(Add(), convolution(dequantized(x), weights((8, 4, 3, 3))), bias)
    y = quantized(ap(Relu(), ap(Transpose((0, 3, 1, 2)), y)), 0.11)
    new = check(graph(x, y), IntegerConv, Quantize, absent=(Conv, Dequantize, Relu, Mul))
    assert sum(op is Add for op in ops(new)) == 1  # the bias, among the integers


@pytest.mark.parametrize("axis", [None, 0])
def test_transposed_weights_of_a_channel_each(axis):
    x = tensor(7, 12)
    w = ap(Transpose((1, 0)), weights((9, 12), axis))
    check(graph(x, ap(MatMul(), dequantized(x), w)), IntegerMatMul, absent=(MatMul, Dequantize))


def test_bias_off_the_grid_is_added_as_a_float():
    x = tensor(7, 12)
    y = ap(Add(), ap(MatMul(), dequantized(x), weights((12, 9))), const(R.standard_normal(9).astype(np.float32)))
    check(graph(x, quantized(y)), IntegerMatMul, Mul, absent=(Dequantize,))


def test_clips_move_to_the_integers():
    x = tensor(7, 12)
    y = ap(Min(), ap(Max(), ap(MatMul(), dequantized(x), weights((12, 9))), number(0, DType.F32)), number(2.0, DType.F32))
    check(graph(x, quantized(y, 0.03, 10)), Max, Min)


@pytest.mark.parametrize("dtype", [U8, DType.I8, DType.U16, DType.I16])
def test_values_on_the_grid_are_left_alone(dtype):
    x = tensor(1, 6, 6, 3, dtype=dtype)
    pool = Pool("max", (2, 2), (2, 2), (0, 0), (0, 0), (1, 1))
    same = quantized(ap(pool, dequantized(x)), 0.05, 3, dtype)
    check(graph(x, same), Pool, absent=(Quantize, Dequantize), tolerance=0)
    moved = quantized(ap(Reshape((9, 12)), dequantized(x)), 0.05, 3, dtype)
    check(graph(x, moved), Reshape, absent=(Quantize, Dequantize), tolerance=0)
    joined = quantized(ap(Concat(3), dequantized(x), dequantized(x)), 0.05, 3, dtype)
    check(graph(x, joined), Concat, absent=(Quantize, Dequantize), tolerance=0)


@pytest.mark.parametrize("fill", [number(-0.1, DType.F32), ap(Dequantize(), number(7, U8), number(0.02, DType.F32), number(3, U8))])
def test_what_moves_before_it_is_quantized_moves_as_bytes(fill):
    """Pads are filled with the level of their value, which may be quantized itself."""
    x = tensor(1, 6, 6, 3)
    padded = ap(Pad((0, 1, 0, 0), (0, 2, 1, 0)), dequantized(x), fill)
    check(graph(x, quantized(padded, 0.05, 3)), Pad, absent=(Quantize, Dequantize), tolerance=0)
    part = ap(Slice((0, 1, 0, 0), (1, 5, 6, 3), (1, 1, 1, 1)), ap(Pad((0, 1, 0, 0), (0, 0, 1, 0)), dequantized(x), fill))
    check(graph(x, quantized(part, 0.05, 3)), Pad, Slice, absent=(Quantize, Dequantize), tolerance=0)
    repeated = ap(Expand((4, 6, 6, 3)), dequantized(x))
    check(graph(x, quantized(repeated, 0.05, 3)), Expand, absent=(Quantize, Dequantize), tolerance=0)
    z = tensor(7, 12)
    y = ap(MatMul(), dequantized(z), weights((12, 9)))
    new = check(graph(z, quantized(ap(Pad((0, 1), (2, 0)), y, fill), 0.3, 5)), IntegerMatMul, Pad, absent=(Mul,))
    assert next(n for n in new.nodes if isinstance(n.op, Pad)).out.dtype is U8


def test_other_grids_are_computed():
    x = tensor(1, 6, 6, 3)
    check(graph(x, quantized(ap(Reshape((108,)), dequantized(x)), 0.05, 4)), Quantize, Dequantize)
    new = check(graph(x, quantized(ap(Concat(3), dequantized(x), dequantized(x, 0.1)), 0.05, 3)), Quantize, Dequantize, tolerance=0)
    (joined,) = (n for n in new.nodes if isinstance(n.op, Concat))
    assert all(v.dtype is DType.U8 for v in joined.inputs)  # bytes are joined, not floats


def test_tables_are_dequantized_after_the_lookup():
    x = tensor(4, dtype=DType.I64)
    table = ap(Dequantize(), const(R.integers(-9, 9, (256, 5)).astype(np.int8)), number(0.5, DType.F32))
    new = check(graph(x, ap(Gather(0), table, x)), Gather, Dequantize)
    assert ops(new)[-1] is Dequantize


def test_floats_stay_floats():
    x = tensor(7, 12, dtype=DType.F32)
    g = graph(x, ap(MatMul(), x, const(R.standard_normal((12, 3)).astype(np.float32))))
    assert IntegerProducts().run(g, PassContext()) is g
    mixed = graph(x, ap(MatMul(), x, weights((12, 9))))
    assert IntegerProducts().run(mixed, PassContext()) is mixed


def test_scales_along_the_sum_stay_floats():
    x = tensor(7, 12)
    g = graph(x, ap(MatMul(), dequantized(x), weights((12, 9), axis=0)))
    assert MatMul in ops(IntegerProducts().run(g, PassContext()))


def upsampled(x, w, strides=(2, 3)):
    return ap(ConvTranspose(strides, (0, 0), (0, 0), (0, 0), (1, 1)), x, w)


@pytest.mark.parametrize("axis", [None, 2])
@pytest.mark.parametrize("swapped", [False, True])
def test_transposed_convolutions_without_overlaps(axis, swapped):
    """Scales of weights [2, 3, 5, 4] may be one an output; the bias joins the accumulator, on whichever side it stands."""
    x = tensor(2, 3, 4, 4)
    y = upsampled(dequantized(x), weights((2, 3, 5, 4), axis))
    bias = ap(Dequantize(), const(R.integers(-99, 99, 5).astype(np.int32)), number(0.01, DType.F32))
    y = ap(Add(), *((bias, y) if swapped else (y, bias)))
    check(graph(x, quantized(ap(Relu(), y))), IntegerMatMul, absent=(ConvTranspose, Dequantize))


def test_transposed_convolutions_with_overlaps_or_scales_along_the_sum_stay_floats():
    x = tensor(2, 3, 4, 4)
    for w, strides in ((weights((2, 3, 5, 4)), (1, 2)), (weights((2, 3, 5, 4), 3), (2, 3))):
        g = graph(x, upsampled(dequantized(x), w, strides))
        assert ConvTranspose in ops(IntegerProducts().run(g, PassContext()))
