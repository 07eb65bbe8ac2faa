"""ContractKernel to CUDA: matrix products and convolutions as tiles of multiply-adds, for every element type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...errors import CodegenError
from ...ir import Dim, DType, ceildiv, prod
from ..kernel import ContractKernel
from .contract_mma import mma_tiles
from .contract_schedule import FmaSchedule, instruction, schedule_fma, schedule_mma, tiles
from .contract_text import (
    ConvAxis,
    a_pack,
    accumulator,
    b_offset,
    b_pack,
    channels_of,
    columns,
    conv_axes,
    converted,
    index_type,
    operand_pointers,
    outside,
    partial_sums,
    zero,
)
from .emitted import PLACEHOLDER, Emitted, Launch, named
from .epilogue import epilogue
from .render import render
from .scalars import storage
from .writer import Params

FINISH_THREADS = 256


@dataclass(frozen=True)
class FmaParameters:
    """contract_fma.cu.j2"""

    name: str
    bm: int
    bn: int
    bk: int
    tm: int
    tn: int
    slices: int
    splits: int
    threads: int
    pack_a: int
    pack_b: int
    pack: int
    acc: str
    a_type: str
    b_type: str
    b_zero: str
    a_convert: str
    b_convert: str
    multiply_add: str
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


def emit_contract(kernel: ContractKernel, aligned: Sequence[int], tf32: bool = False) -> Emitted:
    """Emit a contraction: on tensor cores where they take the operands. `tf32`: float32 may be rounded to them.

    Raises CodegenError for element types that cannot be multiplied.
    """
    a, b = (kernel.operands[i].dtype for i in (0, 1))
    use = instruction(kernel, tf32)
    if DType.BOOL in (a, b) or (use is None and kernel.group != 1):
        raise CodegenError(f"a contraction of {a.value} and {b.value} on CUDA")
    batch, m, n, k = kernel.batch, kernel.m, kernel.n, kernel.k
    size: Dim = 0
    for o in kernel.operands:
        size = size + o.numel * o.dtype.itemsize
    if use is None:
        plan = schedule_fma(kernel)
        splits, launches = plan.splits, [_tiles(kernel, plan, aligned)]
    else:
        wide = schedule_mma(kernel)
        splits, launches = wide.splits, [mma_tiles(kernel, wide, use, aligned)]
    spaces: tuple[Dim, ...] = ()
    if splits > 1:
        spaces = (prod((splits, batch, m, n)) * accumulator(kernel).itemsize,)
        launches.append(_finish(kernel, splits, aligned))
    return Emitted(tuple(launches), 2 * prod((batch, m, n, k)), size, spaces)


def _tiles(kernel: ContractKernel, plan: FmaSchedule, aligned: Sequence[int]) -> Launch:
    params = Params()
    acc = accumulator(kernel)
    a, b = kernel.operands[0].dtype, kernel.operands[1].dtype
    pack_b = b_pack(kernel, aligned[1])
    lines = partial_sums(params, kernel) if plan.splits > 1 else epilogue(kernel, params, aligned)
    t = storage(acc)
    name = params.name
    values = FmaParameters(
        PLACEHOLDER, plan.bm, plan.bn, plan.bk, plan.tm, plan.tn, plan.slices, plan.splits, plan.threads,
        a_pack(kernel, aligned[0], 4), pack_b, lines.pack, t, storage(a), storage(b), zero(b),
        converted("next_a[i].v[e]", a, acc), converted("next_b[i].v[e]", b, acc), multiply_add(acc), index_type(kernel),
        name(kernel.m), name(kernel.n), name(kernel.k), name(kernel.lda), name(kernel.a_batch), name(kernel.b_batch),
        columns(kernel, params), b_offset(kernel, params), outside(kernel), conv_axes(kernel, params), channels_of(kernel),
        [], [], lines.batch, lines.row, lines.column,
    )  # fmt: skip
    split = plan.splits > 1
    operands = tuple(range(len(kernel.operands)))
    pointers = operand_pointers(kernel)
    if split:
        operands, pointers = (*operands[:-1], len(kernel.operands)), [*pointers[:-1], f"{t}* __restrict__ partial"]
    values = replace(values, parameters=pointers + params.signature(), prologue=params.prologue())
    source, symbol = named(render("contract_fma.cu.j2", values))
    blocks = tiles(kernel, plan) * plan.splits
    return Launch(source, symbol, operands, tuple(params.dims), blocks, plan.threads, plan.shared(acc.itemsize))


def multiply_add(acc: DType) -> str:
    if acc is DType.F32:
        return "fmaf(left[i], right[j], sum[i][j])"
    if acc is DType.F64:
        return "fma(left[i], right[j], sum[i][j])"
    t = storage(acc)
    return f"wrap_add<{t}>(sum[i][j], wrap_mul<{t}>(left[i], right[j]))"


def _finish(kernel: ContractKernel, splits: int, aligned: Sequence[int]) -> Launch:
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
