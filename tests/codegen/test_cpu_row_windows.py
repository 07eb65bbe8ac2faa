"""Windows along rows, channels first: borders, sizes, strides, dilations and element types against onnxruntime or NumPy."""

from __future__ import annotations

import mlc
import numpy as np
import onnxruntime
import pytest
from mlc.codegen.cpu.loops import form
from onnx import TensorProto, helper, numpy_helper


def model(op, shape, weights=(), element=TensorProto.FLOAT, **attributes):
    nodes = [helper.make_node(op, ["x", *(["w"] if weights else [])], ["y"], **attributes)]
    held = []
    if weights:
        groups = attributes.get("group", 1)
        w = np.random.default_rng(1).standard_normal((weights[0], shape[1] // groups, *weights[1:]))
        held = [numpy_helper.from_array(w.astype("f"), "w")]
    given, out = helper.make_tensor_value_info("x", element, shape), helper.make_tensor_value_info("y", element, None)
    graph = helper.make_graph(nodes, "g", [given], [out], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9).SerializeToString()


POOLS = [
    ((1, 3, 9, 56), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
    ((2, 5, 8, 33), {"kernel_shape": [3, 3], "pads": [1] * 4}),
    ((1, 40, 7, 27), {"kernel_shape": [2, 3], "strides": [1, 2], "pads": [0, 1, 1, 0]}),
    ((1, 8, 6, 300), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
    ((1, 8, 6, 301), {"kernel_shape": [3, 4], "strides": [1, 3], "pads": [1, 2, 1, 2]}),
    ((1, 8, 6, 700), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ((1, 8, 12, 7), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
    ((1, 8, 12, 40), {"kernel_shape": [3, 3], "strides": [1, 2], "dilations": [2, 3], "pads": [1, 2, 1, 2]}),
    ((1, 33, 75), {"kernel_shape": [5], "strides": [4], "pads": [2, 1]}),
    ((1, 4, 6, 7, 37), {"kernel_shape": [3, 3, 3], "strides": [2, 2, 2], "pads": [1] * 6}),
    ((1, 6, 10, 23), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ((1, 40, 3, 95), {"kernel_shape": [1, 7], "strides": [1, 5], "pads": [0, 3, 0, 3]}),
]


@pytest.fixture
def seen(monkeypatch):
    found = []
    real = form.row_windows
    monkeypatch.setattr(form, "row_windows", lambda *args: found.append(real(*args)) or found[-1])
    return found


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("shape, attributes", POOLS)
def test_pooling(op, shape, attributes, seen):
    attributes = {**attributes, **({"count_include_pad": 1} if op == "AveragePool" and shape[0] == 2 else {})}
    data = model(op, shape, **attributes)
    x = np.random.default_rng(2).standard_normal(shape).astype("f") - 9  # so that zeros of a border would win
    (want,) = onnxruntime.InferenceSession(data).run(None, {"x": x})
    np.testing.assert_allclose(mlc.compile(data, threads=2)(x), want, rtol=2e-6)
    mlc.compile(data, target="cpu:x86-64-v4")
    assert seen[-1] is not None


@pytest.mark.parametrize("shape, attributes", POOLS)
def test_a_nan_wins_wherever_a_window_sees_it(shape, attributes):
    data = model("MaxPool", shape, **attributes)
    x = np.random.default_rng(3).standard_normal(shape).astype("f")
    x[x > 2] = np.nan
    x[x < -2.5] = -np.inf
    marked = np.where(np.isnan(x), np.float32(1e30), x)
    (want,) = onnxruntime.InferenceSession(data).run(None, {"x": marked})
    np.testing.assert_array_equal(mlc.compile(data)(x), np.where(want == np.float32(1e30), np.nan, want))


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.uint8, np.int8])
def test_pooled_element_types(kind):
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    for columns in (9, 40, 150, 333):
        shape = (1, 6, 9, columns)
        attributes = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
        x = (np.random.default_rng(4).standard_normal(shape) * 40).round().clip(0 if kind is np.uint8 else -120, 120).astype(kind)
        (want,) = onnxruntime.InferenceSession(model("MaxPool", shape, **attributes)).run(None, {"x": x.astype("f")})
        np.testing.assert_array_equal(mlc.compile(model("MaxPool", shape, element=element, **attributes))(x), want.astype(kind))


CONVOLUTIONS = [
    ((1, 6, 9, 56), (6, 5, 5), {"group": 6, "strides": [2, 2], "pads": [2] * 4}),
    ((2, 6, 9, 28), (6, 9, 9), {"group": 6, "pads": [4] * 4}),
    ((1, 12, 8, 14), (12, 7, 7), {"group": 12, "pads": [3] * 4}),
    ((1, 7, 11, 75), (7, 3, 3), {"group": 7, "pads": [1] * 4}),
    ((1, 7, 11, 75), (14, 3, 3), {"group": 7, "pads": [1, 0, 0, 2], "strides": [1, 3]}),
    ((1, 3, 34, 131), (8, 3, 3), {"pads": [1] * 4, "strides": [2, 2]}),
    ((1, 40, 530), (40, 31), {"group": 40, "pads": [15] * 2}),
    ((1, 40, 530), (40, 40), {"group": 40, "pads": [15] * 2}),
    ((1, 40, 130), (40, 4), {"group": 40, "pads": [6, 3], "dilations": [3]}),
    ((1, 4, 4, 6, 33), (4, 3, 3, 3), {"group": 4, "pads": [1] * 6, "strides": [1, 1, 2]}),
    ((1, 33, 5, 6), (33, 3, 3), {"group": 33, "pads": [1] * 4, "strides": [2, 2]}),
]


@pytest.mark.parametrize("shape, weights, attributes", CONVOLUTIONS)
def test_convolutions(shape, weights, attributes):
    data = model("Conv", shape, weights, **attributes)
    x = np.random.default_rng(5).standard_normal(shape).astype("f")
    (want,) = onnxruntime.InferenceSession(data).run(None, {"x": x})
    np.testing.assert_allclose(mlc.compile(data, threads=2)(x), want, rtol=1e-5, atol=3e-5)


def test_elements_outside_of_the_input_are_not_read():
    """What lies behind the last row, and before the first, belongs to someone else: NaNs here, which would show."""
    shape = (1, 2, 40, 34)
    for op, weights, attributes in (
        ("MaxPool", (), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
        ("MaxPool", (), {"kernel_shape": [3, 3]}),
        ("Conv", (2, 5, 5), {"group": 2, "strides": [2, 2], "pads": [2] * 4}),
        ("Conv", (2, 5, 5), {"group": 2, "pads": [2] * 4}),
    ):
        data = model(op, shape, weights, **attributes)
        held = np.full(np.prod(shape) + 200, np.nan, np.float32)
        x = held[100:-100].reshape(shape)
        x[:] = np.random.default_rng(6).standard_normal(shape)
        (want,) = onnxruntime.InferenceSession(data).run(None, {"x": x.copy()})
        np.testing.assert_allclose(mlc.compile(data)(x), want, rtol=1e-5, atol=1e-5)


def test_rows_of_any_length_take_no_time_to_compile():
    """Their tiles are not listed: 2^40 of them took all memory."""
    assert mlc.compile(model("MaxPool", [1, 2, 4, 1 << 44], kernel_shape=[2, 2])).outputs[0].shape == (1, 2, 3, (1 << 44) - 1)
