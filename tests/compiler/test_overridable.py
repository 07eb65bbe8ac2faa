"""Initializers that are listed as inputs: a value that is fed takes their place, as with onnxruntime from IR version 4 on."""

import copy

import mlc
import numpy as np
import onnxruntime as ort
import pytest
from mlc.compiler.emulated import emulate
from mlc.errors import InputError, MlcError
from onnx import ModelProto, TensorProto
from onnx import helper as oh
from onnx import numpy_helper as nh

_RNG = np.random.default_rng(0)
_W, _B = _RNG.standard_normal((4, 6), np.float32), _RNG.standard_normal(6).astype(np.float32)
_X = _RNG.standard_normal((3, 4), np.float32)


def _model(ir: int = 8, listed: str = "wbs", rows: int = 4) -> ModelProto:
    """y = reshape(x·w + b, s)"""
    w = np.resize(_W, (rows, 6))
    inputs = [
        oh.make_tensor_value_info("x", TensorProto.FLOAT, ["N", rows]), oh.make_tensor_value_info("w", TensorProto.FLOAT, [rows, 6]),
        oh.make_tensor_value_info("b", TensorProto.FLOAT, ["K"]), oh.make_tensor_value_info("s", TensorProto.INT64, [2]),
    ]  # fmt: skip
    nodes = [oh.make_node("MatMul", ["x", "w"], ["t"]), oh.make_node("Add", ["t", "b"], ["u"]), oh.make_node("Reshape", ["u", "s"], ["y"])]
    graph = oh.make_graph(
        nodes, "g", [i for i in inputs if i.name in "x" + listed], [oh.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [nh.from_array(w, "w"), nh.from_array(_B, "b"), nh.from_array(np.array([-1, 6]), "s")],
    )  # fmt: skip
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=ir)


_FEEDS = {
    "none": {},
    "b": {"b": np.arange(6, dtype=np.float32)},
    "b of one": {"b": np.float32([3])},
    "s": {"s": np.array([2, -1])},
    "w and s": {"w": np.ones((4, 6), np.float32), "s": np.array([-1, 3])},
}


@pytest.fixture(scope="module")
def module() -> mlc.Module:
    return mlc.compile(_model())


@pytest.mark.parametrize("case", _FEEDS)
def test_a_value_takes_the_place_of_an_initializer(module: mlc.Module, case: str) -> None:
    feeds = {"x": _X, **_FEEDS[case]}
    options = ort.SessionOptions()
    options.log_severity_level = 3
    want = ort.InferenceSession(_model().SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    for found in (module.run(feeds)["y"], module(_X, **_FEEDS[case]), mlc.load(module.to_bytes()).run(feeds)["y"]):
        assert found.shape == want.shape
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_a_module_says_what_may_be_overridden(module: mlc.Module) -> None:
    assert [t.name for t in module.inputs] == ["x"]
    assert [(t.name, t.dtype, t.shape) for t in module.overridable] == [
        ("w", "float32", (4, 6)),
        ("b", "float32", ("K",)),
        ("s", "int64", (2,)),
    ]
    with pytest.raises(InputError, match="unknown input v"):
        module.run({"x": _X, "v": _X})
    with pytest.raises(InputError, match="missing input x"):
        module.run({"b": _B})
    with pytest.raises(InputError, match="expected 4"):
        module.run({"x": _X, "w": np.ones((5, 6), np.float32)})


def test_before_ir_version_4_initializers_are_constants() -> None:
    module = mlc.compile(_model(ir=3))
    assert not module.overridable
    with pytest.raises(InputError, match="unknown input b"):
        module.run({"x": _X, "b": _B})
    assert [t.name for t in mlc.compile(_model(ir=3), overridable=["b"]).overridable] == ["b"]


def test_large_ones_are_overridable_on_demand() -> None:
    large, x = _model(listed="w", rows=50000), np.ones((1, 50000), np.float32)
    w = np.ones((50000, 6), np.float32)
    with pytest.raises(InputError, match=r"overridable=\['w'\]"):
        mlc.compile(large).run({"x": x, "w": w})
    found = mlc.compile(large, overridable="all").run({"x": x, "w": w})["y"]
    np.testing.assert_allclose(found, 50000 + _B[None], rtol=1e-6)
    assert not mlc.compile(_model(), overridable="none").overridable


def test_unchanged_weights_are_in_the_module_once() -> None:
    one, two = (len(mlc.compile(_model(listed="b", rows=50000), overridable=o).to_bytes()) for o in ("none", "all"))
    assert two < one + 100_000


def test_options_that_do_not_fit() -> None:
    with pytest.raises(MlcError, match="no initializer 'v'"):
        mlc.compile(_model(), overridable=["v"])
    with pytest.raises(InputError, match="overridable"):
        mlc.compile(_model(), overridable="some")
    with pytest.raises(InputError, match="overridable"):
        mlc.compile(_model(), overridable=3)


def test_what_can_only_be_constant_stays_so() -> None:
    """Overridable axes would make the result's rank unknown; the other initializer may still be overridden."""
    model = copy.deepcopy(_model(listed="wb"))
    model.graph.input.append(oh.make_tensor_value_info("a", TensorProto.INT64, [None]))
    model.graph.initializer.append(nh.from_array(np.array([0]), "a"))
    model.graph.node[2].CopyFrom(oh.make_node("Unsqueeze", ["u", "a"], ["y"]))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    module = mlc.compile(model)
    assert [t.name for t in module.overridable] == ["w", "b"]
    np.testing.assert_allclose(module(_X, b=np.zeros(6, np.float32))[0], _X @ _W, rtol=1e-5, atol=1e-5)
    with pytest.raises(MlcError):
        mlc.compile(model, overridable=["a"])


def test_on_a_gpu() -> None:
    module = emulate(_model())
    np.testing.assert_allclose(module.run({"x": _X, "b": _B + 1})["y"], _X @ _W + _B + 1, rtol=1e-4, atol=1e-4)
