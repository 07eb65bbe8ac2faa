"""ContractKernel to CUDA: which engine computes a matrix product or convolution."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import CodegenError
from ...ir import DType, prod
from ..kernel import ContractKernel, bytes_of
from .contract_fma import fma_tiles
from .contract_gemv import gemv, schedule_gemv
from .contract_mma import mma_tiles
from .contract_schedule import Instruction, instruction, schedule_fma, schedule_mma, schedule_wgmma
from .contract_shares import Shares
from .contract_wgmma import group_tiles, takes_groups
from .emitted import Emitted, Launch
from .target import CudaTarget


def emit_contract(kernel: ContractKernel, aligned: Sequence[int], target: CudaTarget) -> Emitted:
    """Emit a contraction: on tensor cores where they take the operands.

    Raises CodegenError for element types that cannot be multiplied, and for a B that is packed for vectors.
    """
    a, b = (kernel.operands[i].dtype for i in (0, 1))
    use = instruction(kernel, target.tf32)
    if DType.BOOL in (a, b) or (use is None and kernel.group != 1):
        raise CodegenError(f"a contraction of {a.value} and {b.value} on CUDA")
    if kernel.panel != 1:
        raise CodegenError(f"a contraction whose B is in panels of {kernel.panel} columns", expected="columns one by one, on CUDA")
    batch, m, n, k = kernel.batch, kernel.m, kernel.n, kernel.k
    launch, shares = _engine(kernel, use, aligned, target)
    done, moved = 2 * prod((batch, m, n, k)), bytes_of(kernel.operands)
    return Emitted((launch,), done, moved, (shares.bytes,) if shares.counters else (), shares.counters)


def _engine(kernel: ContractKernel, use: Instruction | None, aligned: Sequence[int], target: CudaTarget) -> tuple[Launch, Shares]:
    """The launch of the first engine that applies, and what its blocks share."""
    few = schedule_gemv(kernel)
    if few is not None:
        return gemv(kernel, few, aligned), Shares()
    if use is None:
        return fma_tiles(kernel, schedule_fma(kernel), aligned)
    groups = schedule_wgmma(kernel) if target.warp_groups and takes_groups(kernel, aligned) else None
    if groups is not None:
        return group_tiles(kernel, groups, aligned)
    return mma_tiles(kernel, schedule_mma(kernel, target.device), use, aligned)
