"""Choices of the CPU contraction: register tile, rows per work unit, how rows of A are found."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ....errors import CodegenError, ScheduleError
from ....ir import Dim, DType, ceildiv, dim_max, dim_min, floordiv
from ...kernel import ContractKernel
from ..product import MOST_SHARE
from ..target import CpuTarget

_ACC = {DType.F32: DType.F32, DType.F64: DType.F64, DType.I32: DType.I32, DType.F16: DType.F32, DType.BF16: DType.F32,
        DType.I64: DType.I64, DType.U32: DType.U32, DType.U64: DType.U64}  # fmt: skip
_UNIT_OPS = 2_000_000  # 10 to 20 µs of one core: far above the cost of handing out a unit
_BLOCK_ROWS = 126  # of a B that does not stay in the cache: with more, rows of A are gone before the next strip wants them
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
_UNEVEN_ROWS = 0.95  # share of a half of the rows in the same half of whole register tiles, below which the other thread waits
_TALL = {4: 6, 3: 8, 2: 12, 1: 14}  # rows of a register tile by its vectors, in 32 registers
_TALL_16 = {2: 6, 1: 8}  # the same in 16 registers
_TALL_128 = {2: 4, 1: 8}
_SEGMENT = 24  # elements of the taps of a line that are unrolled where no fewer divide them
_LOOPED = 96  # multiply-adds that hide what a loop takes: unrolling more is no faster, and much code
_SPLIT_BYTES = 1 << 17  # of a strip of B: this much in use and this much on its way, beside the rows of A
_FEW_ROWS = 64  # up to which memory sets the pace: lines of the second-level cache would be in the way of those that come from it
_FIRST_BYTES = 1 << 15  # of a strip of B then: it stays in the first-level cache
_STREAM_BYTES = 1 << 19  # of a B that does not wait in the second-level cache, so that up to four rows have it prefetched too
_APART_BYTES = 1 << 15  # the same of a B whose rows lie apart, so that they may share few sets of the cache


@dataclass(frozen=True, slots=True)
class ContractSchedule:
    """`lanes` × `vectors` columns (a strip) by each of `tiles` rows at a time.

    tiles: row counts of the register tiles, descending. Rows are cut exactly: h·tiles[0] + l·tiles[1], h as large as can be.
    tail_tiles: the same for the last strip where it is narrower, so that its tiles are taller: as many sums at once.
    block, blocks: rows of a unit, and units along m; whole_block, whole_blocks: the same where one call does everything.
    tail: vectors of the last strip: 0 none (n divides), -1 unknown until run time. mode: "matmul" rows at a stride,
    "taps" rows by indirection per filter tap, "segments" the same with the taps of the last axis as one (few channels).
    """

    acc: DType
    lanes: int
    vectors: int
    tiles: tuple[int, ...]
    tail_tiles: tuple[int, ...]
    tail: int
    mode: str
    unroll: int
    k_multiple: bool  # k (of one tap) is a multiple of `unroll`
    prefetch: bool
    share: int  # log2 of the row tiles that together prefetch a strip of B, where one call has all rows
    share_apart: int  # the same where it has not
    steps: Dim  # of k: its elements, or the taps that are walked one by one
    split: bool  # k is walked in blocks of k_block steps (taps, for "taps"), partial sums resting on the stack
    k_block: int
    block: Dim
    blocks: Dim
    whole_block: Dim
    whole_blocks: Dim
    strips: Dim


@dataclass(frozen=True, slots=True)
class ContractHints:
    """Choices that replace those of the rules; 0: none does.

    vectors, tall: of the register tile, columns in vectors and rows. block: rows of a work unit.
    k_block: steps of k between partial sums (−1: one walk over all of k). prefetch: −1 for none.
    """

    vectors: int = 0
    tall: int = 0
    block: int = 0
    k_block: int = 0
    prefetch: int = 0


NO_HINTS = ContractHints()


def schedule_contract(kernel: ContractKernel, target: CpuTarget, hints: ContractHints = NO_HINTS) -> ContractSchedule:
    """Raises CodegenError for element types without a multiply-add, ScheduleError for hints that the kernel cannot have."""
    dtype = kernel.operands[0].dtype
    acc = _ACC.get(dtype)
    if acc is None or kernel.operands[1].dtype is not dtype:
        raise CodegenError(
            f"contraction of {dtype.value} by {kernel.operands[1].dtype.value}",
            expected="one of " + ", ".join(d.value for d in _ACC),
        )
    lanes = target.vector_bits // 8 // acc.itemsize
    wide = target.vector_registers == 32
    if kernel.panel % lanes:
        raise CodegenError(f"panel of {kernel.panel} columns", expected=f"a multiple of {lanes} lanes")
    per_panel = kernel.panel // lanes
    vectors = next(v for v in ((4, 3, 2, 1) if wide else (2, 1)) if per_panel % v == 0)
    if kernel.diagonal > 1:
        vectors = per_panel  # one strip: the blocks of its columns are known
    if isinstance(kernel.n, int):
        while vectors > 1 and kernel.n <= lanes * (vectors // 2):
            vectors //= 2
    if not wide and isinstance(kernel.m, int) and kernel.m <= 2:  # enough accumulators to hide the latency of the multiply-add
        vectors = next(v for v in (8 // kernel.m if kernel.m else 1, 4, 2, 1) if per_panel % v == 0)
    if kernel.b_row and wide and isinstance(kernel.m, int) and kernel.m <= 2:  # longer pieces of the rows of B
        vectors = 16 // max(1, kernel.m)
        while vectors > 1 and isinstance(kernel.n, int) and kernel.n <= lanes * (vectors // 2):
            vectors //= 2
    if hints.vectors and kernel.diagonal == 1:
        if per_panel % hints.vectors:
            raise ScheduleError(f"strips of {hints.vectors} vectors", expected=f"a divisor of {per_panel}, those of a panel")
        vectors = hints.vectors
    strip = lanes * vectors
    mode = _mode(kernel)

    def tallest(vectors: int) -> int:
        tall = (_TALL if wide else _TALL_16 if target.vector_bits >= 256 else _TALL_128).get(vectors, 2)
        if mode != "matmul":
            tall = min(tall, 8 if kernel.diagonal == 1 or wide else max(2, 8 // vectors - 1))  # what is permuted takes registers too
        return tall

    tall = tallest(vectors)
    if hints.tall:
        if not 3 <= hints.tall <= 16:
            raise ScheduleError(f"register tiles of {hints.tall} rows", expected="3 to 16")
        tall = hints.tall
    tiles = _tiles(kernel.m, tall)
    n_tail = (kernel.n % strip if kernel.n else 1) if isinstance(kernel.n, int) else None
    tail = -1 if n_tail is None else -(-n_tail // lanes)
    taps = 1
    if kernel.conv is not None and mode != "matmul":
        taps = math.prod(kernel.conv.kernel[:-1] if mode == "segments" else kernel.conv.kernel)
    unroll = 4 if mode != "segments" else _whole_steps(kernel.k // taps, -(-_LOOPED // (tall * vectors)))
    k_multiple = isinstance(kernel.k, int) and kernel.k // taps % unroll == 0
    strips = ceildiv(kernel.n, strip)
    whole_block, whole_blocks = _blocks(kernel, strip, strips, tiles[0], taps)
    block, blocks = _shared(kernel, strips, whole_block, whole_blocks, tiles, taps)
    if hints.block:
        if hints.block < tiles[0]:
            raise ScheduleError(f"units of {hints.block} rows", expected=f"{tiles[0]} or more")
        block, blocks = whole_block, whole_blocks = hints.block, ceildiv(kernel.m, hints.block)
    tail_tiles = tiles
    if 0 < tail < vectors and tallest(tail) > tall:
        tail_tiles = _tiles(block if isinstance(block, int) else kernel.m, tallest(tail))
    steps = kernel.k if mode == "matmul" else taps
    step_bytes = (1 if mode == "matmul" else kernel.k // taps) * kernel.panel * dtype.itemsize
    row_tiles = -(-whole_block // tiles[0]) if isinstance(whole_block, int) else 8
    # A single row reads as fast as memory gives by itself.
    size = kernel.batch * kernel.k * kernel.n * dtype.itemsize
    streams = mode == "matmul" and tiles[0] > 1 and isinstance(size, int) and size >= _STREAM_BYTES
    k_block = 0
    if (
        isinstance(steps, int)
        and isinstance(step_bytes, int)
        and mode != "segments"
        and kernel.diagonal == 1
        and (tiles[0] > 4 or row_tiles > 1 or streams)
    ):
        few = mode == "matmul" and isinstance(kernel.m, int) and kernel.m <= _FEW_ROWS and steps * step_bytes >= 2 * _FIRST_BYTES
        piece = _APART_BYTES if kernel.b_row else _FIRST_BYTES if few else _SPLIT_BYTES
        pieces = -(-steps * step_bytes // piece) if not kernel.b_row else steps * step_bytes // piece
        k_block = -(-steps // max(1, pieces))
        if mode == "matmul":
            k_block = -(-k_block // 64) * 64
        if hints.k_block:
            k_block = max(0, hints.k_block)
        if k_block >= steps:
            k_block = 0
    prefetch = (tiles[0] > 4 or (mode == "matmul" and row_tiles > 1) or streams) and kernel.panel == strip and not kernel.b_row
    prefetch = prefetch and kernel.diagonal == 1
    return ContractSchedule(
        acc, lanes, vectors, tiles, tail_tiles, tail, mode, unroll, k_multiple,
        prefetch=prefetch and hints.prefetch >= 0,
        share=_share(whole_block, tiles[0]), share_apart=_share(block, tiles[0]),
        steps=steps, split=k_block > 0, k_block=k_block, block=block,
        blocks=blocks, whole_block=whole_block, whole_blocks=whole_blocks, strips=strips,
    )  # fmt: skip


def _share(block: Dim, height: int) -> int:
    """log2 of the row tiles of a block that prefetch."""
    row_tiles = -(-block // height) if isinstance(block, int) else 8
    return min(MOST_SHARE, max(1, row_tiles).bit_length() - 1)


def _mode(kernel: ContractKernel) -> str:
    conv = kernel.conv
    if kernel.diagonal > 1:
        return "taps"
    if conv is None or conv.in_place:
        return "matmul"
    taps = math.prod(conv.kernel)
    if isinstance(kernel.k, int) and kernel.batch == 1 and conv.dilations[-1] == 1:
        channels = kernel.k // taps
        if channels == kernel.lda and channels < 24 and kernel.k <= 4096:
            return "segments"
    return "taps"


def _whole_steps(length: Dim, enough: int) -> int:
    """Steps at a time, `enough` or a few more, so that there is no remainder; else short segments at once."""
    assert isinstance(length, int)
    if length <= enough:
        return length
    whole = next((u for u in (*range(max(4, enough), 13), *range(enough - 1, 3, -1)) if length % u == 0), 4)
    return length if length % whole and length <= _SEGMENT else whole


def _tiles(m: Dim, tall: int) -> tuple[int, ...]:
    """Two neighbouring heights cut any m ≥ tall·(tall−2) exactly; smaller static m get heights of their own."""
    if isinstance(m, int) and m < tall * (tall - 1):
        high = max(1, -(-m // max(1, -(-m // tall))))
        return (high,) if high <= 1 or m % high == 0 else (high, high - 1)
    return (tall, tall - 1) if isinstance(m, int) else (tall, tall - 1, 1)


def _whole_tiles(rows: int, tall: int) -> int:
    """Shorter register tiles are slower, so only the last unit has any."""
    return -(-rows // tall) * tall


def _blocks(kernel: ContractKernel, strip: int, strips: Dim, tall: int, taps: int) -> tuple[Dim, Dim]:
    """(rows per unit, units along m)."""
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
        return block, -(-kernel.m // block) if kernel.m else 0
    if most <= rows:
        height = dim_max(1, ceildiv(kernel.m, dim_max(1, ceildiv(kernel.m, most))))
    else:
        height = dim_max(1, ceildiv(kernel.m, dim_max(1, floordiv(kernel.m, rows))))
    return height, ceildiv(kernel.m, height)


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


def _shared(kernel: ContractKernel, strips: Dim, block: Dim, blocks: Dim, tiles: tuple[int, ...], taps: int) -> tuple[Dim, Dim]:
    """(rows per unit, units along m) for several threads: an even number of blocks, so that half of the threads has half of the
    rows. What they read is then what they wrote in the step before, as steps along rows are shared out alike; lines that lie in
    the cache of another core cost several times as much. B gets read once more for it. Groups of channels have halves of the image
    alike: shared out by groups, threads would read and write half of what the other has.
    """
    n, k, m = kernel.n, kernel.k, kernel.m
    least = max(4 * tiles[0], tiles[0] * (tiles[0] - 2))  # rows: the register tiles cut them without waste
    if kernel.batch != 1 and kernel.conv is not None and isinstance(m, int) and isinstance(blocks, int):
        flops = 2 * m * k * n * kernel.batch
        if m < 2 * least or blocks % 2 == 0 or not isinstance(flops, int) or flops < _UNIT_OPS * kernel.diagonal:
            return block, blocks
        half = -(-m // (blocks + 1))
        return half, -(-m // half)
    if kernel.batch != 1 or not isinstance(n, int) or not isinstance(k, int) or not n or not k:
        return block, blocks
    b = k * n // kernel.diagonal
    enough = max(2 * least, b // (_READ_AGAIN * (k // taps + n)))  # rows from which on B is small beside A and C
    if isinstance(m, int):
        assert isinstance(block, int) and isinstance(blocks, int) and isinstance(strips, int)
        units = strips * blocks
        row_tiles = -(-m // tiles[0])
        if units == 1 and row_tiles > 1 and 2 * m * k * n >= _UNIT_OPS and 4 * b <= _SMALL_BYTES:
            block = -(-row_tiles // 2) * tiles[0]  # else all but one thread would have nothing to do
            return block, -(-m // block)
        uneven = units < _UNEVEN * 2 * -(-units // 2)
        if m < 2 * least or 2 * m * k * n < _UNIT_OPS or (m < enough and not uneven) or blocks % 2 == 0:
            return block, blocks
        exact = -(-m // (blocks + 1))
        block = _whole_tiles(exact, tiles[0])
        if exact < _UNEVEN_ROWS * block:
            block = exact  # some register tiles a row shorter cost less
        return block, -(-m // block)
    halves = 1 + dim_min(1, floordiv(m, enough))
    rows = dim_max(1, ceildiv(m, dim_max(1, halves * ceildiv(blocks, halves))))
    return rows, ceildiv(m, rows)
