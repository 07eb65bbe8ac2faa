"""Rows that a Concat repeats are multiplied once, where that saves more than a kernel costs."""

import numpy as np
import pytest
from mlc.ir import DType, Graph, Input, Node, TensorType, const, sym
from mlc.ir.ops import Add, Concat, Conv, Expand, MatMul
from mlc.passes.base import PassContext, apply
from mlc.passes.repeated_rows import RepeatedRows

RNG = np.random.default_rng(0)
BATCH = sym("batch")
MATMUL = MatMul()
POINTWISE = Conv(strides=(1,), pads_lo=(0,), pads_hi=(0,), dilations=(1,), groups=1)
STRIDED = Conv(strides=(2,), pads_lo=(0,), pads_hi=(0,), dilations=(1,), groups=1)


def graph_of(parts, op=MATMUL, out=64, dtype=DType.F32, also=False):
    """A product of joined parts (shape, or (shape, shape that it is repeated to)); `also`: the joined parts are a result, too."""
    inputs = [Node.make(Input(TensorType(dtype, p[0] if isinstance(p[0], tuple) else p)), ()).out for p in parts]
    xs = [apply(Expand(p[1]), v) if isinstance(p[0], tuple) else v for p, v in zip(parts, inputs, strict=True)]
    x = apply(Concat(len(xs[0].shape) - 1), *xs) if len(xs) > 1 else xs[0]
    channels = x.shape[-1]
    w = RNG.standard_normal((1, channels, out) if isinstance(op, Conv) else (channels, out)).astype(dtype.np)
    y = apply(op, x, const(w))
    outputs = (y, x) if also else (y,)
    return Graph(tuple(inputs), outputs, tuple(f"x{i}" for i in range(len(inputs))), tuple(f"y{i}" for i in range(len(outputs))))


def products(graph):
    return [n for n in graph.nodes if isinstance(n.op, (MatMul, Conv))]


@pytest.mark.parametrize(("parts", "op", "count"), [
    ([(3, 90, 24), ((3, 1, 72), (3, 90, 72))], MATMUL, 2),
    ([(3, 90, 24), ((3, 1, 72), (3, 90, 72))], POINTWISE, 2),
    ([((1, 72), (90, 72)), (90, 24)], MATMUL, 2),
    ([((72,), (3, 90, 72)), (3, 90, 24)], MATMUL, 2),
    ([((1, 90, 72), (3, 90, 72)), (3, 90, 24)], MATMUL, 2),
    ([(3, 90, 9), ((3, 1, 40), (3, 90, 40)), (3, 90, 24), ((3, 1, 40), (3, 90, 40))], MATMUL, 2),  # the repeated ones together
    ([(3, 90, 9), ((3, 1, 40), (3, 90, 40)), ((1, 90, 40), (3, 90, 40))], MATMUL, 3),
    ([((3, 1, 40), (3, 90, 40)), ((1, 90, 40), (3, 90, 40))], MATMUL, 2),
    ([((3, 1, 40), (3, 90, 40)), ((3, 1, 40), (3, 90, 40))], MATMUL, 1),
])  # fmt: skip
def test_multiplied_once(parts, op, count):
    graph = graph_of(parts, op)
    new = RepeatedRows().run(graph, PassContext(verify=True))
    assert len(products(new)) == count and new.outputs[0].type == graph.outputs[0].type
    feeds = [RNG.standard_normal(v.shape).astype(np.float32) for v in graph.inputs]
    np.testing.assert_allclose(new.evaluate(*feeds)[0], graph.evaluate(*feeds)[0], rtol=1e-4, atol=1e-4)


def test_the_larger_product_has_the_sum_as_its_epilogue():
    new = RepeatedRows().run(graph_of([(3, 90, 24), ((3, 1, 72), (3, 90, 72))]), PassContext(verify=True))
    *_, first, second, total = (n for n in new.nodes if isinstance(n.op, (MatMul, Add)))
    assert first.out.shape == (3, 1, 64) and second.out.shape == (3, 90, 64) and isinstance(total.op, Add)


def test_symbolic_sizes():
    graph = graph_of([(BATCH, 500, 24), ((BATCH, 1, 72), (BATCH, 500, 72))])
    new = RepeatedRows().run(graph, PassContext(verify=True))
    assert len(products(new)) == 2 and new.outputs[0].type == graph.outputs[0].type


@pytest.mark.parametrize("arguments", [
    {"parts": [(3, 90, 24), (3, 90, 72)]},
    {"parts": [(3, 9, 24), ((3, 1, 72), (3, 9, 72))]},  # too little
    {"parts": [(3, 90, 24), ((3, 90, 1), (3, 90, 72))]},  # channels are repeated, not rows
    {"parts": [(3, 90, 24), ((3, 1, 72), (3, 90, 72))], "op": STRIDED},
    {"parts": [(3, 90, 9), (3, 90, 24), ((3, 1, 72), (3, 90, 72))], "also": True},  # what is left would be joined again
    {"parts": [(3, 90, 24), ((3, 1, 72), (3, 90, 72))], "dtype": DType.I32},
])  # fmt: skip
def test_other_products_stay(arguments):
    graph = graph_of(**arguments)
    assert RepeatedRows().run(graph, PassContext(verify=True)) is graph
