"""Modules that check themselves: every kernel call is repeated by the interpreter of kernels, and compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..codegen.interpret import run_kernel
from ..codegen.kernel import ContractKernel, IrregularKernel, Kernel, LoopKernel, RecurrentKernel
from ..codegen.plan import Step
from ..errors import VerifyError
from ..ir import Dim, DType, evaluate, prod
from ..runtime.artifact import Parts
from ..runtime.binding import Binding, Execution, Program
from ..runtime.handles import Handles
from ..runtime.loading import load
from ..runtime.module import Module
from ..runtime.trace import Trace
from .compare import Limits, compare, limits

Arrays = Sequence[np.ndarray]
_ROUNDED = 1e-3  # share of integers that may be off by one where they are made from floats


class ValidatingModule(Module):
    """Runs as Module does, but slowly: `run` raises VerifyError that names the first kernel that differs from its definition.

    Args:
        steps: the kernel calls of the plan of each program, in the order of the program.
    """

    def __init__(self, parts: Parts, steps: Sequence[Sequence[Step]], *, threads: int | None = None) -> None:
        super().__init__(parts, threads=threads)
        self._steps = steps
        self._plain = False  # every kernel call is a stop

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles do not check themselves: a file has no kernels to compare with."""
        return load, (self.to_bytes(), self._asked)

    def _step(
        self, program: Program, binding: Binding, execution: Execution, arrays: list[Any], outputs: list[Any], handles: Handles
    ) -> None:
        execution.hand_over(arrays, outputs)
        steps = next(s for m, s in zip(self.manifest.programs, self._steps, strict=True) if m is program.manifest)
        trace = Trace(program, binding, execution, outputs, handles, lambda *call: self._check(trace, steps, *call))
        trace.run()

    def _check(self, trace: Trace, steps: Sequence[Step], call: int, operands: Sequence[np.ndarray], launch: Callable[[], None]) -> None:
        step = steps[call]
        kernel = step.kernel
        start = [o.copy() for o in operands]
        launch()
        want = [o.copy().view(spec.dtype.np) for o, spec in zip(start, kernel.operands, strict=True)]
        run_kernel(kernel, want, trace.symbols)
        got = [o.view(a.dtype) for o, a in zip(operands, want, strict=True)]
        for i, spec in enumerate(kernel.operands):
            if not spec.written or spec.scratch:
                continue
            why = _difference(kernel, i, got, want, start[i], _limits(kernel, spec.dtype, trace.symbols))
            if why:
                raise VerifyError(
                    f"kernel {trace.manifest.steps[call].symbol} (call {call} of {len(steps)}) writes operand {i} wrongly: {why}",
                    expected="what codegen/interpret computes",
                    remedy="This is a bug in mlc: the kernel's code is kernels/SYMBOL.ll of --dump.",
                    loc=" + ".join(step.loc),
                )


def _difference(kernel: Kernel, i: int, got: Arrays, want: Arrays, start: np.ndarray, limit: Limits) -> str:
    """How operand i, as the kernel left it, differs from its definition; "" if it does not."""
    a, b = defined(kernel, i, got), defined(kernel, i, want)
    # what neither of them wrote would hide errors in its size
    was, *now = (x.view(np.uint8)[: a.nbytes].reshape(-1, a.itemsize) for x in (start, a, b))
    written = np.logical_or(*((x != was).any(axis=1) for x in now))
    found = compare(f"operand {i}", a[written], b[written], limit)
    rounds = not limit.relative_l2 and any(o.dtype.is_float for o in kernel.operands)
    if rounds and found.max_abs <= 1 and np.count_nonzero(a != b) <= _ROUNDED * a.size:
        return ""  # integers and truths made from floats, some of which lie between two of them
    return found.why


def defined(kernel: Kernel, i: int, arrays: Arrays) -> np.ndarray:
    """What is defined of a written operand: of lists as long as the data make them, what lies behind their end is not."""
    array = arrays[i]
    match kernel, i:
        case IrregularKernel(kind="positions"), 1:
            return array[: int(arrays[2][0])]
        case IrregularKernel(kind="suppress"), 5:
            rows = zip(array.reshape(len(arrays[6]), -1), arrays[6], strict=True) if array.size else ()
            return np.concatenate([array[:0], *(row[:n] for row, n in rows)])
        case (IrregularKernel(kind="sort"), 2) | (IrregularKernel(kind="suppress"), 7):  # work space
            return array[:0]
    return array


def _limits(kernel: Kernel, dtype: DType, symbols: dict[str, int]) -> Limits:
    """For results of a dtype: float64 that comes from float32 is no better than that."""
    if dtype is DType.F64 and any(o.dtype.is_float and o.dtype is not DType.F64 for o in kernel.operands):
        dtype = DType.F32
    return limits(dtype.np, whole_model=False, reduction=_terms(kernel, symbols))


def _terms(kernel: Kernel, symbols: dict[str, int]) -> int:
    """Terms of the longest sum behind one element."""
    terms: Dim = 1
    match kernel:
        case LoopKernel():
            terms = prod(kernel.reduce_axes)
        case ContractKernel():
            terms = kernel.k
        case RecurrentKernel():  # errors of a step go into the next
            terms = kernel.hidden * kernel.steps
    return max(1, math.ceil(evaluate(terms, symbols)))
