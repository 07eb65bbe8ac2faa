"""What handles of strings are for: which nodes compare them, and with what."""

import mlc
import numpy as np
import onnx
import pytest
from onnx import helper as h

TEXT, BOOL = onnx.TensorProto.STRING, onnx.TensorProto.BOOL


def compiled(nodes, inputs, outputs, constants=(), opt_level=3):
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info(n, TEXT, ["N"]) for n in inputs],
        [h.make_tensor_value_info(n, t, None) for n, t in outputs],
        [h.make_tensor(n, TEXT, [len(v)], [s.encode() for s in v]) for n, v in constants],
    )
    return mlc.compile(h.make_model(graph, opset_imports=[h.make_opsetid("", 20)], ir_version=9), threads=1, opt_level=opt_level)


def uses(module):
    return [t.kind for t in module.inputs]


def words(*items):
    return np.array(items, object)


CASES = {
    "read": ([h.make_node("StringConcat", ["a", "b"], ["y"])], "ab", [("y", TEXT)], ["text", "text"]),
    "moved": ([h.make_node("Concat", ["a", "b"], ["y"], axis=0)], "ab", [("y", TEXT)], ["text", "text"]),
    "compared": ([h.make_node("Equal", ["a", "b"], ["y"])], "ab", [("y", BOOL)], ["str", "str"]),
    "by constants": ([h.make_node("Equal", ["a", "k"], ["y"])], "a", [("y", BOOL)], ["key"]),
    "by constants and read": (
        [h.make_node("Equal", ["a", "k"], ["y"]), h.make_node("StringConcat", ["a", "a"], ["z"])],
        "a",
        [("y", BOOL), ("z", TEXT)],
        ["str"],
    ),
    "behind a host function": (
        [h.make_node("StringConcat", ["a", "k"], ["c"]), h.make_node("Equal", ["c", "b"], ["y"])],
        "ab",
        [("y", BOOL)],
        ["text", "str"],
    ),
}


def expected(case, a, b):
    match case:
        case "read":
            return a + b, None
        case "moved":
            return np.concatenate([a, b]), None
        case "compared":
            return a == b, None
        case "behind a host function":
            return a + "x" == b, None
    return a == "x", a + a


@pytest.mark.parametrize("case", CASES)
def test_uses_and_values(case):
    nodes, inputs, outputs, want = CASES[case]
    modules = [compiled(nodes, inputs, outputs, [("k", ["x"])], level) for level in (0, 3)]
    assert uses(modules[0]) == want  # without a prologue, where strings are no handles
    values = {"a": words("p", "x", "p", "qx", ""), "b": words("px", "q", "p", "p", "x")}
    for size in (5, 1, 0):
        feeds = {n: values[n][:size] for n in inputs}
        y, z = expected(case, feeds["a"], feeds.get("b"))
        for module in modules:
            got = module.run(feeds)
            assert got["y"].tolist() == y.tolist()
            assert "z" not in got or got["z"].tolist() == z.tolist()
