"""Maps that read along one axis and write along another: tiles, turned in registers."""

from __future__ import annotations

from dataclasses import dataclass

from ....ir import Dim, Shape, ceildiv, lower, prod, upper
from ...affine import affine, stride_along
from ...expr import Load, postorder
from ...kernel import LoopKernel
from ..target import CpuTarget
from .schedule import MOST_APART, SHORTEST, LoopSchedule

_STRIP = 64  # elements: four lines of 4 bytes each
_RUN = 512  # elements, so that a unit moves up to 128 KiB
_PIECE = 16  # bytes of a row that are read at once, where elements are smaller than 4: shuffles stay within 128 bits
_LEAST_PIECE = 8  # bytes; below, loads of a stride are cheaper
_FEW = 8  # elements of a row: a whole one is then worth less than `_PIECE` only if it has those
_MOST_WOVEN = 15  # vectors that are interleaved before they are stored
_PAST_CACHES = 8 << 20  # bytes of a result from which on whole lines of it go to memory without being read first,
_PAST_IN_PIECES = 2 << 20  # of elements smaller than 4, which read and store a piece of a line at a time:
_BLOCK = 256, 1024  # blocks of so many elements along the read axis by bytes along the write axis wait in the second-level cache


@dataclass(frozen=True)
class Turn:
    """Vectors of `lanes` are stored along axis `write`; `loads` are read along axis `read`, `depth` elements at a time, and turned: a
    power of two, or all of a short axis.

    A unit takes `strip` elements along the read axis and `run` along the write axis. `open`: which of the two axes may turn
    out to be shorter than a tile when the kernel runs; it then does without tiles. `past`: results go past the caches.
    """

    write: int
    read: int
    loads: tuple[Load, ...]
    lanes: int
    depth: int
    strip: int
    run: int
    open: tuple[int, ...] = ()
    past: bool = False

    @property
    def schedule(self) -> LoopSchedule:
        return LoopSchedule(self.write, self.lanes, 1, 0)

    def units(self, axes: Shape) -> tuple[Dim, Dim]:
        """Units per index of the other axes, and elements of one."""
        return ceildiv(axes[self.read], self.strip) * ceildiv(axes[self.write], self.run), self.strip * self.run


@dataclass(frozen=True)
class Weave:
    """Vectors of `lanes` along axis `read` for all elements of the short axis `write`, interleaved and stored side by side.

    `open`: the read axis may turn out to be shorter than a vector.
    """

    write: int
    read: int
    lanes: int
    run: int
    open: bool = False

    @property
    def schedule(self) -> LoopSchedule:
        return LoopSchedule(self.read, self.lanes, 1, 0)

    def units(self, axes: Shape) -> tuple[Dim, Dim]:
        """Units per index of the other axes, and elements of one."""
        return ceildiv(axes[self.read], self.run), self.run * axes[self.write]


def moving(k: LoopKernel, target: CpuTarget) -> Turn | Weave | None:
    """How to move elements from one axis to another, if that is what the kernel does."""
    return weaving(k, target) or turning(k, target) or weaving(k, target, _LEAST_PIECE)


def turning(k: LoopKernel, target: CpuTarget) -> Turn | None:
    """None unless some operand is contiguous along another axis than the results, both long enough, as far as is known.
    Tiles at the end are moved back to overlap, so that there are no tails."""
    if not _plain_map(k):
        return None
    offsets = [affine(s.offset) for s in k.stores]
    sizes = [o.dtype.itemsize for o in k.operands if o.written]
    long = [a for a, size in enumerate(k.axes) if size != 1 and upper(size) > 1]
    write = next((a for a in reversed(long) if all(f is not None and f[1].get(a, 0) == 1 for f in offsets)), None)
    if write is None:
        return None
    found: dict[tuple[int, int], list[Load]] = {}
    for e in postorder(k.roots):
        if not isinstance(e, Load) or k.operands[e.operand].dtype.itemsize > 8:
            continue
        form = affine(e.offset)
        if form is None or form[1].get(write, 0) in (0, 1):
            continue
        read = next((a for a in long if a != write and form[1].get(a, 0) == 1), None)
        if read is not None:
            found.setdefault((read, k.operands[e.operand].dtype.itemsize), []).append(e)
    if not found:
        return None
    (read, size), loads = max(found.items(), key=lambda item: len(item[1]))
    lanes = _halved(target.vector_bits // 8 // max(size, *sizes), k.axes[write])
    row = k.axes[read]
    side_by_side = isinstance(row, int) and row <= MOST_APART and all(stride_along(e.offset, write) == row for e in loads)
    depth = row if side_by_side and isinstance(row, int) else _halved(min(lanes, lanes if size >= 4 else _PIECE // size), row)
    least = _LEAST_PIECE if upper(row) > _FEW or side_by_side else _PIECE
    if len(loads) > 2 or depth < 2 or lanes * size < _PIECE or depth * size < min(least, lanes * size):
        return None
    short = tuple(a for a, least in ((write, lanes), (read, depth)) if lower(k.axes[a]) < least)
    strip, run = _BLOCK[0], _BLOCK[1] // max(size, *sizes)
    large = _PAST_CACHES if size >= 4 else _PAST_IN_PIECES
    whole = len(sizes) == 1 and lanes * sizes[0] * 8 == target.vector_bits and lower(prod(k.axes)) * sizes[0] >= large
    if whole and len(k.stores) == 1 and lower(k.axes[write]) >= run and lower(k.axes[read]) >= strip // 2:
        return Turn(write, read, tuple(loads), lanes, depth, strip, run, past=True)
    return Turn(write, read, tuple(loads), lanes, depth, _STRIP, _RUN, short)


def weaving(k: LoopKernel, target: CpuTarget, least: int | None = None) -> Weave | None:
    """None unless results are contiguous along a short axis, and next along one that fills a vector, or one of `least` bytes."""
    if not _plain_map(k):
        return None
    offsets = [affine(s.offset) for s in k.stores]
    itemsize, whole = max(o.dtype.itemsize for o in k.operands), target.vector_bits // 8
    for write, size in enumerate(k.axes):
        if not isinstance(size, int) or not 2 <= size <= _MOST_WOVEN:
            continue
        for read, length in enumerate(k.axes):
            lanes = _halved(whole // itemsize, length)
            if read == write or size >= lanes or lanes * itemsize < (least or whole):
                continue
            if all(_dense(f, write, read, size) for f in offsets) and _worth_weaving(k, read, size, lanes):
                return Weave(write, read, lanes, _STRIP * lanes, lower(length) < lanes)
    return None


def _worth_weaving(k: LoopKernel, read: int, size: int, lanes: int) -> bool:
    """Whether vectors along `read` are cheap to load, and those along the short axis bad: not to be had, mostly empty, or gathered."""
    strides = [stride_along(e.offset, read) for e in postorder(k.roots) if isinstance(e, Load)]
    if all(s == 0 for s in strides):
        return True  # woven once
    return all(isinstance(s, int) and 0 <= s <= MOST_APART for s in strides) and (size < SHORTEST or size <= lanes // 4 or 1 in strides)


def _plain_map(k: LoopKernel) -> bool:
    return not (k.stages or k.reduce_axes or any(s.guard is not None or s.per_element for s in k.stores)) and all(
        o.dtype.itemsize <= 8 for o in k.operands if o.written
    )


def _dense(form: tuple[Dim, dict[int, Dim]] | None, write: int, read: int, size: int) -> bool:
    return form is not None and form[1].get(write, 0) == 1 and form[1].get(read, 0) == size


def _halved(lanes: int, size: Dim) -> int:
    """lanes, or the power of two below it that the size has."""
    while lanes > upper(size):
        lanes //= 2
    return lanes
