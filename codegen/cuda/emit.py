"""Kernel to CUDA text, by kind of kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...errors import CodegenError
from ..kernel import AttentionKernel, ContractKernel, GroupedKernel, IrregularKernel, Kernel, LoopKernel, RecurrentKernel
from .attention import emit_attention
from .contract import emit_contract
from .emitted import Emitted, Form
from .grouped import emit_grouped
from .irregular import emit_irregular
from .loops import emit_loop
from .recurrent import emit_recurrent
from .target import WARP_GROUPS, CudaTarget


def emit_forms(kernel: Kernel, target: CudaTarget, aligned: Sequence[int]) -> tuple[Form, ...]:
    """What a kernel is on each architecture of the target and in its PTX; where that is the same, one form serves them.

    Raises CodegenError for what the CUDA backend lacks.
    """
    groups = [a for a in (tuple(a for a in target.all if (a in WARP_GROUPS) is has) for has in (False, True)) if a]
    forms = [Form(archs, emit(kernel, replace(target, archs=archs), aligned)) for archs in groups]
    if all(f.emitted == forms[0].emitted for f in forms):
        return (Form(target.all, forms[0].emitted),)
    return tuple(forms)


def emit(kernel: Kernel, target: CudaTarget, aligned: Sequence[int]) -> Emitted:
    """Emit any kernel, once for all architectures of the target; `aligned` is the alignment in bytes of each operand's memory.

    Raises CodegenError for what the CUDA backend lacks.
    """
    match kernel:
        case LoopKernel():
            return emit_loop(kernel, aligned)
        case ContractKernel():
            return emit_contract(kernel, aligned, target)
        case RecurrentKernel():
            return emit_recurrent(kernel)
        case AttentionKernel():
            return emit_attention(kernel, aligned, target)
        case GroupedKernel():
            return emit_grouped(kernel, aligned, target)
        case IrregularKernel():
            return emit_irregular(kernel)
    raise CodegenError(f"a {type(kernel).__name__} on CUDA")
