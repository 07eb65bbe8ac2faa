"""ContractKernel to CUDA: which engine computes a matrix product or convolution, and the sum over splits of k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import CodegenError
from ...ir import DType, ceildiv, prod
from ..kernel import ContractKernel, bytes_of
from .contract_fma import fma_tiles
from .contract_gemv import gemv, schedule_gemv
from .contract_mma import mma_tiles, split_sums
from .contract_schedule import Instruction, instruction, schedule_fma, schedule_mma, schedule_wgmma
from .contract_text import accumulator, index_type, operand_pointers
from .contract_wgmma import group_tiles, shared_sums, takes_groups
from .emitted import PLACEHOLDER, Emitted, Launch, named
from .epilogue import epilogue
from .render import render
from .scalars import storage
from .target import CudaTarget
from .writer import Params

FINISH_THREADS = 256


@dataclass(frozen=True)
class FinishParameters:
    """contract_finish.cu.j2"""

    name: str
    threads: int
    pack: int
    splits: int
    acc: str
    index: str
    batch: str
    m: str
    n: str
    parameters: list[str]
    prologue: list[str]
    batch_lines: list[str]
    row_lines: list[str]
    column_lines: list[str]


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
    launches, workspace, counters = _engine(kernel, use, aligned, target)
    done, moved = 2 * prod((batch, m, n, k)), bytes_of(kernel.operands)
    return Emitted(tuple(launches), done, moved, (workspace,) if workspace else (), counters)


def _engine(kernel: ContractKernel, use: Instruction | None, aligned: Sequence[int], target: CudaTarget) -> tuple[list[Launch], int, int]:
    """The launches of the first engine that applies, bytes of partial sums, and how many counters blocks share."""
    few = schedule_gemv(kernel)
    if few is not None:
        return [gemv(kernel, few, aligned)], 0, 0
    if use is None:
        plan = schedule_fma(kernel)
        first = fma_tiles(kernel, plan, aligned)
        if plan.splits == 1:
            return [first], 0, 0
        sums = prod((plan.splits, kernel.batch, kernel.m, kernel.n))
        assert isinstance(sums, int)
        return [first, finish(kernel, plan.splits, aligned)], sums * accumulator(kernel).itemsize, 0
    groups = schedule_wgmma(kernel) if target.warp_groups and takes_groups(kernel, aligned) else None
    if groups is not None:
        return [group_tiles(kernel, groups, aligned)], *shared_sums(kernel, groups)
    wide = schedule_mma(kernel)
    return [mma_tiles(kernel, wide, use, aligned)], *split_sums(kernel, wide)


def finish(kernel: ContractKernel, splits: int, aligned: Sequence[int]) -> Launch:
    """The launch that adds the partial sums of splits, and applies the epilogue."""
    params = Params()
    lines = epilogue(kernel, params, aligned)
    t = storage(accumulator(kernel))
    pointers = [*operand_pointers(kernel), f"const {t}* __restrict__ partial"]
    batch, m, n = (params.name(d) for d in (kernel.batch, kernel.m, kernel.n))
    values = FinishParameters(PLACEHOLDER, FINISH_THREADS, lines.pack, splits, t, index_type(kernel), batch, m, n,
                              pointers + params.signature(), params.prologue(), lines.batch, lines.row, lines.column)  # fmt: skip
    source, symbol = named(render("contract_finish.cu.j2", values))
    blocks = ceildiv(prod((kernel.batch, kernel.m, kernel.n)), FINISH_THREADS * lines.pack)
    return Launch(source, symbol, tuple(range(len(kernel.operands) + 1)), tuple(params.dims), blocks, FINISH_THREADS)
