"""How running sums and products go in vectors."""

from __future__ import annotations

from ....ir import lower, upper
from ...affine import affine
from ...kernel import LoopKernel
from ...running import Running

_CHAINS = 8  # vectors that run side by side: an addition takes 4 cycles, and a row's lines are read together
_ABREAST = 4  # vectors together where lines of memory go on from those before
ROOM = 1 << 18  # bytes of a line that goes on from the one before, and is in the second-level cache then
_STREAMS = 32  # so many pieces of lines the processor reads ahead of at once


def vectors(k: LoopKernel, r: Running, width: int) -> tuple[int, int, bool]:
    """The vector axis, and how many vectors together: elements side by side of other rows, else of the row; −1: neither are.

    And whether what rows side by side go on from is read again, since there are more of them than registers keep: so lines are
    walked from end to end, where pieces of so many ask for a page each and are not read ahead.
    """
    n = len(k.axes)
    form = affine(r.store.offset)
    assert form is not None
    side = [a for a in range(n) if form[1].get(a) == 1 and k.axes[a] != 1]
    if side:
        needed = max(1, -(-upper(k.axes[side[0]]) // width))
        if needed > _CHAINS and upper(k.reduce_axes[0]) > _STREAMS:
            return side[0], _ABREAST, True
        return side[0], -(-needed // -(-needed // _CHAINS)), False  # about equally many at a time
    if form[1].get(n) != 1:
        return -1, 1, False
    size = k.reduce_axes[0]
    rows = [a for a in range(n) if form[1].get(a, 0) != 0 and lower(k.axes[a]) >= width]
    if isinstance(size, int) and size < width and rows:  # hardly a vector each: one element of many rows at a time
        return rows[-1], 1, False
    return n, 1, False
