"""ContractKernel by warp groups (sm_90a): wgmma on tiles that bulk copies bring, in a persistent, warp-specialised kernel.

One warp group copies, one or two multiply; barriers in shared memory pass stages of tiles between them. A matrix A comes by the
bulk copy engine, the rows of a convolution by cp.async, B always by the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...ir import Dim, DType, dim_min, lower
from ..kernel import ContractKernel
from .contract_mma import fragment_epilogue
from .contract_schedule import SM90_MULTIPROCESSORS, WgmmaSchedule, tiles
from .contract_shares import Shares, shares, stream_blocks
from .contract_text import PIECE, ContractParameters, a_pack, b_depth, b_pack, contract_launch, shared_parameters
from .emitted import Launch, TensorMap
from .epilogue import pack_of
from .ranges import divisible
from .scalars import storage

ROW = 128  # bytes of k in a tile
LAST = 16  # bytes in which groups are told that they are the ones to add sums
# Where a pair of results lies in a piece of 64 rows of 128 bytes, which are swizzled; see the template.
_PLACE = "reinterpret_cast<Result*>(piece + swizzled128(in_piece * 128 + (pair / 2 * 8 + t * 2) * (int)sizeof(Result)))"


@dataclass(frozen=True, slots=True)
class GroupInstruction:
    """wgmma for a pair of element types: what follows its shape's m64nN, the factors of its operands (floats may be negated),
    the register letter of sums, and the words it reads, as types of the emulation. `turns`: B may lie in rows of n."""

    wgmma: str
    scales: str
    letter: str
    words: str
    turns: bool = False


_FLOAT = ", 1, 1"
GROUP_INSTRUCTIONS = {
    (DType.BF16, DType.BF16): GroupInstruction("k16.f32.bf16.bf16", _FLOAT, "f", "emulate::Bf16Word, emulate::Bf16Word", True),
    (DType.F16, DType.F16): GroupInstruction("k16.f32.f16.f16", _FLOAT, "f", "emulate::F16Word, emulate::F16Word", True),
    (DType.F32, DType.F32): GroupInstruction("k8.f32.tf32.tf32", _FLOAT, "f", "emulate::Tf32Word, emulate::Tf32Word"),
    (DType.F8E4M3FN, DType.F8E4M3FN): GroupInstruction("k32.f32.e4m3.e4m3", _FLOAT, "f", "emulate::E4m3Word, emulate::E4m3Word"),
    (DType.U8, DType.I8): GroupInstruction("k32.s32.u8.s8", "", "r", "emulate::U8Word, emulate::S8Word"),
    (DType.I8, DType.I8): GroupInstruction("k32.s32.s8.s8", "", "r", "emulate::S8Word, emulate::S8Word"),
}


@dataclass(frozen=True, kw_only=True)
class WgmmaParameters(ContractParameters):
    """contract_wgmma.cu.j2. `registers`: of a copying and a multiplying thread, where they trade them."""

    wgmma: str
    wgmma_scales: str
    wgmma_turned: bool | None
    letter: str
    words: str
    bm: int
    bn: int
    bk: int
    stages: int
    resident: int
    registers: tuple[int, int] | None
    map_a: bool
    a_batched: bool
    b_batched: bool
    border: bool
    staged: int  # pieces of results that a group has in shared memory, from where the engine stores them; 0: threads store
    c_batched: bool
    whole_n: bool  # columns are whole tiles
    c_type: str


def takes_groups(kernel: ContractKernel, aligned: Sequence[int]) -> bool:
    """Whether the copies can bring both operands: rows that begin at multiples of 16 bytes, k not empty; B in rows of 16-bit floats."""
    types = kernel.operands[0].dtype, kernel.operands[1].dtype
    use = GROUP_INSTRUCTIONS.get(types)
    if use is None or lower(kernel.k) < 1:
        return False
    whole = PIECE // types[0].itemsize
    if a_pack(kernel, aligned[0], whole) != whole:
        return False
    if kernel.b_row == 0:
        return b_pack(kernel, aligned[1], whole) == whole
    return use.turns and aligned[1] % PIECE == 0 and all(divisible(d, whole) for d in (kernel.b_row, kernel.b_batch))


def group_tiles(kernel: ContractKernel, plan: WgmmaSchedule, aligned: Sequence[int]) -> tuple[Launch, Shares]:
    """The launch, and what its blocks share: each group that multiplies for itself."""
    staged = stores_boxes(kernel, aligned)
    params, lines = fragment_epilogue(kernel, aligned, _PLACE if staged else "")
    dtype = kernel.operands[0].dtype
    use = GROUP_INSTRUCTIONS[dtype, kernel.operands[1].dtype]
    bk = ROW // dtype.itemsize
    if kernel.b_row == 0:
        maps = [_map(kernel, 1, b_depth(kernel), kernel.n, b_depth(kernel), kernel.b_batch, (bk, plan.bn // plan.cluster))]
    else:
        maps = [_map(kernel, 1, kernel.n, kernel.k, kernel.b_row, kernel.b_batch, (bk, bk))]
    if kernel.conv is None:
        maps.append(_map(kernel, 0, kernel.k, kernel.m, kernel.lda, kernel.a_batch, (bk, plan.bm)))
    stream = stream_blocks(kernel, plan, bk)
    pairs = tiles(kernel, replace(plan, bm=plan.bm * plan.cluster)) * plan.splits
    blocks = stream or dim_min(pairs, SM90_MULTIPROCESSORS * plan.resident // plan.cluster) * plan.cluster
    values = WgmmaParameters(
        **shared_parameters(kernel, params, lines, plan.threads, plan.splits, (plan.bm * plan.cluster, plan.bn)),
        wgmma=use.wgmma, wgmma_scales=use.scales, wgmma_turned=kernel.b_row != 0 if use.turns else None, letter=use.letter,
        words=use.words, stream=stream, bm=plan.bm, bn=plan.bn, bk=bk, stages=plan.stages, resident=plan.resident,
        registers=plan.registers(by_copies=kernel.conv is not None), map_a=kernel.conv is None,
        a_batched=kernel.a_batch != 0, b_batched=kernel.b_batch != 0, border=kernel.border >= 0,
        staged=plan.staged if staged else 0, c_batched=kernel.c_batch != 0, c_type=storage(kernel.operands[-1].dtype),
        whole_n=divisible(kernel.n, plan.bn), cluster=plan.cluster,
    )  # fmt: skip
    names = ["map_b", "map_a"][: len(maps)]
    if staged:
        c = len(kernel.operands) - 1
        maps.append(_map(kernel, c, kernel.n, kernel.m, kernel.ldc, kernel.c_batch, (ROW // kernel.operands[c].dtype.itemsize, 64)))
        names.append("map_c")
    memory = plan.shared + (plan.staging if staged else 0) + (LAST if plan.splits != 1 else 0)
    launch = contract_launch("contract_wgmma.cu.j2", kernel, values, params, blocks, memory, tuple(maps), tuple(names))
    return launch, shares(kernel, plan, stream, plan.groups)


def stores_boxes(kernel: ContractKernel, aligned: Sequence[int]) -> bool:
    """Whether the engine can store the result: rows and batches begin at multiples of 16 bytes, of elements that pairs are made of."""
    size = kernel.operands[-1].dtype.itemsize
    whole = aligned[-1] % PIECE == 0 and all(divisible(d * size, PIECE) for d in (kernel.ldc, kernel.c_batch))
    return size in (2, 4) and whole and pack_of(kernel, aligned, 2) == 2


def _map(kernel: ContractKernel, operand: int, depth: Dim, rows: Dim, row: Dim, batch: Dim, box: tuple[int, int]) -> TensorMap:
    size = kernel.operands[operand].dtype.itemsize
    assert divisible(row * size, PIECE)
    if batch == 0:
        return TensorMap(operand, size, (depth, rows), (row * size,), box)
    return TensorMap(operand, size, (depth, rows, kernel.batch), (row * size, batch * size), (*box, 1))
