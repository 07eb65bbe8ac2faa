"""ContractKernel on tensor cores: mma.sync fed by several stages of asynchronous copies (sm_80 and later)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..kernel import ContractKernel
from .contract_schedule import Instruction, MmaSchedule, tiles
from .contract_text import (
    ConvAxis,
    a_pack,
    accumulator,
    b_offset,
    b_word_offset,
    channels_of,
    columns,
    conv_axes,
    index_type,
    operand_pointers,
    outside,
    partial_sums,
    zero,
)
from .emitted import PLACEHOLDER, Launch, named
from .epilogue import epilogue
from .ranges import divisible
from .render import render
from .scalars import storage
from .writer import Params

_SIDE_BY_SIDE = 2  # accumulators of a lane that are neighbours along n
_PACKED, _SINGLE = "sum[i / 2][j / 2][i % 2 * 2{lane}]", "sum[i / 2][j / 2][i % 2 * 2 + j % 2]"


@dataclass(frozen=True)
class MmaParameters:
    """contract_mma.cu.j2"""

    name: str
    mma: str
    operand_word: str
    bm: int
    bn: int
    bk: int
    group: int
    warps_m: int
    warps_n: int
    stages: int
    splits: int
    threads: int
    async_a: bool
    async_b: bool
    border: bool
    pack: int
    acc: str
    a_type: str
    b_type: str
    a_zero: str
    b_zero: str
    index: str
    m: str
    n: str
    k: str
    lda: str
    a_batch: str
    b_batch: str
    columns: str
    b_offset: str
    outside: str
    conv: list[ConvAxis]
    channels: int
    parameters: list[str]
    prologue: list[str]
    batch_lines: list[str]
    row_lines: list[str]
    column_lines: list[str]


def mma_tiles(kernel: ContractKernel, plan: MmaSchedule, use: Instruction, aligned: Sequence[int]) -> Launch:
    """The launch that multiplies; with splits it leaves partial sums behind."""
    params = Params()
    acc = accumulator(kernel)
    a, b = kernel.operands[0].dtype, kernel.operands[1].dtype
    split = plan.splits > 1
    lines = partial_sums(params, kernel, _SINGLE) if split else epilogue(kernel, params, aligned, _SIDE_BY_SIDE, _PACKED)
    if not split and lines.pack == 1:
        params = Params()
        lines = epilogue(kernel, params, aligned, 1, _SINGLE)
    name, whole = params.name, 16 // a.itemsize
    async_b = words_of_b(kernel, use, aligned[1])
    values = MmaParameters(
        PLACEHOLDER, use.name, use.word, plan.bm, plan.bn, plan.words * use.group, use.group, plan.warps_m, plan.warps_n, plan.stages,
        plan.splits, plan.threads, a_pack(kernel, aligned[0], whole) == whole, async_b, kernel.border >= 0, lines.pack, storage(acc),
        storage(a), storage(b), zero(a), zero(b), index_type(kernel), name(kernel.m), name(kernel.n), name(kernel.k), name(kernel.lda),
        name(kernel.a_batch), name(kernel.b_batch), columns(kernel, params),
        b_word_offset(kernel, params) if async_b else b_offset(kernel, params), outside(kernel), conv_axes(kernel, params),
        channels_of(kernel), [], [], lines.batch, lines.row, lines.column,
    )  # fmt: skip
    operands = tuple(range(len(kernel.operands)))
    pointers = operand_pointers(kernel)
    if split:
        operands, pointers = (*operands[:-1], len(kernel.operands)), [*pointers[:-1], f"{storage(acc)}* __restrict__ partial"]
    values = replace(values, parameters=pointers + params.signature(), prologue=params.prologue())
    source, symbol = named(render("contract_mma.cu.j2", values))
    return Launch(source, symbol, operands, tuple(params.dims), tiles(kernel, plan) * plan.splits, plan.threads, plan.shared)


def words_of_b(kernel: ContractKernel, use: Instruction, aligned: int) -> bool:
    """Whether four neighbouring words of B, as the instruction takes them, are 16 bytes of memory."""
    if kernel.group != use.group or aligned % 16:
        return False
    if kernel.b_row == 0:
        return kernel.panel % 4 == 0
    return all(divisible(d, 4) for d in (kernel.b_row, kernel.b_batch, kernel.n))
