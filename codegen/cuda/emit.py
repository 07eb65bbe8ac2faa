"""Kernel to CUDA text, by kind of kernel."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import CodegenError
from ..kernel import AttentionKernel, ContractKernel, IrregularKernel, Kernel, LoopKernel, RecurrentKernel
from .attention import emit_attention
from .contract import emit_contract
from .emitted import Emitted
from .irregular import emit_irregular
from .loops import emit_loop
from .recurrent import emit_recurrent
from .target import CudaTarget


def emit(kernel: Kernel, target: CudaTarget, aligned: Sequence[int]) -> Emitted:
    """Emit any kernel; `aligned` is the alignment in bytes of each operand's memory.

    Raises CodegenError for what the CUDA backend lacks.
    """
    match kernel:
        case LoopKernel():
            return emit_loop(kernel, aligned)
        case ContractKernel():
            return emit_contract(kernel, aligned, target.tf32)
        case RecurrentKernel():
            return emit_recurrent(kernel)
        case AttentionKernel():
            return emit_attention(kernel)
        case IrregularKernel():
            return emit_irregular(kernel)
    raise CodegenError(f"a {type(kernel).__name__} on CUDA")
