"""One module of all assignments, against a module of each."""

import mlc
import numpy as np
import pytest
from mlc.compiler.importer import import_model
from mlc.compiler.precision.options import Precision
from mlc.compiler.precision.switches import Switches
from mlc.compiler.precision.workbench import Workbench
from mlc.compiler.stages import compile_graph
from mlc.passes.base import PassContext
from mlc.passes.pipelines import optimize
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture(scope="module")
def bench():
    rng = np.random.default_rng(0)
    hold = {"k": rng.standard_normal((16, 3, 3, 3)) / 5, "w": rng.standard_normal((16, 24)) / 4, "v": rng.standard_normal((24, 8)) / 5}
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "w"], ["d"], name="up"),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "v"], ["y"], name="down"),
    ]
    weights = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in hold.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    made = helper.make_graph(nodes, "g", [x], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    samples = [{"x": rng.standard_normal((n, 3, 8, 8)).astype(np.float32)} for n in (4, 2)]
    graph = optimize(import_model(model.SerializeToString(), None), PassContext())
    return Workbench(graph, Precision("auto", calibration=samples, max_drop="relative-l2=0.1", group=8))


def test_any_assignment_is_a_run(bench):
    ladders = {"conv": ["int8", "bf16"], "up": ["int4", "int8-dynamic"], "down": ["bf16"]}
    switches = Switches(bench.graph, bench.chooser, ladders, compile_graph)
    for assignment in ({}, {"conv": "int8"}, {"conv": "bf16", "up": "int8-dynamic"}, {"up": "int4", "down": "bf16"}):
        got, want = switches.outputs(assignment, bench.samples), bench.outputs(bench.module(assignment))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a["y"], b["y"], rtol=2e-3, atol=2e-3)
        if assignment:
            assert any(np.abs(a["y"] - b["y"]).max() > 1e-5 for a, b in zip(got, bench.wanted, strict=True))


def test_layers_without_a_choice_stay_as_they_are(bench):
    switches = Switches(bench.graph, bench.chooser, {}, compile_graph)
    assert switches.outputs({}, bench.samples)[0]["y"].shape == (4, 8)
    assert mlc.compiler.precision.metrics.relative_l2(switches.outputs({}, bench.samples), bench.wanted) < 1e-6
