"""How the rows of a contraction are cut into the blocks of its work units, for one thread and for several."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ....ir import Dim, ceildiv, dim_max, dim_min, floordiv
from ...kernel import ContractKernel

_UNIT_OPS = 2_000_000  # 10 to 20 µs of one core: far above the cost of handing out a unit
_SHARED_OPS = 500_000  # 2.5 to 5 µs of one core: handing out a step costs 1.2
_BLOCK_ROWS = 252  # of a B that does not stay in the cache: with many more, rows of A are gone before the next strip wants them
_MOST_ROWS = 1024
_BLOCK_BYTES = 3 << 19  # rows of A that a unit walks again for the next strip, in a 2 MB L2
_RESULT_BYTES = 3 << 18  # rows of A and C of a unit, when B stays in the cache anyway: lines of C are then finished in it
_PAGES = 48  # in which lines are asked for ahead: what rows of a unit are stored to, when C does not wait in a cache
_PAGE = 4096  # bytes
_STORED_BYTES = 1 << 21  # of a C that does not
_SHORT = 256  # k below which multiply-adds do not hide that stores wait for their lines
_READ_AGAIN = 4  # B's size over that of A and C up to which each half of the threads reads all of B, and half of the rows
_SMALL_BYTES = 1 << 20  # of B that several threads may each read for a part of the rows of a single unit
_UNEVEN = 0.9  # share of the time of two threads that has to be work, else rows are halved for the sake of it
_MOST_UNEVEN = 0.8  # and fewer rows, too
_UNEVEN_ROWS = 0.95  # share of a half of the rows in the same half of whole register tiles, below which the other thread waits


@dataclass(frozen=True, slots=True)
class Blocks:
    """rows: of a unit. count: units along m."""

    rows: Dim
    count: Dim


def whole_blocks(kernel: ContractKernel, strip: int, strips: Dim, tall: int, taps: int) -> Blocks:
    """For one thread: as many rows as the caches hold, in units that are worth handing out."""
    k = kernel.k if isinstance(kernel.k, int) else 512
    # taps read overlapping pixels, so a row of A takes only its channels of the cache
    grouped = kernel.conv is not None and kernel.batch != 1
    row = kernel.lda if grouped and isinstance(kernel.lda, int) else k // taps  # groups share whole pixels
    rows = min(_MOST_ROWS, _BLOCK_BYTES // (4 * max(1, row)))
    if not isinstance(kernel.n, int) or 4 * k * kernel.n > _BLOCK_BYTES // 2:
        rows = min(rows, max(_BLOCK_ROWS, _UNIT_OPS // (2 * max(1, k) * strip)))
    elif kernel.n > strip:
        rows = min(rows, _RESULT_BYTES // (4 * (kernel.n + k // taps)))
    rows = max(8 * tall, rows)
    most = _most_stored(kernel, strips, tall)
    if isinstance(kernel.m, int):
        pieces = max(1, kernel.m // rows, -(-kernel.m // most))
        if isinstance(strips, int) and isinstance(kernel.batch, int):
            total = 2 * kernel.m * k * strip * strips * kernel.batch
            wanted = min(8, total // _UNIT_OPS)
            pieces = max(pieces, min(wanted // max(1, strips * kernel.batch), kernel.m // (4 * tall)))
        block = min(kernel.m, _whole_tiles(-(-kernel.m // pieces), tall))
        return Blocks(block, -(-kernel.m // block) if kernel.m else 0)
    if most <= rows:
        height = dim_max(1, ceildiv(kernel.m, dim_max(1, ceildiv(kernel.m, most))))
    else:
        height = dim_max(1, ceildiv(kernel.m, dim_max(1, floordiv(kernel.m, rows))))
    return Blocks(height, ceildiv(kernel.m, height))


def _most_stored(kernel: ContractKernel, strips: Dim, tall: int) -> int:
    """Rows of a unit so that the next strip finds their lines on the way: stores to more pages in turns than the second-level cache
    keeps track of wait for memory, which sums of few terms do not hide (1500 × 1500 × 64: a third of the speed)."""
    ldc, k, one = kernel.ldc, kernel.k, (kernel.batch, kernel.m, kernel.n)
    itemsize = kernel.operands[-1].dtype.itemsize
    if strips == 1 or kernel.planes is not None or not isinstance(ldc, int) or not isinstance(k, int) or k >= _SHORT:
        return _MOST_ROWS
    if all(isinstance(d, int) for d in one) and math.prod(map(int, one)) * itemsize <= _STORED_BYTES:
        return _MOST_ROWS
    rows = max(_PAGES, _PAGES * _PAGE // max(1, ldc * itemsize))
    return min(_MOST_ROWS, max(tall, rows // tall * tall))


def shared_blocks(kernel: ContractKernel, strips: Dim, whole: Blocks, tall: int, taps: int) -> Blocks:
    """For several threads: an even number of blocks, so that half of the threads has half of the rows. `whole` is for one.

    What they read is then what they wrote in the step before, as steps along rows are shared out alike; lines that lie in
    the cache of another core cost several times as much. B gets read once more for it.
    """
    n, k, m = kernel.n, kernel.k, kernel.m
    if kernel.batch != 1 and kernel.conv is not None and isinstance(m, int) and isinstance(whole.count, int):
        return _halves_of_images(kernel, m, whole, whole.count, tall)
    if kernel.batch != 1 or not isinstance(n, int) or not isinstance(k, int) or not n or not k:
        return whole
    b = k * n // kernel.diagonal
    enough = max(2 * _least(tall), b // (_READ_AGAIN * (k // taps + n)))  # rows from which on B is small beside A and C
    if not isinstance(m, int):
        halves = 1 + dim_min(1, floordiv(m, enough))
        rows = dim_max(1, ceildiv(m, dim_max(1, halves * ceildiv(whole.count, halves))))
        return Blocks(rows, ceildiv(m, rows))
    assert isinstance(whole.count, int) and isinstance(strips, int)
    units = strips * whole.count
    row_tiles = -(-m // tall)
    worth_two = 2 * m * k * n >= _SHARED_OPS
    if units == 1 and row_tiles > 1 and worth_two and 4 * b <= _SMALL_BYTES:
        return _blocks_of(m, -(-row_tiles // 2) * tall)  # else all but one thread would have nothing to do
    work = units / max(1, 2 * -(-units // 2))  # of two threads' time
    fewest = 6 * tall if work < _MOST_UNEVEN and 4 * b <= _SMALL_BYTES else 2 * _least(tall)
    if m < fewest or not worth_two or (m < enough and work >= _UNEVEN) or whole.count % 2 == 0:
        return whole
    exact = -(-m // (whole.count + 1))
    rows = _whole_tiles(exact, tall)
    return _blocks_of(m, exact if exact < _UNEVEN_ROWS * rows else rows)  # some register tiles a row shorter cost less


def _halves_of_images(kernel: ContractKernel, m: int, whole: Blocks, count: int, tall: int) -> Blocks:
    """Groups of channels have halves of the image alike: shared out by groups, threads would read and write half of what the other
    has."""
    flops = 2 * m * kernel.k * kernel.n * kernel.batch
    if m < 2 * _least(tall) or count % 2 == 0 or not isinstance(flops, int) or flops < _UNIT_OPS * kernel.diagonal:
        return whole
    return _blocks_of(m, -(-m // (count + 1)))


def _blocks_of(m: int, rows: int) -> Blocks:
    return Blocks(rows, -(-m // rows))


def _least(tall: int) -> int:
    """Rows that the register tiles cut without waste, of a half."""
    return max(4 * tall, tall * (tall - 2))


def _whole_tiles(rows: int, tall: int) -> int:
    """Shorter register tiles are slower, so only the last unit has any."""
    return -(-rows // tall) * tall
