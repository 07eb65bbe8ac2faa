"""Attention is rounded where all of its operands come from products in bfloat16, and nowhere else."""

import numpy as np
import pytest
from mlc.ir import DType, Graph, Input, Node, TensorType, const
from mlc.ir.ops import Attention, Cast, DotMatMul, Reshape, Transpose
from mlc.passes.base import PassContext, apply
from mlc.passes.rounded_attention import RoundedAttention

W = const(np.eye(8, dtype=np.float32).astype(DType.BF16.np))


def heads(x, rounded):
    y = apply(DotMatMul(), apply(Cast(DType.BF16), x), W) if rounded else x
    return apply(Transpose((0, 2, 1, 3)), apply(Reshape((1, 6, 2, 4)), y))


@pytest.mark.parametrize("products", [(True, True, True), (True, True, False), (False, True, True), (False, False, False)])
def test_all_operands_come_from_products(products):
    x = Node.make(Input(TensorType(DType.F32, (1, 6, 8))), ()).out
    graph = Graph((x,), (apply(Attention(0.5), *(heads(x, p) for p in products)),), ("x",), ("y",))
    new = RoundedAttention().run(graph, PassContext(verify=True))
    (node,) = (n for n in new.nodes if isinstance(n.op, Attention))
    assert node.op == Attention(0.5, rounded=all(products))
    assert (new is graph) == (not all(products))
    assert RoundedAttention().run(new, PassContext()) is new
