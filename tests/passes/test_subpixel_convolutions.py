"""Transposed convolutions as convolutions of their phases: the same pixels, for all kinds of strides, pads and groups."""

import numpy as np
import pytest
from mlc.ir import DType, Graph, Input, Node, TensorType, const, sym
from mlc.ir.ops import Conv, ConvTranspose
from mlc.passes.base import PassContext, apply
from mlc.passes.subpixel_convolutions import SubpixelConvolutions

RNG = np.random.default_rng(0)
ALWAYS = SubpixelConvolutions(column=1e9, spread=1e9)


def graph_of(spatial, kernel, op, inputs=6, each=5, constant=True):
    x = Node.make(Input(TensorType(DType.F32, (2, *spatial, inputs))), ()).out
    data = RNG.standard_normal((*kernel, each, inputs)).astype(np.float32)
    w = const(data) if constant else Node.make(Input(TensorType(DType.F32, data.shape)), ()).out
    ins = (x,) if constant else (x, w)
    return Graph(ins, (apply(op, x, w, loc=("up",)),), ("x", "w")[: len(ins)], ("y",))


def op_of(rank, strides, lo=0, hi=0, extra=0, dilation=1, groups=1):
    return ConvTranspose(strides, (lo,) * rank, (hi,) * rank, (extra,) * rank, (dilation,) * rank, groups)


CASES = {
    "stride 1": ((5, 4), (3, 3), op_of(2, (1, 1), 1, 1)),
    "stride 1, dilated, cropped": ((7,), (3,), op_of(1, (1,), 5, 0, dilation=2)),
    "stride 1, one tap cropped": ((7, 6), (1, 1), op_of(2, (1, 1), 1, 2)),
    "even": ((5, 4), (4, 4), op_of(2, (2, 2), 1, 1)),
    "odd kernel": ((5, 4), (3, 5), op_of(2, (2, 3), 1, 0, 1)),
    "pads beyond a stride": ((6,), (7,), op_of(1, (2,), 5, 3)),
    "phases without a tap": ((4, 3), (1, 2), op_of(2, (3, 3), 0, 1, 2)),
    "dilated": ((6, 5), (3, 2), op_of(2, (2, 3), 1, 1, dilation=3)),
    "dilated by the stride": ((6,), (3,), op_of(1, (2,), 1, 2, dilation=2)),
    "groups": ((5, 4), (4, 3), op_of(2, (2, 2), 1, 1, groups=3)),
    "depthwise": ((5, 4), (4, 4), op_of(2, (2, 2), 1, 1, groups=6)),
    "volumes": ((3, 2, 4), (3, 2, 1), op_of(3, (2, 2, 1), 1, 0, groups=2)),
    "negative pads": ((4,), (3,), op_of(1, (2,), -1, -2)),
    "one pixel": ((1, 1), (3, 3), op_of(2, (2, 2), 1, 1, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_pixels(name):
    spatial, kernel, op = CASES[name]
    graph = graph_of(spatial, kernel, op)
    new = ALWAYS.run(graph, PassContext(verify=True))
    assert any(isinstance(n.op, Conv) for n in new.nodes) and not any(isinstance(n.op, ConvTranspose) for n in new.nodes)
    assert new.outputs[0].type == graph.outputs[0].type
    x = RNG.standard_normal(graph.inputs[0].shape).astype(np.float32)
    np.testing.assert_allclose(new.evaluate(x)[0], graph.evaluate(x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 2)])
def test_symbolic_sizes(strides):
    graph = graph_of((sym("h", 1), sym("w", 1)), (4, 3), op_of(2, strides, 1, 1, 0))
    new = ALWAYS.run(graph, PassContext(verify=True))
    assert new is not graph and new.outputs[0].type == graph.outputs[0].type


@pytest.mark.parametrize(
    ("kernel", "op", "more"),
    [
        ((2, 2), op_of(2, (2, 2)), {}),  # a product of every pixel
        ((2, 2), op_of(2, (1, 1)), {"constant": False}),
        ((2, 2), ConvTranspose((1, 1), (sym("p", 0), 0), (0, 0), (0, 0), (1, 1)), {}),
    ],
)
def test_stays(kernel, op, more):
    graph = graph_of((4, 4), kernel, op, **more)
    assert SubpixelConvolutions().run(graph, PassContext(verify=True)) is graph


def test_many_channels_by_an_uneven_kernel_stay():
    """Two taps a phase for three of the kernel: products cost more than what is added up."""
    graph = graph_of((8,), (3,), op_of(1, (2,), 1, 1), inputs=512, each=64)
    assert SubpixelConvolutions().run(graph, PassContext(verify=True)) is graph
    few = graph_of((8,), (3,), op_of(1, (2,), 1, 1), inputs=8, each=64)
    assert SubpixelConvolutions().run(few, PassContext(verify=True)) is not few
