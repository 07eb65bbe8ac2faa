"""Products with matrices of equal rows or columns become sums; all others stay."""

import mlc
import numpy as np
import onnx
import pytest
from mlc.compiler.api import compile_stages
from mlc.compiler.options import Options
from mlc.ir import DType, Graph, Input, Node, TensorType, sym
from mlc.ir.ops import Expand, MatMul, Reduce
from mlc.passes.base import PassContext, apply
from mlc.passes.repeated_matrices import RepeatedMatrices
from onnx import helper

RNG = np.random.default_rng(0)


def graph_of(x_shape, small, large, left=False, dtype=DType.F32):
    x = Node.make(Input(TensorType(dtype, x_shape)), ()).out
    r = Node.make(Input(TensorType(dtype, small)), ()).out
    e = apply(Expand(large), r)
    y = apply(MatMul(), *((e, x) if left else (x, e)))
    return Graph((x, r), (y,), ("x", "r"), ("y",))


@pytest.mark.parametrize(("x", "small", "large", "left"), [
    ((5, 7), (1, 9), (7, 9), False),
    ((5, 7), (1, 1), (7, 9), False),
    ((2, 5, 7), (1, 9), (7, 9), False),
    ((5, 7), (3, 1, 9), (3, 7, 9), False),
    ((4, 1, 5, 7), (3, 1, 9), (3, 7, 9), False),
    ((7, 9), (5, 1), (5, 7), True),
    ((7, 9), (1, 1), (3, 5, 7), True),
    ((0, 7), (1, 9), (7, 9), False),
    ((5, 0), (1, 9), (0, 9), False),
])  # fmt: skip
def test_sums_and_outer_products(x, small, large, left):
    graph = graph_of(x, small, large, left)
    new = RepeatedMatrices().run(graph, PassContext(verify=True))
    assert any(isinstance(n.op, Reduce) for n in new.nodes) and not any(isinstance(n.op, MatMul) for n in new.nodes)
    assert new.outputs[0].type == graph.outputs[0].type
    feeds = [RNG.standard_normal(v.shape).astype(np.float32) for v in graph.inputs]
    np.testing.assert_allclose(new.evaluate(*feeds)[0], graph.evaluate(*feeds)[0], rtol=1e-5, atol=1e-5)


def test_symbolic_sizes():
    m, n = sym("m"), sym("n")
    graph = graph_of((m, 7), (1, 1), (7, n))
    new = RepeatedMatrices().run(graph, PassContext(verify=True))
    assert new is not graph and new.outputs[0].type == graph.outputs[0].type


@pytest.mark.parametrize("arguments", [
    ((5, 7), (7, 1), (7, 9), False),  # equal columns on the right
    ((7, 9), (1, 7), (5, 7), True),  # equal rows on the left
    ((5, 7), (9,), (7, 9), False),
    ((5, 7), (1, 9), (7, 9), False, DType.I32),
])  # fmt: skip
def test_other_products_stay(arguments):
    graph = graph_of(*arguments)
    assert RepeatedMatrices().run(graph, PassContext()) is graph


@pytest.mark.parametrize("transposed", [False, True])
def test_a_matrix_that_is_computed_when_the_model_runs(transposed):
    value = helper.make_tensor_value_info
    turn = [helper.make_node("Transpose", ["w"], ["t"])] if transposed else [helper.make_node("Identity", ["w"], ["t"])]
    nodes = [helper.make_node("Expand", ["r", "s"], ["w"]), *turn, helper.make_node("MatMul", ["x", "t"], ["y"])]
    sizes = (30, 40) if transposed else (40, 30)
    shape = onnx.numpy_helper.from_array(np.array(sizes), "s")
    given = [30, 1] if transposed else [1, 30]
    graph = helper.make_graph(nodes, "g", [value("x", 1, ["n", 40]), value("r", 1, given)], [value("y", 1, None)], [shape])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    assert not any(isinstance(n.op, MatMul) for n in compile_stages(made, Options()).graph.nodes)
    module = mlc.compile(made)
    for n in (0, 1, 6):
        x, r = RNG.standard_normal((n, 40)).astype(np.float32), RNG.standard_normal(given).astype(np.float32)
        np.testing.assert_allclose(module(x, r), x @ np.broadcast_to(r.reshape(1, 30), (40, 30)), rtol=1e-4, atol=1e-4)
