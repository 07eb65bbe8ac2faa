"""One kernel, run by itself on made-up operands with the module's own thread pool."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence

import numpy as np

from ...codegen.cpu.compile import compile_ir
from ...codegen.cpu.emitted import Emitted
from ...codegen.cpu.recurrent import LENGTHS
from ...codegen.cpu.target import CpuTarget
from ...codegen.kernel import Kernel, RecurrentKernel
from ...ir import evaluate
from ...runtime.address import address, aligned
from ...runtime.instructions import CALL, TAKING_CALL, TEAM_CALL
from ...runtime.native import Code, native
from ..program import cpu_code

_COLD_BYTES = 48 << 20  # constants are used once a run, so each call gets other copies, up to this much together
_MOST_COPIES = 24
_SAMPLE = 1e-3  # seconds of one sample, at least
_SLACK = 64  # bytes behind every operand


class Bench:
    """The operands of one kernel, and what can be run on them.

    Args:
        constant: which operands are constants of the model.
        sizes: values of the symbols.
    """

    def __init__(self, kernel: Kernel, constant: Sequence[bool], sizes: Mapping[str, int], target: CpuTarget, threads: int) -> None:
        self.sizes, self.target, self.threads = sizes, target, threads
        rng = np.random.default_rng(0)
        fixed = sum(evaluate(o.numel, sizes) * o.dtype.itemsize for o, c in zip(kernel.operands, constant, strict=True) if c)
        copies = max(1, min(_MOST_COPIES, _COLD_BYTES // fixed)) if fixed else 1
        arrays: list[list[np.ndarray]] = []
        for at, (o, c) in enumerate(zip(kernel.operands, constant, strict=True)):
            first = _values(rng, o.dtype.np, evaluate(o.numel, sizes))
            if isinstance(kernel, RecurrentKernel) and at == LENGTHS:
                first[:] = evaluate(kernel.steps, sizes)  # none is over before
            arrays.append([first, *(_copy(first) for _ in range((copies - 1) * c))])
        self._arrays = arrays
        self.tables = [(ctypes.c_int64 * max(1, len(arrays)))(*(address(a[i % len(a)]) for a in arrays)) for i in range(copies)]

    def runner(self, code: Emitted) -> Runner:
        """The code, ready to run on these operands. Raises CodegenError."""
        return Runner(self, code)


class Runner:
    """Calls one kernel's code; what it points at lives as long as this does."""

    def __init__(self, bench: Bench, code: Emitted) -> None:
        self._bench = bench
        self._code = Code([compile_ir(text, bench.target) for text in code.texts.values()])
        self._fn = self._code.address(code.symbol)
        self._dims = np.array([evaluate(d, bench.sizes) for d in code.dims] or [0], np.int64)
        self._units = evaluate(code.units, bench.sizes)
        (call,) = cpu_code(code).calls
        self._launch = {CALL: native().parallel, TEAM_CALL: native().team, TAKING_CALL: native().taking}[call.op]
        self._grain = evaluate(call.grain, bench.sizes)
        self._turn = 0

    def __call__(self, calls: int) -> float:
        """Seconds of one call, of so many."""
        launch, tables, dims = self._launch, [ctypes.addressof(t) for t in self._bench.tables], address(self._dims)
        start = time.perf_counter()
        for i in range(self._turn, self._turn + calls):
            launch(self._fn, tables[i % len(tables)], dims, self._units, self._grain, self._bench.threads)
        self._turn += calls
        return (time.perf_counter() - start) / calls


def calls_for_a_sample(run: Runner) -> int:
    """How many calls make a sample long enough to time."""
    run(1)
    return max(1, min(1000, round(_SAMPLE / max(run(1), 1e-7))))


def _values(rng: np.random.Generator, dtype: np.dtype, count: int) -> np.ndarray:
    """Numbers near 1; zeros where they may be indices or conditions."""
    room = aligned(count * dtype.itemsize + _SLACK)
    room[:] = 0
    array = room[: count * dtype.itemsize].view(dtype)
    if dtype.kind == "f":
        array[:] = rng.random(min(count, 4096), np.float32).astype(dtype).repeat(-(-count // max(1, min(count, 4096))))[:count]
    return array


def _copy(array: np.ndarray) -> np.ndarray:
    room = aligned(array.nbytes + _SLACK)
    out = room[: array.nbytes].view(array.dtype)
    out[:] = array
    return out
