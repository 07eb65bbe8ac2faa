"""Attention on CUDA, by the emulation: masks, causal, grouped heads, odd and symbolic sizes, heads wider than shared memory."""

from __future__ import annotations

import numpy as np
from emulated import check_all, needs_gxx
from lowering import ap, graph, tensor
from mlc.codegen.cuda.attention import schedule_attention
from mlc.codegen.kernel import AttentionKernel
from mlc.ir import ops as O
from mlc.ir import sym

pytestmark = needs_gxx
B, L = sym("B", 1), sym("L", 0)


def attention(heads, kv_heads, rows, keys, size, value, mask=None, causal=False, batch=2, **bindings):
    shapes = [(batch, heads, rows, size), (batch, kv_heads, keys, size), (batch, kv_heads, keys, value), *([mask] if mask else [])]
    xs = [tensor(*s) for s in shapes]
    return graph(xs, ap(O.Attention(0.3, causal), *xs)), None, bindings


def test_attention() -> None:
    plans = check_all([
        attention(3, 3, 7, 40, 16, 24), attention(4, 2, 37, 37, 8, 8, causal=True), attention(2, 2, 5, 9, 8, 8, mask=(2, 1, 5, 9)),
        attention(2, 2, B, L, 32, 32, batch=1, B=19, L=70), attention(2, 1, 1, 33, 16, 40), attention(2, 2, 3, L, 8, 8, L=0),
        attention(2, 2, 3, 5, 300, 260), attention(2, 2, 9, 4, 8, 8, causal=True), attention(1, 1, 70, 70, 64, 64, mask=(1, 1, 70, 70), causal=True),
    ])  # fmt: skip
    found = [s.kernel for p in plans for s in p.steps if isinstance(s.kernel, AttentionKernel)]
    assert len(found) == len(plans)
    assert {schedule_attention(k).staged for k in found} == {True, False}


def test_hidden_keys() -> None:
    x = [tensor(1, 1, 4, 8), tensor(1, 1, 6, 8), tensor(1, 1, 6, 8), tensor(1, 1, 4, 6)]
    rng = np.random.default_rng(0)
    data = [rng.standard_normal(v.shape).astype(np.float32) for v in x]
    data[3][0, 0, 1] = -np.inf
    data[3][0, 0, 2, :5] = -np.inf
    check_all([(graph(x, ap(O.Attention(0.3, False), *x)), data, {})])
