"""Contractions by warp groups (sm_90a), by the emulation: barriers, bulk copies and products in any order that the PTX ISA allows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from emulated import check, check_all, needs_gxx
from lowering import ap, graph, tensor
from mlc.codegen.cuda import contract, contract_schedule
from mlc.codegen.cuda.contract_schedule import WgmmaSchedule, schedule_wgmma
from mlc.codegen.cuda.emit import emit
from mlc.codegen.cuda.target import LOWERING, parse
from mlc.codegen.kernel import ContractKernel
from mlc.codegen.lower import lower
from mlc.ir import DType, sym
from mlc.ir import ops as O
from mlc.ir.ops.dot import DotMatMul
from test_contract_mma import convolution, dot, weights

pytestmark = needs_gxx
M, B = sym("M", 1, 4096), sym("B", 1, 16)
SIXTEEN = [(DType.BF16, DType.BF16)]


def sources(g, target: str = "cuda:sm_90a") -> list[str]:
    plan = lower(g, LOWERING)
    return [k.source for s in plan.steps for k in emit(s.kernel, parse(target), [16] * len(s.buffers)).launches]


def by_groups(g, target: str = "cuda:sm_90a") -> bool:
    return any("wgmma" in s for s in sources(g, target))


@pytest.fixture
def tile(monkeypatch):
    """Every contraction with a tile that is set, of few blocks so that each takes several tiles."""

    def set_to(bm: int, bn: int, stages: int = 2, splits: int = 1, stream: int = 0, blocks: int = 2, cluster: int = 1) -> None:
        chosen = WgmmaSchedule(bm, bn, stages, 1, 1.0, splits, stream, cluster)
        monkeypatch.setattr(contract, "schedule_wgmma", lambda kernel: chosen)
        monkeypatch.setattr("mlc.codegen.cuda.contract_wgmma.SM90_MULTIPROCESSORS", blocks)

    return set_to


def products(a: DType, b: DType):
    return [dot(m, n, k, a, b) for m, n, k in ((70, 72, 40), (150, 130, 200), (64, 256, 64), (200, 300, 97 * 16))]


@pytest.mark.parametrize("bm,bn", [(128, 256), (128, 192), (128, 128), (64, 64)])
def test_tiles(tile, bm: int, bn: int) -> None:
    """Sizes with and without whole tiles; several tiles a block; more steps along k than stages."""
    tile(bm, bn)
    jobs = products(DType.BF16, DType.BF16)
    assert all(by_groups(g) for g, _, _ in jobs)
    check_all([*jobs, dot(M, 80, 96, DType.BF16, DType.BF16, M=77)], tol=1e-4)


@pytest.mark.parametrize("bm,bn,blocks", [(128, 256, 2), (128, 192, 4), (128, 128, 6), (64, 64, 4)])
def test_clusters(tile, bm: int, bn: int, blocks: int) -> None:
    """Two blocks bring each half of their tile of B to both, and free stages of each other; one may have rows below the last."""
    tile(bm, bn, 2, cluster=2, blocks=blocks)
    image = tensor(2, 12, 9, 16, dtype=DType.BF16)
    jobs = [*products(DType.BF16, DType.BF16), dot(M, 80, 96, DType.BF16, DType.BF16, M=300),
            convolution(image, 3, 3, 16, 40, dtypes=(DType.BF16, DType.BF16), pads=(1, 1))]  # fmt: skip
    assert all("copy_box_to_all<CLUSTER>" in s for g, _, _ in jobs for s in sources(g) if "wgmma" in s)
    check_all(jobs, target="cuda:sm_90a", tol=2e-3)


def test_clusters_are_an_option() -> None:
    """For many whole tiles in pairs of rows."""
    assert str(parse("cuda:sm_90a+tf32+clusters")) == "cuda:sm_90a+tf32+clusters"
    large, odd, few = (dot(m, 4096, 512, DType.BF16, DType.BF16)[0] for m in (4096, 128 * 33, 1024))
    for g, target, pairs in ((large, "cuda:sm_90a+clusters", True), (large, "cuda:sm_90a", False), (odd, "cuda:sm_90a+clusters", False),
                             (few, "cuda:sm_90a+clusters", False)):  # fmt: skip
        (source,) = sources(g, target)
        assert ("__cluster_dims__(2, 1, 1)" in source) == pairs


def test_element_types(tile) -> None:
    tile(64, 64, 3)
    check_all(products(DType.U8, DType.I8)[:2], tol=1e-4)
    x, half = tensor(70, 48), tensor(70, 48, dtype=DType.F16)
    check(graph([half], ap(O.MatMul(), half, weights(48, 40, dtype=DType.F16))), tol=3e-3)
    few = tensor(70, 144, dtype=DType.F8E4M3FN)
    check(graph([few], ap(DotMatMul(), few, weights(144, 40, dtype=DType.F8E4M3FN))), tol=3e-3)  # devices add them in fewer bits
    single = graph([x], ap(O.MatMul(), x, weights(48, 72)))
    assert by_groups(single, "cuda:sm_90a+tf32") and not by_groups(single)
    check(single, target="cuda:sm_90a+tf32", tol=5e-3)


@pytest.mark.parametrize("bm,bn", [(128, 192), (128, 128), (64, 64)])
def test_results_by_the_engine(tile, bm: int, bn: int) -> None:
    """Rows that begin at multiples of 16 bytes go through shared memory, clipped to the result; others are stored by threads."""
    tile(bm, bn, 3)
    half, single = [tensor(B, 150, 64, dtype=DType.F16), tensor(136, dtype=DType.F16)], [tensor(130, 64, dtype=DType.BF16), tensor(130, 72)]
    w = weights(64, 136, dtype=DType.F16)
    jobs = [
        (graph(half, ap(O.Relu(), ap(O.Add(), ap(O.MatMul(), half[0], w), half[1]))), None, {"B": 3}),
        (graph(single, ap(O.Add(), ap(DotMatMul(), single[0], weights(64, 72, dtype=DType.BF16)), single[1])), None, {}),
        dot(M, 200, 136, DType.BF16, DType.BF16, M=77),
    ]
    assert all(any("store_box(" in s for s in sources(g)) for g, _, _ in jobs)
    check_all(jobs, tol=3e-3)
    odd = dot(70, 70, 64, DType.BF16, DType.BF16)
    assert by_groups(odd[0]) and not any("store_box(" in s for s in sources(odd[0]))


def test_splits(tile) -> None:
    """One launch: the blocks of a tile count themselves, and the last adds the sums of all. Shares without steps; results in boxes."""
    tile(64, 64, 3, splits=3)
    image = tensor(1, 9, 11, 16, dtype=DType.BF16)
    jobs = [
        dot(70, 70, 1024, DType.BF16, DType.BF16), dot(70, 71, 1024, DType.BF16, DType.BF16), dot(64, 64, 160, DType.BF16, DType.BF16),
        dot(70, 72, 640, DType.U8, DType.I8), convolution(image, 3, 3, 16, 40, dtypes=(DType.BF16, DType.BF16), pads=(1, 1)),
    ]  # fmt: skip
    assert all(len(sources(g)) == 1 and "last_of(" in sources(g)[0] for g, _, _ in jobs)
    check_all(jobs, tol=1e-4)
    tile(128, 128, 3, splits=2, blocks=5)
    keys, x = tensor(2, 33, 200, dtype=DType.BF16), tensor(2, 150, 200, dtype=DType.BF16)
    check_all([dot(150, 130, 328, DType.BF16, DType.BF16), (graph([keys, x], ap(DotMatMul(), keys, ap(O.Transpose((0, 2, 1)), x))), None, {})],
              tol=1e-4)  # fmt: skip


@pytest.mark.parametrize("blocks,bm,bn", [(2, 64, 64), (3, 128, 128), (5, 64, 128), (7, 64, 64)])
def test_streams(tile, blocks: int, bm: int, bn: int) -> None:
    """Blocks share the steps along k: parts of a tile, several whole ones, a tile of many blocks; fewer steps than blocks."""
    tile(bm, bn, 3, stream=blocks)
    x = tensor(2, 9, 11, 16, dtype=DType.BF16)
    jobs = [
        dot(70, 72, 1000, DType.BF16, DType.BF16), dot(200, 300, 200, DType.BF16, DType.BF16), dot(64, 64, 264, DType.BF16, DType.BF16),
        dot(64, 64, 160, DType.BF16, DType.BF16), dot(70, 70, 512, DType.BF16, DType.BF16),
        convolution(x, 3, 3, 16, 40, dtypes=(DType.BF16, DType.BF16), pads=(1, 1)),
    ]  # fmt: skip
    assert all(any("StreamedWork" in s for s in sources(g)) for g, _, _ in jobs)
    check_all(jobs, tol=1e-4)


def test_streams_of_integers_and_batches(tile) -> None:
    tile(64, 64, 3, stream=3)
    x, keys = tensor(2, 70, 200, dtype=DType.BF16), tensor(2, 33, 200, dtype=DType.BF16)
    check_all([dot(70, 72, 640, DType.U8, DType.I8), (graph([keys, x], ap(DotMatMul(), keys, ap(O.Transpose((0, 2, 1)), x))), None, {})])


def test_batches(tile) -> None:
    """Operands with and without a batch axis, B as it lies at run time."""
    tile(64, 64)
    keys, x = tensor(B, 70, 64, dtype=DType.BF16), tensor(B, 33, 64, dtype=DType.BF16)
    shared = tensor(70, 64, dtype=DType.BF16)
    jobs = [graph([x, k], ap(DotMatMul(), x, ap(O.Transpose((0, 2, 1)), k))) for k in (keys,)]
    jobs.append(graph([x, shared], ap(DotMatMul(), x, ap(O.Transpose((1, 0)), shared))))
    assert all(by_groups(g) for g in jobs)
    check_all([(g, None, {"B": 3}) for g in jobs], tol=1e-4)


@pytest.mark.parametrize("bm,bn,splits", [(64, 128, 1), (64, 64, 3), (128, 192, 1), (128, 256, 1)])
def test_b_in_rows(tile, bm: int, bn: int, splits: int) -> None:
    """B as it is computed, n next to each other: turned by the product. Sizes of k and n that fill no tile, batches, both types."""
    tile(bm, bn, 3, splits)
    batch = B if splits == 1 else 2  # shares of k are of sizes that are known
    jobs = []
    for dtype, (m, n, k), batched in (
        (DType.BF16, (70, 72, 40), False),
        (DType.F16, (70, 136, 200), True),
        (DType.BF16, (130, 264, 344), False),
    ):
        op = DotMatMul() if dtype is DType.BF16 else O.MatMul()
        x, w = (tensor(*([batch] if batched else []), *d, dtype=dtype) for d in ((m, k), (k, n)))
        jobs.append((graph([x, w], ap(op, x, w)), None, {"B": 2} if batched else {}))
    assert all(by_groups(g) for g, _, _ in jobs)
    check_all(jobs, tol=3e-3)


def test_convolutions(tile) -> None:
    """Rows of the image by cp.async, also where what is outside is not zero."""
    tile(128, 64, 3)
    bf16, int8 = (DType.BF16, DType.BF16), (DType.U8, DType.I8)
    x, q = tensor(2, 9, 11, 16, dtype=DType.BF16), tensor(1, 12, 12, 16, dtype=DType.U8)
    jobs = [
        convolution(x, 3, 3, 16, 40, dtypes=bf16, pads=(1, 1)), convolution(x, 3, 3, 16, 72, dtypes=bf16, strides=(2, 2)),
        convolution(q, 3, 3, 16, 32, dtypes=int8, pads=(1, 1), border=7), convolution(x, 1, 1, 16, 64, dtypes=bf16),
        convolution(tensor(1, 8, 9, 48, dtype=DType.BF16), 3, 3, 48, 40, dtypes=bf16, pads=(1, 1)),  # more steps than stages
    ]  # fmt: skip
    assert all(by_groups(g) for g, _, _ in jobs)
    check_all(jobs, tol=1e-4)


def test_which_contractions() -> None:
    """Few rows, rows that do not begin at multiples of 16 bytes, B in rows, and other devices have other kernels."""
    g = dot(1024, 1024, 512, *SIXTEEN[0])[0]
    assert by_groups(g) and not by_groups(g, "cuda:sm_80") and not by_groups(g, "cuda:sm_90")
    assert not by_groups(dot(16, 1024, 512, *SIXTEEN[0])[0]) and not by_groups(dot(1024, 1024, 513, *SIXTEEN[0])[0])
    x, w = tensor(256, 64, dtype=DType.BF16), tensor(64, 256, dtype=DType.BF16)
    assert by_groups(graph([x, w], ap(DotMatMul(), x, w)))
    x, w = tensor(256, 64, dtype=DType.BF16), tensor(64, 252, dtype=DType.BF16)
    assert not by_groups(graph([x, w], ap(DotMatMul(), x, w)))
    x, w = tensor(256, 64), tensor(64, 256)  # of 32 bits, B cannot be turned
    assert not by_groups(graph([x, w], ap(O.MatMul(), x, w)), "cuda:sm_90a+tf32")


def test_schedules() -> None:
    """The largest tile for products that fill the device many times; smaller ones where it would leave part of it idle."""

    def chosen(m, n: int, k: int) -> WgmmaSchedule | None:
        plan = lower(dot(m, n, k, *SIXTEEN[0])[0], LOWERING)
        (kernel,) = (s.kernel for s in plan.steps if isinstance(s.kernel, ContractKernel))
        return schedule_wgmma(kernel)

    large = chosen(8192, 8192, 64)
    assert large == contract_schedule._GROUPS[0] and large.shared <= 227 << 10 and large.registers(False) == (40, 232)
    for s in contract_schedule._GROUPS:
        assert (s.shared + s.staging + 1024) * s.resident <= 228 << 10 and s.threads * s.resident <= 2048
    small = chosen(128, 512, 4096)
    assert small is not None and (small.bm, small.splits > 1) == (64, True)
    assert chosen(8, 4096, 64) is None and chosen(M, 4096, 64) is not None
    assert replace(large, splits=2).shared == large.shared
    # 128 tiles of 192 columns, where 96 of 256 would leave a quarter of the device idle.
    even = chosen(4096, 768, 768)
    assert even is not None and (even.bm, even.bn, even.splits, even.stream) == (128, 192, 1, 0)
    # A little more than a wave of tiles, and long sums: shared evenly. Not where that saves less than it takes, or sizes are unknown.
    streamed = chosen(6304, 768, 3072)
    assert streamed is not None and streamed.stream and streamed.splits == 1
    assert not any(s is None or s.stream for s in (chosen(6304, 768, 256), chosen(8192, 2048, 512), chosen(M, 768, 3072)))
