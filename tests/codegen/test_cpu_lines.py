"""Windows along lines of pixels, channels last: every border, size, dilation and epilogue against onnxruntime."""

from __future__ import annotations

import mlc
import numpy as np
import onnxruntime
import pytest
from mlc.codegen.cpu.loops import spans
from onnx import TensorProto, helper, numpy_helper


def model(op, shape, weights=(), dynamic=False, **attributes):
    """NHWC in and out, so that the window runs channels last; a bias and a Relu behind it."""
    c = shape[-1]
    last = [0, *range(2, len(shape)), 1]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, len(shape) - 1, *range(1, len(shape) - 1)]),
        helper.make_node(op, ["t", *(["w"] if weights else [])], ["u"], **attributes),
        helper.make_node("Add", ["u", "b"], ["v"]),
        helper.make_node("Relu", ["v"], ["r"]),
        helper.make_node("Transpose", ["r"], ["y"], perm=last),
    ]
    rng = np.random.default_rng(1)
    held = {"b": rng.standard_normal((c, *[1] * (len(shape) - 2))).astype("f")}
    if weights:
        held["w"] = rng.standard_normal((c, 1, *weights)).astype("f")
        nodes[1].attribute.append(helper.make_attribute("group", c))
    given = ["N", *shape[1:]] if dynamic else shape
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in held.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


CASES = [
    ("Conv", (1, 7, 7, 40), (7, 7), {"pads": [3] * 4}),
    ("Conv", (2, 7, 7, 16), (3, 3), {"pads": [1] * 4}),
    ("Conv", (1, 5, 14, 19), (5, 5), {"pads": [2] * 4}),
    ("Conv", (1, 3, 29, 33), (7, 7), {"pads": [3] * 4}),
    ("Conv", (1, 9, 57, 16), (5, 5), {"pads": [2] * 4}),
    ("Conv", (1, 16, 40, 17), (7, 7), {}),
    ("Conv", (1, 6, 23, 20), (1, 9), {"pads": [0, 2, 0, 7]}),
    ("Conv", (1, 12, 33, 16), (5, 5), {"pads": [4] * 4, "dilations": [2, 2]}),
    ("Conv", (1, 10, 21, 18), (5, 5), {"pads": [2, 4, 2, 0], "strides": [2, 1]}),
    ("Conv", (1, 20, 21, 16), (17, 17), {"pads": [8] * 4}),
    ("Conv", (1, 8, 28, 35), (31, 31), {"pads": [15] * 4}),
    ("Conv", (1, 4, 40, 18), (9, 31), {"pads": [4, 15] * 2}),
    ("Conv", (1, 3, 97, 17), (3, 27), {"pads": [1, 13] * 2}),
    ("Conv", (1, 3, 70, 16), (1, 25), {"pads": [0, 24, 0, 3]}),
    ("Conv", (1, 4, 6, 6, 17), (3, 3, 3), {"pads": [1] * 6}),
    ("MaxPool", (1, 20, 20, 24), (), {"kernel_shape": [5, 5], "pads": [2] * 4}),
    ("MaxPool", (1, 13, 33, 16), (), {"kernel_shape": [7, 5], "pads": [3, 1, 3, 1]}),
    ("AveragePool", (1, 7, 26, 31), (), {"kernel_shape": [5, 5], "pads": [2] * 4, "count_include_pad": 1}),
]


@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v3"])
@pytest.mark.parametrize("op, shape, weights, attributes", CASES)
def test_against_onnxruntime(op, shape, weights, attributes, target, monkeypatch):
    found = []
    real = spans.lines
    monkeypatch.setattr(spans, "lines", lambda *args: found.append(real(*args)) or found[-1])
    dynamic = shape[0] == 2
    data = model(op, shape, weights, dynamic, **attributes)
    x = np.random.default_rng(2).standard_normal(shape).astype("f")
    if op == "MaxPool":
        x -= 9  # so that zeros of a border would win
    (want,) = onnxruntime.InferenceSession(data).run(None, {"x": x})
    module = mlc.compile(data, target=target, threads=2)
    np.testing.assert_allclose(module(x), want, rtol=1e-5, atol=3e-5)
    assert target != "cpu" or any(f is not None for f in found)


def test_windows_that_share_nothing_are_left_alone():
    """Strides, and few taps of a long line."""
    for shape, weights, attributes in (
        ((1, 28, 28, 16), (3, 3), {"pads": [1] * 4}),
        ((1, 28, 28, 16), (5, 5), {"pads": [2] * 4, "strides": [2, 2]}),
    ):
        data = model("Conv", shape, weights, **attributes)
        x = np.random.default_rng(2).standard_normal(shape).astype("f")
        (want,) = onnxruntime.InferenceSession(data).run(None, {"x": x})
        np.testing.assert_allclose(mlc.compile(data)(x), want, rtol=1e-5, atol=3e-5)
