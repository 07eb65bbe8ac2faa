"""Activations of products with weights of few bits, in 16 bits."""

from __future__ import annotations

import numpy as np
import pytest
from mlc.ir import DType, Graph, Input, Node, TensorType, Value, const
from mlc.ir.ops import Cast, GroupedMatMul, Neg
from mlc.passes import PassContext
from mlc.passes.base import apply
from mlc.passes.grouped_activations import GroupedActivations

rng = np.random.default_rng(2)


def product(x: Value) -> Value:
    levels, ones = const(rng.integers(0, 16, (32, 8)), DType.U8), const(np.ones((1, 8)), DType.F32)
    return apply(GroupedMatMul(4, 32), x, levels, ones, const(np.full((1, 8), 7.5), DType.F32))


def given(dtype: DType) -> Value:
    return Node.make(Input(TensorType(dtype, (5, 32))), ()).out


def graph(x: Value, y: Value) -> Graph:
    return Graph((x,), (y,), ("x",), ("y",))


def taken(g: Graph) -> Value:
    (node,) = (n for n in g.nodes if isinstance(n.op, GroupedMatMul))
    assert node.out.dtype is DType.F32
    return node.inputs[0]


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_what_was_16_bits_stays_so(dtype: DType) -> None:
    x = given(dtype)
    g = graph(x, product(apply(Cast(DType.F32), x)))
    low = GroupedActivations().run(g, PassContext())
    assert taken(low) is x
    data = rng.standard_normal((5, 32)).astype(dtype.np)
    np.testing.assert_array_equal(low.evaluate(data)[0], g.evaluate(data)[0])


def test_float32_is_rounded_only_if_asked() -> None:
    x = given(DType.F32)
    g = graph(x, product(apply(Neg(), x)))
    assert GroupedActivations().run(g, PassContext()) is g
    assert taken(GroupedActivations(DType.BF16).run(g, PassContext())).dtype is DType.BF16
    wide = given(DType.F64)
    g = graph(wide, product(apply(Cast(DType.F32), wide)))
    assert GroupedActivations().run(g, PassContext()) is g
