"""Run plans by the emulation, each kernel compared with the interpreter of kernels on the same memory."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from mlc.codegen.cuda.emit import emit
from mlc.codegen.cuda.emitted import Emitted, TensorMap
from mlc.codegen.cuda.emulate.compiler import EmulateOptions, Library, build
from mlc.codegen.cuda.emulate.device import tensor_map
from mlc.codegen.cuda.target import LOWERING, parse
from mlc.codegen.interpret import run_kernel
from mlc.codegen.kernel import Kernel
from mlc.codegen.lower import lower
from mlc.codegen.plan import Plan, Step
from mlc.compiler.validate import defined
from mlc.ir import Graph, evaluate

GUARD = 64  # bytes behind every written operand that must stay untouched
needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="g++, which compiles emulated kernels, is not installed")


def aligned_array(size: int, dtype: np.dtype, offset: int = 0) -> np.ndarray:
    """Zeroed elements, `offset` bytes behind a 64-byte boundary."""
    block = np.zeros(size * dtype.itemsize + 128, np.uint8)
    start = -block.ctypes.data % 64 + offset
    return block[start : start + size * dtype.itemsize].view(dtype)


def launch(library: Library, emitted: Emitted, arrays: Sequence[np.ndarray], bindings: Mapping[str, int], seed: int) -> None:
    """Run all grids of a step."""
    spaces = [aligned_array(max(1, evaluate(w, bindings)), np.dtype(np.uint8)) for w in emitted.workspaces]
    for s in spaces:
        s[:] = 0xFF
    counters = np.zeros(max(1, emitted.counters), np.uint64)
    memory = [*arrays, *spaces, counters]
    for k in emitted.launches:
        args = [memory[o].ctypes.data for o in k.operands] + [evaluate(d, bindings) for d in k.dims]
        blocks = evaluate(k.blocks, bindings)
        if blocks > 0:
            maps = [tensor_map(memory[k.operands[m.operand]].ctypes.data, *described(m, bindings)) for m in k.maps]
            library.run(k.symbol, args + [m.ctypes.data for m in maps], blocks, k.threads, k.shared, seed)
    assert not counters.any(), "counters are 0 again"


def described(m: TensorMap, bindings: Mapping[str, int]) -> tuple[int, list[int], list[int], tuple[int, ...]]:
    """Item size, sizes, strides and box of a tensor map."""
    sizes, strides = ([evaluate(d, bindings) for d in dims] for dims in (m.sizes, m.strides))
    return m.itemsize, *((sizes, strides) if 0 not in sizes else ([1] * len(sizes), [16] * len(strides))), m.box


def close(got: np.ndarray, want: np.ndarray, tol: float, what: str) -> None:
    if got.dtype.kind in "biuc":
        np.testing.assert_array_equal(got, want, what)
        return
    a, b = got.astype(np.float64), want.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b), what)
    scale = max(1e-3, float(np.max(np.abs(b), initial=0, where=np.isfinite(b))))
    np.testing.assert_allclose(a, b, rtol=tol, atol=tol * scale, err_msg=what)


TOLERANCE = {np.dtype(np.float64): 1e-12, np.dtype(np.float16): 2e-3}


def tolerance(dtype: np.dtype) -> float:
    return 1e-2 if dtype.name == "bfloat16" else TOLERANCE.get(dtype, 2e-5)


def compare(library: Library, kernel: Kernel, emitted: Emitted, arrays: Sequence[np.ndarray], bindings: Mapping[str, int],
            tol: float | None = None, seeds: Sequence[int] = (0, 7)) -> None:  # fmt: skip
    """The kernel by the emulation, in two orders of blocks and threads, against the interpreter. Writes the results to `arrays`."""
    want = [a.copy() for a in arrays]
    run_kernel(kernel, want, bindings)
    for seed in seeds:
        got = []
        for a, o in zip(arrays, kernel.operands, strict=True):
            wide = aligned_array(a.size + GUARD // a.dtype.itemsize, a.dtype)
            wide[: a.size] = a
            wide.view(np.uint8)[a.nbytes :] = 0x5A
            got.append(wide if o.written else a if a.ctypes.data % 16 == 0 else wide)
        launch(library, emitted, got, bindings, seed)
        for i, (a, w, o) in enumerate(zip(got, want, kernel.operands, strict=True)):
            if o.written:
                if not o.scratch:
                    have, expected = (defined(kernel, i, x) for x in ([x[: y.size] for x, y in zip(got, want, strict=True)], want))
                    close(have, expected, tol or tolerance(w.dtype), f"operand {i} of {emitted.launches[0].symbol}, seed {seed}")
                assert (a.view(np.uint8)[w.nbytes :] == 0x5A).all(), f"wrote behind operand {i}"
    for a, w, o in zip(arrays, want, kernel.operands, strict=True):
        if o.written:
            a[:] = w


def check(graph: Graph, arrays: Sequence[np.ndarray] | None = None, target: str = "cuda:sm_90a", tol: float | None = None,
          seed: int = 7, align: int = 16, **bindings: int) -> Plan:  # fmt: skip
    """Every kernel of a graph's plan, in order, by the emulation."""
    return check_all([(graph, arrays, bindings)], target, tol, seed, align)[0]


def check_all(jobs: Sequence[tuple[Graph, Sequence[np.ndarray] | None, Mapping[str, int]]], target: str = "cuda:sm_90a",
              tol: float | None = None, seed: int = 7, align: int = 16, options: EmulateOptions | None = None) -> list[Plan]:  # fmt: skip
    """As `check`, for many graphs with one run of g++. Fills results in from the interpreter, so that errors do not spread."""
    from lowering import random

    cuda = parse(target)
    plans = [lower(g, LOWERING) for g, _, _ in jobs]
    emitted: dict[int, Emitted] = {}
    sources: dict[str, str] = {}
    for plan in plans:
        for s in plan.steps:
            assert isinstance(s, Step)
            emitted[id(s)] = emit(s.kernel, cuda, [align] * len(s.buffers))
            sources |= {k.symbol: k.source for k in emitted[id(s)].launches}
    library = build(sources, options)
    rng = np.random.default_rng(seed)
    for plan, (g, arrays, bindings) in zip(plans, jobs, strict=True):
        given = [random(v, rng, bindings) for v in g.inputs] if arrays is None else list(arrays)
        memory: list[np.ndarray] = []
        for i, b in enumerate(plan.buffers):
            shape = [evaluate(d, bindings) for d in b.shape]
            size = math.prod(shape)
            if b.kind == "alias":
                shift = evaluate(b.shift, bindings)
                memory.append(memory[b.of][shift : shift + size])
                continue
            a = aligned_array(size, b.dtype.np)
            if b.kind == "input":
                a[:] = np.asarray(given[b.index]).reshape(-1)
            elif b.kind == "const":
                a[:] = np.asarray(plan.constants[i]).reshape(-1)
            memory.append(a)
        for s in plan.steps:
            compare(library, s.kernel, emitted[id(s)], [memory[b] for b in s.buffers], bindings, tol)
    return plans
