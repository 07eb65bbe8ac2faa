"""Convolutions whose windows do not overlap are products of patches; others stay."""

import numpy as np
import pytest
from mlc.ir import DType, Graph, Input, Node, TensorType, const
from mlc.ir.ops import Conv, MatMul
from mlc.ir.ops.dot import DotConv, DotMatMul
from mlc.passes.base import PassContext, apply
from mlc.passes.patches import Patches

RNG = np.random.default_rng(6)


def converted(shape, weights, strides, pads=(0, 0), dtype=DType.F32, kind=Conv):
    x = Node.make(Input(TensorType(dtype, shape)), ()).out
    w = const(RNG.standard_normal(weights).astype(dtype.np))
    none = (1,) * len(strides)
    graph = Graph((x,), (apply(kind(strides, pads, pads, none), x, w),), ("x",), ("y",))
    return graph, Patches().run(graph, PassContext(verify=True))


@pytest.mark.parametrize("shape,weights", [((2, 8, 12, 3), (4, 2, 3, 5)), ((1, 10, 3), (5, 3, 7)), ((2, 4, 4, 6, 1), (2, 4, 3, 1, 9))])
@pytest.mark.parametrize("dtype,kind,product", [(DType.F32, Conv, MatMul), (DType.BF16, DotConv, DotMatMul)])
def test_patches(shape, weights, dtype, kind, product) -> None:
    rank = len(shape) - 2
    graph, new = converted(shape, weights, weights[:rank], (0,) * rank, dtype, kind)
    assert [type(n.op) for n in new.nodes if isinstance(n.op, (Conv, MatMul))] == [product]
    x = RNG.standard_normal(shape).astype(dtype.np)
    (got,), (want,) = new.evaluate(x), graph.evaluate(x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape,weights,strides,pads", [
    ((1, 8, 8, 3), (3, 3, 3, 4), (2, 2), (0, 0)), ((1, 9, 8, 3), (2, 2, 3, 4), (2, 2), (0, 0)), ((1, 8, 8, 3), (2, 2, 3, 4), (2, 2), (1, 1)),
    ((1, 8, 8, 8), (2, 2, 8, 4), (2, 2), (0, 0)), ((1, 8, 8, 3), (1, 1, 3, 4), (1, 1), (0, 0)),
])  # fmt: skip
def test_what_stays(shape, weights, strides, pads) -> None:
    """Windows that overlap, leave rows out or go beyond the image; pixels of whole pieces; windows of a pixel."""
    graph, new = converted(shape, weights, strides, pads)
    assert new is graph
