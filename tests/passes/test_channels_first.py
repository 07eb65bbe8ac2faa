"""1×1 convolutions of channels-first models: no transposes at the border, none added inside."""

import numpy as np
import pytest
from mlc.ir import Graph, Input, Node, TensorType, const, sym
from mlc.ir.dtypes import DType
from mlc.ir.ops import Add, Conv, MatMul, PlaneConv, Relu, Transpose
from mlc.passes.base import PassContext
from mlc.passes.pipelines import optimize

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def ap(op, *args):
    return Node.make(op, args).out


def weights(*shape):
    return const(np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32))


def conv(x, kernel, c, o):
    pad = (kernel // 2,) * 2
    return ap(Conv((1, 1), pad, pad, (1, 1), 1), x, weights(kernel, kernel, c, o))


def build(*, images=2, size=(9, 10), kernels=(1,), n=40):
    x = Node.make(Input(TensorType(DType.F32, (images, 24, *size))), ()).out
    y, c = ap(Transpose(LAST), x), 24
    for kernel in kernels:
        y = ap(Relu(), ap(Add(), conv(y, kernel, c, n), weights(n)))
        c = n
    return Graph((x,), (ap(Transpose(FIRST), y),), ("x",), ("y",))


def ops(g):
    return [type(n.op) for n in g.nodes]


@pytest.mark.parametrize("n", [40, 200])
def test_alone(n):
    g = build(n=n)
    out = optimize(g, PassContext(verify=True))
    assert Transpose not in ops(out) and Conv not in ops(out) and ops(out).count(MatMul) == 1
    x = np.random.default_rng(0).standard_normal((2, 24, 9, 10)).astype(np.float32)
    np.testing.assert_allclose(out.evaluate(x)[0], g.evaluate(x)[0], rtol=1e-5, atol=1e-5)


def test_symbolic_sizes():
    g = build(images=sym("N"), size=(sym("H"), sym("W")))
    assert Transpose not in ops(optimize(g, PassContext(verify=True)))


@pytest.mark.parametrize("kernels", [(3,), (3, 1, 3), (1, 3)])
def test_left_alone_where_other_convolutions_want_channels_last(kernels):
    assert MatMul not in ops(optimize(build(kernels=kernels), PassContext(verify=True)))


def test_left_alone_for_few_pixels():
    assert MatMul not in ops(optimize(build(size=(4, 4)), PassContext(verify=True)))


def chain(channels, kernel=3, size=(40, 48)):
    """Images channels last, as between other convolutions: out of 24 channels, through `channels` and back."""
    x = Node.make(Input(TensorType(DType.F32, (1, *size, 24))), ()).out
    y, c = x, 24
    for n, k in ((channels[0], 1), *((n, kernel) for n in channels[1:]), (24, 1)):
        y, c = ap(Relu(), conv(y, k, c, n)), n
    return Graph((x,), (y,), ("x",), ("y",))


@pytest.mark.parametrize("size", [(40, 48), (40, sym("W"))])
def test_few_channels_are_planes_between_convolutions_that_are_not(size):
    g = chain((2, 2, 3, 2), size=size)
    out = optimize(g, PassContext(verify=True))
    assert ops(out).count(PlaneConv) == 3 and ops(out).count(Transpose) == 2
    x = np.random.default_rng(0).standard_normal((1, 40, 48, 24)).astype(np.float32)
    np.testing.assert_allclose(out.evaluate(x)[0], g.evaluate(x)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("g", [chain((16, 16)), chain((2, 2), kernel=1), chain((8, 8), size=(40, 4)), chain((2, 24))])
def test_what_fills_vectors_of_channels_stays(g):
    assert PlaneConv not in ops(optimize(g, PassContext(verify=True)))
