"""MLC_VALIDATE: modules that compare every kernel with the interpreter of kernels name the one that is wrong."""

from __future__ import annotations

import pickle
from dataclasses import replace

import mlc
import numpy as np
import onnx
import pytest
from mlc.compiler import cpu_backend
from mlc.compiler.options import Options
from mlc.compiler.validate import ValidatingModule
from mlc.errors import InputError, VerifyError
from mlc.runtime.module import Module
from onnx import TensorProto, helper, numpy_helper

F, I, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
RNG = np.random.default_rng(0)


def model(nodes, inputs, outputs, initializers=(), opset=17):
    infos = [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs]
    outs = [helper.make_tensor_value_info(n, t, s) for n, t, s in outputs]
    tensors = [numpy_helper.from_array(a, n) for n, a in dict(initializers).items()]
    graph = helper.make_graph(nodes, "g", infos, outs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def chain():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="project"),
        helper.make_node("Softmax", ["a"], ["b"], name="rows"),
        helper.make_node("Add", ["b", "c"], ["y"], name="shift"),
    ]
    weights = {"w": RNG.standard_normal((8, 5)).astype(np.float32), "c": np.ones(5, np.float32)}
    return model(nodes, [("x", F, ["n", 8])], [("y", F, ["n", 5])], weights)


def plant(monkeypatch, node, old, new):
    """Change the code of the kernels of one node, and nothing else."""
    emit = cpu_backend.cpu_emit.emit
    wrong = []

    def planted(kernel, target):
        e = emit(kernel, target)
        if len(wrong) == order.index(node):
            text = e.ir_text.replace(old, new)
            assert text != e.ir_text
            e = replace(e, ir_text=text)
        wrong.append(e)
        return e

    order = ["project", "rows", "shift"]
    monkeypatch.setattr(cpu_backend.cpu_emit, "emit", planted)


@pytest.fixture
def validating(monkeypatch):
    monkeypatch.setenv("MLC_VALIDATE", "1")


@pytest.mark.parametrize("level", [0, 3])
def test_right_kernels_pass(level, validating):
    module = mlc.compile(chain(), opt_level=level)
    assert isinstance(module, ValidatingModule)
    x = RNG.standard_normal((7, 8)).astype(np.float32)
    want = mlc.load(module.to_bytes()).run({"x": x})
    np.testing.assert_array_equal(module.run({"x": x})["y"], want["y"])


@pytest.mark.parametrize("node, old, new", [("shift", " fadd ", " fsub "), ("rows", " fdiv ", " fmul ")])
def test_a_planted_wrong_kernel_is_named(node, old, new, validating, monkeypatch):
    plant(monkeypatch, node, old, new)
    with pytest.raises(VerifyError, match=f"^{node}: kernel mlc_[0-9a-f]+ .*interpret"):
        mlc.compile(chain(), opt_level=0).run({"x": np.ones((3, 8), np.float32)})


def test_without_the_switch_nobody_looks(monkeypatch):
    plant(monkeypatch, "shift", " fadd ", " fsub ")
    module = mlc.compile(chain(), opt_level=0)
    assert type(module) is mlc.Module
    module.run({"x": np.ones((3, 8), np.float32)})


def test_control_flow_and_sizes_from_data(validating):
    body = helper.make_graph(
        [helper.make_node("Mul", ["s", "x"], ["t"]), helper.make_node("Identity", ["go"], ["on"])], "body",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", I, []), ("go", B, []), ("s", F, [4]))],
        [helper.make_tensor_value_info("on", B, []), helper.make_tensor_value_info("t", F, [4])],
    )  # fmt: skip
    sides = [
        helper.make_graph([helper.make_node(op, ["x"], ["r"])], op, [], [helper.make_tensor_value_info("r", F, [4])])
        for op in ("Neg", "Abs")
    ]
    nodes = [
        helper.make_node("Loop", ["n", "", "x"], ["y"], body=body),
        helper.make_node("If", ["c"], ["z"], then_branch=sides[0], else_branch=sides[1]),
        helper.make_node("NonZero", ["z"], ["where"]),
        helper.make_node("Relu", ["y"], ["u"]),
    ]
    m = model(nodes, [("x", F, [4]), ("n", I, []), ("c", B, [])], [("u", F, [4]), ("z", F, [4]), ("where", I, [1, "k"])])
    x = np.array([1.5, 0, -2, 3], np.float32)
    for level in (0, 3):
        module = mlc.compile(m, opt_level=level)
        for c in (False, True):
            got = module.run({"x": x, "n": np.array(3), "c": np.array(c)})
            np.testing.assert_allclose(got["u"], np.maximum(x**4, 0))
            np.testing.assert_array_equal(got["z"], -x if c else abs(x))
            np.testing.assert_array_equal(got["where"], [[0, 2, 3]])


def test_checks_of_a_run_are_made(validating):
    """Of indices, and of what a branch needs of sizes."""
    rows = model([helper.make_node("Gather", ["x", "i"], ["y"])], [("x", F, [5, 3]), ("i", I, ["n"])], [("y", F, ["n", 3])])
    module = mlc.compile(rows)
    with pytest.raises(InputError, match="index 7; expected -5 to 4"):
        module.run({"x": np.ones((5, 3), np.float32), "i": np.array([2, 7])})
    branches = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (bool c, float[N] x) => (float[A, B] y) {
            y = If (c) <then_branch = t () => (float[P, 4] p) { s = Constant<value_ints = [-1, 4]>() p = Reshape(x, s) },
                        else_branch = e () => (float[Q, 3] q) { z = Constant<value_ints = [-1, 3]>() q = Reshape(x, z) }>
        }""")
    module, x = mlc.compile(branches), np.ones(6, np.float32)
    assert module.run({"c": np.array(False), "x": x})["y"].shape == (2, 3)
    with pytest.raises(InputError, match="N = 6"):
        module.run({"c": np.array(True), "x": x})


def test_recurrent_scratch_is_not_compared(validating):
    w, r = (RNG.standard_normal((2, 80, n)).astype(np.float32) for n in (6, 20))
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y", "h", "c"], hidden_size=20, direction="bidirectional")
    m = model([node], [("x", F, [5, 1, 6])], [("y", F, None), ("h", F, None), ("c", F, None)], {"w": w, "r": r})
    mlc.compile(m).run({"x": RNG.standard_normal((5, 1, 6)).astype(np.float32)})


@pytest.mark.parametrize("value, on", [("", False), ("1", True), ("yes", True), ("0", False), (" OFF", False)])
def test_the_switch(value, on, monkeypatch):
    monkeypatch.setenv("MLC_VALIDATE", value)
    assert Options().validate is on


def test_a_switch_that_is_neither(monkeypatch):
    monkeypatch.setenv("MLC_VALIDATE", "maybe")
    with pytest.raises(InputError, match="MLC_VALIDATE=maybe"):
        mlc.compile(chain())


def test_copies_run_without_it(validating):
    module = mlc.compile(chain())
    assert isinstance(module, ValidatingModule)
    twin = pickle.loads(pickle.dumps(module))
    x = RNG.standard_normal((3, 8)).astype(np.float32)
    assert type(twin) is Module
    np.testing.assert_array_equal(twin(x), module(x))
