"""Packed weights. The operand B of contractions: [⌈N/panel⌉, K/group, panel, group], zero padded.

A panel holds `panel` consecutive columns, so the micro-kernel reads B as one stream. With `group` 1, for multiply-adds,
rows are contiguous. Dot instructions take `group` elements of K (4 bytes) a lane; K is padded to whole 64-byte rows of A then.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..ir import Dim, ceildiv

LANES = 16  # of 32 bits, of the widest vectors: a 64-byte row


def padded_k(k: Dim, group: int = 1) -> Dim:
    """Elements along K that are stored."""
    return k if group == 1 else ceildiv(k, LANES * group) * (LANES * group)


def whole_vectors(n: int) -> int:
    """Lanes of the vectors that n columns fill."""
    return -(-n // LANES) * LANES


def _whole(k: int, group: int) -> int:
    deep = padded_k(k, group)
    assert isinstance(deep, int)
    return deep


def packed_size(k: Dim, n: Dim, panel: int, group: int = 1, last: int = 0) -> Dim:
    """Elements of one packed [K, N] matrix; `last` from `last_panel`."""
    if last:
        assert isinstance(n, int)
        return whole_vectors(n) * k
    return ceildiv(n, panel) * padded_k(k, group) * panel


def last_panel(n: int, panel: int) -> int:
    """Columns of a last panel of its own width: whole vectors. One or two vectors join the panel before, as multiplying each element
    of A by them alone is mostly loading it. 0: it is as wide as the others."""
    rest = n % panel
    if n < panel or whole_vectors(rest) in (0, panel):
        return 0
    return whole_vectors(rest) + (panel if rest <= 2 * LANES else 0)


@dataclass(frozen=True, slots=True)
class Deferred:
    """A flat array that is computed when, and where, it is wanted: `write` fills in an array of this dtype and size.

    `streamed`: every run reads it from end to end and does little with it, so that it is worth large pages.
    """

    dtype: np.dtype
    size: int
    write: Callable[[np.ndarray], object]
    streamed: bool = False

    @property
    def shape(self) -> tuple[int]:
        return (self.size,)

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        out = np.empty(self.size, self.dtype)
        self.write(out)
        return out


def pack_b(b: np.ndarray, panel: int, group: int = 1, out: np.ndarray | None = None, last: int = 0) -> np.ndarray:
    """[…, K, N] -> flat […, ⌈N/panel⌉, K/group, panel, group], zero padded. Leading axes are batches. `out`: where to, if given.
    `last`: columns of the last panel, from `last_panel`."""
    *batch, k, n = b.shape
    if last:
        return _pack_last(b.reshape(-1, k, n), panel, last, out)
    whole, rest = divmod(n, panel)
    panels, deep = -(-n // panel), _whole(k, group)
    if out is None:
        out = np.empty(math.prod(batch) * panels * deep * panel, b.dtype)
    if k < deep:
        full = np.zeros((*batch, deep, n), b.dtype)
        full[..., :k, :] = b
        b = full
    packed = np.moveaxis(out.reshape(*batch, panels, deep // group, panel, group), (-4, -3, -2, -1), (-2, -4, -1, -3))
    b = b.reshape(*batch, deep // group, group, n)
    packed[..., :whole, :] = b[..., : whole * panel].reshape(*b.shape[:-1], whole, panel)
    if rest:
        packed[..., whole, :rest] = b[..., whole * panel :]
        packed[..., whole, rest:] = 0
    return out


def _pack_last(b: np.ndarray, panel: int, last: int, out: np.ndarray | None) -> np.ndarray:
    batch, k, n = b.shape
    columns = whole_vectors(n)
    if out is None:
        out = np.empty(batch * k * columns, b.dtype)
    before = columns - last
    for one, packed in zip(b, out.reshape(batch, k * columns), strict=True):
        pack_b(one[:, :before], panel, out=packed[: k * before])
        pack_b(one[:, before:], last, out=packed[k * before :])
    return out


def unpack_b(packed: np.ndarray, k: int, n: int, panel: int, group: int = 1, last: int = 0) -> np.ndarray:
    """Inverse of `pack_b` for one matrix (given exactly its packed elements): [K, N]."""
    if last:
        before = whole_vectors(n) - last
        parts = unpack_b(packed[: k * before], k, before, panel), unpack_b(packed[k * before :], k, n - before, last)
        return np.concatenate(parts, axis=1)
    panels, deep = -(-n // panel), _whole(k, group)
    full = packed.reshape(panels, deep // group, panel, group).transpose(1, 3, 0, 2)
    return full.reshape(deep, panels * panel)[:k, :n]


def levels_size(k: int, n: int, panel: int, bits: int) -> int:
    """32-bit words of packed levels."""
    return -(-n // panel) * -(-k * bits // 32) * panel


def pack_levels(levels: np.ndarray, panel: int, bits: int, out: np.ndarray | None = None) -> np.ndarray:
    """Levels of few bits u8 [K, N], or of 16 bits f16, -> flat u32 [⌈N/panel⌉, ⌈K·bits/32⌉, panel], zero padded.

    A word holds neighbouring elements of a column, the first in its lowest bits.
    """
    k, n = levels.shape
    each = 32 // bits
    words, panels = -(-k // each), -(-n // panel)
    rows = np.zeros((words, panels * panel), np.uint32)
    for i in range(each):  # streams over all columns: several times as fast as an axis of elements behind them, in a fraction of the memory
        part = (levels.view(np.uint16) if bits == 16 else levels)[i::each]
        rows[: len(part), :n] |= part.astype(np.uint32) << np.uint32(bits * i)
    out = np.empty(rows.size, np.uint32) if out is None else out
    out.reshape(panels, words, panel)[:] = rows.reshape(words, panels, panel).transpose(1, 0, 2)
    return out


def unpack_levels(packed: np.ndarray, k: int, n: int, panel: int, bits: int) -> np.ndarray:
    """Inverse of `pack_levels`: u8 [K, N], or f16."""
    each = 32 // bits
    words = packed.reshape(-(-n // panel), 1, -(-k // each), panel)
    parts = (words >> (np.arange(each, dtype=np.uint32) * bits)[:, None, None]) & ((1 << bits) - 1)
    levels = parts.transpose(2, 1, 0, 3).reshape(-1, words.shape[0] * panel)[:k, :n]
    return levels.astype(np.uint16).view(np.float16) if bits == 16 else levels.astype(np.uint8)


def unpack_gates(packed: np.ndarray, hidden: int, groups: tuple[tuple[int, ...], ...], block: int) -> np.ndarray:
    """R [G·H, H] of one direction from [⌈H/block⌉, per group of gates: [H, gates, block]], zero padded."""
    blocks = -(-hidden // block)
    rows = packed.reshape(blocks, -1)
    at, gates = 0, []
    for group in groups:
        size = hidden * len(group) * block
        part = rows[:, at : at + size].reshape(blocks, hidden, len(group), block)
        gates.append(part.transpose(2, 0, 3, 1).reshape(len(group), blocks * block, hidden)[:, :hidden])
        at += size
    return np.concatenate(gates).reshape(-1, hidden)
