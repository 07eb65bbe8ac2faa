"""Gradients against finite differences in float64. The operator is experimental and onnxruntime lacks it."""

from __future__ import annotations

from collections.abc import Sequence

import mlc
import numpy as np
import pytest
from mlc.errors import OnnxImportError
from onnx import NodeProto, TensorProto, helper

RNG = np.random.default_rng(31)
A = RNG.standard_normal((3, 4))


def _n(op: str, inputs: Sequence[str], output: str, **attributes: object) -> NodeProto:
    return helper.make_node(op, inputs, [output], **attributes)


def gradients(
    nodes: Sequence[NodeProto], inputs: dict[str, np.ndarray], xs: Sequence[str], constants: Sequence[str] = ()
) -> tuple[float, list[np.ndarray]]:
    """y and dy/dx; y is the sum of the last node's result, weighted so that no direction is lost."""
    outs = [f"d{x}" for x in xs]
    weighted = [
        _n("Sin", [nodes[-1].output[0]], "weighted"),
        _n("ReduceSum", ["weighted"], "y", keepdims=0),
    ]
    zs = [n for n in inputs if n not in xs]
    extra = {"zs": zs} if zs else {}
    gradient = helper.make_node("Gradient", [*xs, *zs], outs, domain="ai.onnx.preview.training", xs=list(xs), y="y", **extra)
    infos = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, x.shape) for n, x in inputs.items()]
    results = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, None) for n in ("y", *outs)]
    graph = helper.make_graph([*nodes, *weighted, gradient], "g", infos, results)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.preview.training", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    compiled = mlc.compile(model, threads=1, constants={n: inputs[n] for n in constants})
    got = compiled.run({n: x for n, x in inputs.items() if n not in constants})
    return float(got["y"]), [got[n] for n in outs]


CASES: dict[str, tuple[list[NodeProto], dict[str, np.ndarray]]] = {
    "arithmetic": (
        [_n("Mul", ["a", "b"], "m"), _n("Div", ["m", "c"], "q"), _n("Sub", ["q", "a"], "r")],
        {"a": A, "b": A[0], "c": A[:, :1] ** 2 + 1},
    ),
    "functions": (
        [_n("Tanh", ["a"], "t"), _n("Exp", ["t"], "e"), _n("Sqrt", ["e"], "s"), _n("Log", ["s"], "l"), _n("Erf", ["l"], "r")],
        {"a": A},
    ),
    "activations": (
        [_n("Sigmoid", ["a"], "s"), _n("Elu", ["a"], "e"), _n("Gelu", ["a"], "g"), _n("Softplus", ["a"], "p"), _n("Sum", list("segp"), "r")],
        {"a": A},
    ),
    "selection": ([_n("Max", ["a", "b"], "m"), _n("Abs", ["m"], "n"), _n("Pow", ["n", "b"], "r")], {"a": A, "b": A + RNG.choice([-0.3, 0.4], A.shape)}),
    "product": ([_n("MatMul", ["a", "b"], "m"), _n("Softmax", ["m"], "r", axis=1)], {"a": A, "b": A.T.copy()}),
    "batched product": ([_n("MatMul", ["a", "b"], "r")], {"a": RNG.standard_normal((2, 3, 4)), "b": A.T.copy()}),
    "moves": (
        [_n("Transpose", ["a"], "t", perm=[1, 0]), _n("Concat", ["t", "t"], "c", axis=1), _n("Flatten", ["c"], "f"), _n("Relu", ["f"], "r")],
        {"a": A},
    ),
    "reductions": (
        [_n("ReduceMean", ["a"], "m"), _n("Sub", ["a", "m"], "d"), _n("ReduceL2", ["d"], "l"), _n("Div", ["d", "l"], "r")],
        {"a": A},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    nodes, inputs = CASES[name]
    y, got = gradients(nodes, inputs, list(inputs))
    for i, (key, x) in enumerate(inputs.items()):
        assert got[i].shape == x.shape
        module = _forward(nodes, inputs)
        for at in list(np.ndindex(*x.shape))[::3]:
            step = np.zeros_like(x)
            step[at] = 1e-6
            high, low = (float(module.run({**inputs, key: x + s})["y"]) for s in (step, -step))
            assert got[i][at] == pytest.approx((high - low) / 2e-6, rel=1e-5, abs=1e-7)
        assert y == pytest.approx(float(module.run(inputs)["y"]))


def _forward(nodes: Sequence[NodeProto], inputs: dict[str, np.ndarray]) -> mlc.Module:
    infos = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, x.shape) for n, x in inputs.items()]
    ends = [_n("Sin", [nodes[-1].output[0]], "weighted"), _n("ReduceSum", ["weighted"], "y", keepdims=0)]
    graph = helper.make_graph([*nodes, *ends], "g", infos, [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [])])
    return mlc.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), threads=1)


def test_what_y_does_not_depend_on_is_zero() -> None:
    _, (first, second) = gradients([_n("Neg", ["a"], "r")], {"a": A, "b": A[0]}, ["a", "b"])
    np.testing.assert_allclose(first, -np.cos(-A), rtol=1e-12)
    np.testing.assert_array_equal(second, np.zeros(4))


def test_unknown_derivatives_are_refused() -> None:
    with pytest.raises(OnnxImportError, match="Gradient through cumsum"):
        axis = helper.make_node("Constant", [], ["axis"], value_int=0)
        gradients([axis, _n("CumSum", ["a", "axis"], "r")], {"a": A}, ["a"])


def test_by_a_constant():
    """Weights are initializers, or inputs that the caller fixed: their derivatives are no less than those by inputs."""
    nodes, inputs = CASES["product"]
    want = gradients(nodes, inputs, ["a", "b"])
    for constants in (["b"], ["a", "b"]):
        got = gradients(nodes, inputs, ["a", "b"], constants)
        np.testing.assert_allclose(got[0], want[0])
        for g, w in zip(got[1], want[1], strict=True):
            np.testing.assert_allclose(g, w)
