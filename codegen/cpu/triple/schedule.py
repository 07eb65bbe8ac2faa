"""Which products of float32 go to tile registers, and their units of work."""

from __future__ import annotations

from dataclasses import dataclass

from ....ir import Dim, DType, ceildiv, upper
from ...kernel import ContractKernel
from ..target import CpuTarget

TALL = STRIP = 32  # rows, and columns, of two tiles
_LEAST_ROWS, _LEAST_COLUMNS, _LEAST_K = 96, 64, 96  # with fewer, splitting operands takes longer than tiles save
_LEAST_RESULTS = 5 << 12  # rows by columns, for the same reason
_NARROW = 192  # columns or k, below which products want as many multiply-adds as
_LEAST_OPS = 1 << 25  # this: else what each of several threads splits for itself is too much of its time (EfficientNet-B0: 0.92)
_DEPTH, _DEEPEST = 512, 1024  # of k: what is split at a time; the same beside few rows
_KEPT_BYTES = 640 << 10  # of parts that stay: with those that pass and the sums, half of the second-level cache
_MOST_ROWS = 256  # that stay: beside fewer, as many columns are split in no further time
_UNIT = 64  # rows, or columns, that pass
_TALLER = 1.5  # times as many rows as columns, from which on columns stay
_WAITING_BYTES = 256 << 10  # of sums that wait for more of k
_SPLIT_BYTES = 6  # of a number, as three parts


@dataclass(frozen=True, slots=True)
class TripleSchedule:
    """Units are blocks of rows by chunks of columns, all of them within a tile or a strip of equal. One of the two stays, split, while
    up to `passing` of the other pass by in a call; `kept`: rows or columns at most that stay, `depth` of k. `least`: rows from which on
    tiles are faster.
    """

    least: int
    rows_pass: bool  # by columns that stay, else columns by rows
    kept: int
    passing: int
    blocks: Dim
    chunks: int
    depth: int
    sums: int  # elements
    unit_cost: int
    ragged: bool  # n does not fill the last strip
    short: bool  # k does not fill the last 32 of a tile


def schedule_triple(kernel: ContractKernel, target: CpuTarget) -> TripleSchedule | None:
    """None where vectors are faster, or there are no tile registers. Of symbolic rows it serves those that are `least` or more."""
    m, n, k = kernel.m, kernel.n, kernel.k
    if not ({"amx-tile", "amx-bf16"} <= target.features and target.masked and target.vector_bits == 512):
        return None
    if any(kernel.operands[x].dtype is not DType.F32 for x in (0, 1)) or kernel.panel != 64 or kernel.b_row or kernel.b_column:
        return None
    if kernel.diagonal != 1 or kernel.planes is not None or not kernel.at_a_stride or (kernel.conv is not None and kernel.batch != 1):
        return None
    if not (isinstance(n, int) and isinstance(k, int)) or n < _LEAST_COLUMNS or k < _LEAST_K:
        return None
    if upper(m) < _least(n, k):
        return None
    rows_pass = isinstance(m, int) and m > _TALLER * n
    return (_by_columns if rows_pass else _by_rows)(kernel, m, n, k)


def _least(n: int, k: int) -> int:
    """Rows from which on tiles are faster."""
    rows = max(_LEAST_ROWS, -(-_LEAST_RESULTS // n))
    return max(rows, -(-_LEAST_OPS // (n * k))) if min(n, k) < _NARROW else rows


def _by_columns(kernel: ContractKernel, m: Dim, n: int, k: int) -> TripleSchedule:
    """Columns stay, rows pass by."""
    depth = _evenly(k, _DEPTH)
    kept = _evenly(n, _KEPT_BYTES // (_SPLIT_BYTES * depth))
    return _schedule(True, kept, depth, ceildiv(m, _UNIT), -(-n // kept), n, k)


def _by_rows(kernel: ContractKernel, m: Dim, n: int, k: int) -> TripleSchedule:
    """Rows stay, columns pass by."""
    kept = _evenly(m, _MOST_ROWS) if isinstance(m, int) else _MOST_ROWS
    depth = _evenly(k, max(_DEPTH, min(_DEEPEST, _KEPT_BYTES // (_SPLIT_BYTES * kept))))
    kept = min(kept, _whole(_KEPT_BYTES // (_SPLIT_BYTES * depth)))
    return _schedule(False, kept, depth, ceildiv(m, kept), -(-n // _UNIT), n, k)


def _schedule(rows_pass: bool, kept: int, depth: int, blocks: Dim, chunks: int, n: int, k: int) -> TripleSchedule:
    waiting = max(1, _WAITING_BYTES // (4 * kept * _UNIT)) if depth < k else 1 << 40
    sums = TALL * STRIP * (kept // TALL * waiting * (_UNIT // STRIP) if depth < k else 2)
    cost = _UNIT * kept * k
    return TripleSchedule(_least(n, k), rows_pass, kept, waiting, blocks, chunks, depth, sums, cost, n % STRIP != 0, k % STRIP != 0)


def _evenly(size: int, most: int) -> int:
    """Of parts of at most so much (but for a step of 32), all of them about equal, the largest."""
    parts = -(-size // _whole(most))
    return -(-size // (parts * STRIP)) * STRIP


def _whole(size: int) -> int:
    return max(1, size // STRIP) * STRIP
