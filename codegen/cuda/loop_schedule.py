"""How a loop kernel is spread over threads: rules in order, the first that applies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...ir import is_static, lower, prod, upper
from ..affine import stride_along
from ..expr import E, Load, postorder
from ..kernel import LoopKernel
from .ranges import divisible, multiple

PACK_BYTES = 16  # one load or store instruction of a thread
POINT_THREADS, FEW_THREADS = 256, 64  # of a block; where that many in each leave multiprocessors without one
FEW_POINTS = 132 * POINT_THREADS
SMALL_REDUCTION = 16  # elements that one thread reduces by itself
COLUMN_POINTS = 4096  # points that keep the device busy with a thread each
WARP_ROW = 1024  # longest row for one warp
ROW_THREADS = (64, 128, 256, 512, 1024)
ROW_ELEMENTS = 16  # a thread keeps at most this many elements of a row
TILE_SIDE = 32  # points; twice that for elements of less than 4 bytes
TILED_AXIS = 16  # shortest axes that tiles pay along
MOST_TILED = 3  # operands
KEPT = 64  # 32-bit registers that a thread may hold rows in


@dataclass(frozen=True, slots=True)
class PointSchedule:
    """A thread per `pack` consecutive points along `axis`; it runs over the reduce axes by itself."""

    axis: int
    pack: int
    threads: int = POINT_THREADS


@dataclass(frozen=True, slots=True)
class RowSchedule:
    """`group` threads per point share its reduce axes, `pack` elements of the last one at a time.

    steps: how often the group's stride fits into the row when that is static and small: elements are then kept in registers,
    and read once for all stages. 0: a loop.
    """

    group: int
    pack: int
    steps: int
    threads: int


@dataclass(frozen=True, slots=True)
class TileSchedule:
    """A block per square of `side` points of two axes: `along`, which stores are contiguous in, and `other`, which `loads` are.

    These lie in shared memory, in rows of `row` elements, so that columns of it do not share a bank.
    """

    along: int
    other: int
    loads: tuple[Load, ...]
    side: int
    row: int
    threads: int = POINT_THREADS


LoopSchedule = PointSchedule | RowSchedule | TileSchedule


def schedule_loop(kernel: LoopKernel, aligned: Sequence[int]) -> LoopSchedule:
    """The schedule of a kernel; `aligned` is the alignment in bytes that each operand's pointer is known to have."""
    for rule in _RULES:
        found = rule(kernel, aligned)
        if found is not None:
            return found
    raise AssertionError("the last rule always applies")


def loads(kernel: LoopKernel) -> list[Load]:
    return [e for e in postorder(kernel.roots) if isinstance(e, Load)]


def reads_own_result(kernel: LoopKernel) -> bool:
    """Whether iterations see each other's stores, so that their order counts."""
    return any(kernel.operands[e.operand].written for e in loads(kernel))


def packable(kernel: LoopKernel, operand: int, offset: E, axis: int, pack: int, aligned: Sequence[int]) -> bool:
    """Whether `pack` elements from `offset` along `axis` are one aligned access."""
    size = kernel.operands[operand].dtype.itemsize * pack
    return pack > 1 and aligned[operand] % size == 0 and stride_along(offset, axis) == 1 and multiple(offset, pack, axis)


def _pack(kernel: LoopKernel, axis: int, aligned: Sequence[int]) -> int:
    """The widest pack along an axis that makes all contiguous accesses of the widest element one instruction."""
    sizes = (*kernel.axes, *kernel.reduce_axes)
    accesses = [(e.operand, e.offset) for e in loads(kernel)] + [(s.operand, s.offset) for s in kernel.stores]
    walked = [(o, e) for o, e in accesses if stride_along(e, axis) == 1]
    if not walked:
        return 1
    pack = PACK_BYTES // max(kernel.operands[o].dtype.itemsize for o, _ in walked)
    while pack > 1:
        if divisible(sizes[axis], pack) and any(packable(kernel, o, e, axis, pack, aligned) for o, e in walked):
            return pack
        pack //= 2
    return 1


def _points(kernel: LoopKernel, aligned: Sequence[int], limit: int = PACK_BYTES) -> PointSchedule:
    """Along the axis in which most accesses are contiguous, stores counting double."""
    n = len(kernel.axes)
    votes: Counter[int] = Counter({n - 1: 0})
    for axis in range(n):
        votes[axis] += sum(2 for s in kernel.stores if stride_along(s.offset, axis) == 1)
        votes[axis] += sum(1 for e in loads(kernel) if stride_along(e.offset, axis) == 1)
    axis = max(votes, key=lambda a: (votes[a], a))
    pack = min(_pack(kernel, axis, aligned), limit)
    points = prod(kernel.axes)
    few = isinstance(points, int) and points <= FEW_POINTS * pack
    return PointSchedule(axis, pack, FEW_THREADS if few else POINT_THREADS)


def _ordered(kernel: LoopKernel, aligned: Sequence[int]) -> LoopSchedule | None:
    """Scatters: stores in the order of the reduce axes."""
    if kernel.stages or not kernel.reduce_axes:
        return None
    return PointSchedule(len(kernel.axes) - 1, 1)


def _tiled(kernel: LoopKernel, aligned: Sequence[int]) -> LoopSchedule | None:
    """Operands that are read along another axis than results are written."""
    if kernel.reduce_axes or kernel.stages or reads_own_result(kernel):
        return None
    stored = [a for a in range(len(kernel.axes)) if all(stride_along(s.offset, a) == 1 for s in kernel.stores)]
    if len(stored) != 1 or lower(kernel.axes[stored[0]]) < TILED_AXIS:
        return None
    found: dict[int, list[Load]] = {}
    for e in loads(kernel):
        if stride_along(e.offset, stored[0]) in (0, 1) or any(isinstance(x, Load) for x in postorder([e.offset])):
            continue
        for a in range(len(kernel.axes)):
            if a != stored[0] and stride_along(e.offset, a) == 1 and lower(kernel.axes[a]) >= TILED_AXIS:
                found.setdefault(a, []).append(e)
    if not found:
        return None
    other = max(found, key=lambda a: (len(found[a]), a))
    chosen = {(e.operand, id(e)): e for e in found[other][:MOST_TILED]}
    size = max(kernel.operands[o].dtype.itemsize for o, _ in chosen)
    side = TILE_SIDE if size >= 4 else 2 * TILE_SIDE
    # rows one bank apart: an odd number of 32-bit words
    return TileSchedule(stored[0], other, tuple(chosen.values()), side, side + max(1, 4 // size))


def _map(kernel: LoopKernel, aligned: Sequence[int]) -> LoopSchedule | None:
    if kernel.reduce_axes or kernel.stages or reads_own_result(kernel):
        return None
    return _points(kernel, aligned)


def _short(kernel: LoopKernel, aligned: Sequence[int]) -> LoopSchedule | None:
    """A reduction so short that sharing it would leave threads idle."""
    if upper(prod(kernel.reduce_axes)) > SMALL_REDUCTION or reads_own_result(kernel):
        return None
    return _points(kernel, aligned, 4)


def by_columns(kernel: LoopKernel) -> bool:
    """Whether neighbouring points read neighbouring elements, more than the elements of a point are neighbours."""
    n = len(kernel.axes)
    inner, across = n + len(kernel.reduce_axes) - 1, n - 1
    along_row = sum(stride_along(e.offset, inner) == 1 for e in loads(kernel))
    along_point = sum(stride_along(e.offset, across) == 1 for e in loads(kernel))
    return along_point > along_row


def _columns(kernel: LoopKernel, aligned: Sequence[int]) -> LoopSchedule | None:
    """Neighbouring threads read neighbouring points: many columns, or windows of a channels-last image."""
    enough = lower(prod(kernel.axes)) >= COLUMN_POINTS or upper(prod(kernel.reduce_axes)) <= 4 * SMALL_REDUCTION
    if not by_columns(kernel) or not enough or reads_own_result(kernel):
        return None
    return _points(kernel, aligned, 4 if lower(prod(kernel.axes)) >= 4 * COLUMN_POINTS else 1)


def _rows(kernel: LoopKernel, aligned: Sequence[int]) -> LoopSchedule | None:
    n = len(kernel.axes)
    if reads_own_result(kernel):
        return PointSchedule(n - 1, 1)
    size = prod(kernel.reduce_axes)
    pack = _pack(kernel, n + len(kernel.reduce_axes) - 1, aligned)
    if not is_static(kernel.reduce_axes):
        return RowSchedule(256, pack, 0, 256)
    length = int(upper(size))
    group = 32
    if length > WARP_ROW or (is_static(kernel.axes) and upper(prod(kernel.axes)) < 8 and length > 8 * 32):
        group = next((t for t in ROW_THREADS if t * ROW_ELEMENTS >= length), ROW_THREADS[-1])
    steps = -(-length // (group * pack))
    threads = group if group > 32 else 128
    return RowSchedule(group, pack, steps if steps * pack <= 2 * ROW_ELEMENTS else 0, threads)


_RULES: tuple[Callable[[LoopKernel, Sequence[int]], LoopSchedule | None], ...] = (_tiled, _map, _ordered, _short, _columns, _rows)
