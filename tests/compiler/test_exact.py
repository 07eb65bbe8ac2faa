"""`exact` and -O0 sum convolutions directly; otherwise minimal filtering does fewer products, within its error."""

import mlc
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture(scope="module")
def model():
    w = np.random.default_rng(0).standard_normal((32, 48, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 48, 19, 22])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 32, 19, 22])
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(w, "w")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def products(module, images):
    sizes = module.binding(N=images).slots
    return max(sizes[s.flops] for s in module.manifest.steps)


def test_exact(model):
    x = np.random.default_rng(1).standard_normal((2, 48, 19, 22)).astype(np.float32)
    (want,) = onnxruntime.InferenceSession(model).run(None, {"x": x})
    direct = 2 * 2 * 19 * 22 * 9 * 48 * 32
    for options, least, most in (({}, 0, direct / 2), ({"exact": True}, direct, direct), ({"opt_level": 0}, direct, direct)):
        module = mlc.compile(model, **options)
        got = module.run({"x": x})["y"]
        assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)
        assert least <= products(module, 2) <= most


def test_no_images(model):
    assert mlc.compile(model).run({"x": np.zeros((0, 48, 19, 22), np.float32)})["y"].shape == (0, 32, 19, 22)
