"""Packed weights. The operand B of contractions: [⌈N/panel⌉, K/group, panel, group], zero padded.

A panel holds `panel` consecutive columns, so the micro-kernel reads B as one stream. With `group` 1, for multiply-adds,
rows are contiguous. Dot instructions take `group` elements of K (4 bytes) a lane; K is padded to whole 64-byte rows of A then.
"""

from __future__ import annotations

import numpy as np

from ..ir import Dim, ceildiv

_ROW = 16  # 32-bit lanes of a 64-byte row


def padded_k(k: Dim, group: int = 1) -> Dim:
    """Elements along K that are stored."""
    return k if group == 1 else ceildiv(k, _ROW * group) * (_ROW * group)


def _whole(k: int, group: int) -> int:
    deep = padded_k(k, group)
    assert isinstance(deep, int)
    return deep


def packed_size(k: Dim, n: Dim, panel: int, group: int = 1) -> Dim:
    """Elements of one packed [K, N] matrix."""
    return ceildiv(n, panel) * padded_k(k, group) * panel


def pack_b(b: np.ndarray, panel: int, group: int = 1) -> np.ndarray:
    """[…, K, N] -> flat […, ⌈N/panel⌉, K/group, panel, group], zero padded. Leading axes are batches."""
    *batch, k, n = b.shape
    panels, deep = -(-n // panel), _whole(k, group)
    if n < panels * panel or k < deep:
        full = np.zeros((*batch, deep, panels * panel), b.dtype)
        full[..., :k, :n] = b
        b = full
    moved = np.moveaxis(b.reshape(*batch, deep // group, group, panels, panel), (-2, -4, -1, -3), (-4, -3, -2, -1))
    return np.ascontiguousarray(moved).reshape(-1)


def unpack_b(packed: np.ndarray, k: int, n: int, panel: int, group: int = 1) -> np.ndarray:
    """Inverse of `pack_b` for one matrix (given exactly its packed elements): [K, N]."""
    panels, deep = -(-n // panel), _whole(k, group)
    full = packed.reshape(panels, deep // group, panel, group).transpose(1, 3, 0, 2)
    return full.reshape(deep, panels * panel)[:k, :n]


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
