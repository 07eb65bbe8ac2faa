"""Recurrent kernels on the CPU against the op's own reference."""

import ctypes

import llvmlite.binding as llvm
import numpy as np
import pytest
from mlc.codegen.cpu.compile import compile_ir
from mlc.codegen.cpu.recurrent import GATES, emit_recurrent
from mlc.codegen.cpu.target import host, missing_features, parse
from mlc.codegen.kernel import Operand, RecurrentKernel
from mlc.codegen.packing import pack_b
from mlc.errors import CodegenError
from mlc.ir import DType, evaluate, sym
from mlc.ir.ops import Recurrent

DEFAULT = {"lstm": ("Sigmoid", "Tanh", "Tanh"), "gru": ("Sigmoid", "Tanh"), "rnn": ("Tanh",)}
TARGETS = [t for t in ("cpu", "cpu:x86-64-v3", "cpu:x86-64-v2") if not missing_features(parse(t).triple, parse(t).features)]


def run(cell, steps, batch, hidden, *, reverse=False, lens=None, activations=None, clip=0.0, before=False, coupled=False,
        target="cpu", dtype=DType.F32, symbolic=False):  # fmt: skip
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
    buffers = [gates, packed, bias[0, gh:].copy(), h0, c0, peephole, lens, y, h_n, c_n]
    operands = tuple(Operand(DType.I32 if a is lens else dtype, a.size, i >= 7) for i, a in enumerate(buffers))
    T, B = (sym("T"), sym("B")) if symbolic else (steps, batch)
    kernel = RecurrentKernel(cell, T, B, hidden, reverse, acts, clip, before, coupled, operands, 2 * B * hidden, hidden)
    t = parse(target)
    e = emit_recurrent(kernel, t)
    host()
    machine = llvm.Target.from_triple(t.triple).create_target_machine(cpu=t.cpu, features=t.llvm_features, jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(compile_ir(e.ir_text, t)))
    engine.finalize_object()
    fn = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2)(engine.get_function_address(e.symbol))
    bindings = {"T": steps, "B": batch}
    dims = (ctypes.c_int64 * len(e.dims))(*[evaluate(d, bindings) for d in e.dims])
    for u in range(evaluate(e.units, bindings)):
        fn((ctypes.c_void_p * 10)(*[b.ctypes.data for b in buffers]), dims, u, u + 1)
    tolerance = 1e-5 if dtype is DType.F32 else 1e-12
    got = [y[:, 0], h_n[:-64].reshape(batch, hidden), c_n[:-64].reshape(batch, hidden)]
    for g, v in zip(got, (want[0][:, 0], *(v[0] for v in want[1:])), strict=False):
        assert np.linalg.norm(g - v) <= tolerance * max(np.linalg.norm(v), 1e-30)
    assert (y[:, 1] == 7).all() and (h_n[-64:] == 7).all() and (c_n[-64:] == 7).all(), "wrote outside"
    return e


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("cell", GATES)
def test_cells(cell, target):
    run(cell, 7, 1, 48, target=target)
    run(cell, 5, 3, 21, target=target, reverse=True, lens=[5, 0, 3])


@pytest.mark.parametrize("hidden", [1, 16, 17, 70])
@pytest.mark.parametrize("cell", GATES)
def test_sizes(cell, hidden):
    run(cell, 3, 8, hidden, symbolic=True)


def test_gru_linear_before_reset():
    run("gru", 6, 2, 37, before=True)
    run("gru", 6, 7, 64, before=True, reverse=True)


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
    assert run("lstm", 3, 1, 32).symbol == run("lstm", 5, 1, 64).symbol


def test_unsupported():
    with pytest.raises(CodegenError, match="bf16"):
        run("lstm", 2, 1, 8, dtype=DType.BF16)
