"""Which products of float32 go to tile registers, and their units of work."""

from __future__ import annotations

from dataclasses import dataclass

from ....ir import Dim, DType, ceildiv, upper
from ...kernel import ContractKernel
from ..target import CpuTarget

TALL = STRIP = 32  # rows, and columns, of two tiles
DEPTH = 128  # of k: so much of a strip, in three parts, is half of the first-level cache
LEAST_ROWS, _LEAST_COLUMNS, _LEAST_K = 112, 192, 192  # with fewer, splitting operands takes longer than tiles save
_ROWS = 256  # of a unit at most: each strip is split once for them
_FEW_ROWS = 128  # of a unit, beside which there is no time to ask memory for more while tiles multiply
_COLUMNS = 512  # of a unit at most: each row is split once for them; their sums lie on the stack
_LEAST_UNIT = 96  # columns, from which on splitting the rows is small enough beside multiplying them
_UNITS = 12  # from which on threads have nearly equal parts


@dataclass(frozen=True, slots=True)
class TripleSchedule:
    """Units are blocks of rows by chunks of columns, all of them within a tile or a strip of equal: `rows` by `columns` at most.

    whole_chunks: along n, where one call does everything; more where several threads share.
    """

    rows: int
    columns: int
    blocks: Dim
    chunks: int
    whole_chunks: int
    ragged: bool  # n does not fill the last strip
    short: bool  # k does not fill the last 32 of a tile
    early: bool  # memory is asked for the following strip while this one is split, not while it is multiplied


def schedule_triple(kernel: ContractKernel, target: CpuTarget) -> TripleSchedule | None:
    """None where vectors are faster, or there are no tile registers. Of symbolic rows it serves where they are `LEAST_ROWS` or more."""
    m, n, k = kernel.m, kernel.n, kernel.k
    if not ({"amx-tile", "amx-bf16"} <= target.features and target.masked and target.vector_bits == 512):
        return None
    if any(kernel.operands[x].dtype is not DType.F32 for x in (0, 1)) or kernel.panel != 64 or kernel.b_row or kernel.b_column:
        return None
    if kernel.diagonal != 1 or kernel.planes is not None or not kernel.at_a_stride or (kernel.conv is not None and kernel.batch != 1):
        return None
    if not (isinstance(n, int) and isinstance(k, int)) or upper(m) < LEAST_ROWS or n < _LEAST_COLUMNS or k < _LEAST_K:
        return None
    strips = -(-n // STRIP)
    blocks = ceildiv(m, _ROWS)
    rows = ceildiv(ceildiv(m, TALL), blocks) * TALL if isinstance(m, int) else _ROWS
    assert isinstance(rows, int)
    whole_chunks = chunks = -(-n // _COLUMNS)
    units = blocks * kernel.batch
    known = units if isinstance(units, int) else 1
    while known * chunks < _UNITS and known * chunks % 2 and n >= 2 * _LEAST_UNIT:
        chunks += 1  # else one of two threads has a unit more
    columns = -(-strips // whole_chunks) * STRIP
    return TripleSchedule(rows, columns, blocks, chunks, whole_chunks, n % STRIP != 0, k % STRIP != 0, rows <= _FEW_ROWS)
