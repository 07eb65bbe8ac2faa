"""Helper of the emitter tests: compile one kernel and run it on arrays; reading past the end of one is a crash."""

from __future__ import annotations

import ctypes
import itertools
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
from mlc.codegen.cpu.compile import compile_ir
from mlc.codegen.cpu.emit import emit
from mlc.codegen.cpu.target import host, missing_features, parse
from mlc.ir import evaluate

sys.path.insert(0, str(Path(__file__).parents[1]))
from guarded import guarded

TARGETS = [t for t in ("cpu", "cpu:x86-64-v3", "cpu:x86-64-v2") if not missing_features(parse(t).triple, parse(t).features)]
_ENGINES = {}
_TAKE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64))
_CALLED = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2)
_TAKING = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, _TAKE, ctypes.c_void_p)


def execute(kernel, buffers, target="cpu", bindings=None, parts=1):
    """Run all units, in `parts` chunks in reverse order (units must not depend on each other)."""
    t = parse(target)
    e = emit(kernel, t)
    key = e.symbol, target
    if key not in _ENGINES:
        host()
        machine = llvm.Target.from_triple(t.triple).create_target_machine(cpu=t.cpu, features=t.llvm_features, jit=True)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        for text in e.texts.values():
            engine.add_object_file(llvm.ObjectFileRef.from_data(compile_ir(text, t)))
        engine.finalize_object()
        _ENGINES[key] = engine, (_TAKING if e.takes else _CALLED)(engine.get_function_address(e.symbol))
    fn = _ENGINES[key][1]
    bindings = bindings or {}
    dims = (ctypes.c_int64 * len(e.dims))(*[evaluate(d, bindings) for d in e.dims])
    placed = [b if o.written else guarded(b) for o, b in zip(kernel.operands, buffers, strict=True)]
    pointers = (ctypes.c_void_p * len(buffers))(*[b.ctypes.data for b in placed])
    units = evaluate(e.units, bindings)
    cuts = np.linspace(0, units, parts + 1).astype(int)
    chunks = [(int(lo), int(hi)) for lo, hi in itertools.pairwise(cuts)]
    if e.takes:
        fn(pointers, dims, _giving(chunks), None)
        fn(pointers, dims, _giving([]), None)  # a thread that comes late
    else:
        for lo, hi in reversed(chunks):
            fn(pointers, dims, lo, hi)
    return e


def _giving(chunks):
    """What a kernel takes its chunks from, the last one first."""

    @_TAKE
    def take(share, chunk):
        while chunks:
            lo, hi = chunks.pop()
            if lo < hi:
                chunk[0], chunk[1] = lo, hi
                return 1
        return 0

    return take


def close(got, want, tolerance=1e-5):
    got, want = got.astype(np.float64), want.astype(np.float64)
    assert np.isfinite(got).all()
    error = np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-30)
    assert error <= tolerance, error
