"""Dequantized constant weights of float products stay integers; what must become floats, does."""

import numpy as np
import pytest
from mlc.ir import DType, Graph, Input, Node, TensorType, const
from mlc.ir.ops import Add, Cast, Dequantize, Expand, Gather, GroupedMatMul, MatMul, Mul, Reshape, Transpose
from mlc.passes.base import PassContext
from mlc.passes.grouped_weights import GroupedWeights, NameDequantizers
from mlc.passes.pipelines import QUANTIZED, optimize, run_passes

R = np.random.default_rng(8)
K, N = 96, 64


def ap(op, *args):
    return Node.make(op, args, (op.name,)).out


def tensor(*shape, dtype=DType.F32):
    return Node.make(Input(TensorType(dtype, shape)), (), ("x",)).out


def graph(x, y):
    return Graph((x,), (y,), ("x",), ("y",))


def ops(g):
    return [type(n.op) for n in g.nodes]


def levels(dtype, shape):
    low, high = {DType.I8: (-127, 128), DType.U8: (0, 256), DType.I4: (-8, 8), DType.U4: (0, 16)}[dtype]
    return const(R.integers(low, high, shape).astype(dtype.np))


def scales(*shape):
    return const(R.uniform(0.01, 0.1, shape).astype(np.float32))


def check(x, y, group=None, bits=None):
    """The passes make one grouped product of the same numbers."""
    g = graph(x, y)
    new = run_passes(g, QUANTIZED, PassContext(verify=True))
    (found,) = [n.op for n in new.nodes if isinstance(n.op, GroupedMatMul)]
    assert (group, bits) == (found.group, found.bits)
    given = R.standard_normal(x.shape).astype(np.float32)
    (want,) = g.evaluate(given)
    for h in (new, optimize(g)):
        np.testing.assert_allclose(h.evaluate(given)[0], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype,bits", [(DType.I8, 8), (DType.U8, 8), (DType.I4, 4), (DType.U4, 4)])
def test_blocks_of_rows(dtype, bits):
    """Scales and zeros are spread over their blocks, as the importer writes it."""

    def spread(v):
        wide = ap(Expand((K // 32, 32, N)), ap(Reshape((K // 32, 1, N)), v))
        return ap(Reshape((K, N)), wide)

    x = tensor(3, K)
    w = ap(Dequantize(), levels(dtype, (K, N)), spread(scales(K // 32, N)), spread(levels(dtype, (K // 32, N))))
    check(x, ap(MatMul(), x, w), 32, bits)


def test_a_scale_a_column_of_transposed_weights():
    x = tensor(3, K)
    check(x, ap(MatMul(), x, ap(Transpose((1, 0)), ap(Dequantize(), levels(DType.I8, (N, K)), scales(N, 1)))), K, 8)


def test_one_scale_written_as_a_product():
    x = tensor(2, 3, K)
    w = ap(Mul(), ap(Cast(DType.F32), levels(DType.I8, (K, N))), const(np.float32(0.03)))
    check(x, ap(MatMul(), x, w), K, 8)


def test_tables_are_looked_up_as_integers():
    i = tensor(5, dtype=DType.I64)
    for scale in (const(np.float32(0.03)), scales(K, 1)):
        table = ap(Mul(), ap(Cast(DType.F32), levels(DType.I8, (K, N))), scale)
        g = graph(i, ap(Gather(0), table, i))
        new = run_passes(g, QUANTIZED, PassContext())
        assert ops(new)[-1] is Dequantize
        at = np.arange(5)
        np.testing.assert_allclose(new.evaluate(at)[0], g.evaluate(at)[0], rtol=1e-6)


def test_what_stays():
    x = tensor(3, K)
    small = ap(MatMul(), tensor(3, 8), ap(Dequantize(), levels(DType.I8, (8, 8)), const(np.float32(0.1))))
    uneven = ap(MatMul(), x, ap(Dequantize(), levels(DType.I8, (K, N)), scales(K, 1)))
    for y in (small, uneven, ap(Add(), x, const(np.float32(1)))):
        assert GroupedMatMul not in ops(run_passes(graph(x, ap(Add(), y, y)), QUANTIZED, PassContext()))
    g = graph(x, ap(Mul(), x, const(np.float32(2))))
    assert NameDequantizers().run(g, PassContext()) is g and GroupedWeights().run(g, PassContext()) is g


def test_half_precision_goes_through_float32():
    x = tensor(3, K, dtype=DType.F16)
    scale = ap(Cast(DType.F32), const(R.uniform(0.01, 0.1, (1, N)).astype(np.float16)))
    w = ap(Transpose((1, 0)), ap(Cast(DType.F16), ap(Dequantize(), levels(DType.I4, (N, K)), ap(Reshape((N, 1)), scale))))
    g = graph(x, ap(MatMul(), x, w))
    new = run_passes(g, QUANTIZED, PassContext(verify=True))
    assert ops(new).count(GroupedMatMul) == 1 and new.outputs[0].dtype is DType.F16
    given = R.standard_normal((3, K)).astype(np.float16)
    np.testing.assert_allclose(new.evaluate(given)[0].astype(np.float32), g.evaluate(given)[0].astype(np.float32), rtol=5e-3, atol=1e-2)


def test_blocks_of_columns_become_floats_at_compile_time():
    """Scales that change along a row fit no group; the weights are not computed anew in every run then."""
    wide = ap(Expand((K, N // 32, 32)), ap(Reshape((K, N // 32, 1)), scales(K, N // 32)))
    x = tensor(3, K)
    g = graph(x, ap(MatMul(), x, ap(Dequantize(), levels(DType.I4, (K, N)), ap(Reshape((K, N)), wide))))
    new = optimize(g)
    assert [o.__name__ for o in ops(new)] == ["Input", "Const", "MatMul"]
    given = R.standard_normal((3, K)).astype(np.float32)
    np.testing.assert_allclose(new.evaluate(given)[0], g.evaluate(given)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "fires"), [(np.uint16, False), (np.int16, False), (np.uint8, True)])
def test_levels_of_16_bits_are_multiplied_as_floats(dtype, fires):
    x = tensor(2, 8, K, dtype=DType.from_numpy(np.dtype(dtype)))
    numbers = ap(Transpose((1, 0, 2)), ap(Dequantize(), x, const(np.float32(0.01))))
    weights = ap(Dequantize(), levels(DType.I8, (K, N)), scales(), const(np.int8(0)))
    new = run_passes(graph(x, ap(MatMul(), numbers, weights)), (GroupedWeights(),), PassContext(verify=True))
    assert (GroupedMatMul in ops(new)) == fires
