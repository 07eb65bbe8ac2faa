"""Maps that read along one axis and write along another: square tiles, turned in registers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from ...ir import lower, upper
from ..affine import affine
from ..expr import Load, postorder
from ..kernel import LoopKernel
from .build import I32, Builder, vec
from .target import CpuTarget

_STRIP = 64  # elements: four lines
_RUN = 512  # elements, so that a unit moves up to 128 KiB


@dataclass(frozen=True)
class Turn:
    """Vectors are stored along axis `write`; `loads` are read along axis `read` and turned, `lanes` by `lanes` elements.

    A unit takes `strip` elements along the read axis and `run` along the write axis. `open`: which of the two axes may turn
    out to be shorter than a vector when the kernel runs; it then does without tiles.
    """

    write: int
    read: int
    loads: tuple[Load, ...]
    lanes: int
    strip: int
    run: int
    open: tuple[int, ...] = ()


def turning(k: LoopKernel, target: CpuTarget) -> Turn | None:
    """None unless some operand of 4-byte elements is contiguous along another axis than the results, both, as far as
    is known, at least a vector long. Tiles at the end are moved back to overlap, so that there are no tails."""
    lanes = target.lanes(4)
    if k.stages or k.reduce_axes or any(s.guard is not None for s in k.stores):
        return None
    if any(o.dtype.itemsize != 4 for o in k.operands if o.written):
        return None
    long = [a for a, size in enumerate(k.axes) if upper(size) >= lanes and size != 1]
    offsets = [affine(s.offset) for s in k.stores]
    write = next((a for a in reversed(long) if all(f is not None and f[1].get(a, 0) == 1 for f in offsets)), None)
    if write is None:
        return None
    found: dict[int, list[Load]] = {}
    for e in postorder(k.roots):
        if not isinstance(e, Load) or k.operands[e.operand].dtype.itemsize != 4:
            continue
        form = affine(e.offset)
        if form is None or form[1].get(write, 0) in (0, 1):
            continue
        read = next((a for a in long if a != write and form[1].get(a, 0) == 1), None)
        if read is not None:
            found.setdefault(read, []).append(e)
    if not found:
        return None
    read = max(found, key=lambda a: len(found[a]))
    if len(found[read]) > 2:
        return None
    return Turn(write, read, tuple(found[read]), lanes, _STRIP, _RUN, tuple(a for a in (write, read) if lower(k.axes[a]) < lanes))


def turn(b: Builder, rows: list[Any]) -> list[Any]:
    """Columns of a square tile: interleaving row i with row i + n/2, log2 n times."""
    n = len(rows)
    low = ir.Constant(vec(I32, n), [x for i in range(n // 2) for x in (i, n + i)])
    high = ir.Constant(vec(I32, n), [x for i in range(n // 2, n) for x in (i, n + i)])
    for _ in range(n.bit_length() - 1):
        rows = [
            b.ir.shuffle_vector(rows[i], rows[i + n // 2], half) for i in range(n // 2) for half in (low, high)
        ]  # fmt: skip
    return rows
