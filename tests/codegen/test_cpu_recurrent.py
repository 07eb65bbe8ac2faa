"""Recurrent kernels on the CPU against the op's own reference."""

import ctypes

import numpy as np
import pytest
from mlc.codegen.cpu import recurrent, recurrent_schedule
from mlc.codegen.cpu.compile import compile_ir
from mlc.codegen.cpu.recurrent import emit_recurrent
from mlc.codegen.cpu.target import missing_features, parse
from mlc.codegen.interpret import run_kernel
from mlc.errors import CodegenError
from mlc.ir import DType, evaluate
from mlc.ir.ops.recurrent import GATES
from mlc.runtime.native import Code, native
from recurrent_cases import ACTIVATIONS, case, near

TARGETS = [t for t in ("cpu", "cpu:x86-64-v3", "cpu:x86-64-v2") if not missing_features(parse(t).triple, parse(t).features)]


def execute(c, target="cpu", threads=1):
    """Run a case by a team; returns the code."""
    t = parse(target)
    e = emit_recurrent(c.kernel, t)
    code = Code([compile_ir(e.ir_text, t)])
    dims = (ctypes.c_int64 * len(e.dims))(*[evaluate(v, c.bindings) for v in e.dims])
    table = (ctypes.c_void_p * len(c.buffers))(*[b.ctypes.data for b in c.buffers])
    native().team(code.address(e.symbol), ctypes.addressof(table), ctypes.addressof(dims), evaluate(e.units, c.bindings), 0, threads)
    return e


def run(cell, steps, batch, hidden, *, target="cpu", threads=1, **options):
    """Emitted code, run by a team, against the op's reference and the kernel interpreter; returns (code, outputs)."""
    c = case(cell, steps, batch, hidden, **options)
    e = execute(c, target, threads)
    c.check(1e-5 if c.kernel.operands[0].dtype is DType.F32 else 1e-12)
    second = [*c.buffers[:7], *(np.zeros(b.size, b.dtype) for b in c.buffers[7:])]
    run_kernel(c.kernel, second, c.bindings)
    got, d = [g.copy() for g in c.results()], len(c.kernel.directions)
    near(got[:1], [second[7].reshape(c.y.shape)[:, :d]], 1e-5)
    return e, got


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("cell", GATES)
def test_cells(cell, target):
    run(cell, 7, 1, 48, target=target)
    run(cell, 5, 3, 21, target=target, directions=(True,), lens=[5, 0, 3])


@pytest.mark.parametrize("hidden", [1, 16, 17, 70])
@pytest.mark.parametrize("cell", GATES)
def test_sizes(cell, hidden):
    run(cell, 3, 8, hidden, symbolic=True)


def test_gru_linear_before_reset():
    run("gru", 6, 2, 37, before=True)
    run("gru", 6, 7, 64, before=True, directions=(True,))


def test_lstm_options():
    run("lstm", 4, 2, 20, clip=0.4, lens=[4, 2])
    run("lstm", 4, 1, 20, coupled=True)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    run("rnn", 3, 1, 18, activations=(name,))


def test_double():
    run("gru", 4, 2, 11, dtype=DType.F64, activations=("HardSigmoid", "Softsign"))


def test_sizes_share_text():
    assert run("lstm", 3, 1, 32)[0].symbol == run("lstm", 5, 1, 64)[0].symbol


@pytest.mark.parametrize("hidden", [1, 17, 24, 48, 80])
@pytest.mark.parametrize("cell", GATES)
def test_two_directions(cell, hidden):
    run(cell, 4, 3, hidden, directions=(False, True), lens=[4, 1, 2])
    run(cell, 4, 1, hidden, directions=(True, False), symbolic=True)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("cell", GATES)
def test_results_do_not_depend_on_the_team(cell, before):
    for batch, symbolic in ((1, False), (5, True), (7, False)):
        alone, *teams = (
            run(cell, 9, batch, 70, directions=(False, True), before=before, symbolic=symbolic, threads=t)[1] for t in (1, 2, 3, 8)
        )
        for team in teams:
            for a, b in zip(alone, team, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cell", GATES)
def test_weights_larger_than_the_cache_are_asked_for_ahead(cell, monkeypatch):
    """By one thread; two have all of them in their caches."""
    monkeypatch.setattr(recurrent_schedule, "_CACHE", (GATES[cell] * 70 * 80 * 4 + 1) // 2 + 1)
    e, _ = run(cell, 5, 9, 70, directions=(False, True), lens=[5, 0, 3, 1, 2, 5, 5, 4, 1])
    assert "llvm.prefetch" in e.ir_text
    run(cell, 4, 9, 70, threads=2)
    e, _ = run(cell, 5, 1, 70)
    assert "llvm.prefetch" not in e.ir_text  # each is read once


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("cell", GATES)
def test_inputs_larger_than_the_cache_are_asked_for_ahead(cell, before, monkeypatch):
    monkeypatch.setattr(recurrent, "_NEAR_BYTES", 0)
    e, _ = run(cell, 5, 9, 70, directions=(False, True), lens=[5, 0, 3, 1, 2, 5, 5, 4, 1], before=before)
    assert "llvm.prefetch" in e.ir_text


@pytest.mark.parametrize("target", TARGETS)
def test_gates_of_any_size(target):
    """Absolute errors of few units in the last place of 1, from subnormal numbers to infinities; NaN stays in its column."""
    c = case("lstm", 1, 16, 256)
    for n in (1, 2, 3, 5):
        c.buffers[n][:] = 0
    r = np.random.default_rng(4)
    x = c.buffers[0].reshape(16, 4, 256)
    x[:] = r.standard_normal(x.shape) * np.exp(r.uniform(-20, 6, x.shape))
    x[:, :, :10] = np.float32([np.inf, -np.inf, 3e38, -3e38, 1e-40, 0.0, 88.0, -88.0, 127.0, -127.0])
    x[3, 1, 200] = np.nan
    execute(c, target)
    with np.errstate(all="ignore"):
        i, o, f = (1 / (1 + np.exp(-x[:, q].astype(np.float64))) for q in range(3))
    cell = f * c.buffers[4].reshape(16, 256) + i * np.tanh(x[:, 3].astype(np.float64))
    for got, want in ((c.buffers[8], o * np.tanh(cell)), (c.buffers[9], cell)):
        np.testing.assert_allclose(got[: 16 * 256].reshape(16, 256), want, rtol=3e-7, atol=5e-7)


def test_work_of_a_step_is_that_of_its_rows():
    """Rows left over of an unknown batch are units of their own: a single one is not worth what several are, nor a team."""
    for batch in (1, 3, 12, 48):
        c = case("lstm", 3, batch, 64, symbolic=True)
        e = emit_recurrent(c.kernel, parse("cpu:x86-64-v3"))
        assert evaluate(e.units * e.unit_cost, c.bindings) == 2 * 4 * 64 * 64 * batch


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_to_do(target):
    run("lstm", 0, 2, 20, target=target)
    run("gru", 3, 0, 20, target=target, symbolic=True)


def test_unsupported():
    with pytest.raises(CodegenError, match="bf16"):
        run("lstm", 2, 1, 8, dtype=DType.BF16)
