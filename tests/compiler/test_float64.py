"""A difference from onnxruntime is settled by float64: whose rounding it is, and when nobody can say."""

from pathlib import Path

import numpy as np
import onnx
from mlc.compiler import float64, oracle
from mlc.compiler.compare import FromFloat64, Tolerance
from onnx import TensorProto, helper

SIZE = 8
FEEDS = {"x": np.full(SIZE, -9.2, np.float32)}  # onnxruntime's float32 Sigmoid is 3e-4 off here


def model(*nodes: onnx.NodeProto, functions: tuple[onnx.FunctionProto, ...] = ()) -> bytes:
    value = helper.make_tensor_value_info
    weight = onnx.numpy_helper.from_array(np.full(SIZE, 0.1, np.float32), "w")
    graph = helper.make_graph(list(nodes), "g", [value("x", 1, ["n"])], [value("y", 1, ["n"])], [weight])
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=imports, ir_version=9, functions=functions)
    return made.SerializeToString()


SIGMOID = model(helper.make_node("Sigmoid", ["x"], ["y"]))


def exact(feeds: oracle.Feeds) -> dict[str, np.ndarray]:
    return {"y": (1 / (1 + np.exp(-feeds["x"].astype(np.float64)))).astype(np.float32)}


def test_the_nearer_to_float64_is_right() -> None:
    report = oracle.check(exact, SIGMOID, FEEDS, threads=1)
    (d,) = report.outputs
    assert d.relative_l2 > d.limit, "the premise: onnxruntime is off"
    assert report.agrees and not d.why
    assert d.from_float64 is not None and d.from_float64.mlc < 1e-7 < 1e-4 < d.from_float64.onnxruntime
    assert report.as_json()["outputs"][0]["from_float64"]["mlc"] == d.from_float64.mlc


def test_a_wrong_result_stays_wrong() -> None:
    report = oracle.check(lambda f: {"y": exact(f)["y"] * np.float32(1.01)}, SIGMOID, FEEDS, threads=1)
    assert not report.agrees and report.outputs[0].from_float64 is not None
    assert abs(report.outputs[0].from_float64.mlc - 0.01) < 1e-6


def test_limits_that_were_asked_for_are_kept() -> None:
    report = oracle.check(exact, SIGMOID, FEEDS, threads=1, tolerance=Tolerance(rtol=1e-5))
    assert not report.agrees and report.outputs[0].from_float64 is None


def test_distances_on_request_only() -> None:
    same = oracle.Oracle(SIGMOID, threads=1).run
    assert oracle.check(same, SIGMOID, FEEDS, threads=1).outputs[0].from_float64 is None
    d = oracle.check(same, SIGMOID, FEEDS, threads=1, tolerance=Tolerance(float64=True)).outputs[0]
    assert d.from_float64 is not None and d.from_float64.mlc == d.from_float64.onnxruntime


def test_layers_are_settled_too() -> None:
    layers = oracle.check_layers(lambda m: exact, SIGMOID, FEEDS, threads=1)
    assert [x.difference.agrees for x in layers] == [True]
    assert isinstance(layers[0].difference.from_float64, FromFloat64)


def test_onnxruntime_has_the_last_word_where_float64_cannot_be_had() -> None:
    differences = oracle.compare_outputs({"y": np.ones(3, np.float32)}, {"y": np.full(3, 2, np.float32)})
    unknown = model(helper.make_node("Nothing", ["x"], ["y"]))
    assert float64.settle(differences, {}, {}, lambda: float64.evaluate(unknown, FEEDS)) == differences


def test_everything_becomes_float64() -> None:
    """Weights, constants, casts, function bodies and branches: one float32 left behind would round the result to it."""
    constant = onnx.numpy_helper.from_array(np.full(SIZE, 0.3, np.float32), "c")
    body = [
        helper.make_node("Cast", ["a"], ["i"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["c"], value=constant),
        helper.make_node("Mul", ["i", "c"], ["b"]),
    ]
    function = helper.make_function("mine", "Third", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    value = helper.make_tensor_value_info("z", 1, None)
    branch = [helper.make_graph([helper.make_node(op, ["t", "t"], ["z"])], op, [], [value]) for op in ("Mul", "Add")]
    nodes = [
        helper.make_node("Third", ["x"], ["s"], domain="mine"),
        helper.make_node("Add", ["s", "w"], ["t"]),
        helper.make_node("Constant", [], ["yes"], value=onnx.numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch[0], else_branch=branch[1]),
    ]
    x = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    y = float64.evaluate(model(*nodes, functions=(function,)), {"x": x})["y"]
    want = (x.astype(np.float64) * np.float64(np.float32(0.3)) + np.float64(np.float32(0.1))) ** 2
    assert y.dtype == np.float64 and np.abs(y - want).max() < 1e-15


def test_a_file_is_read_with_its_external_data(tmp_path: Path) -> None:
    proto = onnx.load_from_string(model(helper.make_node("Mul", ["x", "w"], ["y"])))
    path = tmp_path / "m.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert float64.evaluate(path, FEEDS)["y"][0] == np.float64(np.float32(-9.2)) * np.float64(np.float32(0.1))
