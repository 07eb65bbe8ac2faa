"""Recurrent kernels on CUDA, by the emulation, against the op's own reference."""

from __future__ import annotations

import numpy as np
import pytest
from emulated import aligned_array, launch, needs_gxx
from mlc.codegen.cuda.emulate.compiler import build
from mlc.codegen.cuda.recurrent import emit_recurrent, schedule_recurrent
from mlc.codegen.kernel import Operand, RecurrentKernel
from mlc.errors import CodegenError
from mlc.ir import DType, sym
from mlc.ir.ops import Recurrent
from mlc.ir.ops.recurrent import GATES
from test_cpu_recurrent import near, pack

pytestmark = needs_gxx
DEFAULT = {"lstm": ("Sigmoid", "Tanh", "Tanh"), "gru": ("Sigmoid", "Tanh"), "rnn": ("Tanh",)}


def case(cell, steps, batch, hidden, *, directions=(False,), lens=None, activations=None, clip=0.0, before=False, coupled=False,
         dtype=DType.F32, symbolic=False):  # fmt: skip
    """(kernel, buffers, wanted results, sizes, shape of Y)"""
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
    gates = np.stack([x @ w[n].T + bias[n, :gh] for n in range(d)], 2).astype(dtype.np)
    block = 64 // dtype.itemsize
    y = np.full((steps, d + 1, batch, hidden), 7, dtype.np)  # the last is never written
    h_n, c_n = (np.full(d * batch * hidden + 64, 7, dtype.np) for _ in range(2))
    state = np.full(4 * d * batch * -(-hidden // block) * block, np.nan, dtype.np)
    buffers = []
    for a in (gates, pack(rr, cell, before, block), bias[:, gh:], h0, c0, peephole, lens, y, h_n, c_n, state):
        buffers.append(aligned_array(a.size, a.dtype))
        buffers[-1][:] = a.reshape(-1)
    operands = tuple(Operand(DType.from_numpy(a.dtype), a.size, i >= 7) for i, a in enumerate(buffers))
    T, B = (sym("T"), sym("B")) if symbolic else (steps, batch)
    kernel = RecurrentKernel(cell, T, B, hidden, directions, acts, clip, before, coupled, operands, (d + 1) * B * hidden, B * hidden,
                             hidden, block)  # fmt: skip
    return kernel, buffers, want, {"T": steps, "B": batch}, y.shape


def run(cases):
    emitted = [emit_recurrent(c[0]) for c in cases]
    library = build({e.launches[0].symbol: e.launches[0].source for e in emitted})
    for e, (kernel, buffers, want, bindings, shape) in zip(emitted, cases, strict=True):
        d, n = len(kernel.directions), len(kernel.directions) * shape[2] * shape[3]
        for seed in (0, 5):
            launch(library, e, buffers, bindings, seed)
            y, h_n, c_n = buffers[7].reshape(shape), buffers[8], buffers[9]
            got = [y[:, :d], h_n[:n].reshape(d, *shape[2:]), c_n[:n].reshape(d, *shape[2:])]
            near(got[: len(want)], want, 2e-5 if kernel.operands[0].dtype is DType.F32 else 1e-12)
            assert (y[:, d] == 7).all() and (h_n[n:] == 7).all() and (c_n[n:] == 7).all(), "wrote outside"


def test_cells_and_sizes():
    run([case(cell, 5, 3, h, lens=[5, 0, 3], directions=d, symbolic=h != 21)
         for cell in GATES for h, d in ((1, (False,)), (16, (True,)), (21, (False, True)), (70, (True, False)))])  # fmt: skip


def test_options():
    names = ["Relu", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus"]
    run([case("rnn", 3, 1, 18, activations=(n,)) for n in names]
        + [case("gru", 6, 2, 37, before=True), case("lstm", 4, 2, 20, clip=0.4, lens=[4, 2]), case("lstm", 4, 1, 20, coupled=True),
           case("gru", 4, 2, 11, dtype=DType.F64, activations=("HardSigmoid", "Softsign"))])  # fmt: skip


def test_state_in_device_memory_and_many_rows():
    big, many = case("lstm", 2, 1, 1800), case("gru", 2, 259, 9)
    assert not schedule_recurrent(big[0]).in_shared and schedule_recurrent(many[0]).rows == 4
    run([big, many])


def test_unsupported():
    with pytest.raises(CodegenError, match="bf16"):
        emit_recurrent(case("lstm", 2, 1, 8, dtype=DType.BF16)[0])
