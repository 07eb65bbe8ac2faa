"""Attention is rounded where all of its operands come from products in bfloat16 or bytes, and nowhere else."""

import numpy as np
import pytest
from mlc.ir import DType, Graph, Input, Node, TensorType, const
from mlc.ir.ops import Attention, Cast, DotMatMul, IntegerMatMul, Mul, Quantize, Reshape, Transpose
from mlc.passes.base import PassContext, apply
from mlc.passes.rounded_attention import RoundedAttention

EYE = np.eye(8, dtype=np.float32)
NONE, HALVES, BYTES = range(3)  # what multiplies


def heads(x, by):
    y = x
    if by == HALVES:
        y = apply(DotMatMul(), apply(Cast(DType.BF16), x), const(EYE.astype(DType.BF16.np)))
    elif by == BYTES:
        q = apply(Quantize(DType.U8), x, const(np.float32(0.1)), const(np.uint8(128)))
        y = apply(IntegerMatMul(), q, const(EYE.astype(np.int8)), const(np.uint8(128)), const(np.int8(0)))
        y = apply(Mul(), apply(Cast(DType.F32), y), const(np.float32(0.1)))
    return apply(Transpose((0, 2, 1, 3)), apply(Reshape((1, 6, 2, 4)), y))


@pytest.mark.parametrize(
    "products", [(HALVES,) * 3, (BYTES,) * 3, (HALVES, BYTES, HALVES), (HALVES, BYTES, NONE), (NONE, HALVES, HALVES), (NONE,) * 3]
)
def test_all_operands_come_from_products(products):
    x = Node.make(Input(TensorType(DType.F32, (1, 6, 8))), ()).out
    graph = Graph((x,), (apply(Attention(0.5), *(heads(x, p) for p in products)),), ("x",), ("y",))
    new = RoundedAttention().run(graph, PassContext(verify=True))
    (node,) = (n for n in new.nodes if isinstance(n.op, Attention))
    assert node.op == Attention(0.5, rounded=all(products))
    assert (new is graph) == (not all(products))
    assert RoundedAttention().run(new, PassContext()) is new
