"""Models whose weights and activations have 16 bits: at their own precision, and lowered further."""

import ml_dtypes
import mlc
import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)
TYPES = {"float16": (TensorProto.FLOAT16, np.float16), "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16)}


def model(kind, rows="n"):
    """A convolution, a mean over its pixels, and two products, of which the second one's rows are the batch."""
    element, dtype = TYPES[kind]
    shapes = {"k": (64, 8, 3, 3), "w": (64, 96), "v": (96, 64)}
    held = [numpy_helper.from_array((RNG.standard_normal(s) / 8).astype(dtype), name) for name, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "v"], ["y"], name="second"),
    ]
    ends = [[helper.make_tensor_value_info("x", element, (rows, 8, 9, 9))], [helper.make_tensor_value_info("y", element, (rows, 64))]]
    graph = helper.make_graph(nodes, "halves", *ends, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def sample(kind, rows):
    return RNG.standard_normal((rows, 8, 9, 9)).astype(TYPES[kind][1])


def distance(got, want):
    got, want = (np.asarray(a, np.float64) for a in (got, want))
    return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize("rows", [1, 16, "n"])
@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v3"])
def test_float16_agrees_with_onnxruntime(rows, target):
    m = model("float16", rows)
    x = sample("float16", 20 if rows == "n" else rows)
    (want,) = ort.InferenceSession(m.SerializeToString()).run(None, {"x": x})
    got = mlc.compile(m, target=target).run({"x": x})["y"]
    assert got.dtype == want.dtype and distance(got, want) < 2e-3


@pytest.mark.parametrize("rows", [1, 16, "n"])
@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v3"])
def test_bfloat16_agrees_with_the_reference(rows, target):
    m = model("bfloat16", rows)
    x = sample("bfloat16", 20 if rows == "n" else rows)
    want = mlc.compile(m, opt_level=0).run({"x": x})["y"]
    got = mlc.compile(m, target=target).run({"x": x})["y"]
    assert got.dtype == want.dtype and distance(got, want) < 2e-2


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("precision, layers, limit", [
    ("bf16", 3, 2e-2), ("fp16", 3, 2e-2), ("int8-dynamic", 2, 3e-2), ("int8", 3, 3e-2), ("int8-weight", 2, 2e-2), ("int4", 2, 2e-1),
])  # fmt: skip
def test_layers_of_16_bits_can_be_lowered(kind, precision, layers, limit):
    seen = []
    data = [{"x": sample(kind, 16)} for _ in range(2)] if precision == "int8" else None
    options = mlc.Precision(precision, calibration=data, keep_slower=True, report=seen.append)
    m, x = model(kind), sample(kind, 16)
    want = mlc.compile(m).run({"x": x})["y"]
    got = mlc.compile(m, precision=options).run({"x": x})["y"]
    assert len(seen[0].assignment) == layers and set(seen[0].assignment.values()) == {precision}
    assert got.dtype == want.dtype and distance(got, want) < limit


def test_layers_that_are_not_lowered_stay_as_the_model_has_them():
    seen = []
    options = mlc.Precision("int4", overrides=(("first", "fp32"),), keep_slower=True, report=seen.append)
    mlc.compile(model("float16"), precision=options)
    ops = [
        (type(n.op).__name__, n.out.dtype.value) for n in seen[0].graph.nodes if type(n.op).__name__ in ("Conv", "MatMul", "GroupedMatMul")
    ]
    assert ops == [("Conv", "f16"), ("MatMul", "f16"), ("GroupedMatMul", "f32")]
