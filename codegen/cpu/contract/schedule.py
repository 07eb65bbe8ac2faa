"""Choices of the CPU contraction: register tile, rows per work unit, how rows of A are found."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ....errors import CodegenError, ScheduleError
from ....ir import Dim, DType, ceildiv
from ...kernel import ContractKernel
from ..product import MOST_SHARE
from ..target import CpuTarget
from .abreast import groups_abreast
from .blocks import Blocks, shared_blocks, whole_blocks

_ACC = {DType.F32: DType.F32, DType.F64: DType.F64, DType.I32: DType.I32, DType.F16: DType.F32, DType.BF16: DType.F32,
        DType.I64: DType.I64, DType.U32: DType.U32, DType.U64: DType.U64}  # fmt: skip
_TALL = {6: 4, 5: 4, 4: 6, 3: 8, 2: 12, 1: 14}  # rows of a register tile by its vectors, in 32 registers
_HALF_TALL = {4: 5, 3: 7, 2: 8}  # the same where the last vector is half of one: of more rows, LLVM keeps some of the sums on the stack
_TALL_16 = {2: 6, 1: 8}  # the same in 16 registers
_TALL_128 = {2: 4, 1: 8}
_NARROW_TALL = 8  # rows of tiles of one vector: twice as many sums as one multiply-add a cycle needs
_NARROW_BYTES = 24 << 10  # of a panel of B that they read in part, from the first-level cache
_SEGMENT = 24  # elements of the taps of a line that are unrolled where no fewer divide them
_LOOPED = 96  # multiply-adds that hide what a loop takes: unrolling more is no faster, and much code
_SPLIT_BYTES = 1 << 17  # of a strip of B: this much in use and this much on its way, beside the rows of A;
_STREAM_SPLIT_BYTES = 1 << 18  # where hardware streams bring it: they begin anew with each part
_FEW_ROWS = 64  # elsewhere rows up to which memory sets the pace: lines of the second-level cache would be in the way of those from it
_PACED_ROWS = 6  # that multiply a line of B well before the next one comes, 64 bytes in 2 ns
_FIRST_BYTES = 1 << 15  # of a strip of B then: it stays in the first-level cache
_STREAM_BYTES = 1 << 19  # of a B that does not wait in the second-level cache: up to four rows ask for it, too, unless hardware streams
_APART_BYTES = 1 << 15  # the same of a B whose rows lie apart, so that they may share few sets of the cache


@dataclass(frozen=True, slots=True)
class ContractSchedule:
    """`lanes` × `vectors` columns (a strip) by each of `tiles` rows at a time.

    tiles: row counts of the register tiles, descending. Rows are cut exactly: h·tiles[0] + l·tiles[1], h as large as can be.
    tail_tiles: the same for the last strip: where it is narrower its tiles are taller, where it is wider lower, for about as many sums.
    block, blocks: rows of a unit, and units along m; whole_block, whole_blocks: the same where one call does everything.
    tail: vectors of the last strip, which may be wider than the others: 0 none (n divides), -1 unknown until run time; half: the last
    of them needs half of its lanes, and multiply-adds of so many take half the time. mode: "matmul" rows at a stride,
    "taps" rows by indirection per filter tap, "segments" the same with the taps of the last axis as one (few channels).
    abreast: groups of one vector each that a strip has side by side, so that columns are those of all groups.
    """

    acc: DType
    lanes: int
    vectors: int
    tiles: tuple[int, ...]
    tail_tiles: tuple[int, ...]
    tail: int
    half: bool
    abreast: int
    mode: str
    unroll: int
    k_multiple: bool  # k (of one tap) is a multiple of `unroll`
    prefetch: bool
    gradual: bool  # tiles ask for lines of results, and for the next rows of A, a few at a time while they multiply
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
    acc, mode = accumulator(kernel), _mode(kernel)
    lanes = target.vector_bits // 8 // acc.itemsize
    if kernel.panel % lanes:
        raise CodegenError(f"panel of {kernel.panel} columns", expected=f"a multiple of {lanes} lanes")
    narrow = not (hints.vectors or hints.tall) and _narrow(kernel, target, acc, mode)
    vectors = 1 if narrow else _vectors(kernel, target, lanes, hints)
    abreast = groups_abreast(kernel, target, mode) if vectors == 1 and kernel.n == lanes else 1
    columns = kernel.n
    if abreast > 1:
        vectors, columns = abreast, kernel.batch * lanes
        kernel = replace(kernel, batch=ceildiv(kernel.batch, abreast), n=abreast * lanes)  # blocks of rows are as for so many groups
    strip, strips = lanes * vectors, ceildiv(kernel.n, lanes * vectors)
    if kernel.last and strip != kernel.panel:
        raise ScheduleError(f"strips of {vectors} vectors", expected=f"those of a panel of {kernel.panel} columns")
    if kernel.last > strip:
        strips -= 1
    if hints.tall and not 3 <= hints.tall <= 16:
        raise ScheduleError(f"register tiles of {hints.tall} rows", expected="3 to 16")
    tall = hints.tall or (_NARROW_TALL if narrow else _tallest(kernel, target, mode, vectors))
    tiles = _tiles(kernel.m, tall)
    taps = 1
    if kernel.conv is not None and mode != "matmul":
        taps = math.prod(kernel.conv.kernel[:-1] if mode == "segments" else kernel.conv.kernel)
    whole = whole_blocks(kernel, strip, strips, tiles[0], taps)
    shared = shared_blocks(kernel, strips, whole, tiles[0], taps)
    if hints.block:
        if hints.block < tiles[0]:
            raise ScheduleError(f"units of {hints.block} rows", expected=f"{tiles[0]} or more")
        shared = whole = Blocks(hints.block, ceildiv(kernel.m, hints.block))
    n_tail = (columns % strip + strip * (kernel.last > strip) if columns else 1) if isinstance(columns, int) else None
    tail = -1 if n_tail is None else -(-n_tail // lanes)
    tail_tiles, tall_tail = tiles, tall
    half = _half(kernel, target, acc, n_tail, abreast)
    if 0 < tail != vectors:
        tallest = _tallest(kernel, target, mode, tail)
        tall_tail = tallest if tail > vectors else max(tall, tallest)
    if half and not hints.tall:
        tall_tail = min(tall_tail, _HALF_TALL.get(tail, tall_tail))
    if tall_tail != tall:
        tail_tiles = _tiles(shared.rows if isinstance(shared.rows, int) else kernel.m, tall_tail)
    unroll = 4 if mode != "segments" else _whole_steps(kernel.k // taps, -(-_LOOPED // (tall * vectors)))
    steps = kernel.k if mode == "matmul" else taps
    row_tiles = _row_tiles(whole.rows, tiles[0])
    streams = mode == "matmul" and tiles[0] > 1 and not target.streams and _streams(kernel)
    k_block = _k_block(kernel, target, mode, steps, hints) if tiles[0] > 4 or row_tiles > 1 or streams else 0
    left = mode == "matmul" and row_tiles == 1 and tiles[0] <= _PACED_ROWS and target.streams and _streams(kernel)  # to the hardware
    prefetch = (tiles[0] > 4 or (mode == "matmul" and row_tiles > 1) or streams) and not left and hints.prefetch >= 0
    return ContractSchedule(
        acc, lanes, vectors, tiles, tail_tiles, tail, half, abreast, mode, unroll,
        k_multiple=isinstance(kernel.k, int) and kernel.k // taps % unroll == 0,
        gradual=_gradual(kernel, mode, steps, k_block, unroll, max(tiles[0], tail_tiles[0])),
        prefetch=prefetch and kernel.panel == strip and not kernel.b_row and kernel.diagonal == 1,
        share=_share(row_tiles), share_apart=_share(_row_tiles(shared.rows, tiles[0])),
        steps=steps, split=k_block > 0, k_block=k_block, block=shared.rows,
        blocks=shared.count, whole_block=whole.rows, whole_blocks=whole.count, strips=strips if kernel.last else ceildiv(columns, strip),
    )  # fmt: skip


def accumulator(kernel: ContractKernel) -> DType:
    a, b = (o.dtype for o in kernel.operands[:2])
    acc = _ACC.get(a)
    if acc is None or b is not a:
        raise CodegenError(f"contraction of {a.value} by {b.value}", expected="one of " + ", ".join(d.value for d in _ACC))
    return acc


def _vectors(kernel: ContractKernel, target: CpuTarget, lanes: int, hints: ContractHints) -> int:
    """Of a strip: what divides a panel, and no more than there are columns."""
    wide = target.vector_registers == 32
    per_panel = kernel.panel // lanes
    few = kernel.m if isinstance(kernel.m, int) and kernel.m <= 2 else None  # rows

    def no_wider(vectors: int) -> int:
        while vectors > 1 and isinstance(kernel.n, int) and kernel.n <= lanes * (vectors // 2):
            vectors //= 2
        return vectors

    if hints.vectors and kernel.diagonal == 1:
        if per_panel % hints.vectors:
            raise ScheduleError(f"strips of {hints.vectors} vectors", expected=f"a divisor of {per_panel}, those of a panel")
        return hints.vectors
    if not wide and few is not None:  # enough accumulators to hide the latency of the multiply-add
        return next(v for v in (8 // few if few else 1, 4, 2, 1) if per_panel % v == 0)
    if wide and few is not None and kernel.b_row:  # longer pieces of the rows of B
        return no_wider(16 // max(1, few))
    if kernel.diagonal > 1:  # one strip: the blocks of its columns are known
        return no_wider(per_panel)
    return no_wider(next(v for v in ((4, 3, 2, 1) if wide else (2, 1)) if per_panel % v == 0))


def _narrow(kernel: ContractKernel, target: CpuTarget, acc: DType, mode: str) -> bool:
    """Whether register tiles are of one vector. Where one multiply-add a cycle is all there is, these keep it as busy as large ones do, and
    where sums are short, more of them are on their way at once: what begins and ends a tile takes place beside the next one's sums."""
    panel = kernel.k * kernel.panel * acc.itemsize
    rows = isinstance(kernel.m, int) and kernel.m >= _NARROW_TALL
    short = isinstance(panel, int) and panel <= _NARROW_BYTES
    single = target.halves and acc is DType.F32
    return single and not kernel.last and mode == "matmul" and rows and short and kernel.diagonal == 1 and not kernel.b_row


def _tallest(kernel: ContractKernel, target: CpuTarget, mode: str, vectors: int) -> int:
    """Rows of a register tile of so many vectors."""
    wide = target.vector_registers == 32
    tall = (_TALL if wide else _TALL_16 if target.vector_bits >= 256 else _TALL_128).get(vectors, 2)
    if mode == "matmul":
        return tall
    return min(tall, 8 if kernel.diagonal == 1 or wide else max(2, 8 // vectors - 1))  # what is permuted takes registers too


def _half(kernel: ContractKernel, target: CpuTarget, acc: DType, columns: int | None, abreast: int) -> bool:
    """Whether the last vector of a last strip of so many columns is worth half a register."""
    lanes = target.lanes(acc.itemsize)
    short = columns is not None and 0 < columns % lanes <= lanes // 2
    return target.halves and acc is DType.F32 and short and abreast == kernel.diagonal == 1 and not kernel.b_row


def _streams(kernel: ContractKernel) -> bool:
    """B comes from memory. (A single row reads it as fast as memory gives by itself.)"""
    size = kernel.batch * kernel.k * kernel.n * kernel.operands[0].dtype.itemsize
    return isinstance(size, int) and size >= _STREAM_BYTES


def _k_block(kernel: ContractKernel, target: CpuTarget, mode: str, steps: Dim, hints: ContractHints) -> int:
    """Steps of k whose part of a strip of B stays in a cache; 0: all of them."""
    step_bytes = (1 if mode == "matmul" else kernel.k // steps) * kernel.panel * kernel.operands[0].dtype.itemsize
    if not isinstance(steps, int) or not isinstance(step_bytes, int) or mode == "segments" or kernel.diagonal > 1:
        return 0
    if hints.k_block:
        k_block = max(0, hints.k_block)
    else:
        size = steps * step_bytes
        few = mode == "matmul" and isinstance(kernel.m, int) and kernel.m <= _FEW_ROWS and size >= 2 * _FIRST_BYTES
        piece = _STREAM_SPLIT_BYTES if target.streams else _FIRST_BYTES if few else _SPLIT_BYTES
        pieces = size // _APART_BYTES if kernel.b_row else -(-size // piece)
        k_block = -(-steps // max(1, pieces))
        if mode == "matmul":
            k_block = -(-k_block // 64) * 64
    return k_block if k_block < steps else 0


def _gradual(kernel: ContractKernel, mode: str, steps: Dim, k_block: int, unroll: int, tall: int) -> bool:
    """Whether the last of the steps, after which results are written, are enough to ask for a row beside each few, and to wait for it."""
    if mode != "matmul" or kernel.b_row or not isinstance(steps, int) or (tall <= 4 and not _streams(kernel)):
        return False
    last = steps - (-(-steps // k_block) - 1) * k_block if k_block else steps
    return last >= 2 * tall * unroll


def _row_tiles(block: Dim, height: int) -> int:
    """Of a block of rows; many where its size is not known."""
    return -(-block // height) if isinstance(block, int) else 8


def _share(row_tiles: int) -> int:
    """log2 of the row tiles of a block that prefetch."""
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
