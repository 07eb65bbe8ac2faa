"""Modules that check themselves: every kernel call is repeated by the interpreter of kernels, and compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..codegen.interpret import run_kernel
from ..codegen.kernel import ContractKernel, IrregularKernel, Kernel, LoopKernel, RecurrentKernel, Step
from ..errors import VerifyError
from ..ir import Dim, evaluate, prod
from ..runtime.artifact import Parts
from ..runtime.binding import Binding, Execution, Program
from ..runtime.handles import Handles
from ..runtime.module import Module
from ..runtime.resume import Run
from ..runtime.trace import Trace
from .compare import compare, limits


class ValidatingModule(Module):
    """Runs as Module does, but slowly: `run` raises VerifyError that names the first kernel that differs from its definition.

    Args:
        steps: the kernel calls of the plan, in the order of the program.
    """

    def __init__(self, parts: Parts, steps: Sequence[Step], *, threads: int | None = None) -> None:
        super().__init__(parts, threads=threads)
        self._steps = steps
        self._yields = True  # every kernel call is a stop

    def _stepwise(self, program: Program, binding: Binding, execution: Execution, outputs: list[Any], handles: Handles) -> Run:
        trace = Trace(program, binding, execution, outputs, handles, lambda *call: self._check(trace, *call))
        return trace

    def _check(self, trace: Trace, call: int, operands: Sequence[np.ndarray], launch: Callable[[], None]) -> None:
        step = self._steps[call]
        kernel = step.kernel
        before = [o.copy().view(spec.dtype.np) for o, spec in zip(operands, kernel.operands, strict=True)]
        launch()
        run_kernel(kernel, before, trace.symbols)
        after = [o.view(a.dtype) for o, a in zip(operands, before, strict=True)]
        for i, spec in enumerate(kernel.operands):
            if not spec.written or spec.scratch:
                continue
            got, want = _defined(kernel, i, after), _defined(kernel, i, before)
            limit = limits(want.dtype, whole_model=False, reduction=_terms(kernel, trace.symbols))
            found = compare(f"operand {i}", got, want, limit)
            if not found.agrees:
                raise VerifyError(
                    f"kernel {self.manifest.steps[call].symbol} (call {call} of {len(self._steps)}) writes operand {i} wrongly: "
                    f"{found.why or f'relative L2 {found.relative_l2:.1e}'}",
                    expected=f"what codegen/interpret.py computes, up to {limit.relative_l2:.0e}",
                    remedy="This is a bug in mlc: the kernel's code is kernels/SYMBOL.ll of --dump.",
                    loc=" + ".join(step.loc),
                )


def _defined(kernel: Kernel, i: int, arrays: Sequence[np.ndarray]) -> np.ndarray:
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
