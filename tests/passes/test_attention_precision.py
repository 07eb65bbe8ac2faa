"""Attention rounded to 16 bits."""

from __future__ import annotations

import numpy as np
from mlc.ir import DType, Graph, Input, Node, TensorType
from mlc.ir.ops import Attention
from mlc.passes import PassContext
from mlc.passes.attention_precision import LowerAttention


def heads(dtype: DType, mask: DType | None = None, queries: int = 6) -> Graph:
    def given(shape: tuple[int, ...], t: DType):
        return Node.make(Input(TensorType(t, shape)), ()).out

    xs = [given((1, 2, n, 8), dtype) for n in (queries, 5, 5)] + ([given((queries, 5), mask)] if mask else [])
    return Graph(tuple(xs), (Node.make(Attention(0.3), tuple(xs)).out,), tuple(f"x{i}" for i in range(len(xs))), ("y",))


def test_heads_are_rounded_and_masks_are_not() -> None:
    g = heads(DType.F32, DType.F32)
    low = LowerAttention(DType.BF16).run(g, PassContext())
    (node,) = (n for n in low.nodes if isinstance(n.op, Attention))
    assert [v.dtype for v in node.inputs] == [DType.BF16] * 3 + [DType.F32] and low.outputs[0].dtype is DType.F32
    rng = np.random.default_rng(0)
    data = [rng.standard_normal([int(d) for d in v.shape]).astype(np.float32) for v in g.inputs]  # type: ignore[arg-type]
    want, got = (x.evaluate(*data)[0] for x in (g, low))
    assert 0 < np.abs(got - want).max() < 0.03


def test_few_queries_read_a_cache_as_it_is() -> None:
    g = heads(DType.F32, queries=4)
    assert LowerAttention(DType.BF16).run(g, PassContext()) is g


def test_other_types_stay() -> None:
    g = heads(DType.F64)
    assert LowerAttention(DType.F16).run(g, PassContext()) is g
