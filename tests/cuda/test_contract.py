"""Contractions on CUDA, by the emulation: products, convolutions, epilogues, splits, types, symbolic and odd sizes."""

from __future__ import annotations

import numpy as np
import pytest
from emulated import check, check_all, needs_gxx
from lowering import ap, graph, tensor
from mlc.codegen.cuda.contract_gemv import schedule_gemv
from mlc.codegen.cuda.contract_schedule import schedule_fma
from mlc.codegen.cuda.emit import emit
from mlc.codegen.cuda.target import LOWERING, parse
from mlc.codegen.kernel import ContractKernel
from mlc.codegen.lower import lower
from mlc.ir import DType, const, evaluate, sym
from mlc.ir import ops as O
from mlc.ir.ops.dot import DotConv, DotMatMul

pytestmark = needs_gxx
B = sym("B", 0, 4096)
rng = np.random.default_rng(3)


def weights(*shape: int, dtype=np.float32):
    return const(rng.standard_normal(shape).astype(dtype))


def product(a, b, **bindings):
    return graph([a, b], ap(O.Relu(), ap(O.MatMul(), a, b))), None, bindings


def kernels(plan):
    return [s.kernel for s in plan.steps if isinstance(s.kernel, ContractKernel)]


def test_products() -> None:
    check_all([
        product(tensor(*a), tensor(*b), B=5)
        for a, b in (((2, 3, 5), (5, 7)), ((2, 3, 5), (2, 5, 7)), ((3, 5), (4, 5, 70)), ((B, 2, 3, 5), (2, 5, 7)), ((B, 33), (33, 130)),
                     ((1, 5), (5, 1)), ((3, 0), (0, 2)), ((150, 40), (40, 200)), ((5, B), (B, 40)), ((20, 64), (64, 64)))
    ])  # fmt: skip


def test_empty_batch() -> None:
    a = tensor(B, 33)
    check(graph([a], ap(O.MatMul(), a, weights(33, 12))), B=0)


def test_few_rows() -> None:
    """Every element type; k with and without whole pieces, and shorter than one; columns in and outside of groups of them."""
    jobs = []
    for m, n, k in ((1, 256, 2100), (3, 30, 72), (8, 9, 64), (1, 3, 5), (2, 4500, 8)):
        x = tensor(m, k)
        jobs.append((graph([x], ap(O.Tanh(), ap(O.Add(), ap(O.MatMul(), x, weights(k, n)), weights(n)))), None, {}))
    for dtype in (DType.F16, DType.F64, DType.I32):
        x, w = tensor(2, 2, 40, dtype=dtype), tensor(2, 21, 40, dtype=dtype)
        jobs.append((graph([x, w], ap(O.MatMul(), x, ap(O.Transpose((0, 2, 1)), w))), None, {}))
    x, q = tensor(sym("F", 1, 4), 48, dtype=DType.BF16), tensor(2, 64, dtype=DType.U8)
    jobs.append((graph([x], ap(DotMatMul(), x, const((rng.standard_normal((48, 20)) * 0.3).astype(DType.BF16.np)))), None, {"F": 3}))
    jobs.append((graph([q], ap(DotMatMul(), q, const(rng.integers(-90, 90, (64, 20)).astype(np.int8)))), None, {}))
    plans = check_all(jobs, tol=3e-3)
    found = [schedule_gemv(k) for p in plans for k in kernels(p)]
    assert len(found) >= 9 and all(found) and {s.slices for s in found if s} == {1, 4}


def test_schedules_of_all_sizes() -> None:
    jobs = []
    for m, n, k in ((12, 64, 2100), (9, 128, 600), (16, 100, 72), (129, 1700, 20), (1400, 1300, 9)):
        x = tensor(m, k)
        y = ap(O.Add(), ap(O.MatMul(), x, weights(k, n)), weights(n))
        jobs.append((graph([x], ap(O.Tanh(), y)), None, {}))
    plans = check_all(jobs)
    found = [schedule_fma(kernels(p)[0]) for p in plans]
    assert found[0].splits > 1 and found[0].slices > 1 and len({(s.bm, s.bn) for s in found}) == 3


def test_splits() -> None:
    """One launch: the blocks of a tile count themselves, and the last adds the sums of all."""
    jobs = []
    for dtype, batch, m, n in ((DType.F32, (), 12, 70), (DType.F64, (), 40, 33), (DType.I32, (2,), 20, 64)):
        x, w = tensor(*batch, m, 1600, dtype=dtype), tensor(*batch, 1600, n, dtype=dtype)
        jobs.append((graph([x, w], ap(O.MatMul(), x, w)), None, {}))
    jobs.append(conv(tensor(1, 4, 5, 200), 3, 3, 200, 24, pads=(1, 1)))
    plans = check_all(jobs)
    found = [k for p in plans for k in kernels(p)]
    shares = [schedule_fma(k).splits for k in found]
    assert all(isinstance(s, int) and s > 3 for s in shares) and len({schedule_fma(k).slices for k in found}) > 1
    assert all(len(emit(k, parse("cuda:sm_80"), [16] * len(k.operands)).launches) == 1 for k in found)


def test_float32_leaves_no_multiprocessor_idle() -> None:
    """Models at batch 1: 48 tiles of 32×64 would keep 84 of 132 idle; 1024 tiles of 128×128 share nothing."""
    for m, n, k, least, most in (
        (128, 768, 3072, 132, 528),
        (49, 512, 4608, 132, 528),
        (8, 768, 768, 66, 132),
        (4096, 4096, 4096, 1024, 1024),
    ):
        (kernel,) = kernels(lower(graph([x := tensor(m, k)], ap(O.MatMul(), x, weights(k, n))), LOWERING))
        s = schedule_fma(kernel)
        assert isinstance(s.splits, int)
        assert least <= -(-m // s.bm) * -(-n // s.bn) * s.splits <= most, (m, n, k, s)


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16], ids=lambda d: d.value)
def test_an_unknown_number_of_rows(dtype: DType) -> None:
    """The launches of few rows fill the device, sharing k: one of them has blocks, by the number of rows."""
    x = tensor(sym("F", 1, 4096), 1600, dtype=dtype)
    op = O.MatMul() if dtype is DType.F32 else DotMatMul()
    g = graph([x], ap(O.Add(), ap(op, x, weights(1600, 40, dtype=dtype.np)), weights(40)))
    (plan, *_) = check_all([(g, None, {"F": rows}) for rows in (2, 11, 70, 260)], tol=1e-4)
    (kernel,) = kernels(plan)
    for target in ("cuda:sm_80", "cuda:sm_90a"):
        launches = emit(kernel, parse(target), [16] * len(kernel.operands)).launches
        for rows, least in ((1, 10), (8, 3), (64, 3), (256, 4), (257, 1), (4096, 64)):
            blocks = [b for b in (evaluate(k.blocks, {"F": rows}) for k in launches) if b]
            assert len(blocks) == 1 and blocks[0] >= least, (target, rows)


SHARING = [(DType.F32, "cuda:sm_80"), (DType.BF16, "cuda:sm_80"), (DType.BF16, "cuda:sm_90a")]


@pytest.mark.parametrize("dtype,target", SHARING, ids=["fma", "mma", "groups"])
def test_an_unknown_number_of_tiles_shares_k(dtype: DType, target: str) -> None:
    """As many blocks to a tile as leave no multiprocessor idle, by sizes at the launch; none where tiles are enough."""
    many = sym("N", 1, 64)
    op = (lambda *a: ap(O.MatMul(), *a)) if dtype is DType.F32 else (lambda *a: ap(DotMatMul(), *a))
    image, rows, x = tensor(many, 9, 9, 176, dtype=dtype), tensor(many, 70, 1600, dtype=dtype), tensor(many, 1600, 72, dtype=dtype)
    conv_of = O.Conv if dtype is DType.F32 else DotConv
    convolved = ap(conv_of((1, 1), (1, 1), (1, 1), (1, 1), 1), image, weights(3, 3, 176, 40, dtype=dtype.np))
    graphs = [graph([image], ap(O.Relu(), convolved)), graph([rows, x], op(rows, x))]
    jobs = [(g, None, {"N": n}) for g in graphs for n in (1, 3)]
    plans = check_all(jobs, target, tol=1e-3)
    for plan in plans[::2]:
        (kernel,) = kernels(plan)
        emitted = emit(kernel, parse(target), [16] * len(kernel.operands))
        per_batch = {n: sum(evaluate(k.blocks, {"N": n}) for k in emitted.launches) / n for n in (1, 64)}
        assert per_batch[1] >= 3 and per_batch[1] > per_batch[64]
        assert evaluate(emitted.workspaces[0], {"N": 1}) > 0 == evaluate(emitted.workspaces[0], {"N": 64})


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16, DType.F64, DType.I32], ids=lambda d: d.value)
def test_dtypes(dtype: DType) -> None:
    a, b = tensor(9, 40, dtype=dtype), tensor(40, 24, dtype=dtype)
    check_all(
        [(graph([a, b], ap(O.MatMul(), a, b)), None, {}), (graph([a, b], ap(O.Add(), ap(O.MatMul(), a, b), tensor_bias(dtype))), None, {})]
    )


def tensor_bias(dtype: DType):
    return const(np.arange(24).astype(dtype.np))


def conv(x, *shape, strides=(1, 1), pads=(0, 0), dilations=(1, 1), groups=1, bias=True, **bindings):
    y = ap(O.Conv(strides, pads, pads, dilations, groups), x, weights(*shape))
    y = ap(O.Relu(), ap(O.Add(), y, weights(shape[-1]))) if bias else y
    return graph([x], y), None, bindings


def test_convolutions() -> None:
    x = tensor(2, 9, 8, 4)
    check_all([
        conv(x, 3, 3, 4, 8, pads=(1, 1)), conv(x, 3, 3, 4, 6, strides=(2, 2)), conv(x, 1, 1, 4, 64), conv(x, 1, 1, 4, 8, strides=(2, 2)),
        conv(x, 3, 2, 2, 32, groups=2, pads=(1, 0)), conv(x, 3, 3, 4, 5, dilations=(2, 2), pads=(2, 2)),
        conv(tensor(B, 11, 6, 3), 5, 5, 3, 16, pads=(2, 2), B=2), conv(tensor(1, B, 6, 8), 3, 3, 8, 16, pads=(1, 1), B=13),
        conv(tensor(2, 12, 4), 3, 4, 8, strides=(2,), pads=(1,), dilations=(1,)),
        conv(tensor(1, 5, 5, 5, 4), 3, 3, 3, 4, 8, strides=(1, 1, 1), pads=(1, 1, 1), dilations=(1, 1, 1)),
        conv(tensor(1, 6, 6, 16), 3, 3, 1, 16, pads=(1, 1), groups=16),
    ])  # fmt: skip


def test_epilogue_reads_other_tensors() -> None:
    a, res = tensor(B, 6, 8), tensor(B, 6, 20)
    y = ap(O.Add(), ap(O.MatMul(), a, weights(8, 20)), weights(20))
    y = ap(O.Mul(), y, ap(O.Add(), ap(O.Erf(), ap(O.Mul(), y, const(np.float32(0.7)))), const(np.float32(1))))
    check(graph([a, res], ap(O.Add(), res, y)), B=3)


def test_unaligned() -> None:
    a = tensor(70, 36)
    check(graph([a], ap(O.MatMul(), a, weights(36, 66))), align=4)


def test_b_in_place() -> None:
    """A B that is computed at run time, and read by few rows, is not packed."""
    x = tensor(2, 3, 40)
    plans = check_all([(graph([x, b], ap(O.MatMul(), x, b)), None, {}) for b in (tensor(2, 40, 24), tensor(2, 40, 23))])
    assert all(kernels(p)[0].b_row != 0 for p in plans)
