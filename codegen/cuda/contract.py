"""ContractKernel to CUDA: which engine computes a matrix product or convolution, by how many rows it has, as far as that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...errors import CodegenError
from ...ir import Dim, DType, dim_max, dim_min, lower, prod, upper
from ..kernel import ContractKernel, bytes_of
from .contract_fma import fma_tiles
from .contract_gemv import MOST_ROWS, GemvSchedule, gemv, schedule_gemv
from .contract_mma import mma_tiles
from .contract_schedule import (
    WAVE,
    FmaSchedule,
    Instruction,
    MmaSchedule,
    WgmmaSchedule,
    clustered,
    instruction,
    schedule_fma,
    schedule_mma,
    schedule_wgmma,
    suits,
    with_splits,
)
from .contract_shares import Shares
from .contract_wgmma import group_tiles, takes_groups
from .emitted import Emitted, Launch
from .launching import between
from .ranges import least_nonzero
from .target import CudaTarget

Plan = GemvSchedule | FmaSchedule | MmaSchedule | WgmmaSchedule
CUTS = (64, 256, 4096)  # rows of an unknown number up to which a launch of its own may be faster


def emit_contract(kernel: ContractKernel, aligned: Sequence[int], target: CudaTarget) -> Emitted:
    """Emit a contraction: on tensor cores where they take the operands. Which of its launches has blocks follows from the number of rows.

    Raises CodegenError for element types that cannot be multiplied, and for a B that is packed for vectors.
    """
    a, b = (kernel.operands[i].dtype for i in (0, 1))
    use = instruction(kernel, target.tf32)
    if DType.BOOL in (a, b) or (use is None and kernel.group != 1):
        raise CodegenError(f"a contraction of {a.value} and {b.value} on CUDA")
    if kernel.panel != 1:
        raise CodegenError(f"a contraction whose B is in panels of {kernel.panel} columns", expected="columns one by one, on CUDA")
    batch, m, n, k = kernel.batch, kernel.m, kernel.n, kernel.k
    launches: list[Launch] = []
    memory: Dim = 0  # and counters: the same for all launches, of which one has blocks
    counters = 0
    for part in _parts(kernel, use, aligned, target):
        launch, shares = _launch(replace(kernel, m=_rows(m, part.least, part.most)), part.plan, use, aligned)
        gate = between(m, part.least, part.most)
        launches.append(replace(launch, blocks=launch.blocks * gate))
        memory, counters = dim_max(memory, shares.bytes * gate), max(counters, shares.counters)
    return Emitted(tuple(launches), 2 * prod((batch, m, n, k)), bytes_of(kernel.operands), (memory,) if counters else (), counters)


@dataclass(frozen=True, slots=True)
class _Part:
    """What a contraction of `least` to `most` rows is computed by."""

    least: int
    most: int
    plan: Plan


def _parts(kernel: ContractKernel, use: Instruction | None, aligned: Sequence[int], target: CudaTarget) -> list[_Part]:
    """From many rows to few; what computes more of them goes on to fewer where it is not much slower than the best for these."""
    few, many = max(0, lower(kernel.m)), upper(kernel.m)
    possible = CUTS if kernel.conv is not None or kernel.b_row != 0 else (MOST_ROWS[kernel.operands[1].dtype.itemsize], *CUTS)
    cuts = [c for c in possible if least_nonzero(kernel.m) <= c < many]
    out: list[_Part] = []
    for least, most in zip(reversed([few, *(c + 1 for c in cuts)]), reversed([*cuts, many]), strict=True):
        here = replace(kernel, m=_rows(kernel.m, least, most))
        plan = _plan(here, use, aligned, target)
        if out and suits(here, out[-1].plan, plan, target.device.multiprocessors):
            most = out[-1].most
            all_rows = replace(kernel, m=_rows(kernel.m, least, most))
            out[-1] = _Part(least, most, _shared(all_rows, out[-1].plan, target.device.multiprocessors))
        else:
            out.append(_Part(least, most, plan))
    return out


def _shared(kernel: ContractKernel, plan: Plan, wave: int) -> Plan:
    """The plan with as many blocks to share k as it takes for this kernel."""
    if isinstance(plan, GemvSchedule):
        return plan
    return with_splits(kernel, plan, WAVE if isinstance(plan, FmaSchedule) else wave)


def _rows(m: Dim, least: int, most: int) -> Dim:
    """m, known to be in the range."""
    return dim_max(dim_min(m, most), least)


def _plan(kernel: ContractKernel, use: Instruction | None, aligned: Sequence[int], target: CudaTarget) -> Plan:
    """Of the first engine that applies."""
    few = schedule_gemv(kernel)
    if few is not None:
        return few
    if use is None:
        return schedule_fma(kernel)
    groups = schedule_wgmma(kernel) if target.warp_groups and takes_groups(kernel, aligned) else None
    if groups is not None:
        return clustered(kernel, groups) if target.clusters else groups
    return schedule_mma(kernel, target.device)


def _launch(kernel: ContractKernel, plan: Plan, use: Instruction | None, aligned: Sequence[int]) -> tuple[Launch, Shares]:
    """The launch, and what its blocks share."""
    match plan:
        case GemvSchedule():
            return gemv(kernel, plan, aligned), Shares()
        case WgmmaSchedule():
            return group_tiles(kernel, plan, aligned)
        case MmaSchedule() if use is not None:
            return mma_tiles(kernel, plan, use, aligned)
        case FmaSchedule():
            return fma_tiles(kernel, plan, aligned)
    raise CodegenError(f"a contraction by {plan} without an instruction")
