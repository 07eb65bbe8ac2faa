"""Packed weights. The operand B of contractions: [⌈N/panel⌉, K, panel], zero padded.

A panel holds `panel` consecutive columns; its rows are contiguous, so the micro-kernel reads B as one stream.
"""

from __future__ import annotations

import numpy as np

from ..ir import Dim, ceildiv


def packed_size(k: Dim, n: Dim, panel: int) -> Dim:
    """Elements of one packed [K, N] matrix."""
    return ceildiv(n, panel) * k * panel


def pack_b(b: np.ndarray, panel: int) -> np.ndarray:
    """[…, K, N] -> flat […, ⌈N/panel⌉, K, panel], zero padded. Leading axes are batches."""
    *batch, k, n = b.shape
    panels = -(-n // panel)
    if n < panels * panel:
        b = np.concatenate([b, np.zeros((*batch, k, panels * panel - n), b.dtype)], axis=-1)
    moved = np.moveaxis(b.reshape(*batch, k, panels, panel), -2, -3)
    return np.ascontiguousarray(moved).reshape(-1)


def unpack_b(packed: np.ndarray, k: int, n: int, panel: int) -> np.ndarray:
    """Inverse of `pack_b` for one matrix (given exactly its packed elements): [K, N]."""
    panels = -(-n // panel)
    return packed.reshape(panels, k, panel).transpose(1, 0, 2).reshape(k, panels * panel)[:, :n]


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
