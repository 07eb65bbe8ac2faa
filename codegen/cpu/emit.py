"""Kernel to LLVM text, by kind of kernel."""

from __future__ import annotations

from ...errors import ScheduleError
from ..kernel import AttentionKernel, ContractKernel, GroupedKernel, IrregularKernel, Kernel, LoopKernel, RecurrentKernel, WinogradKernel
from .attention.schedule import AttentionHints
from .contract.emit import emit_contract
from .contract.schedule import ContractHints
from .dot.emit import emit_dot_contract
from .dot.schedule import DotHints
from .emitted import Emitted
from .grouped.schedule import GroupedHints
from .hints import Hints
from .loops.emit import emit_loop
from .loops.schedule import LoopHints
from .recurrent_schedule import RecurrentHints
from .target import CpuTarget
from .winograd.emit import emit_winograd
from .winograd.schedule import WinogradHints


def emit(kernel: Kernel, target: CpuTarget, hints: Hints | None = None) -> Emitted:
    """Emit any kernel. Raises CodegenError for what the CPU backend lacks, ScheduleError for hints that do not suit."""
    match kernel, hints:
        case LoopKernel(), LoopHints():
            return emit_loop(kernel, target, hints)
        case ContractKernel(group=1), ContractHints():
            return emit_contract(kernel, target, hints)
        case AttentionKernel(), AttentionHints():
            from .attention.emit import emit_attention

            return emit_attention(kernel, target, hints)
        case WinogradKernel(), WinogradHints():
            return emit_winograd(kernel, target, hints)
        case ContractKernel(), DotHints():
            return emit_dot_contract(kernel, target, hints)
        case GroupedKernel(), GroupedHints():
            from .grouped.emit import emit_grouped

            return emit_grouped(kernel, target, hints)
        case RecurrentKernel(), RecurrentHints():
            from .recurrent import emit_recurrent

            return emit_recurrent(kernel, target, hints)
        case _, None:
            return _emit(kernel, target)
    raise ScheduleError(f"{hints} for a {type(kernel).__name__}", expected="none, or those of its kind")


def _emit(kernel: Kernel, target: CpuTarget) -> Emitted:
    match kernel:
        case LoopKernel():
            return emit_loop(kernel, target)
        case ContractKernel(group=1):
            return emit_contract(kernel, target)
        case ContractKernel():
            return emit_dot_contract(kernel, target)
        case GroupedKernel():
            from .grouped.emit import emit_grouped

            return emit_grouped(kernel, target)
        case WinogradKernel():
            return emit_winograd(kernel, target)
        case RecurrentKernel():
            from .recurrent import emit_recurrent

            return emit_recurrent(kernel, target)
        case AttentionKernel():
            from .attention.emit import emit_attention

            return emit_attention(kernel, target)
        case IrregularKernel():
            from .irregular.emit import emit_irregular

            return emit_irregular(kernel, target)
