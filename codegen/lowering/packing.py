"""The memory form of the right operand of contractions: [batch][panel of columns][K][panel], zero padded."""

from __future__ import annotations

import numpy as np

from ...ir import Dim, ceildiv


def pack_b(b: np.ndarray, panel: int) -> np.ndarray:
    """b[…, K, N] -> […, ⌈N/panel⌉, K, panel], flattened; the last panel is padded with zeros."""
    *lead, k, n = b.shape
    panels = -(-n // panel)
    if n % panel:
        b = np.concatenate([b, np.zeros((*lead, k, panels * panel - n), b.dtype)], axis=-1)
    split = b.reshape(*lead, k, panels, panel)
    return np.ascontiguousarray(np.moveaxis(split, -3, -2)).reshape(-1)


def packed_size(k: Dim, n: Dim, panel: int) -> Dim:
    """Elements of one packed matrix."""
    return ceildiv(n, panel) * k * panel
