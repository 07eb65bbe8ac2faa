"""Attention on CUDA, by the emulation: masks, causal, grouped heads, odd and symbolic sizes, heads wider than shared memory."""

from __future__ import annotations

import numpy as np
import pytest
from emulated import check_all, needs_gxx
from lowering import ap, graph, tensor
from mlc.codegen.cuda import attention as cuda_attention
from mlc.codegen.cuda.attention_fma import AttentionFmaSchedule, schedule_attention_fma
from mlc.codegen.cuda.attention_mma import schedule_attention_mma, takes_attention
from mlc.codegen.cuda.attention_wgmma import AttentionGroupSchedule
from mlc.codegen.cuda.emit import emit
from mlc.codegen.cuda.target import LOWERING, parse
from mlc.codegen.kernel import AttentionKernel
from mlc.codegen.lower import lower
from mlc.ir import DType, sym
from mlc.ir import ops as O

pytestmark = needs_gxx
B, L = sym("B", 1), sym("L", 0)


def attention(heads, kv_heads, rows, keys, size, value, mask=None, causal=False, batch=2, dtype=DType.F32, **bindings):
    shapes = [(batch, heads, rows, size), (batch, kv_heads, keys, size), (batch, kv_heads, keys, value)]
    xs = [tensor(*s, dtype=dtype) for s in shapes] + ([tensor(*mask)] if mask else [])
    return graph(xs, ap(O.Attention(0.3, causal), *xs)), None, bindings


def test_attention_in_float32() -> None:
    """Heads of all sizes, rows and keys that fill no tile, masks, causal, grouped heads, keys that warps and blocks share."""
    plans = check_all([
        attention(3, 3, 7, 40, 16, 24), attention(4, 2, 37, 37, 8, 8, causal=True), attention(2, 2, 5, 9, 8, 8, mask=(2, 1, 5, 9)),
        attention(2, 2, B, L, 32, 32, batch=1, B=19, L=70), attention(2, 1, 17, 33, 13, 7), attention(2, 2, 30, L, 8, 8, L=0),
        attention(2, 2, 3, 5, 300, 260), attention(2, 2, 9, 4, 8, 8, causal=True), attention(1, 1, 70, 70, 64, 64, mask=(1, 1, 70, 70), causal=True),
        attention(2, 2, 20, 600, 64, 64, mask=(2, 2, 20, 600), causal=True), attention(1, 1, 6, 40, 80, 80), attention(1, 1, 5, 9, 2500, 600),
        attention(2, 1, B, L, 32, 32, batch=1, B=20, L=600),
    ])  # fmt: skip
    found = [s.kernel for p in plans for s in p.steps if isinstance(s.kernel, AttentionKernel)]
    chosen = [schedule_attention_fma(k) for k in found]
    assert len(found) == len(plans) and {(s.sharing, s.splits != 1) for s in chosen} == {(1, True), (4, False), (4, True)}
    assert {s.resident(k) for k, s in zip(found, chosen, strict=True)} == {True, False}
    assert all(s.shared(k) <= 99 << 10 for k, s in zip(found, chosen, strict=True))


@pytest.mark.parametrize("plan", [(4, 8, 32), (4, 4, 64), (2, 4, 32, 2), (2, 2, 16, 2, 3)], ids=str)
def test_tiles_of_attention_in_float32(plan: tuple[int, ...]) -> None:
    jobs = [
        attention(2, 1, 150, 130, 64, 64, batch=1), attention(1, 1, 70, 170, 36, 100, causal=True, batch=1),
        attention(1, 1, 40, 300, 72, 136, mask=(1, 1, 1, 300), causal=True, batch=1), attention(2, 2, 9, L, 32, 40, L=70),
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:  # no fixture: tests of devices call this, too
        patch.setattr(cuda_attention, "schedule_attention_fma", lambda kernel: AttentionFmaSchedule(*plan))
        check_all(jobs)


def test_few_queries_in_float32() -> None:
    """Keys that blocks share, heads that share keys, rows that no piece of 16 bytes divides, masks; and numbers of queries that are not known."""
    few = sym("R", 1, 40)
    plans = check_all([
        attention(12, 12, 1, 1000, 64, 64, batch=1), attention(8, 2, 1, 300, 64, 128, batch=1, causal=True), attention(3, 3, 2, 33, 13, 7),
        attention(2, 2, 4, 600, 64, 64, mask=(2, 2, 4, 600), causal=True), attention(8, 2, 2, L, 128, 256, batch=1, L=300),
        attention(2, 2, few, L, 32, 32, batch=1, R=3, L=300), attention(2, 2, few, L, 32, 32, batch=1, R=19, L=300),
    ])  # fmt: skip
    kernels = [s.kernel for p in plans for s in p.steps if isinstance(s.kernel, AttentionKernel)]
    found = [emit(k, parse("cuda:sm_80"), [16] * len(k.operands)) for k in kernels]
    assert [len(e.launches) for e in found] == [1] * 5 + [2] * 2 and all("of few queries" in e.launches[0].source for e in found)
    assert [bool(e.counters) for e in found] == [True, True, False, True, True, True, True]
    many = lower(attention(8, 8, 512, 512, 64, 64)[0], LOWERING).steps[0].kernel
    assert "of few queries" not in emit(many, parse("cuda:sm_80"), [16] * 4).launches[0].source


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_80+tf32"])
def test_few_queries_whose_result_is_rounded(dtype: DType, target: str) -> None:
    """Where nothing but its rounding is read: one kernel stores that. More queries, wider heads and other readers: as before."""

    def rounded(*sizes, **kw):
        g, _, bindings = attention(*sizes, **kw)
        return graph(g.inputs, ap(O.Cast(dtype), g.outputs[0])), None, bindings

    few = [rounded(8, 2, 1, 300, 64, 64, batch=1), rounded(3, 3, 4, 33, 13, 7, causal=True), rounded(2, 2, 2, L, 32, 40, batch=1, L=300)]
    plans = check_all(few, target, tol=1e-2)
    assert [len(p.steps) for p in plans] == [1] * 3
    more = [rounded(2, 2, 5, 33, 16, 16), rounded(2, 2, 1, 33, 300, 16), rounded(2, 2, B, 33, 16, 16, batch=1, B=2)]
    assert [len(lower(g, LOWERING).steps) for g, _, _ in more] == [2] * 3
    g, _, _ = attention(2, 2, 1, 33, 16, 16)
    assert len(lower(graph(g.inputs, ap(O.Cast(dtype), g.outputs[0]), g.outputs[0]), LOWERING).steps) == 2


TENSOR_CORES = [(DType.BF16, "cuda:sm_80", 1e-2), (DType.F16, "cuda:sm_90a", 3e-3), (DType.F32, "cuda:sm_80+tf32", 4e-3)]


@pytest.mark.parametrize("dtype,target,tol", TENSOR_CORES, ids=["bf16", "f16", "tf32"])
def test_tensor_cores(dtype: DType, target: str, tol: float) -> None:
    """Heads of all sizes, rows and keys that fill no tile, masks, causal, grouped heads, keys of unknown number, shared by blocks."""
    jobs = [
        attention(3, 3, 70, 130, 64, 64, dtype=dtype), attention(4, 2, 37, 37, 16, 24, causal=True, dtype=dtype),
        attention(2, 2, 5, 90, 40, 40, mask=(2, 1, 5, 90), dtype=dtype), attention(2, 1, 1, 600, 128, 128, batch=1, dtype=dtype),
        attention(2, 2, B, L, 32, 32, batch=1, B=19, L=70, dtype=dtype), attention(2, 2, 3, L, 8, 8, L=0, dtype=dtype),
        attention(2, 2, 9, 4, 8, 8, causal=True, dtype=dtype), attention(1, 1, 80, 300, 64, 33, causal=True, batch=1, dtype=dtype),
        attention(8, 2, 1, L, 72, 80, batch=1, L=300, dtype=dtype), attention(1, 1, 70, 70, 13, 7, mask=(1, 1, 1, 70), dtype=dtype),
        attention(4, 1, 5, 300, 16, 24, mask=(2, 4, 5, 300), causal=True, dtype=dtype), attention(6, 2, 9, 40, 8, 8, causal=True, dtype=dtype),
        attention(4, 2, B, L, 32, 40, batch=1, B=3, L=600, dtype=dtype), attention(4, 2, B, L, 32, 40, batch=1, causal=True, B=20, L=600, dtype=dtype),
    ]  # fmt: skip
    if dtype is not DType.F32:
        jobs += [attention(1, 1, 20, 50, 256, 256, batch=1, dtype=dtype), attention(2, 1, 10, 300, 8, 256, batch=1, dtype=dtype)]
    plans = check_all(jobs, target, tol=tol)
    found = [s.kernel for p in plans for s in p.steps if isinstance(s.kernel, AttentionKernel)]
    assert len(found) == len(plans) and all(takes_attention(k, True) for k in found)
    chosen = [schedule_attention_mma(k) for k in found]
    assert {(s.splits != 1, s.packed > 1) for s in chosen} == {(a, b) for a in (True, False) for b in (True, False)}
    assert {s.sharing for s in chosen} == {1, 2, 4}
    assert all(schedule_attention_mma(k).shared(k) <= 99 << 10 for k in found)  # what every device from sm_80 on has


HIDING = [(DType.F32, "cuda:sm_80", 2e-5), (DType.F32, "cuda:sm_80+tf32", 4e-3), (DType.F16, "cuda:sm_80", 3e-3)]


@pytest.mark.parametrize("dtype,target,tol", HIDING)
def test_hidden_keys(dtype: DType, target: str, tol: float) -> None:
    """Rows that see no key are zero; those of which all keys have the least number, as exporters hide them, see all alike."""
    x = [*(tensor(1, 1, n, 8, dtype=dtype) for n in (5, 70, 70)), tensor(1, 1, 5, 70)]
    rng = np.random.default_rng(0)
    data = [rng.standard_normal(v.shape).astype(v.dtype.np) for v in x]
    data[3][0, 0, 1] = -np.inf
    data[3][0, 0, 2, :5] = -np.inf
    data[3][0, 0, 3] = data[3][0, 0, 4, 40:] = np.finfo(np.float32).min
    check_all([(graph(x, ap(O.Attention(0.3, False), *x)), data, {})], target, tol=tol)


@pytest.fixture
def groups(monkeypatch):
    """Every attention by warp groups, whatever its size, with a schedule that is set."""

    def set_to(*plan: int) -> None:
        monkeypatch.setattr(cuda_attention, "schedule_attention_groups", lambda kernel: AttentionGroupSchedule(*plan))

    return set_to


GROUPS = [(DType.BF16, 1e-2, (2, 128)), (DType.F16, 3e-3, (1, 64)), (DType.F16, 3e-3, (2, 64, 3))]


@pytest.mark.parametrize("dtype,tol,plan", GROUPS, ids=["bf16", "f16", "stages"])
def test_warp_groups(groups, dtype: DType, tol: float, plan: tuple[int, ...]) -> None:
    """Heads of all sizes, rows and keys that fill no tile, more tiles than stages, masks, causal, grouped heads, no keys at all."""
    groups(*plan)
    jobs = [
        attention(3, 3, 70, 130, 64, 64, dtype=dtype), attention(4, 2, 137, 137, 16, 24, causal=True, batch=1, dtype=dtype),
        attention(2, 2, 5, 90, 40, 40, mask=(2, 1, 5, 90), dtype=dtype), attention(1, 1, 80, 600, 64, 40, causal=True, batch=1, dtype=dtype),
        attention(2, 2, B, L, 32, 32, batch=1, B=19, L=70, dtype=dtype), attention(2, 2, 3, L, 8, 8, L=0, dtype=dtype),
        attention(2, 1, 9, 4, 8, 8, causal=True, dtype=dtype), attention(2, 1, 40, 300, 128, 128, batch=1, dtype=dtype),
        attention(1, 1, 70, 170, 72, 136, mask=(1, 1, 1, 170), causal=True, batch=1, dtype=dtype),
    ]  # fmt: skip
    if plan[1] == 64:
        jobs.append(attention(1, 1, 20, 150, 256, 256, batch=1, dtype=dtype))
    plans = check_all(jobs, tol=tol)
    found = [s.kernel for p in plans for s in p.steps if isinstance(s.kernel, AttentionKernel)]
    assert len(found) == len(jobs)
    for kernel in found:
        launches = emit(kernel, parse("cuda:sm_90a"), [16] * len(kernel.operands)).launches
        assert "wgmma.mma_async" in launches[-1].source and len(launches) == 1 + (not isinstance(kernel.rows, int))


HEADS = [(DType.BF16, "cuda:sm_90a", 1e-2, True), (DType.F16, "cuda:sm_80", 3e-3, False), (DType.F32, "cuda:sm_80+tf32", 4e-3, False),
         (DType.F32, "cuda:sm_80", 2e-5, False)]  # fmt: skip


@pytest.mark.parametrize("dtype,target,tol,by_groups", HEADS, ids=["groups", "f16", "tf32", "f32"])
def test_unusual_heads(dtype: DType, target: str, tol: float, by_groups: bool) -> None:
    """Of 40 to 160 elements, no multiples of 64, grouped, with masks and with a cache of keys; values narrower and wider than keys."""
    jobs = []
    for i, size in enumerate((40, 72, 96, 112, 160)):
        mask, causal = ((1, 2, 19, 70), (1, 1, 1, 70), None)[i % 3], i % 3 != 1
        jobs.append(attention(2, 1, 19, 70, size, size, mask=mask, causal=causal, batch=1, dtype=dtype))
    jobs.append(attention(1, 1, 17, 70, 64, 120, batch=1, dtype=dtype))
    with pytest.MonkeyPatch.context() as patch:  # no fixture: tests of devices call this, too
        if by_groups:
            patch.setattr(cuda_attention, "schedule_attention_groups", lambda kernel: AttentionGroupSchedule(1, 64))
        check_all(jobs, target, tol=tol)


def test_what_a_swizzled_row_of_values_holds(groups) -> None:
    """Products take whole rows: as many of 64, 32 or 16 columns as there are, and no more than 15 beyond the result."""
    groups(1, 64)
    for size, piece in ((8, 16), (40, 16), (64, 64), (72, 16), (96, 32), (112, 16), (160, 32), (200, 16), (256, 64)):
        (step,) = lower(attention(1, 1, 64, 64, size, size, dtype=DType.BF16)[0], LOWERING).steps
        (launch,) = emit(step.kernel, parse("cuda:sm_90a"), [16] * 4).launches
        assert launch.maps[2].box == (piece, 64, 1, 1) and f"V_WIDTH = {piece * 2}," in launch.source
        assert f"m64n{-(-size // 16) * 16}k16" in launch.source


def test_keys_hidden_from_warp_groups(groups) -> None:
    groups(1, 64)
    test_hidden_keys(DType.BF16, "cuda:sm_90a", 1e-2)


def test_which_attention_is_by_warp_groups() -> None:
    """Many queries of many heads; not few of them, odd strides, float32, or other devices."""

    def chosen(*shape, target: str = "cuda:sm_90a", aligned: int = 16, **more) -> bool:
        (step,) = (
            s
            for s in lower(attention(*shape, **({"dtype": DType.BF16} | more))[0], LOWERING).steps
            if isinstance(s.kernel, AttentionKernel)
        )
        return "wgmma" in emit(step.kernel, parse(target), [aligned] * len(step.buffers)).launches[-1].source

    assert chosen(32, 8, 2048, 2048, 128, 128) and chosen(16, 16, L, L, 64, 64, batch=B)
    assert not chosen(32, 8, 2048, 2048, 128, 128, target="cuda:sm_90") and not chosen(32, 8, 2048, 2048, 128, 128, aligned=8)
    assert not chosen(32, 8, 1, 2048, 128, 128) and not chosen(2, 2, 128, 4096, 64, 64) and not chosen(32, 32, 512, 512, 68, 68)
    assert not chosen(32, 8, 2048, 2048, 128, 128, dtype=DType.F32)
    for kernel_groups, keys, size in ((2, 128, 128), (1, 128, 128), (2, 64, 256), (1, 64, 256)):
        plan = AttentionGroupSchedule(kernel_groups, keys)
        (step,) = (
            s
            for s in lower(attention(8, 8, 512, 512, size, size, dtype=DType.BF16)[0], LOWERING).steps
            if isinstance(s.kernel, AttentionKernel)
        )
        assert plan.shared(step.kernel) <= 227 << 10


def test_keys_that_batches_share_are_not_for_the_engine() -> None:
    """A stride of 0 along an axis of several; along one of a single element it is what every attention of batch 1 has."""
    q = tensor(4, 8, 512, 64, dtype=DType.BF16)
    k, v = (tensor(1, 8, 512, 64, dtype=DType.BF16) for _ in range(2))
    wide = [ap(O.Expand((4, 8, 512, 64)), x) for x in (k, v)]
    for inputs, by_groups in (((q, *wide), False), ((q, q, q), True), ((k, k, v), True)):
        g = graph(dict.fromkeys(x for x in (q, k, v)), ap(O.Attention(0.3), *inputs))
        (step,) = (s for s in lower(g, LOWERING).steps if isinstance(s.kernel, AttentionKernel))
        source = emit(step.kernel, parse("cuda:sm_90a"), [16] * len(step.buffers)).launches[0].source
        assert ("wgmma" in source) == by_groups
