"""Numbers of few bits that the model computes; those of constants are unpacked by `importer/bits.py`."""

from __future__ import annotations

import numpy as np

from .....ir import DType, Value
from .....ir.ops import BitAnd, ShiftRight
from ...compose import Build


def unpacked(b: Build, packed: Value, bits: int) -> Value:
    """u8 [..., bytes] -> u8 [..., elements], the first of which are in the lowest bits."""
    *lead, width = packed.shape
    shifts = b.ctx.const(np.arange(0, 8, bits, dtype=np.uint8))
    parts = b.emit(BitAnd(), b.emit(ShiftRight(), b.reshape(packed, (*lead, width, 1)), shifts), b.const((1 << bits) - 1, DType.U8))
    return b.reshape(parts, (*lead, width * (8 // bits)))
