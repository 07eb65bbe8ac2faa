"""Numbers of few bits, several of which are one byte: that in its lowest bits is the first."""

from __future__ import annotations

import numpy as np

from .....ir import DType, Value
from .....ir.ops import BitAnd, ShiftRight
from ...compose import Build


def unpack(raw: np.ndarray, bits: int) -> np.ndarray:
    """u8 [N, bytes] -> u8 [N, elements]."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((raw[:, :, None] >> shifts) & ((1 << bits) - 1)).reshape(len(raw), -1)


def unpacked(b: Build, packed: Value, bits: int) -> Value:
    """The same of u8 [..., bytes] that the model computes."""
    *lead, width = packed.shape
    shifts = b.ctx.const(np.arange(0, 8, bits, dtype=np.uint8))
    parts = b.emit(BitAnd(), b.emit(ShiftRight(), b.reshape(packed, (*lead, width, 1)), shifts), b.const((1 << bits) - 1, DType.U8))
    return b.reshape(parts, (*lead, width * (8 // bits)))
