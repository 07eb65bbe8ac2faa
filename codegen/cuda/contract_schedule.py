"""How a contraction is cut into tiles: for blocks, threads, and along k."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ...ir import Dim, DType, ceildiv, dim_max, dim_min, floordiv, lower, prod, upper
from ..kernel import ContractKernel
from .launching import between
from .target import DEVICES, Device

WAVE = 132  # blocks that keep a large device busy (multiprocessors of an H200; fewer on most)
SPLIT_K = 512  # elements of k that a split should have at least
MIN_SPLITS, MAX_SPLITS = 3, 16  # fewer save less than the sum of their parts takes


@dataclass(frozen=True, slots=True)
class FmaSchedule:
    """bm × bn results of a block, bk of k at a time, tm × tn of a thread; `slices` of the block share bk;
    `splits` blocks share k."""

    bm: int
    bn: int
    bk: int
    tm: int
    tn: int
    slices: int = 1
    splits: Dim = 1

    @property
    def threads(self) -> int:
        return self.bm // self.tm * (self.bn // self.tn) * self.slices

    @property
    def resident(self) -> int:
        """Blocks to a multiprocessor, as far as registers go: sums, and about as many for tiles on their way and addresses."""
        return max(1, 65536 // (self.threads * (32 + self.tm * self.tn * 3 // 2)))

    def shared(self, itemsize: int) -> int:
        """Bytes: two tiles of A and B (along m and n, padded); the sums of the slices come later in the same place."""
        tiles = 2 * self.bk * (self.bm + 4 + self.bn + 4)
        return itemsize * max(tiles, self.slices * self.bm * self.bn if self.slices > 1 else 0)


def schedule_fma(kernel: ContractKernel) -> FmaSchedule:
    """The tile with the shortest estimated time, and as many blocks to share k as that takes."""
    wide = kernel.operands[0].dtype.itemsize > 4
    m, n = upper(kernel.m), upper(kernel.n)
    if n > 32 and not wide:
        candidates = [FmaSchedule(128, 128, 16, 8, 8), FmaSchedule(128, 64, 16, 8, 4), FmaSchedule(64, 64, 16, 4, 4),
                      FmaSchedule(32, 64, 32, 4, 4, 2)]  # fmt: skip
        skinny = FmaSchedule(16, 64, 64, 4, 4, 4) if m > 4 else FmaSchedule(4, 64, 64, 4, 4, 16)
    else:
        bn = 32 if n > 16 else 16
        candidates = [FmaSchedule(64, bn, 16, 4, 4), FmaSchedule(32, bn, 16, 4, 4, 2)]
        skinny = FmaSchedule(16, bn, 32, 4, 4, 4) if m > 4 else FmaSchedule(4, bn, 32, 4, 4, 8)
    if m <= 16:
        candidates = [skinny]
    return with_splits(kernel, min(candidates, key=lambda s: fma_cost(kernel, s)), WAVE)


def tiles(kernel: ContractKernel, s: FmaSchedule | MmaSchedule | WgmmaSchedule) -> Dim:
    """Blocks without splits."""
    return prod((kernel.batch, ceildiv(kernel.m, s.bm), ceildiv(kernel.n, s.bn)))


def _count(kernel: ContractKernel, s: FmaSchedule | MmaSchedule | WgmmaSchedule) -> int:
    """Blocks without splits, of sizes as they are taken to be."""
    return typical(kernel.batch) * ceil(typical(kernel.m), s.bm) * ceil(typical(kernel.n), s.bn)


def splits(kernel: ContractKernel, blocks: Dim, wave: int) -> Dim:
    """Blocks to share k, where results alone would leave most of `wave` multiprocessors idle: of an unknown number of results, as these
    are at a launch. Not for an unknown size of k."""
    most = min(MAX_SPLITS, kernel.k // SPLIT_K) if isinstance(kernel.k, int) and upper(blocks) > 0 else 1
    if most < MIN_SPLITS or lower(blocks) > wave // MIN_SPLITS:
        return 1
    if lower(blocks) == upper(blocks):
        blocks = lower(blocks)
    count = dim_min(most, floordiv(wave, dim_max(1, blocks)))
    return dim_max(1, count * between(count, MIN_SPLITS, None))


T = TypeVar("T", bound="FmaSchedule | MmaSchedule | WgmmaSchedule")


def with_splits(kernel: ContractKernel, s: T, wave: int) -> T:
    """The tile with the blocks that share k."""
    if isinstance(s, FmaSchedule) and known(kernel):
        return replace(s, splits=min(_shares_of(kernel, s), key=lambda n: _fma_time(kernel, s, n)))
    return replace(s, splits=splits(kernel, tiles(kernel, s), wave))


def known(kernel: ContractKernel) -> bool:
    """Whether all sizes are."""
    return all(isinstance(d, int) for d in (kernel.batch, kernel.m, kernel.n, kernel.k))


@dataclass(frozen=True, slots=True)
class Instruction:
    """A tensor-core product of a warp: 16×8 results over 8 words of k, each of `group` elements.

    `name` is its function in mlc.cuh, `word` what an operand's word goes through first.
    """

    name: str
    group: int
    word: str = "same_word"


INSTRUCTIONS = {
    (DType.BF16, DType.BF16): Instruction("mma_bf16", 2),
    (DType.F16, DType.F16): Instruction("mma_f16", 2),
    (DType.U8, DType.I8): Instruction("mma_u8s8", 4),
    (DType.I8, DType.I8): Instruction("mma_s8s8", 4),
    (DType.F8E4M3FN, DType.F8E4M3FN): Instruction("mma_e4m3", 4),
}
TF32 = Instruction("mma_tf32", 1, "to_tf32")


def instruction(kernel: ContractKernel, tf32: bool) -> Instruction | None:
    """The instruction for the operands; float32 takes one only where it may round to TF32 (10 bits of mantissa)."""
    types = kernel.operands[0].dtype, kernel.operands[1].dtype
    return TF32 if tf32 and types == (DType.F32, DType.F32) else INSTRUCTIONS.get(types)


@dataclass(frozen=True, slots=True)
class MmaSchedule:
    """bm × bn results of a block of warps_m × warps_n warps, `words` of k in each of `stages` tiles that are on their way;
    `resident` blocks to a multiprocessor; `efficiency`: of the tensor cores, as far as the tile lets them; `splits` share k,
    or the blocks of a `stream`, if not 0, share all steps along k."""

    bm: int
    bn: int
    words: int
    warps_m: int
    warps_n: int
    stages: int
    resident: int
    efficiency: float
    splits: Dim = 1
    stream: int = 0

    @property
    def threads(self) -> int:
        return self.warps_m * self.warps_n * 32

    @property
    def shared(self) -> int:
        """Bytes of the tiles of A and B."""
        return 4 * self.stages * self.words * (self.bm + self.bn)


_TILES = (
    MmaSchedule(128, 256, 16, 2, 4, 4, 1, 1.0), MmaSchedule(128, 128, 16, 2, 2, 4, 2, 0.95), MmaSchedule(128, 64, 16, 4, 1, 4, 2, 0.8),
    MmaSchedule(64, 64, 16, 2, 2, 4, 3, 0.6), MmaSchedule(128, 32, 16, 4, 1, 4, 3, 0.6), MmaSchedule(64, 32, 16, 4, 1, 4, 4, 0.4),
    MmaSchedule(32, 64, 32, 2, 2, 4, 2, 0.4), MmaSchedule(16, 64, 32, 1, 4, 4, 2, 0.25), MmaSchedule(16, 32, 32, 1, 2, 6, 2, 0.2),
)  # fmt: skip


def schedule_mma(kernel: ContractKernel, device: Device) -> MmaSchedule:
    """The tile with the shortest estimated time."""
    return _soonest(kernel, [replace(t, resident=min(t.resident, device.resident(t.shared))) for t in _TILES], device.multiprocessors)


STEP = 10_000.0  # results whose products with 64 elements of k take as long as a step of copies, from memory to the first product
DEEP = 64
FINISH = 12  # such steps that the sum of splits takes


def cost(kernel: ContractKernel, s: MmaSchedule | WgmmaSchedule, wave: int) -> tuple[float, int]:
    """An estimated time on `wave` multiprocessors, and what is read: to compare tiles by.

    A multiprocessor computes its blocks, parts of tiles beyond the result too, and with fewer blocks than it has room for it
    waits more. No step along k is faster than its copies, which part of a device makes slower than all of it.
    """
    shared = upper(splits(kernel, _count(kernel, s), wave))
    count = _count(kernel, s) * shared
    blocks = max(1, ceil(count, wave))
    busy = blocks * s.bm * s.bn / s.efficiency * math.sqrt(s.resident / min(blocks, s.resident))
    step = max(busy, STEP * (1.5 - 0.5 * min(1.0, count / wave)))
    steps = ceil(ceil(typical(kernel.k), DEEP), shared) + (FINISH if shared > 1 else 0)
    return step * steps, count * (s.bm + s.bn)


SM90_MULTIPROCESSORS = DEVICES[90].multiprocessors
TYPICAL = 1024  # what an unknown number of rows is taken for, if its bounds allow


@dataclass(frozen=True, slots=True)
class WgmmaSchedule:
    """bm × bn results of a block at a time, bm / 64 warp groups multiply and one copies; `stages` tiles of 128 bytes of k;
    `resident` blocks to a multiprocessor; `efficiency`: of the tensor cores, as far as the tile lets them; `splits` share k, or
    the blocks of a `stream`, if not 0, share all steps along k; `cluster` blocks below each other bring a tile of B together."""

    bm: int
    bn: int
    stages: int
    resident: int
    efficiency: float
    splits: Dim = 1
    stream: int = 0
    cluster: int = 1

    @property
    def groups(self) -> int:
        """Warp groups that multiply."""
        return self.bm // 64

    @property
    def threads(self) -> int:
        return self.bm * 2 + 128

    @property
    def shared(self) -> int:
        """Bytes: tiles, two barriers a stage, and what it takes to begin at a multiple of 1024."""
        return self.stages * ((self.bm + self.bn) * 128 + 16) + 1024

    @property
    def staged(self) -> int:
        """Pieces of 64 rows of 128 bytes in which each group lays down its results, where the engine stores them."""
        return 2 if self.resident == 1 else 1

    @property
    def staging(self) -> int:
        """Bytes of these."""
        return self.groups * self.staged * (64 * 128)

    def registers(self, by_copies: bool) -> tuple[int, int] | None:
        """Registers of a thread that copies and of one that multiplies, where the same for all (65536 / threads) are too few."""
        return None if self.bn < 256 else (88, 208) if by_copies else (40, 232)


_GROUPS = (WgmmaSchedule(128, 256, 4, 1, 1.0), WgmmaSchedule(128, 192, 4, 1, 0.95), WgmmaSchedule(128, 128, 6, 1, 0.85),
           WgmmaSchedule(64, 128, 4, 2, 0.7), WgmmaSchedule(64, 64, 6, 2, 0.5))  # fmt: skip
STREAM_GAIN = 0.95  # of the time, at most: blocks of a stream read less of what their neighbours read
LEAST_STEPS, MOST_STEPS = 4, 2**30  # that a block's share of a stream has; of all blocks
LEAST_ROWS, LEAST_COLUMNS = 48, 32  # fewer leave most of a tile of 64 idle


def schedule_wgmma(kernel: ContractKernel) -> WgmmaSchedule | None:
    """The tile with the shortest estimated time. None where tiles are mostly empty."""
    if typical(kernel.m) < LEAST_ROWS or typical(kernel.n) < LEAST_COLUMNS:
        return None
    return _soonest(kernel, _GROUPS, SM90_MULTIPROCESSORS)


def clustered(kernel: ContractKernel, s: WgmmaSchedule) -> WgmmaSchedule:
    """The same by clusters of two blocks, which read a third less of tiles of 128×256; as it is where tiles do not come in pairs of
    rows, have few columns, or share k."""
    pieces = 64 if kernel.b_row == 0 else 128  # of columns: each block brings whole ones
    whole = s.splits == 1 and s.stream == 0 and s.resident == 1 and s.bn >= 128 and s.bn % pieces == 0
    pairs = known(kernel) and ceil(typical(kernel.m), s.bm) % 2 == 0 and _count(kernel, s) >= SM90_MULTIPROCESSORS
    return replace(s, cluster=2) if whole and pairs else s


S = TypeVar("S", MmaSchedule, WgmmaSchedule)


def _soonest(kernel: ContractKernel, candidates: Sequence[S], wave: int) -> S:
    """Of whole tiles, in waves of blocks, whose k is split where they are few; or of a stream, where that takes less."""
    whole = min(candidates, key=lambda s: cost(kernel, s, wave))
    if known(kernel):
        streamed = min(candidates, key=lambda s: stream_cost(kernel, s, wave))
        if stream_cost(kernel, streamed, wave) < STREAM_GAIN * cost(kernel, whole, wave)[0]:
            return replace(streamed, stream=wave * streamed.resident)
    return with_splits(kernel, whole, wave)


def stream_cost(kernel: ContractKernel, s: MmaSchedule | WgmmaSchedule, wave: int) -> float:
    """The estimated time with all multiprocessors busy until the end, of sizes that are known, and of what it takes that every
    block leaves a tile of sums and reads another's."""
    count = _count(kernel, s)
    steps = ceil(typical(kernel.k), DEEP)
    if not wave * s.resident * LEAST_STEPS <= count * steps < MOST_STEPS:
        return math.inf
    step = max(count / wave * s.bm * s.bn / s.efficiency, STEP * s.resident)
    return step * steps + FINISH * s.resident * s.bm * s.bn / s.efficiency


WORTH = 1.2  # times the estimate of the best plan: more is worth a launch of its own, which takes time to compile


def suits(kernel: ContractKernel, plan: object, best: object, wave: int) -> bool:
    """Whether a plan made for more rows is as good for these as the best, or nearly so."""
    if plan == best:
        return True
    if isinstance(plan, FmaSchedule) and isinstance(best, FmaSchedule):
        return fma_cost(kernel, plan) <= WORTH * fma_cost(kernel, best)
    if isinstance(plan, MmaSchedule | WgmmaSchedule) and isinstance(best, MmaSchedule | WgmmaSchedule) and type(plan) is type(best):
        return cost(kernel, plan, wave)[0] <= WORTH * cost(kernel, best, wave)[0]
    return False


FMA_DEPTH = 128  # elements of k that a split should have at least where no tensor cores multiply
FMA_BLOCKS = 4 * WAVE
FMA_WARPS = 16  # of a multiprocessor, that hide what each waits for
FMA_FINISH = 3000  # cycles until the last of the blocks that share k knows that it is; it reads what all have written,
READ = 64  # bytes a cycle


def fma_cost(kernel: ContractKernel, s: FmaSchedule) -> float:
    """An estimated time, with as many blocks to share k as it takes."""
    if known(kernel):
        return min(_fma_time(kernel, s, n) for n in _shares_of(kernel, s))
    return _fma_time(kernel, s, upper(splits(kernel, _count(kernel, s), WAVE)))


def _shares_of(kernel: ContractKernel, s: FmaSchedule) -> range:
    """How many blocks may share k: none where tiles alone are many, of which each more is a tile of sums in memory."""
    return range(1, 1 + max(1, min(MAX_SPLITS, typical(kernel.k) // FMA_DEPTH, FMA_BLOCKS // max(1, _count(kernel, s)))))


def _fma_time(kernel: ContractKernel, s: FmaSchedule, shared: int) -> float:
    """Cycles: of what a multiprocessor has to compute, 128 products each, fewer the more elements a thread loads for a product and
    the fewer warps there are to wait for."""
    blocks = ceil(_count(kernel, s) * shared, WAVE)
    warps = s.threads // 32 * min(blocks, s.resident)
    busy = s.bm * s.bn / 128 * (1 + 1 / s.tm + 1 / s.tn) * max(1.0, math.sqrt(FMA_WARPS / warps))
    steps = ceil(ceil(typical(kernel.k), s.bk), shared) * s.bk
    sums = s.bm * s.bn * 4 / READ
    return blocks * busy * steps + (FMA_FINISH + (blocks + shared) * sums if shared > 1 else 0)


def typical(d: Dim) -> int:
    """A dim, or what it is taken for where it is not known."""
    return max(lower(d), min(upper(d), TYPICAL))


def ceil(a: int, b: int) -> int:
    return -(-a // b)
