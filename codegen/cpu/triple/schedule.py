"""Which products of float32 go to tile registers, and their units of work."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ....ir import Dim, DType, ceildiv, upper
from ...kernel import ContractKernel
from ..target import CpuTarget

TALL = STRIP = 32  # rows, and columns, of two tiles
_LEAST_ROWS, _LEAST_COLUMNS, _LEAST_K = 96, 64, 96  # with fewer, splitting operands takes longer than tiles save
_LEAST_RESULTS = 5 << 12  # rows by columns, for the same reason
_NARROW = 192  # columns or k, below which products want as many multiply-adds as
_LEAST_OPS = 1 << 25  # this: else what each of several threads splits for itself is too much of its time (EfficientNet-B0: 0.92)
_TALLER = 1.5  # times as many rows as columns, from which on columns stay
_PART_BYTES = 6  # of a number, as three parts
_BLOCK = 256  # rows that stay, of an unknown number
_KEPT = range(2 * TALL, 16 * TALL + 1, TALL)  # rows, or columns, that may stay
_DEPTHS = range(4 * STRIP, 32 * STRIP + 1, STRIP)  # of k that may be split at a time
_KEPT_BYTES = 704 << 10  # of parts that stay, which every tile reads: a third of the second-level cache
_WAITING_BYTES = 704 << 10  # of sums that wait for more of k
# Cycles that a number takes: split before products begin, and beside them; what vectors do at most beside a product of a tile
# of 32 by a strip, a step of k; a sum that waits (fitted to times of 20 products, with the core alone and beside a busy neighbour).
_SPLIT, _BESIDE, _SHADOW, _WAIT = 0.625, 0.35, 300, 0.25


@dataclass(frozen=True, slots=True)
class TripleSchedule:
    """Units are blocks of rows by chunks of columns. One of the two stays, split, in blocks within a tile of equal, while the other passes
    by, a tile a unit, so that threads get even shares; `kept`: rows or columns at most that stay, `depth` of k. If that is not all of k,
    the sums of up to `passing` units wait for the rest. `least`: rows from which on tiles are faster.
    """

    least: int
    rows_pass: bool  # by columns that stay, else columns by rows
    kept: int
    passing: int
    blocks: Dim
    chunks: int
    depth: int
    sums: int  # elements
    listed: int  # units that pass at most, and one, where sums wait
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
    return (_by_columns if rows_pass else _by_rows)(m, n, k)


def _least(n: int, k: int) -> int:
    """Rows from which on tiles are faster."""
    rows = max(_LEAST_ROWS, -(-_LEAST_RESULTS // n))
    return max(rows, -(-_LEAST_OPS // (n * k))) if min(n, k) < _NARROW else rows


def _by_columns(m: Dim, n: int, k: int) -> TripleSchedule:
    """Columns stay, rows pass by."""
    blocks = _blocks(n, m, k)
    return _schedule(True, blocks, ceildiv(m, TALL), -(-n // blocks.kept), n, k)


def _by_rows(m: Dim, n: int, k: int) -> TripleSchedule:
    """Rows stay, columns pass by."""
    blocks = _blocks(m if isinstance(m, int) else _BLOCK, n, k)
    return _schedule(False, blocks, ceildiv(m, blocks.kept), -(-n // STRIP), n, k)


def _schedule(rows_pass: bool, of: _Blocks, blocks: Dim, chunks: int, n: int, k: int) -> TripleSchedule:
    waits = of.depth < k
    return TripleSchedule(
        least=_least(n, k),
        rows_pass=rows_pass,
        kept=of.kept,
        passing=of.passing,
        blocks=blocks,
        chunks=chunks,
        depth=of.depth,
        sums=of.kept * of.passing * STRIP if waits else 2 * TALL * STRIP,
        listed=of.passing + 1 if waits else 1,
        unit_cost=STRIP * of.kept * k,
        ragged=n % STRIP != 0,
        short=k % STRIP != 0,
    )


@dataclass(frozen=True, slots=True)
class _Blocks:
    """`kept` that stay, `depth` of k, `passing` units that pass by before more of k does, or something else stays."""

    kept: int
    depth: int
    passing: int

    def cycles(self, stays: int, passes: int, k: int) -> float:
        """Of all but products, which take the same whatever the blocks are."""
        blocks, times = -(-stays // self.kept), -(-passes // (self.passing * STRIP))
        before = _SPLIT * (stays + STRIP * blocks) * times * k
        in_excess = max(0.0, _SPLIT - _SHADOW * (self.kept // TALL) / STRIP**2)
        return before + (_BESIDE + in_excess) * blocks * passes * k + _WAIT * (-(-k // self.depth) - 1) * stays * passes


@lru_cache(1024)
def _blocks(stays: int, passes: int, k: int) -> _Blocks:
    """Those that fit the cache and take the least time."""
    found: list[_Blocks] = []
    for depth in {_evenly(k, d) for d in _DEPTHS}:
        for kept in {_evenly(stays, most) for most in _KEPT}:
            units = -(-passes // STRIP) if depth >= k else _WAITING_BYTES // (4 * kept * STRIP)
            if _PART_BYTES * depth * kept <= _KEPT_BYTES:
                found.append(_Blocks(kept, depth, min(units, -(-passes // STRIP))))
    return min(found, key=lambda x: (x.cycles(stays, passes, k), x.kept, x.depth))


def _evenly(size: int, most: int) -> int:
    """Of parts of at most so much (but for a step of 32), all of them about equal, the largest."""
    parts = -(-size // _whole(most))
    return -(-size // (parts * STRIP)) * STRIP


def _whole(size: int) -> int:
    return max(1, size // STRIP) * STRIP
