"""Pooling and depthwise convolutions of channels-first models: images stay as they are where nothing else wants them turned."""

import numpy as np
import pytest
from mlc.ir import Graph, Input, Node, TensorType, const, sym
from mlc.ir.dtypes import DType
from mlc.ir.ops import Add, Conv, PlaneConv, Pool, Relu, Slice, Transpose
from mlc.passes.base import PassContext
from mlc.passes.pipelines import optimize

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
RNG = np.random.default_rng(1)


def ap(op, *args):
    return Node.make(op, args).out


def weights(*shape):
    return const(RNG.standard_normal(shape).astype(np.float32))


def depthwise(x, kernel=3, stride=1):
    c, pad = x.shape[-1], (kernel // 2,) * 2
    y = ap(Conv((stride,) * 2, pad, pad, (1, 1), c), x, weights(kernel, kernel, 1, c))
    return ap(Relu(), ap(Add(), y, weights(c)))


def pool(x, kernel=3, stride=2, kind="max"):
    return ap(Pool(kind, (kernel,) * 2, (stride,) * 2, (1, 1), (0, 1), (1, 1)), x)


def dense(x):
    return ap(Conv((1, 1), (1, 1), (1, 1), (1, 1), 1), x, weights(3, 3, x.shape[-1], 24))


def short(x, groups=1):
    y = ap(Conv((1, 1), (1, 1), (1, 1), (1, 1), groups), x, weights(3, 3, x.shape[-1] // groups, 12))
    return ap(Relu(), ap(Add(), y, weights(12)))


def build(*layers, shape=(2, 24, 15, 30)):
    x = Node.make(Input(TensorType(DType.F32, shape)), ()).out
    y = ap(Transpose(LAST), x)
    for layer in layers:
        y = layer(y)
    return Graph((x,), (ap(Transpose(FIRST), y),), ("x",), ("y",))


def optimized(g):
    return optimize(g, PassContext(verify=True))


def ops(g):
    return [type(n.op) for n in g.nodes]


@pytest.mark.parametrize("layers", [(depthwise,), (pool,), (depthwise, pool), (lambda x: pool(x, 2, 1, "avg"), lambda x: depthwise(x, 5))])
def test_images_stay_as_they_are(layers):
    g = build(*layers)
    out = optimized(g)
    assert Transpose not in ops(out) and Conv not in ops(out)
    assert any(kind in ops(out) for kind in (PlaneConv, Pool))
    x = RNG.standard_normal((2, 24, 15, 30)).astype(np.float32)
    np.testing.assert_allclose(out.evaluate(x)[0], g.evaluate(x)[0], rtol=1e-5, atol=1e-5)


def test_symbolic_sizes():
    out = optimized(build(depthwise, pool, shape=(sym("N"), 24, sym("H"), sym("W"))))
    assert Transpose not in ops(out) and PlaneConv in ops(out)


@pytest.mark.parametrize("channels, groups", [(3, 1), (1, 1), (8, 1), (12, 3), (12, 12)])
def test_short_sums_stay_planes(channels, groups):
    g = build(lambda x: short(x, groups), shape=(2, channels, 15, 30))
    out = optimized(g)
    assert Transpose not in ops(out) and PlaneConv in ops(out)
    x = RNG.standard_normal(g.inputs[0].shape).astype(np.float32)
    np.testing.assert_allclose(out.evaluate(x)[0], g.evaluate(x)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "channels, outputs, planes", [(1, 1, True), (24, 1, True), (12, 8, True), (16, 4, True), (16, 2, False), (12, 16, False)]
)
def test_longer_sums_into_few_channels_stay_planes(channels, outputs, planes):
    """Where a vector of output channels would be mostly empty."""

    def layer(x):
        return ap(Relu(), ap(Conv((1, 1), (1, 1), (1, 1), (1, 1), 1), x, weights(3, 3, channels, outputs)))

    g = build(layer, shape=(1, channels, 15, 30))
    out = optimized(g)
    assert (PlaneConv in ops(out)) == planes and (not planes or Transpose not in ops(out))


@pytest.mark.parametrize(
    "layers, shape",
    [
        ((short, dense), (1, 3, 15, 30)),  # what follows wants channels last
        ((short, dense), (1, 1, 15, 30)),
        ((short,), (1, 20, 15, 30)),  # a long sum
        ((short,), (1, 3, 30, 5)),  # short lines
    ],
)
def test_other_sums_are_products(layers, shape):
    assert PlaneConv not in ops(optimized(build(*layers, shape=shape)))


def strided(x, kernel=(1, 1), strides=(2, 2), lo=(0, 0), hi=(0, 0)):
    return ap(Conv(strides, lo, hi, (1, 1)), x, weights(*kernel, x.shape[-1], 40))


@pytest.mark.parametrize("kernel, strides", [((1, 1), (2, 2)), ((5, 1), (2, 3)), ((1, 5), (3, 1))])
def test_skipped_pixels_are_not_turned(kernel, strides):
    g = build(lambda x: strided(x, kernel, strides))
    out = optimized(g)
    assert Slice in ops(out) and all(n.op.strides[d] == 1 for n in out.nodes if isinstance(n.op, Conv) for d in (0, 1) if kernel[d] == 1)
    x = RNG.standard_normal(g.inputs[0].shape).astype(np.float32)
    np.testing.assert_allclose(out.evaluate(x)[0], g.evaluate(x)[0], rtol=1e-4, atol=1e-4)
    assert Slice in ops(optimized(build(lambda x: strided(x, kernel, strides), shape=(sym("N"), 24, sym("H", 9), sym("W", 9)))))


@pytest.mark.parametrize(
    "layers",
    [
        (lambda x: strided(x, (1, 1), (2, 2), (1, 0), (0, 1)),),  # padded
        (lambda x: strided(x, (3, 3)),),
        (lambda x: ap(Add(), strided(x), ap(Conv((2, 2), (1, 1), (1, 0), (1, 1)), x, weights(3, 3, 24, 40))),),  # all is read by another
        (dense, strided),
    ],
)
def test_pixels_are_turned_that_are_there_anyway(layers):
    assert Slice not in ops(optimized(build(*layers)))


@pytest.mark.parametrize("layers", [(dense, depthwise, dense), (dense, pool, dense)])
def test_left_alone_between_convolutions(layers):
    assert PlaneConv not in ops(out := optimized(build(*layers))) and ops(out).count(Transpose) == 2


@pytest.mark.parametrize(
    "layer, shape",
    [
        (lambda x: depthwise(x, 3), (1, 64, 7, 7)),  # lines too short for vectors
        (lambda x: depthwise(x, 11), (1, 64, 32, 32)),  # all taps over again for each vector
        (lambda x: pool(x, 5, 1), (1, 64, 20, 20)),
    ],
)
def test_left_alone_where_channels_fill_vectors_better(layer, shape):
    assert ops(optimized(build(layer, shape=shape))).count(Transpose) == 2


def test_few_channels_are_always_planes():
    assert Transpose not in ops(optimized(build(lambda x: depthwise(x, 11), shape=(1, 3, 9, 9))))


@pytest.mark.parametrize("kernel, size, planes", [(2, 14, True), (3, 21, True), (8, 64, True), (4, 28, False)])
def test_windows_that_share_no_pixel_stay_on_planes_of_short_lines(kernel, size, planes):
    x = Node.make(Input(TensorType(DType.F32, (1, 64, size, size))), ()).out
    y = ap(Pool("max", (kernel,) * 2, (kernel,) * 2, (0, 0), (0, 0), (1, 1)), ap(Transpose(LAST), x))
    graph = Graph((x,), (ap(Transpose(FIRST), y),), ("x",), ("y",))
    new = optimize(graph, PassContext(verify=True))
    assert (Transpose not in ops(new)) == planes
    data = RNG.standard_normal((1, 64, size, size)).astype(np.float32)
    np.testing.assert_array_equal(new.evaluate(data)[0], graph.evaluate(data)[0])
