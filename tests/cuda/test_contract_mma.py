"""Contractions on tensor cores, by the emulation, whose matrix instructions and asynchronous copies are exact."""

from __future__ import annotations

import numpy as np
import pytest
from emulated import check, check_all, needs_gxx
from lowering import ap, graph, tensor
from mlc.codegen.cuda import contract, contract_schedule
from mlc.codegen.cuda.contract_schedule import MmaSchedule, instruction, schedule_mma
from mlc.codegen.cuda.emit import emit
from mlc.codegen.cuda.target import LOWERING, parse
from mlc.codegen.kernel import ContractKernel
from mlc.codegen.lower import lower
from mlc.errors import CodegenError
from mlc.ir import Dim, DType, Graph, Value, const, sym
from mlc.ir import ops as O
from mlc.ir.ops.dot import DotConv, DotMatMul

pytestmark = needs_gxx
AMPERE = "cuda:sm_80"  # what comes later has more kernels
M = sym("M", 1, 4096)
rng = np.random.default_rng(3)


def weights(*shape: int, dtype: DType = DType.F32) -> Value:
    if dtype.is_float:
        return const((rng.standard_normal(shape) * 0.3).astype(dtype.np))
    return const(rng.integers(-100 if dtype.is_signed else 0, 100, shape).astype(dtype.np))


def contractions(plan) -> list[ContractKernel]:
    return [s.kernel for s in plan.steps if isinstance(s.kernel, ContractKernel)]


def dot(m: Dim, n: int, k: int, a: DType, b: DType, **bindings: int):
    x = tensor(m, k, dtype=a)
    y = ap(DotMatMul(), x, weights(k, n, dtype=b))
    y = ap(O.Mul(), ap(O.Cast(DType.F32), y), const(np.float32(0.01)))
    return graph([x], ap(O.Add(), y, weights(n))), None, bindings


@pytest.mark.parametrize("a,b", [(DType.BF16, DType.BF16), (DType.U8, DType.I8)], ids=["bf16", "int8"])
def test_dot_products(a: DType, b: DType) -> None:
    """All tile sizes; k with and without whole pieces of 16 bytes; splits."""
    jobs = [dot(m, n, k, a, b) for m, n, k in ((9, 64, 2048), (5, 100, 40), (70, 20, 33), (40, 130, 64), (150, 64, 96))]
    plans = check_all([*jobs, dot(M, 48, 80, a, b, M=37)], AMPERE, tol=1e-4)
    found = [contractions(p)[0] for p in plans]
    assert all(k.group > 1 and instruction(k, False) is not None for k in found)
    assert schedule_mma(found[0], parse(AMPERE).device).splits > 1


@pytest.mark.parametrize("target", [AMPERE, "cuda:sm_90a"])
def test_no_columns(target: str) -> None:
    """A size of zero that is known beside one that is not: there are no tiles to choose by."""
    check_all([dot(M, 0, 40, DType.BF16, DType.BF16, M=5), dot(5, 0, 40, DType.BF16, DType.BF16)], target)


def test_tiles(monkeypatch) -> None:
    """Every tile, with sizes that fill none."""
    tiles = [t for t in contract_schedule._TILES for _ in range(2)]
    left = iter(tiles)
    monkeypatch.setattr(contract, "schedule_mma", lambda kernel, device: next(left))
    check_all(
        [dot(*size, DType.BF16, DType.BF16) for _ in contract_schedule._TILES for size in ((150, 70, 72), (20, 300, 33))], AMPERE, tol=1e-4
    )
    assert all(parse(a).device.resident(t.shared) for t in tiles for a in ("cuda:sm_80", "cuda:sm_86"))
    for t in tiles:  # what every device from sm_80 on has for a block, and an A100 for the resident ones
        assert t.shared <= 99 << 10 and t.shared * t.resident <= 160 << 10 and t.threads * t.resident <= 1024


def test_schedules() -> None:
    """Large products take large tiles, narrow ones narrow tiles, few rows low ones, and long sums of few results splits."""

    def chosen(m: Dim, n: int, k: int, target: str = AMPERE) -> MmaSchedule:
        return schedule_mma(contractions(lower(dot(m, n, k, DType.BF16, DType.BF16)[0], LOWERING))[0], parse(target).device)

    large = chosen(4096, 4096, 64)
    assert (large.bm, large.bn, large.splits) == (128, 256, 1) and chosen(100_000, 64, 147).bn == 64
    assert chosen(9, 4096, 4096).bm == 16 and chosen(128, 512, 4096).splits > 2
    # A little more than a wave of tiles, and long sums: shared evenly among all multiprocessors of the device. Not where that saves less
    # than it takes, where tiles come out even, or where sizes are unknown.
    for target, multiprocessors in (("cuda:sm_80", 108), ("cuda:sm_86", 84), ("cuda:sm_89", 142)):
        streamed = chosen(128 * (multiprocessors + 8), 256, 4096, target)
        assert streamed.stream == multiprocessors * streamed.resident and streamed.splits == 1, target
        rest = ((128 * multiprocessors, 4096), (128 * (multiprocessors + 8), 128), (M, 4096))
        assert not any(chosen(m, 256, k, target).stream for m, k in rest)


def test_half_and_single_precision() -> None:
    """float16 in rows is put together while it is copied; float32 takes tensor cores only where it may be rounded."""
    a, b, c = tensor(20, 48, dtype=DType.F16), tensor(48, 40, dtype=DType.F16), tensor(2, 33, 21, dtype=DType.F16)
    x = tensor(20, 48)
    check_all(
        [(graph([a, b], ap(O.MatMul(), a, b)), None, {}), (graph([c], ap(O.MatMul(), c, weights(21, 30, dtype=DType.F16))), None, {})],
        AMPERE,
        tol=3e-3,
    )
    g = graph([x], ap(O.MatMul(), x, weights(48, 72)))
    plan = check(g, target="cuda:sm_80+tf32", tol=3e-3)
    (kernel,) = contractions(plan)
    sources = {t: emit(kernel, parse(t), [16] * len(kernel.operands)).launches[0].source for t in ("cuda:sm_80", "cuda:sm_80+tf32")}
    assert "mma_tf32" in sources["cuda:sm_80+tf32"] and "mma" not in sources["cuda:sm_80"].replace("contraction by multiply-add", "")


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16], ids=lambda d: d.value)
def test_b_that_is_computed(dtype: DType) -> None:
    """Read where it is: in rows, which loads from shared memory turn, or in columns, as keys of attention lie."""
    jobs, op = [], DotMatMul() if dtype is DType.BF16 else O.MatMul()
    for m, n, k in ((40, 72, 64), (5, 40, 96), (M, 24, 40), (3, 64, 33)):
        x, rows, columns = (tensor(2, *s, dtype=dtype) for s in ((m, k), (k, n), (n, k)))
        jobs.append((graph([x, rows], ap(op, x, rows)), None, {"M": 21}))
        jobs.append((graph([x, columns], ap(op, x, ap(O.Transpose((0, 2, 1)), columns))), None, {"M": 21}))
    plans = check_all(jobs, AMPERE, tol=3e-3 if dtype is DType.F16 else 1e-4)
    found = [contractions(p)[0] for p in plans]
    assert [k.b_row != 0 for k in found[:6:2]] == [True] * 3 and len(plans[0].steps) == 1
    assert [k.b_row == 0 for k in found[1:2]] == [True] and len(plans[1].steps) == 1


def convolution(x: Value, *shape: int, dtypes: tuple[DType, DType], strides=(1, 1), pads=(0, 0), border: int | None = None):
    op = DotConv(strides, pads, pads, (1, 1), 1)
    outside = [] if border is None else [const(np.array([border], dtypes[0].np))]
    y = ap(op, x, weights(*shape, dtype=dtypes[1]), *outside)
    return graph([x], ap(O.Relu(), ap(O.Cast(DType.F32), y))), None, {}


def test_convolutions() -> None:
    bf16, int8 = (DType.BF16, DType.BF16), (DType.U8, DType.I8)
    x, thin = tensor(2, 7, 9, 16, dtype=DType.BF16), tensor(1, 9, 9, 3, dtype=DType.BF16)
    q = tensor(1, 8, 7, 16, dtype=DType.U8)
    check_all([
        convolution(x, 3, 3, 16, 40, dtypes=bf16, pads=(1, 1)), convolution(x, 3, 3, 16, 24, dtypes=bf16, strides=(2, 2)),
        convolution(thin, 3, 3, 3, 32, dtypes=bf16, pads=(1, 1)), convolution(q, 3, 3, 16, 32, dtypes=int8, pads=(1, 1), border=7),
        convolution(tensor(1, 6, 6, 5, dtype=DType.U8), 3, 3, 5, 16, dtypes=int8, pads=(1, 1), border=3),
    ], AMPERE, tol=1e-4)  # fmt: skip


def sources(g: Graph, target: str = AMPERE) -> list[str]:
    """Of its contractions."""
    return [k.source for c in contractions(lower(g, LOWERING)) for k in emit(c, parse(target), [16] * len(c.operands)).launches]


@pytest.fixture
def scheduled(monkeypatch):
    """Every contraction in tiles that are set, by whose name: 64×64 of four warps, or 16×32 of two."""

    def set_to(bm: int, **shares: int) -> None:
        plan = MmaSchedule(64, 64, 16, 2, 2, 3, 1, 1.0, **shares) if bm == 64 else MmaSchedule(16, 32, 32, 1, 2, 4, 1, 1.0, **shares)
        monkeypatch.setattr(contract, "schedule_mma", lambda kernel, device: plan)

    return set_to


def shared_products():
    image = tensor(1, 9, 11, 16, dtype=DType.BF16)
    keys, x = tensor(2, 33, 200, dtype=DType.BF16), tensor(2, 70, 200, dtype=DType.BF16)
    rows, computed = tensor(70, 344, dtype=DType.F16), tensor(344, 72, dtype=DType.F16)
    return [
        dot(70, 71, 1000, DType.BF16, DType.BF16), dot(140, 130, 200, DType.BF16, DType.BF16), dot(16, 32, 33, DType.BF16, DType.BF16),
        dot(70, 72, 640, DType.U8, DType.I8), convolution(image, 3, 3, 16, 40, dtypes=(DType.BF16, DType.BF16), pads=(1, 1)),
        (graph([keys, x], ap(DotMatMul(), keys, ap(O.Transpose((0, 2, 1)), x))), None, {}),
        (graph([rows, computed], ap(O.MatMul(), rows, computed)), None, {}),
    ]  # fmt: skip


@pytest.mark.parametrize("blocks,bm", [(2, 64), (3, 16), (7, 64)])
def test_streams(scheduled, blocks: int, bm: int) -> None:
    """Blocks share the steps along k: parts of a tile, several whole ones, a tile of many blocks; fewer steps than blocks."""
    scheduled(bm, stream=blocks)
    jobs = shared_products()
    assert all("StreamedWork" in source for g, _, _ in jobs for source in sources(g))
    check_all(jobs, AMPERE, tol=3e-3)
    with pytest.raises(CodegenError, match="steps of a stream"):
        sources(dot(M, 64, 64, DType.BF16, DType.BF16)[0])


def test_splits(scheduled) -> None:
    """One launch: the blocks of a tile count themselves, and the last adds the sums of all. Shares without steps."""
    scheduled(64, splits=3)
    jobs = shared_products()
    assert all(len(sources(g)) == 1 and "last_of(" in sources(g)[0] for g, _, _ in jobs)
    check_all(jobs, AMPERE, tol=3e-3)


def test_unaligned_operands() -> None:
    g, _, _ = dot(33, 40, 48, DType.BF16, DType.BF16)
    check(g, target=AMPERE, align=2, tol=1e-4)


def test_tf32_option() -> None:
    assert parse("cuda:sm_80+tf32").tf32 and str(parse("cuda:sm_80+tf32")) == "cuda:sm_80+tf32"
