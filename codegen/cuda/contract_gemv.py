"""ContractKernel of few rows: bound by the bytes of B, which warps read once, column by column, in pieces of 16 bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import Dim, ceildiv, lower, prod, upper
from ..kernel import ContractKernel
from .contract_fma import multiply_add
from .contract_schedule import WAVE
from .contract_text import PIECE, ContractParameters, a_pack, accumulator, b_pack, contract_launch, converted, shared_parameters
from .emitted import Launch
from .epilogue import epilogue
from .writer import Params

# Rows, by bytes of an element of B, up to which multiply-adds (without tensor cores) keep up with memory.
MOST_ROWS = {1: 2, 2: 4, 4: 8, 8: 8}
_WARPS = 4
_FEW = 2 * WAVE  # blocks that are too few to keep enough reads under way


@dataclass(frozen=True, slots=True)
class GemvSchedule:
    """All `rows` and `columns` of a warp; `slices` warps of a block share k."""

    rows: int
    columns: int
    slices: int


@dataclass(frozen=True, kw_only=True)
class GemvParameters(ContractParameters):
    """contract_gemv.cu.j2"""

    rows: int
    columns_per_warp: int
    slices: int
    pack_k: int
    a_convert: str
    b_convert: str
    multiply_add: str


def schedule_gemv(kernel: ContractKernel) -> GemvSchedule | None:
    """None for more rows, convolutions, and a B that does not lie by columns."""
    rows = upper(kernel.m)
    if kernel.conv is not None or kernel.b_row != 0 or not 0 < rows <= MOST_ROWS[kernel.operands[1].dtype.itemsize]:
        return None
    columns = 2 if rows <= 2 else 4
    few = lower(prod((kernel.batch, ceildiv(kernel.n, _WARPS * columns)))) < _FEW
    return GemvSchedule(rows, columns, _WARPS if few else 1)


def gemv(kernel: ContractKernel, plan: GemvSchedule, aligned: Sequence[int]) -> Launch:
    params, acc = Params(), accumulator(kernel)
    lines = epilogue(kernel, params, aligned, 1, "result")
    a, b = kernel.operands[0].dtype, kernel.operands[1].dtype
    pack = min(a_pack(kernel, aligned[0], PIECE), b_pack(kernel, aligned[1], PIECE))
    values = GemvParameters(
        **shared_parameters(kernel, params, lines, _WARPS * 32, 1), rows=plan.rows, columns_per_warp=plan.columns, slices=plan.slices,
        pack_k=pack, a_convert=converted("left.v[e]", a, acc), b_convert=converted("right[j].v[e]", b, acc),
        multiply_add=multiply_add(acc, "x", "y"),
    )  # fmt: skip
    blocks: Dim = kernel.batch * ceildiv(kernel.n, _WARPS // plan.slices * plan.columns)
    shared = _WARPS * plan.rows * plan.columns * acc.itemsize
    return contract_launch("contract_gemv.cu.j2", kernel, values, params, blocks, shared)
