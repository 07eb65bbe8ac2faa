"""AttentionKernel in true float32 by multiply-add: tiles of scores and of results in registers, softmax carried along tiles of keys.

A thread has rows × keys of scores, and the same rows × columns of results; what a load from shared memory brings is used by each of its
rows. Of few queries the warps of a block share each tile of keys; with many keys blocks share those, and the last to come puts their
parts together (flash-decoding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...ir import Dim, ceildiv, lower, prod, upper
from ..kernel import AttentionKernel
from .attention_mma import LOG2_E, key_splits, sharing_launch
from .attention_text import LoadingText, loading_text, whole_out, whole_rows
from .contract_schedule import WAVE
from .contract_shares import Shares
from .emitted import Launch
from .writer import Params

_LANES = (4, 8)  # of a warp, along rows and along keys or columns
_WARPS = 4
_COLUMNS = 512  # of values that a block has at most
_RESULTS = 128  # of a thread at most
_PIECE = 64  # elements of a row that are in shared memory at a time
_SHARED = 99 << 10  # bytes that a block has on every device from sm_80 on


@dataclass(frozen=True, slots=True)
class AttentionFmaSchedule:
    """`row_warps` of 4 × `rows` queries a block, `rows` of a thread; `own` keys of a tile are a warp's, and `sharing` warps share the
    tile; `splits` blocks share the keys of a row."""

    row_warps: int
    rows: int
    own: int
    sharing: int = 1
    splits: Dim = 1

    @property
    def threads(self) -> int:
        return self.row_warps * self.sharing * 32

    @property
    def queries(self) -> int:
        """Of a block."""
        return self.row_warps * self.rows * _LANES[0]

    def blocks(self, kernel: AttentionKernel) -> Dim:
        """Without splits."""
        columns = -(-kernel.value_size // _COLUMNS)
        return prod((kernel.batch, kernel.heads, ceildiv(kernel.rows, self.queries), columns))

    def pitch(self, kernel: AttentionKernel) -> int:
        """Elements of a part of a query: its values, and two numbers in the room of four."""
        return _elements(value_pieces(kernel)) + 4

    def resident(self, kernel: AttentionKernel) -> bool:
        """Whether queries stay in shared memory; else their pieces come with those of keys."""
        return self._bytes(kernel, True) <= _SHARED

    def shared(self, kernel: AttentionKernel) -> int:
        """Bytes: two pieces of keys or values, weights, queries; in their place, what warps that share keys hand on."""
        handed = self.sharing * self.queries * self.pitch(kernel) * 4 if self.sharing > 1 else 0
        return max(handed, self._bytes(kernel, self.resident(kernel)))

    def _bytes(self, kernel: AttentionKernel, resident: bool) -> int:
        (elements, _), (columns, _) = key_pieces(kernel), value_pieces(kernel)
        slot = self.own * self.sharing * max(_pitch(elements), columns)
        queries = self.queries * _pitch(_elements(key_pieces(kernel)) if resident else elements)
        weights = self.queries * self.sharing * (self.own + 8)
        return 4 * (2 * slot + weights + (queries if resident else 2 * queries))


def key_pieces(kernel: AttentionKernel) -> tuple[int, int]:
    """Elements of a piece of a key, and how many there are."""
    count = -(-kernel.size // _PIECE)
    return -(-kernel.size // (4 * count)) * 4, count


def value_pieces(kernel: AttentionKernel) -> tuple[int, int]:
    """Columns of a piece of a value that a block has, packs of 4 for each of 8 lanes, and how many there are."""
    packs = -(-min(kernel.value_size, _COLUMNS) // (4 * _LANES[1]))
    return (64, packs // 2) if packs % 2 == 0 else (32, packs)


def _elements(pieces: tuple[int, int]) -> int:
    return pieces[0] * pieces[1]


def _pitch(elements: int) -> int:
    """Of rows in shared memory: an odd number of 16 bytes."""
    return (elements // 4 | 1) * 4


def schedule_attention_fma(kernel: AttentionKernel) -> AttentionFmaSchedule:
    """As many queries a block as half fill it, and leave one for every multiprocessor; of fewer, warps share keys, and then blocks do."""
    columns = _elements(value_pieces(kernel))
    most = next(n for n in (8, 4, 2) if n * columns <= _RESULTS * _LANES[1] // (2 if n == 8 else 1))
    few, own = min(most, 4), 64 if columns <= 128 else 32
    candidates = [AttentionFmaSchedule(_WARPS, most, 32 if most == 8 else own), AttentionFmaSchedule(_WARPS, few, own),
                  AttentionFmaSchedule(_WARPS // 2, few, 32, 2), AttentionFmaSchedule(1, few, 32, _WARPS)]  # fmt: skip
    enough = (c for c in candidates if lower(c.blocks(kernel)) >= WAVE and c.queries // 2 < upper(kernel.rows))
    plan = next(enough, candidates[-1])
    if lower(kernel.rows) < plan.queries and not isinstance(kernel.rows, int):
        plan = candidates[1]  # unknown: between the extremes
    if upper(kernel.keys) <= plan.own * plan.sharing // 2:
        plan = replace(plan, own=max(16, plan.own // 2))
    return replace(plan, splits=key_splits(plan.blocks(kernel), kernel.keys) if kernel.value_size <= _COLUMNS else 1)


@dataclass(frozen=True, kw_only=True)
class AttentionFmaParameters(LoadingText):
    """attention_fma.cu.j2"""

    row_warps: int
    rows_per_thread: int
    keys_per_tile: int
    sharing: int
    columns: int
    key_chunk: int
    key_chunks: int
    value_chunk: int
    value_chunks: int
    resident: bool
    async_q: bool
    async_k: bool
    async_v: bool
    whole_out: bool


def attention_fma(kernel: AttentionKernel, plan: AttentionFmaSchedule, aligned: Sequence[int]) -> tuple[Launch, Shares]:
    """The launch, and what its blocks share."""
    params = Params()
    whole_q, whole_k, whole_v = whole_rows(kernel, aligned)
    (key_chunk, key_chunks), (value_chunk, value_chunks) = key_pieces(kernel), value_pieces(kernel)
    values = AttentionFmaParameters(
        **loading_text(kernel, params, plan.splits, LOG2_E),
        row_warps=plan.row_warps,
        rows_per_thread=plan.rows,
        keys_per_tile=plan.own * plan.sharing,
        sharing=plan.sharing,
        columns=min(kernel.value_size, _COLUMNS),
        key_chunk=key_chunk,
        key_chunks=key_chunks,
        value_chunk=value_chunk,
        value_chunks=value_chunks,
        resident=plan.resident(kernel),
        async_q=whole_q,
        async_k=whole_k,
        async_v=whole_v,
        whole_out=whole_out(kernel, aligned, 4),
    )
    part = plan.queries * plan.pitch(kernel) * 4
    return sharing_launch("attention_fma.cu.j2", kernel, plan, values, params, plan.blocks(kernel), part)
