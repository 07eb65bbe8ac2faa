"""The floating-point mode of kernels that multiply and add, and of softmax."""

from __future__ import annotations

from collections.abc import Callable

from . import llvm_ir as ir
from .build import I32, Builder
from .target import CpuTarget


def flush_subnormals(b: Builder, target: CpuTarget) -> Callable[[], None]:
    """Products with subnormals (softmax of masked scores has many) take x86 a hundred times longer; here they count as 0.

    Returns what emits the restoring of the caller's mode. The arithmetic must be in functions that are not inlined, so that
    it cannot move out of the bracket.
    """
    if not target.is_x86:
        return lambda: None
    i = b.ir
    saved, ours = b.alloca(I32, b.i64(1), 4), b.alloca(I32, b.i64(1), 4)
    b.call("llvm.x86.sse.stmxcsr", ir.VoidType(), saved)
    i.store(i.or_(b.load(I32, saved, 4), ir.Constant(I32, 0x8040)), ours)
    b.call("llvm.x86.sse.ldmxcsr", ir.VoidType(), ours)

    def restore() -> None:
        b.call("llvm.x86.sse.ldmxcsr", ir.VoidType(), saved)

    return restore
