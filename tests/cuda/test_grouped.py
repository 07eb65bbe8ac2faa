"""Products with weights of few bits on CUDA, by the emulation: few rows as they are, more on their way to tensor cores, many expanded."""

from __future__ import annotations

import numpy as np
import pytest
import small_models
from emulated import check_all, needs_gxx
from lowering import ap, tensor
from mlc.codegen.cuda.emit import emit
from mlc.codegen.cuda.grouped_mma import schedule_levels, takes_levels
from mlc.codegen.cuda.target import parse
from mlc.codegen.kernel import GroupedKernel
from mlc.codegen.lower import LowerOptions, lower
from mlc.codegen.plan import Step
from mlc.compiler.api import compile_stages
from mlc.compiler.emulated import EmulatedBackend, emulated_module
from mlc.compiler.options import Options
from mlc.compiler.precision.options import Precision
from mlc.ir import Dim, DType, Graph, const, evaluate, sym
from mlc.ir import ops as O
from mlc.ir.ops import GroupedMatMul

pytestmark = needs_gxx
rng = np.random.default_rng(4)


def layer(m: Dim, k: int, n: int, bits: int, group: int, asymmetric: bool, dtype: DType = DType.F32) -> Graph:
    groups = -(-k // group)
    zeros = rng.integers(0, 1 << bits, (groups, n)) if asymmetric else np.full((groups, n), 1 << (bits - 1))
    # Weights that 16-bit floats are exact for, where they become such.
    scales = rng.standard_normal((groups, n)) if dtype is DType.F32 else 2.0 ** rng.integers(-6, -2, (groups, n))
    x = tensor(m, k, dtype=dtype)
    y = ap(GroupedMatMul(bits, group), x, const(rng.integers(0, 1 << bits, (k, n)), DType.U8),
           const(scales, DType.F32), const(zeros, DType.F32))  # fmt: skip
    return Graph((x,), (ap(O.Relu(), ap(O.Add(), y, const(rng.standard_normal(n), DType.F32))),), ("x",), ("y",))


def coded(m: Dim, dtype: DType = DType.F32) -> Graph:
    """Levels that stand for values of uneven steps."""
    x, values = tensor(m, 64, dtype=dtype), tuple(v * abs(v) / 64 for v in range(-8, 8))
    levels, scales = rng.integers(0, 16, (64, 24)), np.full((2, 24), 0.5)
    y = ap(GroupedMatMul(4, 32, values), x, const(levels, DType.U8), const(scales, DType.F32), const(np.zeros((2, 24)), DType.F32))
    return Graph((x,), (y,), ("x",), ("y",))


SHAPES = [(64, 64, 4, 32, False), (96, 70, 4, 32, True), (100, 33, 4, 32, False), (130, 17, 8, 16, True), (77, 5, 8, 64, False),
          (20, 40, 4, 20, True), (256, 128, 8, 64, True), (1030, 9, 4, 128, False)]  # fmt: skip


def test_agrees_with_its_definition() -> None:
    jobs = [(layer(m, *shape), None, {}) for shape in SHAPES for m in (1, 3, 20)]
    jobs += [(layer(sym("rows", 0), 96, 41, 4, 32, True), None, {"rows": rows}) for rows in (0, 1, 2, 9, 16, 17)]
    jobs += [(coded(m), None, {}) for m in (1, 20)]
    plans = check_all(jobs)
    assert all(isinstance(s, Step) and isinstance(s.kernel, GroupedKernel) for p in plans for s in p.steps)


@pytest.mark.parametrize("dtype,target", [(DType.BF16, "cuda:sm_90a"), (DType.F16, "cuda:sm_80")])
def test_rows_of_16_bits(dtype: DType, target: str) -> None:
    """Whole words of levels and others, every tile, and rows of a number that only the run knows."""
    jobs = [(layer(m, *shape, dtype), None, {}) for shape in SHAPES for m in (2, 20)]
    jobs += [(layer(m, 128, 72, 4, 32, True, dtype), None, {}) for m in (1, 17, 33, 64, 65, 128, 129)]
    jobs += [(layer(sym("rows", 0), 192, 66, bits, 16, True, dtype), None, {"rows": r}) for bits in (4, 8) for r in (0, 1, 40, 70, 200)]
    jobs += [(coded(m, dtype), None, {}) for m in (1, 20, 130)]
    jobs += [
        (layer(m, 1544, 70, 4, 8, True, dtype), None, {}) for m in (5, 40)
    ]  # blocks share k, which is no multiple of what they share by
    jobs += [(layer(sym("rows", 0), 1024, 34, 8, 32, False, dtype), None, {"rows": r}) for r in (3, 30, 140)]
    plans = check_all(jobs, target, tol=1e-4)
    found = [s.kernel for p in plans for s in p.steps if takes_levels(s.kernel)]
    assert len({schedule_levels(k, 128).splits for k in found}) == 3
    known = [emit(k, parse(target), [16] * len(k.operands)) for k in found if isinstance(k.m, int) and k.m <= 128]
    assert all(len(e.launches) == 1 for e in known) and any(e.counters for e in known)


@pytest.mark.parametrize("dtype,launched", [(DType.F32, {1: 1, 17: 2, 200: 2}), (DType.BF16, {1: 1, 2: 1, 16: 1, 17: 1, 128: 1, 129: 2})])
def test_what_is_launched_for_rows(dtype: DType, launched: dict[int, int]) -> None:
    (step,) = lower(layer(sym("rows", 0), 256, 64, 4, 32, False, dtype), LowerOptions(panel=1)).steps
    assert isinstance(step, Step)
    emitted = emit(step.kernel, parse("cuda:sm_80"), [16] * len(step.buffers))
    assert {r: sum(evaluate(k.blocks, {"rows": r}) > 0 for k in emitted.launches) for r in launched} == launched
    assert emitted.workspaces[0] == 256 * 64 * dtype.itemsize


def test_the_number_of_rows_decides_what_is_launched() -> None:
    (step,) = lower(layer(sym("rows", 0), 256, 64, 4, 32, False), LowerOptions(panel=1)).steps
    assert isinstance(step, Step)
    emitted = emit(step.kernel, parse("cuda:sm_90a"), [16] * len(step.buffers))
    for rows, launched in ((0, 0), (1, 1), (2, 1), (16, 1), (17, 2), (5000, 2)):
        assert sum(evaluate(k.blocks, {"rows": rows}) > 0 for k in emitted.launches) == launched, rows
    assert emitted.workspaces == (256 * 64 * 4,)


def test_a_precision_of_16_bits_is_for_them_too() -> None:
    """`--precision bf16 --layer 'MatMul=int4'`."""
    w = rng.standard_normal((64, 64)).astype(np.float32)
    model = small_models.model("few (float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w)  b = Tanh(a)  y = MatMul(b, w) }", w=w)
    options = Options("cuda:sm_90a", precision=Precision("bf16", (("MatMul", "int4"),)))
    result = compile_stages(model, options, backend=EmulatedBackend(parse("cuda:sm_90a")))
    found = [s.kernel for s in result.plan.steps if isinstance(s, Step) and isinstance(s.kernel, GroupedKernel)]
    assert [k.operands[0].dtype for k in found] == [DType.BF16] * 2
    module, x = emulated_module(result), rng.standard_normal((40, 64)).astype(np.float32)
    want = np.tanh(x @ w) @ w
    assert np.linalg.norm(module.run({"x": x})["y"] - want) < 0.2 * np.linalg.norm(want)
