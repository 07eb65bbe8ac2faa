"""AttentionKernel of few queries in true float32: keys and values are read once from memory, by lanes that have pieces of them.

Decoders ask for one query at a time, of many keys: reading these is what takes the time. Warps of a block take keys in turns, blocks
share them where they are many, and the last block to come puts the parts together (flash-decoding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...ir import Dim, ceildiv, lower, prod, upper
from ..kernel import AttentionKernel
from .attention_mma import converter, key_splits, sharing_launch
from .attention_text import LoadingText, loading_text, whole_rows
from .contract_shares import Shares
from .emitted import Launch
from .scalars import storage
from .target import FEW
from .writer import Params

_MOST = 8  # of a block
_WIDEST = 256  # elements of a head, whose results fit registers
_WARPS = 4
_PIECE = 4  # elements that a lane has of a row


@dataclass(frozen=True, slots=True)
class FewSchedule:
    """`queries` of a block, of `packed` heads that share keys; `lanes` have a key, of which a warp takes 32 / lanes at a time, `steps`
    times a turn; `splits` blocks share the keys of a query."""

    queries: int
    packed: int
    lanes: int
    steps: int
    splits: Dim = 1

    @property
    def threads(self) -> int:
        return _WARPS * 32

    def blocks(self, kernel: AttentionKernel, rows: Dim) -> Dim:
        """Without splits."""
        return prod((kernel.batch, ceildiv(kernel.heads, self.packed), ceildiv(rows * self.packed, self.queries)))

    def pitch(self, kernel: AttentionKernel) -> int:
        """Elements of a part of a query: its values, and two numbers in the room of four."""
        return -(-kernel.value_size // _PIECE) * _PIECE + 4

    def shared(self, kernel: AttentionKernel) -> int:
        """Bytes of what the warps hand on."""
        return _WARPS * (32 // self.lanes) * self.queries * self.pitch(kernel) * 4


def schedule_few(kernel: AttentionKernel) -> FewSchedule | None:
    """For FEW queries, else None. Where their number is not known, what computes up to FEW."""
    wide = max(kernel.size, kernel.value_size)
    if wide > _WIDEST or lower(kernel.rows) > FEW:
        return None
    known = isinstance(kernel.rows, int) or upper(kernel.rows) <= FEW
    packed = kernel.group if known and upper(kernel.rows) * kernel.group <= _MOST else 1
    most = _MOST if wide <= _WIDEST // 2 else _MOST // 2
    queries = next((n for n in (1, 2, 4, 8) if n >= min(upper(kernel.rows) * packed, most)), most) if known else 1
    lanes = next(n for n in (2, 4, 8, 16, 32) if n * _PIECE >= wide or n == 32)
    pieces = -(-wide // (lanes * _PIECE))
    plan = FewSchedule(queries, packed, lanes, (8 if queries < 4 else 4) // pieces)
    return replace(plan, splits=key_splits(plan.blocks(kernel, kernel.rows), kernel.keys))


@dataclass(frozen=True, kw_only=True)
class AttentionFewParameters(LoadingText):
    """attention_few.cu.j2"""

    queries: int
    warps: int
    packed: int
    lanes: int
    steps: int
    out_element: str
    to_out: str
    whole_k: bool  # rows of keys are read in pieces of 16 bytes
    whole_v: bool


def attention_few(kernel: AttentionKernel, plan: FewSchedule, aligned: Sequence[int]) -> tuple[Launch, Shares]:
    """The launch, and what its blocks share."""
    params = Params()
    _, whole_k, whole_v = whole_rows(kernel, aligned, 4 * _PIECE)
    values = AttentionFewParameters(
        **loading_text(kernel, params, plan.splits),
        queries=plan.queries,
        warps=_WARPS,
        packed=plan.packed,
        lanes=plan.lanes,
        steps=plan.steps,
        out_element=storage(kernel.operands[-1].dtype),
        to_out=converter(kernel.operands[-1].dtype),
        whole_k=whole_k,
        whole_v=whole_v,
    )
    part = plan.queries * plan.pitch(kernel) * 4
    return sharing_launch("attention_few.cu.j2", kernel, plan, values, params, plan.blocks(kernel, kernel.rows), part)
