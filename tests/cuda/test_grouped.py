"""Products with weights of few bits on CUDA, by the emulation: few rows as they are, many by expanded weights."""

from __future__ import annotations

import numpy as np
from emulated import check_all, needs_gxx
from lowering import ap, tensor
from mlc.codegen.cuda.emit import emit
from mlc.codegen.cuda.target import parse
from mlc.codegen.kernel import GroupedKernel
from mlc.codegen.lower import LowerOptions, lower
from mlc.codegen.plan import Step
from mlc.ir import Dim, DType, Graph, const, evaluate, sym
from mlc.ir import ops as O
from mlc.ir.ops import GroupedMatMul

pytestmark = needs_gxx
rng = np.random.default_rng(4)


def layer(m: Dim, k: int, n: int, bits: int, group: int, asymmetric: bool) -> Graph:
    groups = -(-k // group)
    zeros = rng.integers(0, 1 << bits, (groups, n)) if asymmetric else np.full((groups, n), 1 << (bits - 1))
    x = tensor(m, k)
    y = ap(GroupedMatMul(bits, group), x, const(rng.integers(0, 1 << bits, (k, n)), DType.U8),
           const(rng.standard_normal((groups, n)), DType.F32), const(zeros, DType.F32))  # fmt: skip
    return Graph((x,), (ap(O.Relu(), ap(O.Add(), y, const(rng.standard_normal(n), DType.F32))),), ("x",), ("y",))


def coded(m: Dim) -> Graph:
    """Levels that stand for values of uneven steps."""
    x, values = tensor(m, 64), tuple(map(float, np.linspace(-1, 1, 16) ** 3))
    levels, scales = rng.integers(0, 16, (64, 24)), rng.standard_normal((2, 24))
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


def test_the_number_of_rows_decides_what_is_launched() -> None:
    (step,) = lower(layer(sym("rows", 0), 256, 64, 4, 32, False), LowerOptions(panel=1)).steps
    assert isinstance(step, Step)
    emitted = emit(step.kernel, parse("cuda:sm_90a"), [16] * len(step.buffers))
    for rows, launched in ((0, 0), (1, 1), (2, 1), (16, 1), (17, 2), (5000, 2)):
        assert sum(evaluate(k.blocks, {"rows": rows}) > 0 for k in emitted.launches) == launched, rows
    assert emitted.workspaces == (256 * 64 * 4,)
