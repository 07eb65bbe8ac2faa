"""AttentionKernel on tensor cores (sm_80 and later): both products by mma.sync, weights of keys stay in registers.

The method is that of FlashAttention-2 (Dao, 2023): a warp has 16 queries, carries their softmax along tiles of keys, and the scores of
a tile are, as the instruction leaves them, its left operand for the values. With few queries and many keys blocks share
the keys, and a second kernel puts their parts together (flash-decoding).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...ir import Dim, DType, ceildiv, prod, upper
from ..kernel import AttentionKernel
from .contract_schedule import TF32, WAVE, Instruction
from .emitted import PLACEHOLDER, Launch, named
from .ranges import divisible
from .render import render
from .scalars import literal, storage
from .writer import Params, pointer_parameters

WIDEST = {2: 256, 4: 128}  # elements of a head, by their bytes, whose accumulators and tiles fit
LOG2_E = math.log2(math.e)
_FINISH_THREADS = 128
_SPLIT_KEYS = 128  # keys that a block should have at least where several share them
_MAX_SPLITS = 32
# The product of 16-bit floats, and how two of them become a word.
SIXTEEN = {DType.F16: (Instruction("mma_f16", 2), "pack_f16"), DType.BF16: (Instruction("mma_bf16", 2), "pack_bf16")}


@dataclass(frozen=True, slots=True)
class AttentionMmaSchedule:
    """`warps` of 16 queries a block, `keys` of a tile, `splits` blocks share the keys of a row."""

    warps: int
    keys: int
    splits: int = 1

    def shared(self, kernel: AttentionKernel) -> int:
        """Bytes: queries, two tiles of keys and of values, rows padded by 16 bytes."""
        item = kernel.operands[0].dtype.itemsize
        row, value = (-(-kernel.size * item // 32) * 32 + 16, -(-kernel.value_size // 16) * 16 * item + 16)
        return self.warps * 16 * row + 2 * self.keys * (row + value)


def schedule_attention_mma(kernel: AttentionKernel) -> AttentionMmaSchedule:
    """As many queries a block as there are, up to 64; wide heads have smaller tiles of keys; splits fill an idle device."""
    wide = max(kernel.size, kernel.value_size) * kernel.operands[0].dtype.itemsize > 256
    rows = upper(kernel.rows)
    warps = 1 if rows <= 16 else 2 if rows <= 32 else 4
    plan = AttentionMmaSchedule(warps, 32 if wide else 64)
    blocks = prod((kernel.batch, kernel.heads, ceildiv(kernel.rows, warps * 16)))
    slots = WAVE * (4 // warps)
    if not isinstance(blocks, int) or not 0 < blocks <= slots // 2:
        return plan
    return replace(plan, splits=max(1, min(_MAX_SPLITS, slots // blocks, upper(kernel.keys) // _SPLIT_KEYS)))


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
    warps: int
    keys_per_tile: int
    splits: int
    size: int
    value_size: int
    group: int
    causal: bool
    scale: str
    rows: str
    keys: str
    heads: str
    batches: str
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


@dataclass(frozen=True)
class AttentionFinishParameters:
    """attention_finish.cu.j2"""

    name: str
    threads: int
    splits: int
    value_size: int
    to_out: str
    rows: str
    heads: str
    batches: str
    out_strides: list[str]
    result: str
    parameters: list[str]
    prologue: list[str]


def takes_attention(kernel: AttentionKernel, tf32: bool) -> bool:
    """Whether q, k and v are of a type that tensor cores may multiply here, and not too wide."""
    types = {o.dtype for o in kernel.operands[:3]}
    allowed = types <= set(SIXTEEN) or (tf32 and types == {DType.F32})
    return len(types) == 1 and allowed and max(kernel.size, kernel.value_size) <= WIDEST[kernel.operands[0].dtype.itemsize]


def attention_tiles(kernel: AttentionKernel, plan: AttentionMmaSchedule, aligned: Sequence[int]) -> tuple[Launch, ...]:
    """The launch, and with splits the one that puts their parts together, which lie in the workspace behind the operands."""
    params = Params()
    name, dtype, last = params.name, kernel.operands[0].dtype, len(kernel.operands) - 1
    use, pack = SIXTEEN.get(dtype, (TF32, ""))
    out = kernel.operands[last].dtype

    def whole(operand: int, strides: Sequence[Dim], size: int) -> bool:
        return _divides(kernel, aligned, operand, (*strides, size), 16)

    split = plan.splits > 1
    pointers = operand_texts(kernel)
    mask_strides, out_strides, pair_stores = mask_and_out(kernel, params, aligned)
    operands = tuple(range(last + 1))
    if split:
        operands, pointers = (*operands[:-1], last + 1), [*pointers[:-1], "float* __restrict__ partial"]
    values = AttentionMmaParameters(
        PLACEHOLDER, use.name, use.word, pack, use.group, storage(dtype), storage(out), converter(out), plan.warps, plan.keys, plan.splits,
        kernel.size, kernel.value_size, kernel.group, kernel.causal, literal(kernel.scale * LOG2_E, DType.F32),
        name(kernel.rows), name(kernel.keys), name(kernel.heads), name(kernel.batch),
        _strides(params, kernel.q_strides), _strides(params, kernel.k_strides), _strides(params, kernel.v_strides),
        out_strides, mask_strides, whole(0, kernel.q_strides, kernel.size),
        whole(1, kernel.k_strides, kernel.size), whole(2, kernel.v_strides, kernel.value_size), pair_stores, f"b{last}", [], [],
    )  # fmt: skip
    values = replace(values, parameters=pointers + params.signature(), prologue=params.prologue())
    source, symbol = named(render("attention_mma.cu.j2", values))
    blocks = prod((kernel.batch, kernel.heads, ceildiv(kernel.rows, plan.warps * 16), plan.splits))
    launch = Launch(source, symbol, operands, tuple(params.dims), blocks, plan.warps * 32, plan.shared(kernel))
    return (launch, _finish(kernel, plan.splits)) if split else (launch,)


def partial_bytes(kernel: AttentionKernel, splits: int) -> Dim:
    """Of the workspace of splits."""
    return prod((splits, kernel.batch, kernel.heads, kernel.rows, kernel.value_size + 2)) * 4


def _finish(kernel: AttentionKernel, splits: int) -> Launch:
    params, last = Params(), len(kernel.operands) - 1
    name, out = params.name, kernel.operands[last].dtype
    values = AttentionFinishParameters(
        PLACEHOLDER, _FINISH_THREADS, splits, kernel.value_size, converter(out), name(kernel.rows), name(kernel.heads), name(kernel.batch),
        _strides(params, kernel.out_strides), f"b{last}", [], [],
    )  # fmt: skip
    pointers = [operand_texts(kernel)[-1], "const float* __restrict__ partial"]
    values = replace(values, parameters=pointers + params.signature(), prologue=params.prologue())
    source, symbol = named(render("attention_finish.cu.j2", values))
    blocks = ceildiv(prod((kernel.batch, kernel.heads, kernel.rows, kernel.value_size)), _FINISH_THREADS)
    return Launch(source, symbol, (last, last + 1), tuple(params.dims), blocks, _FINISH_THREADS)


def mask_and_out(kernel: AttentionKernel, params: Params, aligned: Sequence[int]) -> tuple[list[str], list[str], bool]:
    """Strides of the mask and of the result as texts, and whether two neighbours of the result may be stored at once."""
    last = len(kernel.operands) - 1
    piece = 2 * kernel.operands[last].dtype.itemsize
    pairs = _divides(kernel, aligned, last, (*kernel.out_strides, kernel.value_size), piece)
    return _strides(params, kernel.mask_strides or ()), _strides(params, kernel.out_strides), pairs


def _divides(kernel: AttentionKernel, aligned: Sequence[int], operand: int, elements: Sequence[Dim], piece: int) -> bool:
    item = kernel.operands[operand].dtype.itemsize
    return aligned[operand] % piece == 0 and all(divisible(d * item, piece) for d in elements)


def _strides(params: Params, shape: Sequence[Dim]) -> list[str]:
    return [f"(i64){params.name(d)}" for d in shape]


def operand_texts(kernel: AttentionKernel) -> list[str]:
    return pointer_parameters([o.dtype for o in kernel.operands], [o.written for o in kernel.operands], frozenset())


def converter(dtype: DType) -> str:
    return "" if dtype is DType.F32 else f"to_{dtype.value}"
