"""Convolutions of few channels get pixels of whole pieces of 16 bytes; others stay."""

import numpy as np
import pytest
from mlc.ir import DType, Graph, Input, Node, TensorType, const
from mlc.ir.ops import Conv
from mlc.ir.ops.dot import DotConv
from mlc.passes.base import PassContext, apply
from mlc.passes.few_channels import FewChannels

RNG = np.random.default_rng(9)
HALVES = FewChannels(frozenset({DType.F16, DType.BF16}))


def converted(shape, weights, strides, pads_lo, pads_hi, dilations=None, dtype=DType.F16, kind=Conv, which=HALVES, groups=1):
    x = Node.make(Input(TensorType(dtype, shape)), ()).out
    w = const(RNG.standard_normal(weights).astype(dtype.np))
    op = kind(strides, pads_lo, pads_hi, dilations or (1,) * len(strides), groups)
    graph = Graph((x,), (apply(op, x, w),), ("x",), ("y",))
    return graph, which.run(graph, PassContext(verify=True))


def wide(graph):
    (found,) = (n for n in graph.nodes if isinstance(n.op, Conv))
    return found


@pytest.mark.parametrize("shape,weights,strides,lo,hi,depth", [
    ((1, 24, 22, 3), (7, 7, 3, 5), (2, 2), (3, 3), (3, 3), 7 * 4 * 8),  # two pixels of 4
    ((2, 9, 11, 3), (3, 3, 3, 4), (2, 2), (0, 0), (1, 1), 3 * 2 * 8),
    ((1, 9, 11, 3), (3, 3, 3, 4), (2, 2), (1, 1), (0, 0), 3 * 2 * 8),  # columns behind the last window
    ((1, 8, 9, 1), (2, 5, 1, 4), (1, 4), (0, 2), (0, 5), 2 * 2 * 8),  # four of 2
    ((1, 8, 9, 3), (3, 3, 3, 4), (3, 3), (1, 1), (1, 1), 3 * 3 * 8),  # 3 is no part of a piece
    ((1, 8, 8, 12), (3, 3, 12, 4), (1, 1), (1, 1), (1, 1), 3 * 3 * 16),
    ((3, 30, 2), (5, 2, 6), (2,), (2,), (2,), 3 * 8),
    ((1, 4, 5, 6, 2), (2, 3, 3, 2, 4), (1, 1, 2), (0, 1, 1), (1, 1, 0), 2 * 3 * 2 * 8),
    ((1, 6, 7, 3), (1, 8, 3, 4), (2, 2), (0, 1), (0, 4), 4 * 8),
])  # fmt: skip
@pytest.mark.parametrize("dtype,kind", [(DType.F16, Conv), (DType.BF16, DotConv)])
def test_pixels_are_pieces(shape, weights, strides, lo, hi, depth, dtype, kind) -> None:
    graph, new = converted(shape, weights, strides, lo, hi, dtype=dtype, kind=kind)
    assert np.prod(wide(new).inputs[1].shape[:-1]) == depth and wide(new).inputs[0].shape[-1] * dtype.itemsize % 16 == 0
    x = RNG.standard_normal(shape).astype(dtype.np)
    (got,), (want,) = new.evaluate(x), graph.evaluate(x)
    np.testing.assert_allclose(got.astype(np.float32), want.astype(np.float32), rtol=1e-2, atol=1e-2)


def test_dilated_windows_and_float32() -> None:
    graph, new = converted((1, 12, 12, 3), (3, 3, 3, 4), (2, 2), (2, 2), (2, 2), dilations=(2, 2))
    assert wide(new).inputs[0].shape == (1, 12, 12, 8)
    graph, new = converted((1, 12, 12, 3), (3, 3, 3, 4), (2, 2), (1, 1), (1, 1), dtype=DType.F32, which=FewChannels(frozenset({DType.F32})))
    assert wide(new).inputs[0].shape == (1, 12, 12, 4)
    x = RNG.standard_normal((1, 12, 12, 3)).astype(np.float32)
    np.testing.assert_allclose(new.evaluate(x)[0], graph.evaluate(x)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape,weights,dtype,groups", [
    ((1, 8, 8, 8), (3, 3, 8, 4), DType.F16, 1), ((1, 8, 8, 3), (1, 1, 3, 4), DType.F16, 1), ((1, 8, 8, 3), (3, 3, 3, 4), DType.F32, 1),
    ((1, 8, 8, 6), (3, 3, 3, 4), DType.F16, 2),
])  # fmt: skip
def test_what_stays(shape, weights, dtype, groups) -> None:
    """Whole pieces, windows of a pixel, other types, groups."""
    graph, new = converted(shape, weights, (1, 1), (0, 0), (0, 0), dtype=dtype, groups=groups)
    assert new is graph
