"""Recurrent kernels on CUDA, by the emulation, against the op's own reference."""

from __future__ import annotations

import numpy as np
import pytest
from emulated import aligned_array, close, launch, needs_gxx
from mlc.codegen.cuda.emulate.compiler import build
from mlc.codegen.cuda.recurrent import GATES, emit_recurrent, schedule_recurrent
from mlc.codegen.kernel import Operand, RecurrentKernel
from mlc.codegen.packing import pack_b
from mlc.errors import CodegenError
from mlc.ir import DType, sym
from mlc.ir.ops import Recurrent

pytestmark = needs_gxx
DEFAULT = {"lstm": ("Sigmoid", "Tanh", "Tanh"), "gru": ("Sigmoid", "Tanh"), "rnn": ("Tanh",)}


def case(cell, steps, batch, hidden, *, reverse=False, lens=None, activations=None, clip=0.0, before=False, coupled=False,
         dtype=DType.F32, symbolic=False):  # fmt: skip
    """(kernel, buffers, wanted results)"""
    r = np.random.default_rng(3)
    gh, inner = GATES[cell] * hidden, 5

    def array(*shape):
        return (r.standard_normal(shape) * 0.5).astype(dtype.np)

    acts = tuple((a, 0.3, 0.6) for a in activations or DEFAULT[cell])
    x, w, rr = array(steps, batch, inner), array(1, gh, inner), array(1, gh, hidden)
    bias, h0, c0, peephole = array(1, 2 * gh), array(1, batch, hidden), array(1, batch, hidden), array(1, 3 * hidden)
    lens = np.asarray(lens if lens is not None else [steps] * batch, np.int32)
    op = Recurrent(cell, hidden, (reverse,), acts, clip, before, coupled)
    want = op.reference(*(a.astype(np.float64) if a.dtype.kind == "f" else a for a in (x, w, rr, bias, lens, h0, c0, peephole)))
    gates = (x @ w[0].T + bias[0, :gh]).astype(dtype.np)
    packed = pack_b(np.ascontiguousarray(rr[0].T), 64)
    y = np.full((steps, 2, batch, hidden), 7, dtype.np)  # two directions: only the first is written
    h_n, c_n = (np.full(batch * hidden + 64, 7, dtype.np) for _ in range(2))
    buffers = []
    for a in (gates, packed, bias[0, gh:], h0, c0, peephole, lens, y, h_n, c_n):
        buffers.append(aligned_array(a.size, a.dtype))
        buffers[-1][:] = a.reshape(-1)
    operands = tuple(Operand(DType.from_numpy(a.dtype), a.size, i >= 7) for i, a in enumerate(buffers))
    T, B = (sym("T"), sym("B")) if symbolic else (steps, batch)
    kernel = RecurrentKernel(cell, T, B, hidden, reverse, acts, clip, before, coupled, operands, 2 * B * hidden, hidden)
    return kernel, buffers, (want[0][:, 0], *(v[0] for v in want[1:])), {"T": steps, "B": batch}, y.shape


def run(cases):
    emitted = [emit_recurrent(c[0]) for c in cases]
    library = build({e.launches[0].symbol: e.launches[0].source for e in emitted})
    for e, (kernel, buffers, want, bindings, shape) in zip(emitted, cases, strict=True):
        for seed in (0, 5):
            launch(library, e, buffers, bindings, seed)
            y, h_n, c_n = buffers[7].reshape(shape), buffers[8], buffers[9]
            got = [y[:, 0], h_n[:-64].reshape(shape[2:]), c_n[:-64].reshape(shape[2:])]
            for g, v in zip(got, want, strict=False):
                close(g, v, 1e-5 * max(1, kernel.hidden / 256) if kernel.operands[0].dtype is DType.F32 else 1e-12, kernel.cell)
            assert (y[:, 1] == 7).all() and (h_n[-64:] == 7).all() and (c_n[-64:] == 7).all(), "wrote outside"


def test_cells_and_sizes():
    run([case(cell, 5, 3, h, lens=[5, 0, 3], reverse=h == 21, symbolic=h != 21) for cell in GATES for h in (1, 16, 21, 70)])


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
