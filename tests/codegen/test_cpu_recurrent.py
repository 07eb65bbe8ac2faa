"""Recurrent kernels on the CPU against the op's own reference."""

import ctypes

import numpy as np
import pytest
from mlc.codegen.cpu.compile import compile_ir
from mlc.codegen.cpu.recurrent import emit_recurrent
from mlc.codegen.cpu.target import missing_features, parse
from mlc.codegen.interpret import run_kernel
from mlc.codegen.kernel import Operand, RecurrentKernel
from mlc.errors import CodegenError
from mlc.ir import DType, evaluate, sym
from mlc.ir.ops import Recurrent
from mlc.ir.ops.recurrent import GATES
from mlc.runtime.native import Code, native

DEFAULT = {"lstm": ("Sigmoid", "Tanh", "Tanh"), "gru": ("Sigmoid", "Tanh"), "rnn": ("Tanh",)}
TARGETS = [t for t in ("cpu", "cpu:x86-64-v3", "cpu:x86-64-v2") if not missing_features(parse(t).triple, parse(t).features)]


def pack(r, cell, before, block):
    """[D, G·H, H] -> [D, blocks, per stage of a step: [H, gates, block]]"""
    d, _, h = r.shape
    blocks = -(-h // block)
    padded = np.zeros((d, GATES[cell], blocks * block, h), r.dtype)
    padded[:, :, :h] = r.reshape(d, GATES[cell], h, h)
    stages = [slice(0, 2), slice(2, 3)] if cell == "gru" and not before else [slice(None)]
    parts = [padded[:, s].reshape(d, -1, blocks, block, h).transpose(0, 2, 4, 1, 3).reshape(d, blocks, -1) for s in stages]
    return np.ascontiguousarray(np.concatenate(parts, 2))


def run(cell, steps, batch, hidden, *, directions=(False,), lens=None, activations=None, clip=0.0, before=False, coupled=False,
        target="cpu", dtype=DType.F32, symbolic=False, threads=1):  # fmt: skip
    """Emitted code, run by a team, against the op's reference and the kernel interpreter; returns (code, outputs)."""
    r = np.random.default_rng(3)
    gh, inner, d = GATES[cell] * hidden, 5, len(directions)

    def array(*shape):
        return (r.standard_normal(shape) * 0.5).astype(dtype.np)

    acts = tuple((a, 0.3, 0.6) for a in activations or DEFAULT[cell])
    x, w, rr = array(steps, batch, inner), array(d, gh, inner), array(d, gh, hidden)
    bias, h0, c0, peephole = array(d, 2 * gh), array(d, batch, hidden), array(d, batch, hidden), array(d, 3 * hidden)
    lens = np.asarray(lens if lens is not None else [steps] * batch, np.int32)
    op = Recurrent(cell, hidden, directions, acts * d, clip, before, coupled)
    want = op.reference(*(a.astype(np.float64) if a.dtype.kind == "f" else a for a in (x, w, rr, bias, lens, h0, c0, peephole)))

    gates = np.ascontiguousarray(np.stack([x @ w[n].T + bias[n, :gh] for n in range(d)], 2).astype(dtype.np))
    block = 64 // dtype.itemsize
    y = np.full((steps, d + 1, batch, hidden), 7, dtype.np)  # the last is never written
    h_n, c_n = (np.full(d * batch * hidden + 64, 7, dtype.np) for _ in range(2))
    state = np.full(4 * d * batch * -(-hidden // block) * block, np.nan, dtype.np)
    buffers = [gates, pack(rr, cell, before, block), bias[:, gh:].copy(), h0, c0, peephole, lens, y, h_n, c_n, state]
    operands = tuple(Operand(DType.I32 if a is lens else dtype, a.size, i >= 7) for i, a in enumerate(buffers))
    T, B = (sym("T"), sym("B")) if symbolic else (steps, batch)
    kernel = RecurrentKernel(cell, T, B, hidden, directions, acts, clip, before, coupled, operands, (d + 1) * B * hidden, B * hidden,
                             hidden, block)  # fmt: skip
    t, bindings = parse(target), {"T": steps, "B": batch}
    e = emit_recurrent(kernel, t)
    code = Code([compile_ir(e.ir_text, t)])
    dims = (ctypes.c_int64 * len(e.dims))(*[evaluate(v, bindings) for v in e.dims])
    table = (ctypes.c_void_p * len(buffers))(*[b.ctypes.data for b in buffers])
    units = evaluate(e.units, bindings)
    native().team(code.address(e.symbol), ctypes.addressof(table), ctypes.addressof(dims), units, 0, threads)
    n = d * batch * hidden
    got = [y[:, :d], h_n[:n].reshape(d, batch, hidden), c_n[:n].reshape(d, batch, hidden)][: len(want)]
    near(got, want, 1e-5 if dtype is DType.F32 else 1e-12)
    assert (y[:, d] == 7).all() and (h_n[n:] == 7).all() and (c_n[n:] == 7).all(), "wrote outside"
    second = [*buffers[:7], *(np.zeros(b.size, b.dtype) for b in buffers[7:])]
    run_kernel(kernel, [b.reshape(-1) for b in second], bindings)
    near(got[:1], [second[7].reshape(y.shape)[:, :d]], 1e-5)
    return e, [g.copy() for g in got]


def near(got, want, tolerance):
    for g, v in zip(got, want, strict=True):
        assert np.linalg.norm(g - v) <= tolerance * max(np.linalg.norm(v), 1e-30)


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


@pytest.mark.parametrize(
    "name", ["Relu", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus"]
)
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


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_to_do(target):
    run("lstm", 0, 2, 20, target=target)
    run("gru", 3, 0, 20, target=target, symbolic=True)


def test_unsupported():
    with pytest.raises(CodegenError, match="bf16"):
        run("lstm", 2, 1, 8, dtype=DType.BF16)
