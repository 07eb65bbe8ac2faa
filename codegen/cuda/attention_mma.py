"""AttentionKernel on tensor cores (sm_80 and later): both products by mma.sync, weights of keys stay in registers.

The method is that of FlashAttention-2 (Dao, 2023): a warp has 16 queries, carries their softmax along tiles of keys, and the scores of
a tile are, as the instruction leaves them, its left operand for the values. Of few queries the warps of a block share each tile of keys;
with many keys blocks share those, and the last to come puts their parts together (flash-decoding). Few queries of heads that
share keys are computed together, so that keys are read once for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ...ir import Dim, DType, ceildiv, dim_max, dim_min, floordiv, lower, prod, upper
from ..kernel import AttentionKernel
from .attention_text import LoadingText, loading_text, whole_out, whole_rows
from .contract_schedule import TF32, WAVE, Instruction
from .contract_shares import Shares
from .emitted import Launch
from .launching import launch_of
from .scalars import storage
from .writer import Params, operand_pointers

WIDEST = {2: 256, 4: 128}  # elements of a head, by their bytes, whose accumulators and tiles fit
LOG2_E = math.log2(math.e)
_WARPS = 4
_ALONE = 16  # keys of a tile that a warp has at least
_PACKED_QUERIES = 32  # that heads which share keys have at most where they are computed together
_BLOCKS = 2 * WAVE  # that are at work at a time
_SPLIT_KEYS = 128  # keys that a block should have at least where several share them
_MAX_SPLITS = 32
# The product of 16-bit floats, and how two of them become a word.
SIXTEEN = {DType.F16: (Instruction("mma_f16", 2), "pack_f16"), DType.BF16: (Instruction("mma_bf16", 2), "pack_bf16")}


@dataclass(frozen=True, slots=True)
class AttentionMmaSchedule:
    """`row_warps` of 16 queries a block, `keys` of a tile, which `sharing` warps share; `packed` heads that share keys are rows of one;
    `splits` blocks share the keys of a row."""

    row_warps: int
    keys: int
    sharing: int = 1
    packed: int = 1
    splits: Dim = 1

    @property
    def threads(self) -> int:
        return self.row_warps * self.sharing * 32

    def blocks(self, kernel: AttentionKernel) -> Dim:
        """Without splits."""
        return prod((kernel.batch, ceildiv(kernel.heads, self.packed), ceildiv(kernel.rows * self.packed, self.row_warps * 16)))

    def shared(self, kernel: AttentionKernel) -> int:
        """Bytes: queries, two tiles of keys and of values, rows padded by 16 bytes; in their place, what warps that share keys hand on."""
        item = kernel.operands[0].dtype.itemsize
        row, value = (-(-kernel.size * item // 32) * 32 + 16, -(-kernel.value_size // 16) * 16 * item + 16)
        handed = self.threads * (-(-kernel.value_size // 16) * 2 + 1) * 16 if self.sharing > 1 else 0
        return max(handed, self.row_warps * 16 * row + 2 * self.keys * (row + value))


def schedule_attention_mma(kernel: AttentionKernel, most: int = 2**62) -> AttentionMmaSchedule:
    """As many queries a block as there are, up to 64, where rows are `most` at most; wide heads have smaller tiles of keys; splits fill an
    idle device."""
    rows = min(upper(kernel.rows), most)
    wide = max(kernel.size, kernel.value_size) * kernel.operands[0].dtype.itemsize > 256
    keys = 32 if wide else 64
    packed = kernel.group if rows * kernel.group <= _PACKED_QUERIES else 1
    queries = rows * packed
    row_warps = 1 if queries <= 16 else 2 if queries <= 32 else _WARPS
    plan = AttentionMmaSchedule(row_warps, keys, min(_WARPS // row_warps, keys // _ALONE), packed)
    return replace(plan, splits=key_splits(plan.blocks(kernel), kernel.keys))


def key_splits(blocks: Dim, keys: Dim) -> Dim:
    """Blocks that share the keys of a row, where rows alone give `blocks`: of sizes that are not known, as these are at a launch."""
    if lower(blocks) > _BLOCKS // 2 or upper(keys) < 2 * _SPLIT_KEYS:
        return 1
    enough = dim_min(floordiv(_BLOCKS, dim_max(1, blocks)), floordiv(keys, _SPLIT_KEYS))
    return dim_max(1, dim_min(_MAX_SPLITS, enough))


class SharingKeys(Protocol):
    """A schedule of which `splits` blocks share the keys of a row."""

    @property
    def splits(self) -> Dim: ...

    @property
    def threads(self) -> int: ...

    def shared(self, kernel: AttentionKernel) -> int: ...


def sharing_launch(template: str, kernel: AttentionKernel, plan: SharingKeys, values: LoadingText, params: Params, blocks: Dim,
                   part: int) -> tuple[Launch, Shares]:  # fmt: skip
    """The launch of so many blocks, and their splits, and what these share: parts of so many bytes."""
    pointers, sums = operand_pointers(kernel.operands), "float" if plan.splits != 1 else ""
    launch = launch_of(template, pointers, values, params, blocks * plan.splits, plan.threads, plan.shared(kernel), sums=sums)
    return launch, _shares(blocks, plan.splits, part)


def _shares(blocks: Dim, splits: Dim, part: int) -> Shares:
    """Of unknown numbers, of as many blocks as there are ever split."""
    if splits == 1:
        return Shares()
    if isinstance(blocks, int):
        return Shares(blocks * upper(splits) * part, blocks)
    return Shares(_BLOCKS * part, _BLOCKS // 2)


@dataclass(frozen=True, kw_only=True)
class AttentionMmaParameters(LoadingText):
    """attention_mma.cu.j2"""

    mma: str
    word: str
    pack: str
    group_of_word: int
    element: str
    out_element: str
    to_out: str
    row_warps: int
    keys_per_tile: int
    sharing: int
    packed: int
    async_q: bool
    async_k: bool
    async_v: bool
    pair_stores: bool


def takes_attention(kernel: AttentionKernel, tf32: bool) -> bool:
    """Whether q, k and v are of a type that tensor cores may multiply here, and not too wide."""
    types = {o.dtype for o in kernel.operands[:3]}
    allowed = types <= set(SIXTEEN) or (tf32 and types == {DType.F32})
    return len(types) == 1 and allowed and max(kernel.size, kernel.value_size) <= WIDEST[kernel.operands[0].dtype.itemsize]


def attention_tiles(kernel: AttentionKernel, plan: AttentionMmaSchedule, aligned: Sequence[int]) -> tuple[Launch, Shares]:
    """The launch, and what its blocks share."""
    params, dtype, out = Params(), kernel.operands[0].dtype, kernel.operands[-1].dtype
    use, pack = SIXTEEN.get(dtype, (TF32, ""))
    whole_q, whole_k, whole_v = whole_rows(kernel, aligned)
    values = AttentionMmaParameters(
        **loading_text(kernel, params, plan.splits, LOG2_E),
        mma=use.name,
        word=use.word,
        pack=pack,
        group_of_word=use.group,
        element=storage(dtype),
        out_element=storage(out),
        to_out=converter(out),
        row_warps=plan.row_warps,
        keys_per_tile=plan.keys,
        sharing=plan.sharing,
        packed=plan.packed,
        async_q=whole_q,
        async_k=whole_k,
        async_v=whole_v,
        pair_stores=whole_out(kernel, aligned),
    )
    # A row of sums for each query of a block, and two numbers of it, which take the room of four.
    part = plan.row_warps * 16 * (-(-kernel.value_size // 16) * 16 + 4) * 4
    return sharing_launch("attention_mma.cu.j2", kernel, plan, values, params, plan.blocks(kernel), part)


def converter(dtype: DType) -> str:
    return "" if dtype is DType.F32 else f"to_{dtype.value}"
