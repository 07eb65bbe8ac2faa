"""AttentionKernel by warp groups (sm_90a): both products by wgmma, keys and values by bulk copies, in a warp-specialised kernel.

The method is that of FlashAttention-3 (Shah et al., 2024): one warp group copies; each of the others has 64 queries, keeps scores,
weights and results in registers, and computes the scores of a tile of keys beside the products of the weights before with
their values, so that tensor cores work while weights are exponentiated. Values are the right operand as they lie, "turned".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import Dim, ceildiv, lower, prod
from ..kernel import AttentionKernel
from .attention_mma import LOG2_E, SIXTEEN, converter
from .attention_text import AttentionText, shared_text, whole_out
from .contract_schedule import WAVE, typical
from .contract_wgmma import GROUP_INSTRUCTIONS
from .emitted import Launch, TensorMap
from .launching import launch_of
from .ranges import divisible
from .scalars import storage
from .writer import Params, operand_pointers

PIECE = 64  # elements of a row of 128 bytes
WIDEST = 256
_LEAST_ROWS = 48  # fewer leave most of a group of 64 idle
_STAGES = 2


@dataclass(frozen=True, slots=True)
class AttentionGroupSchedule:
    """`groups` of 64 queries a block, `keys` of a tile, `stages` tiles of keys and of values that are on their way or read."""

    groups: int
    keys: int
    stages: int = _STAGES

    @property
    def threads(self) -> int:
        return (self.groups + 1) * 128

    @property
    def registers(self) -> tuple[int, int] | None:
        """Of a thread that copies and of one that multiplies, where the same for all (65536 / threads) are too few."""
        return None if self.groups == 1 else (24, 240)

    def shared(self, kernel: AttentionKernel) -> int:
        """Bytes: queries and tiles of keys in pieces of 64 elements, tiles of values, barriers, and what it takes to begin at a multiple
        of 1024."""
        rows = (self.groups * 64 + self.stages * self.keys) * -(-kernel.size // PIECE)
        return rows * 128 + self.stages * self.keys * _columns(kernel) * 2 + (1 + 4 * self.stages) * 8 + 1024


def schedule_attention_groups(kernel: AttentionKernel) -> AttentionGroupSchedule | None:
    """Two groups a block where those fill the device, else one. None for few queries or too few blocks: there keys are shared."""
    if typical(kernel.rows) < _LEAST_ROWS:
        return None
    pairs = max(1, lower(kernel.batch)) * max(1, lower(kernel.heads))
    keys = 128 if max(kernel.size, kernel.value_size) <= 128 else 64
    if pairs * -(-typical(kernel.rows) // 128) >= WAVE:
        return AttentionGroupSchedule(2, keys)
    return AttentionGroupSchedule(1, keys) if pairs * -(-typical(kernel.rows) // 64) >= WAVE // 3 else None


def takes_attention_groups(kernel: AttentionKernel, aligned: Sequence[int]) -> bool:
    """Whether the engine can bring q, k and v: 16-bit floats whose rows, heads and batches begin at multiples of 16 bytes, and none
    is all the same (the driver's documentation does not say what a stride of 0 is, but of an axis of one element)."""
    types = {o.dtype for o in kernel.operands[:3]}
    if len(types) != 1 or not types <= set(SIXTEEN) or max(kernel.size, kernel.value_size) > WIDEST:
        return False
    shared_heads = ceildiv(kernel.heads, kernel.group)
    queries, keys = (kernel.batch, kernel.heads, kernel.rows), (kernel.batch, shared_heads, kernel.keys)
    every = ((kernel.q_strides, queries), (kernel.k_strides, keys), (kernel.v_strides, keys))
    if any(stride == 0 and size != 1 for strides, sizes in every for stride, size in zip(strides, sizes, strict=True)):
        return False
    return kernel.scale > 0 and all(a % 16 == 0 and all(divisible(d * 2, 16) for d in s) for a, (s, _) in zip(aligned, every, strict=False))


def _columns(kernel: AttentionKernel) -> int:
    """Of the result that are computed: pieces of 16, the narrowest that a swizzle is for."""
    return -(-kernel.value_size // 16) * 16


@dataclass(frozen=True, kw_only=True)
class AttentionGroupParameters(AttentionText):
    """attention_wgmma.cu.j2. `values`: columns of the result that are computed; `value_piece`: of these, what a swizzled row of a tile of
    values has. Products take whole ones (PTX ISA, "Canonical layouts" of wgmma), so that the widest that divides `values` it is."""

    wgmma: str
    words: str
    pack: str
    groups: int
    threads: int
    registers: tuple[int, int] | None
    keys_per_tile: int
    stages: int
    values: int
    value_piece: int
    out_element: str
    to_out: str
    pair_stores: bool


def attention_groups(kernel: AttentionKernel, plan: AttentionGroupSchedule, aligned: Sequence[int]) -> Launch:
    """The launch; `takes_attention_groups` must hold."""
    params, dtype, out = Params(), kernel.operands[0].dtype, kernel.operands[-1].dtype
    use, columns = GROUP_INSTRUCTIONS[dtype, dtype], _columns(kernel)
    value_piece = next(p for p in (PIECE, 32, 16) if columns % p == 0)
    values = AttentionGroupParameters(
        **shared_text(kernel, params, LOG2_E),
        wgmma=use.wgmma,
        words=use.words,
        pack=SIXTEEN[dtype][1],
        groups=plan.groups,
        threads=plan.threads,
        registers=plan.registers,
        keys_per_tile=plan.keys,
        stages=plan.stages,
        values=columns,
        value_piece=value_piece,
        out_element=storage(out),
        to_out=converter(out),
        pair_stores=whole_out(kernel, aligned),
    )
    shared_heads = ceildiv(kernel.heads, kernel.group)
    maps = (
        _map(kernel, 0, kernel.size, kernel.rows, kernel.heads, kernel.q_strides, (PIECE, plan.groups * 64)),
        _map(kernel, 1, kernel.size, kernel.keys, shared_heads, kernel.k_strides, (PIECE, plan.keys)),
        _map(kernel, 2, kernel.value_size, kernel.keys, shared_heads, kernel.v_strides, (value_piece, plan.keys)),
    )
    blocks = prod((kernel.batch, kernel.heads, ceildiv(kernel.rows, plan.groups * 64)))
    return launch_of("attention_wgmma.cu.j2", operand_pointers(kernel.operands), values, params, blocks, plan.threads, plan.shared(kernel),
                     maps=maps, map_names=("map_q", "map_k", "map_v"))  # fmt: skip


def _map(kernel: AttentionKernel, operand: int, size: int, rows: Dim, heads: Dim, strides: Sequence[Dim],
         box: tuple[int, int]) -> TensorMap:  # fmt: skip
    item = kernel.operands[operand].dtype.itemsize
    batch, head, row = (d * item for d in strides)
    return TensorMap(operand, item, (size, rows, heads, kernel.batch), (row, head, batch), (*box, 1, 1))
