"""Choices of the CPU's minimal-filtering convolution: tiles of the image per unit, register tile, units."""

from __future__ import annotations

from dataclasses import dataclass

from ....errors import CodegenError, ScheduleError
from ....ir import Dim, DType, ceildiv, dim_max
from ...kernel import WinogradKernel
from ...winograd import positions
from ..target import CpuTarget
from .place import Places

_CACHE = 3 << 19  # bytes of transformed input and products of a unit, in a 2 MB L2 with weights streaming through
_LEAST = 36  # image tiles of a unit that keep the products above the bandwidth of streaming weights, cache or not
_FEW = 24  # and those that do so nearly, which is better than transforming the input for every group of strips;
_SLOW = 16  # where multiply-adds take twice as long, these do
_KEPT = 3 << 18  # bytes of weights that stay in the cache from one unit to the next,
_BESIDE = 1 << 18  # when a unit is no larger than this
_NEW = 4  # blocks up to which weights that stay are mostly new ones
_STACK = 3 << 20  # bytes of a unit at most: it lives on the stack
_UNITS = 8  # enough for a few threads to share evenly,
_EVEN = 16  # and for threads of unlike pace, as on cores that others use, too
_UNIT_OPS = 4_000_000  # smaller units of fewer image tiles are not worth streaming the weights again,
_GROUP_OPS = 500_000  # and of fewer strips not worth transforming the input again,
_NARROW = 32  # nor groups of fewer channels, most of whose input is of others


@dataclass(frozen=True, slots=True)
class WinogradSchedule:
    """A unit takes `block` image tiles and `group` strips of output channels (a strip: lanes·vectors of them).

    It transforms its input once, then for each strip runs the products, `heights` image tiles at a time in registers, and
    transforms these back. tail: vectors of the last strip (0: it is as the others). half, half_in: the last vector of output, of input
    channels needs half of its lanes, which take half the time (`CpuTarget.halves`). tile: elements from one image tile to the next
    in the transformed input. `of_group`: strips of one group of channels. `most` bounds `block`, which depends on symbols. prefetch:
    the row tiles of a position (2^share of them) ask for the weights of the next one.
    """

    lanes: int
    vectors: int
    tail: int
    half: bool
    half_in: bool
    heights: tuple[int, ...]
    unroll: int
    tile: int
    prefetch: bool
    share: int
    block: Dim
    most: int
    blocks: Dim
    group: int
    groups: int
    strips: int
    of_group: int


@dataclass(frozen=True, slots=True)
class WinogradHints:
    """Choices that replace those of the rules; 0: none does. block: image tiles of a unit. groups: of strips, a unit takes one."""

    block: int = 0
    groups: int = 0


NO_HINTS = WinogradHints()


def schedule_winograd(kernel: WinogradKernel, target: CpuTarget, hints: WinogradHints = NO_HINTS) -> WinogradSchedule:
    """Raises CodegenError for element types other than float32, ScheduleError for hints that the kernel cannot have."""
    if any(kernel.operands[i].dtype is not DType.F32 for i in (0, 1)):
        raise CodegenError(f"minimal filtering of {kernel.operands[0].dtype.value}", expected="f32")
    lanes = target.lanes(4)
    if kernel.groups > 1 and kernel.channels % lanes:
        raise CodegenError(f"minimal filtering of groups of {kernel.channels} channels", expected=f"a multiple of {lanes}")
    wide = target.vector_bits >= 512 or "aarch64" in target.triple  # 32 vector registers
    vectors = _vectors(kernel, lanes, wide)
    strip = lanes * vectors
    of_group = -(-kernel.n // strip)
    strips = kernel.groups * of_group
    tail = -(-(kernel.n - (of_group - 1) * strip) // lanes) % vectors
    half = target.halves and 0 < kernel.n % lanes <= lanes // 2
    channels = kernel.groups * kernel.channels
    points = positions(kernel.tile, kernel.conv.kernel)
    tile = points * lanes * -(-channels // lanes)
    if tile % 1024 == 0:  # rows a multiple of 4 KiB apart would share one set of the first-level cache
        tile += lanes
    one = 4 * (tile + points * strip)  # bytes that an image tile takes
    weights = points * channels * kernel.n
    streaming = 4 * weights > _KEPT
    tall = {4: 6, 3: 8, 2: 12, 1: 14}[vectors] if wide else {2: 6 if target.vector_bits >= 256 else 4, 1: 8}[vectors]
    most = max(1, min(max(_LEAST, _CACHE // one), _STACK // one)) if streaming else max(1, _BESIDE // one)
    most = max(most // tall, 1) * tall
    tiles = Places(kernel).tiles
    narrow, slow = kernel.groups > 1 and kernel.n < _NARROW, target.multiply_adds < 32
    block, blocks, groups = _units(tiles, most, strips, 2 * weights, narrow, slow)
    if hints != NO_HINTS:
        if not isinstance(tiles, int) or hints.groups > strips or hints.block * one > _STACK:
            raise ScheduleError(f"{hints}", expected=f"known sizes, {strips} groups and {_STACK // one} image tiles at most")
        groups = hints.groups or groups
        block, blocks = _blocks(tiles, hints.block) if hints.block else (block, blocks)
    if isinstance(block, int):
        most = block
    heights = _heights(block, tall)
    row_tiles = -(-most // heights[0])
    few = isinstance(blocks, int) and blocks <= _NEW  # weights that stay in the cache come from memory once, too
    prefetch = (streaming or few) and kernel.panel == strip and (row_tiles > 1 or not target.streams)
    return WinogradSchedule(
        lanes=lanes,
        vectors=vectors,
        tail=tail or vectors * half,
        half=half,
        half_in=target.halves and 0 < kernel.channels % lanes <= lanes // 2,
        heights=heights,
        unroll=4,
        tile=tile,
        prefetch=prefetch,
        share=min(3, row_tiles.bit_length() - 1),  # none is left out: what no tile asks for, the first one waits for
        block=block,
        most=most,
        blocks=blocks,
        group=-(-strips // groups),
        groups=groups,
        strips=strips,
        of_group=of_group,
    )


def _vectors(kernel: WinogradKernel, lanes: int, wide: bool) -> int:
    """Of a strip: as many as registers have room for and the channels fill more than half of."""
    vectors = next(v for v in ((4, 3, 2, 1) if wide else (2, 1)) if kernel.panel // lanes % v == 0)
    while vectors > 1 and kernel.n <= lanes * (vectors // 2):
        vectors //= 2
    return vectors


def _units(tiles: Dim, most: int, strips: int, tile_ops: int, grouped: bool, slow: bool) -> tuple[Dim, Dim, int]:
    """(tiles of a block, blocks, groups of strips): units enough for a few threads, and large enough to transform their input for
    themselves. `tile_ops`: of an image tile's products. Strips of narrow groups (`grouped`) stay together. `slow`: one 512-bit multiply-add
    a cycle or less."""
    block, blocks = _blocks(tiles, most)
    if not isinstance(block, int) or not isinstance(blocks, int):
        return block, blocks, 1 if grouped else min(2, strips)
    ops = tile_ops * block
    if blocks < _UNITS:
        pieces = max(1, min(_UNITS // blocks, ops // _UNIT_OPS, block // _FEW))
        block, blocks = _blocks(tiles, -(-block // pieces))
    if grouped or not isinstance(block, int) or not isinstance(blocks, int) or blocks >= (_EVEN if slow else _UNITS):
        return block, blocks, 1
    if slow:
        pieces = max(1, min(-(-_EVEN // (blocks * strips)), tile_ops * block // _UNIT_OPS, block // _SLOW))
        block, blocks = _blocks(tiles, -(-block // pieces))
    groups = max(1, min(strips, ops // _GROUP_OPS))  # neighbours of a block share its transform, where one thread has them
    return block, blocks, -(-strips // -(-strips // groups))  # none is empty


def _blocks(tiles: Dim, most: int) -> tuple[Dim, Dim]:
    """(tiles of a block, blocks): blocks of nearly equal size; of no tiles, no block."""
    block = dim_max(1, ceildiv(tiles, dim_max(1, ceildiv(tiles, most))))
    return block, ceildiv(tiles, block)


def _heights(block: Dim, tall: int) -> tuple[int, int]:
    """Two neighbouring heights that cut the block into row tiles without waste."""
    if isinstance(block, int) and 0 < block < tall * (tall - 1):
        tall = -(-block // -(-block // tall))
    return tall, max(1, tall - 1)
