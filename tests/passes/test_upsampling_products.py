"""Transposed convolutions without overlaps become products; all others stay."""

import numpy as np
import pytest
from mlc.ir import DType, Graph, Input, Node, TensorType, const, sym
from mlc.ir.ops import Add, ConvTranspose, MatMul
from mlc.passes.base import PassContext, apply
from mlc.passes.upsampling_products import UpsamplingProducts

RNG = np.random.default_rng(0)


def graph_of(shape, kernel, strides, pads=0, extra=0, dilation=1, groups=1, constant=True):
    rank = len(kernel)
    x = Node.make(Input(TensorType(DType.F32, shape)), ()).out
    data = RNG.standard_normal((*kernel, 5, shape[-1])).astype(np.float32)
    w = const(data) if constant else Node.make(Input(TensorType(DType.F32, data.shape)), ()).out
    op = ConvTranspose(strides, (pads,) * rank, (pads,) * rank, (extra,) * rank, (dilation,) * rank, groups)
    inputs = (x,) if constant else (x, w)
    return Graph(inputs, (apply(op, x, w, loc=("up",)),), ("x", "w")[: len(inputs)], ("y",))


@pytest.mark.parametrize("kernel", [(2,), (2, 2), (3, 2), (1, 4), (2, 1, 3)])
def test_products_place_the_same_pixels(kernel):
    graph = graph_of((2, *(3 + d for d in range(len(kernel))), 4), kernel, kernel)
    new = UpsamplingProducts().run(graph, PassContext(verify=True))
    assert any(isinstance(n.op, MatMul) for n in new.nodes) and not any(isinstance(n.op, ConvTranspose) for n in new.nodes)
    assert new.outputs[0].type == graph.outputs[0].type
    x = RNG.standard_normal(graph.inputs[0].shape).astype(np.float32)
    np.testing.assert_allclose(new.evaluate(x)[0], graph.evaluate(x)[0], rtol=1e-5, atol=1e-5)


def test_symbolic_sizes():
    graph = graph_of((sym("n"), sym("h"), 7, 4), (2, 2), (2, 2))
    new = UpsamplingProducts().run(graph, PassContext(verify=True))
    assert new is not graph and new.outputs[0].type == graph.outputs[0].type


@pytest.mark.parametrize("more", [{"strides": (1, 2)}, {"pads": 1}, {"extra": 1}, {"dilation": 2}, {"groups": 2}, {"constant": False}])
def test_overlaps_and_borders_stay(more):
    graph = graph_of((1, 4, 4, 4), (2, 2), **{"strides": (2, 2), **more})
    assert UpsamplingProducts().run(graph, PassContext(verify=True)) is graph


@pytest.mark.parametrize("shape", [(5,), (1, 1, 1, 5)])
@pytest.mark.parametrize("swapped", [False, True])
def test_biases_join_the_product(shape, swapped):
    """What a layer adds is in the kernel of the product then, and its pixels move once."""
    graph = graph_of((2, 3, 4, 4), (2, 3), (2, 3))
    bias, y = const(RNG.standard_normal(shape).astype(np.float32)), graph.outputs[0]
    graph = Graph(graph.inputs, (apply(Add(), *((bias, y) if swapped else (y, bias)), loc=("up",)),), ("x",), ("y",))
    new = UpsamplingProducts().run(graph, PassContext(verify=True))
    (added,) = (n for n in new.nodes if isinstance(n.op, Add))
    assert any(isinstance(v.node.op, MatMul) for v in added.inputs) and new.outputs[0].type == graph.outputs[0].type
    x = RNG.standard_normal(graph.inputs[0].shape).astype(np.float32)
    np.testing.assert_allclose(new.evaluate(x)[0], graph.evaluate(x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1,), (15, 1), (8, 15, 5)])
def test_other_terms_stay_outside(shape):
    graph = graph_of((2, 4, 5, 4), (2, 3), (2, 3))
    term = const(np.ones(shape, np.float32))
    graph = Graph(graph.inputs, (apply(Add(), graph.outputs[0], term, loc=("up",)),), ("x",), ("y",))
    new = UpsamplingProducts().run(graph, PassContext(verify=True))
    assert isinstance(new.outputs[0].node.op, Add)
    x = RNG.standard_normal(graph.inputs[0].shape).astype(np.float32)
    np.testing.assert_allclose(new.evaluate(x)[0], graph.evaluate(x)[0], rtol=1e-5, atol=1e-5)
