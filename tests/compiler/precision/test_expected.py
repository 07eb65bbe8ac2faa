"""Expected errors of layers, against errors that are measured."""

from dataclasses import replace

import numpy as np
import pytest
from mlc.compiler.precision.choose import Chooser
from mlc.compiler.precision.expected import expected_error
from mlc.compiler.precision.options import Precision
from mlc.compiler.precision.statistics import Statistics
from mlc.ir import DType, Graph, Input, Node, TensorType, const
from mlc.ir.ops import Conv, MatMul
from mlc.passes.base import apply
from mlc.passes.precision import lower_layer


def layer(op, shape, weights):
    x = Node.make(Input(TensorType(DType.F32, shape)), ()).out
    y = apply(op, x, const(weights), loc=("layer",))
    return Graph((x,), (y,), ("x",), ("y",)), y.node


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8", "int8-dynamic", "int8-weight", "int4"])
def test_of_a_product(precision):
    rng = np.random.default_rng(0)
    w = (rng.standard_normal((64, 48)) * np.linspace(0.1, 2, 48)).astype(np.float32)
    check(*layer(MatMul(), (200, 64), w), precision, (rng.standard_normal((200, 64)) * np.linspace(0.2, 3, 64)).astype(np.float32))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("groups", [1, 4])
def test_of_a_convolution(precision, groups):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 3, 16 // groups, 32)).astype(np.float32)
    op = Conv((1, 1), (1, 1), (1, 1), (1, 1), groups)
    check(*layer(op, (2, 9, 9, 16), w), precision, rng.standard_normal((2, 9, 9, 16)).astype(np.float32))


def check(graph, node, precision, x):
    seen = Statistics(x.shape[-1])
    seen.add(x)
    options = Precision("fp32", smooth=0)
    choice = Chooser(graph, options, {node.inputs[0]: seen}).choice("layer", precision)
    lowered = replace(graph, outputs=(lower_layer(node, node.inputs, choice),))
    got, exact = (g.evaluate(x)[0].astype(np.float64) for g in (lowered, graph))
    measured = np.square(got - exact).sum() / np.square(exact).sum()
    assert measured / 2.5 < expected_error(node, choice, seen) < measured * 2.5


def test_of_nothing_but_zeros():
    graph, node = layer(MatMul(), (5, 8), np.zeros((8, 4), np.float32))
    seen = Statistics(8)
    seen.add(np.zeros((5, 8), np.float32))
    choice = Chooser(graph, Precision("fp32"), {node.inputs[0]: seen}).choice("layer", "int8")
    assert expected_error(node, choice, seen) == 0.0
