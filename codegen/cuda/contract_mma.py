"""ContractKernel on tensor cores: mma.sync fed by several stages of asynchronous copies (sm_80 and later)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..kernel import ContractKernel
from .contract_schedule import Instruction, MmaSchedule, tiles
from .contract_shares import Shares, shares, stream_blocks
from .contract_text import PIECE, ContractParameters, a_pack, b_pack, contract_launch, shared_parameters
from .emitted import Launch
from .epilogue import EpilogueLines, epilogue
from .writer import Params

_SIDE_BY_SIDE = 2  # accumulators of a lane that are neighbours along n
_PACKED, _SINGLE = "sum[i / 2][j / 2][i % 2 * 2{lane}]", "sum[i / 2][j / 2][i % 2 * 2 + j % 2]"


@dataclass(frozen=True, kw_only=True)
class MmaParameters(ContractParameters):
    """contract_mma.cu.j2. `copy_b`: "columns" or "rows" of B go to shared memory as they lie, "gather": element by element, "levels":
    weights of few bits become 16-bit floats on their way (see `grouped_mma.py`), which the last fields describe."""

    mma: str
    operand_word: str
    bm: int
    bn: int
    bk: int
    group: int
    warps_m: int
    warps_n: int
    stages: int
    async_a: bool
    copy_b: str
    border: bool
    ahead: int = 0
    bits: int = 0
    scale_group: int = 0
    scale_zero: str = ""
    whole: str = ""
    codes: Sequence[str] = ()
    pack_weights: str = ""


def mma_tiles(kernel: ContractKernel, plan: MmaSchedule, use: Instruction, aligned: Sequence[int]) -> tuple[Launch, Shares]:
    """The launch, and what its blocks share."""
    params, lines = fragment_epilogue(kernel, aligned)
    whole, bk = PIECE // kernel.operands[0].dtype.itemsize, plan.words * use.group
    stream = stream_blocks(kernel, plan, bk)
    values = MmaParameters(
        **shared_parameters(kernel, params, lines, plan.threads, plan.splits, (plan.bm, plan.bn)),
        stream=stream, mma=use.name, operand_word=use.word, bm=plan.bm, bn=plan.bn, bk=bk, group=use.group, warps_m=plan.warps_m,
        warps_n=plan.warps_n, stages=plan.stages,
        async_a=a_pack(kernel, aligned[0], whole) == whole, copy_b=how_b_is_copied(kernel, aligned[1]), border=kernel.border >= 0,
    )  # fmt: skip
    blocks = stream or tiles(kernel, plan) * plan.splits
    return contract_launch("contract_mma.cu.j2", kernel, values, params, blocks, plan.shared), shares(kernel, plan, stream)


def fragment_epilogue(kernel: ContractKernel, aligned: Sequence[int], place: str = "") -> tuple[Params, EpilogueLines]:
    """The statements on the accumulators of matrix instructions, two of which are neighbours; pairs go to `place`, if given."""
    params = Params()
    lines = epilogue(kernel, params, aligned, _SIDE_BY_SIDE, _PACKED, place)
    if lines.pack == 1:
        params = Params()
        lines = epilogue(kernel, params, aligned, 1, _SINGLE)
    return params, lines


def how_b_is_copied(kernel: ContractKernel, aligned: int) -> str:
    """B in rows is turned by the loads from shared memory, which can do that to elements of 16 bits."""
    size = kernel.operands[1].dtype.itemsize
    if b_pack(kernel, aligned, PIECE) * size != PIECE:
        return "gather"
    return "columns" if kernel.b_row == 0 else "rows" if size == 2 else "gather"
