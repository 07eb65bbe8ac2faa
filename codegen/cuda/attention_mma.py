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

from ...ir import Dim, DType, ceildiv, prod, upper
from ..kernel import AttentionKernel
from .contract_schedule import TF32, WAVE, Instruction
from .contract_shares import Shares
from .emitted import COUNTERS, PLACEHOLDER, Launch, named
from .ranges import divisible, fits
from .render import render
from .scalars import literal, storage
from .writer import Params, pointer_parameters

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
    splits: int = 1

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


def schedule_attention_mma(kernel: AttentionKernel) -> AttentionMmaSchedule:
    """As many queries a block as there are, up to 64; wide heads have smaller tiles of keys; splits fill an idle device."""
    wide = max(kernel.size, kernel.value_size) * kernel.operands[0].dtype.itemsize > 256
    keys = 32 if wide else 64
    packed = kernel.group if upper(kernel.rows) * kernel.group <= _PACKED_QUERIES else 1
    queries = upper(kernel.rows) * packed
    row_warps = 1 if queries <= 16 else 2 if queries <= 32 else _WARPS
    plan = AttentionMmaSchedule(row_warps, keys, min(_WARPS // row_warps, keys // _ALONE), packed)
    return replace(plan, splits=key_splits(plan.blocks(kernel), kernel.keys))


def key_splits(blocks: Dim, keys: Dim) -> int:
    """Blocks that share the keys of a row, where rows alone give `blocks`."""
    if not isinstance(blocks, int) or not 0 < blocks <= _BLOCKS // 2:
        return 1
    return max(1, min(_MAX_SPLITS, _BLOCKS // blocks, upper(keys) // _SPLIT_KEYS))


@dataclass(frozen=True)
class AttentionMmaParameters:
    """attention_mma.cu.j2"""

    name: str
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
    splits: int
    size: int
    value_size: int
    group: int
    causal: bool
    index: str
    scale: str
    rows: str
    keys: str
    heads: str
    q_strides: list[str]
    k_strides: list[str]
    v_strides: list[str]
    out_strides: list[str]
    mask_strides: list[str]
    async_q: bool
    async_k: bool
    async_v: bool
    pair_stores: bool
    result: str
    parameters: list[str]
    prologue: list[str]


def takes_attention(kernel: AttentionKernel, tf32: bool) -> bool:
    """Whether q, k and v are of a type that tensor cores may multiply here, and not too wide."""
    types = {o.dtype for o in kernel.operands[:3]}
    allowed = types <= set(SIXTEEN) or (tf32 and types == {DType.F32})
    return len(types) == 1 and allowed and max(kernel.size, kernel.value_size) <= WIDEST[kernel.operands[0].dtype.itemsize]


def attention_tiles(kernel: AttentionKernel, plan: AttentionMmaSchedule, aligned: Sequence[int]) -> tuple[Launch, Shares]:
    """The launch, and what its blocks share."""
    params = Params()
    name, dtype, last = params.name, kernel.operands[0].dtype, len(kernel.operands) - 1
    use, pack = SIXTEEN.get(dtype, (TF32, ""))
    out = kernel.operands[last].dtype

    def whole(operand: int, strides: Sequence[Dim], size: int) -> bool:
        return divides(kernel, aligned, operand, (*strides, size), 16)

    pointers, operands = operand_texts(kernel), tuple(range(last + 1))
    if plan.splits > 1:
        operands, pointers = (*operands, last + 1, COUNTERS), [*pointers, "float* partial", "u64* counters"]
    mask_strides, out_strides, pair_stores = mask_and_out(kernel, params, aligned)
    values = AttentionMmaParameters(
        name=PLACEHOLDER,
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
        splits=plan.splits,
        size=kernel.size,
        value_size=kernel.value_size,
        group=kernel.group,
        causal=kernel.causal,
        index=index_type(kernel),
        scale=literal(kernel.scale * LOG2_E, DType.F32),
        rows=name(kernel.rows),
        keys=name(kernel.keys),
        heads=name(kernel.heads),
        q_strides=stride_texts(params, kernel.q_strides),
        k_strides=stride_texts(params, kernel.k_strides),
        v_strides=stride_texts(params, kernel.v_strides),
        out_strides=out_strides,
        mask_strides=mask_strides,
        async_q=whole(0, kernel.q_strides, kernel.size),
        async_k=whole(1, kernel.k_strides, kernel.size),
        async_v=whole(2, kernel.v_strides, kernel.value_size),
        pair_stores=pair_stores,
        result=f"b{last}",
        parameters=[],
        prologue=[],
    )
    values = replace(values, parameters=pointers + params.signature(), prologue=params.prologue())
    source, symbol = named(render("attention_mma.cu.j2", values))
    blocks = plan.blocks(kernel) * plan.splits
    return Launch(source, symbol, operands, tuple(params.dims), blocks, plan.threads, plan.shared(kernel)), _shares(kernel, plan)


def _shares(kernel: AttentionKernel, plan: AttentionMmaSchedule) -> Shares:
    """A row of sums for each query of a block, and two numbers of it, which take the room of four; a counter for each tile of queries."""
    if plan.splits == 1:
        return Shares()
    rows = plan.blocks(kernel) * plan.splits * plan.row_warps * 16
    return Shares(rows * (-(-kernel.value_size // 16) * 16 + 4) * 4, upper(plan.blocks(kernel)))


def mask_and_out(kernel: AttentionKernel, params: Params, aligned: Sequence[int]) -> tuple[list[str], list[str], bool]:
    """Strides of the mask and of the result as texts, and whether two neighbours of the result may be stored at once."""
    last = len(kernel.operands) - 1
    piece = 2 * kernel.operands[last].dtype.itemsize
    pairs = divides(kernel, aligned, last, (*kernel.out_strides, kernel.value_size), piece)
    return stride_texts(params, kernel.mask_strides or ()), stride_texts(params, kernel.out_strides), pairs


def index_type(kernel: AttentionKernel) -> str:
    """Of rows, keys and blocks, and of those a little behind the end of a tile."""
    sizes = (kernel.rows * kernel.group, kernel.keys, kernel.heads, prod((kernel.batch, kernel.heads, kernel.rows)))
    return "int" if all(fits((0, upper(d) + 4096)) for d in sizes) else "i64"


def divides(kernel: AttentionKernel, aligned: Sequence[int], operand: int, elements: Sequence[Dim], piece: int) -> bool:
    """Whether an operand begins at a multiple of `piece` bytes, and what so many elements are."""
    item = kernel.operands[operand].dtype.itemsize
    return aligned[operand] % piece == 0 and all(divisible(d * item, piece) for d in elements)


def stride_texts(params: Params, shape: Sequence[Dim]) -> list[str]:
    return [f"(i64){params.name(d)}" for d in shape]


def operand_texts(kernel: AttentionKernel) -> list[str]:
    return pointer_parameters([o.dtype for o in kernel.operands], [o.written for o in kernel.operands], frozenset())


def converter(dtype: DType) -> str:
    return "" if dtype is DType.F32 else f"to_{dtype.value}"
