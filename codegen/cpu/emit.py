"""Kernel to LLVM text, by kind of kernel."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import ScheduleError
from ..kernel import AttentionKernel, ContractKernel, GroupedKernel, IrregularKernel, Kernel, LoopKernel, RecurrentKernel, WinogradKernel
from .attention.schedule import AttentionHints
from .contract.choose import emit_contract
from .contract.inner import emit_inner
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
    write, kind = _emitter(kernel)
    if hints is None:
        return write(kernel, target)
    if kind is None or not isinstance(hints, kind):
        raise ScheduleError(f"{hints} for a {type(kernel).__name__}", expected="none, or those of its kind")
    return write(kernel, target, hints)


def _emitter(kernel: Kernel) -> tuple[Callable[..., Emitted], type[Hints] | None]:
    """What writes a kind of kernel, and the hints that it takes. Emitters that few models need are imported with the first."""
    match kernel:
        case LoopKernel():
            return emit_loop, LoopHints
        case ContractKernel(b_column=column) if column != 0:
            return emit_inner, None
        case ContractKernel(group=1):
            return emit_contract, ContractHints
        case ContractKernel():
            return emit_dot_contract, DotHints
        case WinogradKernel():
            return emit_winograd, WinogradHints
        case GroupedKernel():
            from .grouped.emit import emit_grouped

            return emit_grouped, GroupedHints
        case RecurrentKernel():
            from .recurrent import emit_recurrent

            return emit_recurrent, RecurrentHints
        case AttentionKernel():
            from .attention.emit import emit_attention

            return emit_attention, AttentionHints
        case IrregularKernel():
            from .irregular.emit import emit_irregular

            return emit_irregular, None
