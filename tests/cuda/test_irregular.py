"""Sorting, selection, positions and suppression on CUDA, by the emulation, against the interpreter of kernels."""

from __future__ import annotations

import numpy as np
import pytest
from emulated import check_all, needs_gxx
from lowering import ap, graph, tensor
from mlc.codegen.kernel import IrregularKernel
from mlc.codegen.lower import lower
from mlc.codegen.lower.top_k import TopOrder
from mlc.codegen.plan import Step
from mlc.ir import Dim, DType, Node, Op, Value, sym
from mlc.ir import ops as O

pytestmark = needs_gxx
rng = np.random.default_rng(3)


def outputs(op: Op, *args: Value) -> tuple[Value, ...]:
    return Node.make(op, args).outputs


def keys(dtype: DType, *shape: int) -> np.ndarray:
    """Many equal ones, both ends of the range, and NaN, infinities and zeros of both signs among floats."""
    if dtype.is_float:
        x = rng.standard_normal(shape).astype(dtype.np).round(1)
        special = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0], dtype.np)
        return np.where(rng.random(shape) < 0.2, special[rng.integers(0, 6, shape)], x)
    info = np.iinfo(dtype.np)
    x = rng.integers(max(info.min, -40), min(info.max, 40), shape).astype(dtype.np)
    return np.where(rng.random(shape) < 0.1, np.array([info.min, info.max], dtype.np)[rng.integers(0, 2, shape)], x)


def test_positions() -> None:
    """The kernel leaves what lies behind the last position alone; the definition says zero there, as the test's memory does."""
    jobs = []
    for n, share in ((1, 1.0), (5, 0.0), (4096, 0.5), (9000, 0.01), (8193, 1.0)):
        x = tensor(n, dtype=DType.BOOL)
        jobs.append((graph([x], *outputs(O.Positions(), x)), [rng.random(n) < share], {}))
    s = sym("S", 0)
    for n in (0, 5000):
        x = tensor(s, dtype=DType.BOOL)
        jobs.append((graph([x], *outputs(O.Positions(), x)), [rng.random(n) < 0.3], {"S": n}))
    check_all(jobs)


@pytest.mark.parametrize("down", [False, True])
def test_sort(down: bool) -> None:
    jobs = []
    for dtype in (DType.F32, DType.F64, DType.I64, DType.U8, DType.I8, DType.I16, DType.U32):
        for shape in ((2, 77), (5000,)):
            x = tensor(*shape, dtype=dtype)
            jobs.append((graph([x], ap(O.Sort(down), x)), [keys(dtype, *shape)], {}))
    s, r = sym("S", 0), sym("R", 0)
    for size, rows in ((0, 2), (1, 3), (4097, 2)):
        x = tensor(r, s)
        jobs.append((graph([x], ap(O.Sort(down), x)), [keys(DType.F32, rows, size)], {"S": size, "R": rows}))
    check_all(jobs)


@pytest.mark.parametrize("down", [False, True])
def test_first_of_rows(down: bool) -> None:
    jobs = []
    for shape, k, dtype in (((3, 200), 5, DType.F32), ((1, 20_000), 100, DType.F32), ((1, 17_000), 3, DType.I64), ((150, 2100), 1, DType.I32),
                            ((1, 5000), 300, DType.F32)):  # fmt: skip
        x = tensor(*shape, dtype=dtype)
        jobs.append((graph([x], ap(TopOrder(k, down), x)), [keys(dtype, *shape)], {}))
    increasing = np.arange(9000, dtype=np.float32)[None] * (1 if down else -1)  # each is before all seen so far
    x, s = tensor(1, 9000), sym("S", 1)
    jobs.append((graph([x], ap(TopOrder(128, down), x)), [increasing], {}))
    x = tensor(2, s)
    jobs.append((graph([x], ap(TopOrder(1, down), x)), [keys(DType.F32, 2, 3000)], {"S": 3000}))
    plans = check_all(jobs)
    assert all(isinstance(s, Step) and isinstance(s.kernel, IrregularKernel) for p in plans for s in p.steps)


def boxes(n: int) -> np.ndarray:
    corner = rng.random((2, n, 2)) * 4
    flipped = np.concatenate([corner, corner + rng.random((2, n, 2))], -1)
    flipped[:, ::7] = flipped[:, ::7, [2, 3, 0, 1]]  # corners in the other order
    flipped[:, ::11, 2:] = flipped[:, ::11, :2]  # without an area
    return flipped.astype(np.float32)


@pytest.mark.parametrize("center", [False, True])
def test_suppress(center: bool) -> None:
    jobs = []
    for n, most, least in ((150, 1000, 0.1), (150, 7, -1.0), (65, 0, 0.0), (2500, 90, 0.5)):
        scores = (rng.random((2, 2, n)) * 1.2 - 0.2).astype(np.float32).round(2)
        scores[0, 0, ::13] = np.nan
        args = [boxes(n), scores, np.array(most), np.array(0.3, np.float32), np.array(least, np.float32)]
        inputs = [tensor(*a.shape, dtype=DType.from_numpy(a.dtype)) for a in args]
        jobs.append((graph(inputs, *outputs(O.Suppress(center), *inputs)), args, {}))
    check_all(jobs)


def test_schedules() -> None:
    """What decides how rows are sorted is how long they may be."""
    from mlc.codegen.cuda.irregular import emit_irregular

    def titles(rows: Dim, size: int, k: int) -> list[str]:
        x = tensor(rows, size)
        (step,) = lower(graph([x], ap(TopOrder(k, True), x))).steps
        assert isinstance(step, Step) and isinstance(step.kernel, IrregularKernel)
        return [e.source.split("\n")[0][3:] for e in emit_irregular(step.kernel).launches]

    assert titles(4, 1000, 5) == ["sort of short rows"]
    assert titles(4, 100_000, 5) == ["the first of parts of rows", "the first of those of parts"]
    assert titles(400, 100_000, 5) == ["the first of rows"]
    assert titles(sym("R", 1), 100_000, 5)[0] == "the first of parts of rows"
    assert len(titles(1, 100_000, 1000)) == 12
