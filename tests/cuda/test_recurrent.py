"""Recurrent kernels on CUDA, by the emulation, against the op's own reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import recurrent_cases
from emulated import aligned_array, launch, needs_gxx
from mlc.codegen.cuda.emulate.compiler import build
from mlc.codegen.cuda.recurrent import emit_recurrent, schedule_recurrent
from mlc.errors import CodegenError
from mlc.ir import DType
from mlc.ir.ops.recurrent import GATES
from recurrent_cases import ACTIVATIONS

pytestmark = needs_gxx


def case(*args, **options):
    """With buffers aligned as those of the device."""
    made = recurrent_cases.case(*args, **options)
    buffers = [aligned_array(b.size, b.dtype) for b in made.buffers]
    for to, b in zip(buffers, made.buffers, strict=True):
        to[:] = b
    return replace(made, buffers=buffers)


def run(cases):
    emitted = [emit_recurrent(c.kernel) for c in cases]
    library = build({e.launches[0].symbol: e.launches[0].source for e in emitted})
    for e, c in zip(emitted, cases, strict=True):
        for seed in (0, 5):
            launch(library, e, c.buffers, c.bindings, seed)
            c.check(2e-5 if c.kernel.operands[0].dtype is DType.F32 else 1e-12)


def test_cells_and_sizes():
    run([case(cell, 5, 3, h, lens=[5, 0, 3], directions=d, symbolic=h != 21)
         for cell in GATES for h, d in ((1, (False,)), (16, (True,)), (21, (False, True)), (70, (True, False)))])  # fmt: skip


def test_options():
    run([case("rnn", 3, 1, 18, activations=(n,)) for n in ACTIVATIONS]
        + [case("gru", 6, 2, 37, before=True), case("lstm", 4, 2, 20, clip=0.4, lens=[4, 2]), case("lstm", 4, 1, 20, coupled=True),
           case("gru", 4, 2, 11, dtype=DType.F64, activations=("HardSigmoid", "Softsign"))])  # fmt: skip


def test_state_in_device_memory_and_many_rows():
    big, many = case("lstm", 2, 1, 1800), case("gru", 2, 259, 9)
    assert not schedule_recurrent(big.kernel).in_shared and schedule_recurrent(many.kernel).rows == 4
    run([big, many])


def test_unsupported():
    with pytest.raises(CodegenError, match="bf16"):
        emit_recurrent(case("lstm", 2, 1, 8, dtype=DType.BF16).kernel)
