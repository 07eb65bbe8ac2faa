"""Lowered layers: what the graph then says, and that it is near what float32 says."""

import ml_dtypes
import numpy as np
import pytest
from mlc.errors import PassError
from mlc.ir import DType, Graph, Input, Node, TensorType, const
from mlc.ir.ops import Conv, MatMul, Relu
from mlc.passes.base import PassContext, apply
from mlc.passes.precision import BFloat16, DynamicInt8, Float16, LowerPrecision, StaticInt8, WeightOnly, layers, weights_of

RNG = np.random.default_rng(0)
W = RNG.standard_normal((24, 10)).astype(np.float32)
K = RNG.standard_normal((3, 3, 4, 6)).astype(np.float32)


def product():
    x = Node.make(Input(TensorType(DType.F32, (5, 24))), ()).out
    y = apply(Relu(), apply(MatMul(), x, const(W), loc=("fc",)))
    return Graph((x,), (y,), ("x",), ("y",))


def convolution():
    x = Node.make(Input(TensorType(DType.F32, (1, 7, 7, 4))), ()).out
    y = apply(Conv((1, 1), (1, 1), (1, 1), (1, 1)), x, const(K), loc=("conv",))
    return Graph((x,), (y,), ("x",), ("y",))


def columns(w):
    s = (np.abs(w.reshape(-1, w.shape[-1])).max(axis=0) / 127).astype(np.float32)
    return np.clip(np.rint(w / s), -127, 127).astype(np.int8), s


def lowered(graph, **choices):
    return LowerPrecision(choices).run(graph, PassContext(verify=True))


def error(graph, new, x):
    (want,), (got,) = graph.evaluate(x), new.evaluate(x)
    assert got.dtype == want.dtype == np.float32 and got.shape == want.shape
    return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize(("choice", "limit"), [(BFloat16(), 1e-2), (Float16(), 1e-3), (DynamicInt8(*columns(W)), 2e-2)])
def test_a_product_is_near_float32(choice, limit):
    g = product()
    x = RNG.standard_normal((5, 24)).astype(np.float32)
    x[2] = 0  # a row without a range
    assert 0 < error(g, lowered(g, fc=choice), x) < limit


def test_weights_with_axes_of_size_1_in_front_give_the_result_those():
    x = Node.make(Input(TensorType(DType.F32, (5, 24))), ()).out
    g = Graph((x,), (apply(MatMul(), x, const(W[None]), loc=("fc",)),), ("x",), ("y",))
    q, scales = columns(W)
    levels = WeightOnly(8, 24, (q.astype(np.int16) + 128).astype(np.uint8), scales[None], np.full((1, 10), 128, np.float32))
    for choice in (BFloat16(), DynamicInt8(q[None], scales), levels):
        new = lowered(g, fc=choice)
        assert new.outputs[0].type == g.outputs[0].type
        assert 0 < error(g, new, RNG.standard_normal((5, 24)).astype(np.float32)) < 2e-2


def test_bfloat16_rounds_operands_and_nothing_else():
    g = product()
    x = RNG.standard_normal((5, 24)).astype(np.float32)

    def r(a):
        return a.astype(ml_dtypes.bfloat16).astype(np.float64)

    (got,) = lowered(g, fc=BFloat16()).evaluate(x)
    assert np.array_equal(got, np.maximum(r(x) @ r(W), 0).astype(np.float32))


def test_static_int8_is_the_arithmetic_it_says():
    g, (q, s) = product(), columns(W)
    x = RNG.standard_normal((5, 24)).astype(np.float32)
    smooth, shift = np.exp(RNG.standard_normal(24)).astype(np.float32), RNG.standard_normal(10).astype(np.float32)
    (got,) = lowered(g, fc=StaticInt8(0.05, 100, q, s, smooth, shift)).evaluate(x)
    levels = np.clip(np.rint(x * (smooth * np.float32(1 / 0.05))) + 100, 0, 255)
    acc = (levels - 100) @ q.astype(np.float64)
    want = np.maximum(acc.astype(np.float32) * (s * np.float32(0.05)) + shift, 0)
    assert np.array_equal(got, want)


def test_a_convolution_pads_with_the_zero_point():
    g, (q, s) = convolution(), columns(K)
    x = RNG.uniform(-1, 3, (1, 7, 7, 4)).astype(np.float32)
    scale = 4 / 255
    assert error(g, lowered(g, conv=StaticInt8(scale, round(1 / scale), q, s)), x) < 2e-2
    assert 0 < error(g, lowered(g, conv=BFloat16()), x) < 1e-2


def test_no_choice_no_change():
    g = product()
    assert lowered(g) is g


def test_choices_that_fit_nothing_are_errors():
    with pytest.raises(PassError, match="'absent'"):
        lowered(product(), absent=BFloat16())
    with pytest.raises(PassError, match="convolution"):
        lowered(convolution(), conv=DynamicInt8(*columns(K)))


def test_layers_are_named_after_their_onnx_nodes_and_are_unique():
    x = Node.make(Input(TensorType(DType.F32, (5, 24))), ()).out
    a, b = (apply(MatMul(), x, const(RNG.standard_normal((24, 3)).astype(np.float32)), loc=("fc",)) for _ in range(2))
    depthwise = apply(
        Conv((1,), (0,), (0,), (1,), groups=4),
        Node.make(Input(TensorType(DType.F32, (1, 9, 4))), ()).out,
        const(np.ones((3, 1, 4), np.float32)),
    )
    g = Graph((x, depthwise.node.inputs[0]), (a, b, depthwise), ("x", "z"), ("a", "b", "c"))
    assert list(layers(g)) == ["fc", "fc#2"]
    assert weights_of(a.node) is not None
