"""How far ahead loops ask for lines of results: stores wait for theirs one after another, requests do not."""

from __future__ import annotations

from collections.abc import Sequence

from ....ir import upper
from ...affine import affine
from ...kernel import LoopKernel

LINE = 64  # bytes
_AHEAD = 1024  # bytes between a store and what it asks for,
_FAR_AWAY = 1 << 20  # where results are so many that second-level caches do not hold them beside what is read
_LONG = 4096  # bytes of a row, of which it matters little that the last ones ask for what lies behind it,
_SHORT = 256  # and of one that is hardly more than a vector


def ahead(k: LoopKernel, axis: int, others: Sequence[int], streams: bool = False) -> dict[int, int]:
    """Operand → elements from where a vector is stored to the line to ask for: further along the row that `axis` walks, or in one of
    the next rows, where rows are short and apart. others: the axes that are walked around it. Operands that caches hold are left out,
    and so are stretches of memory without gaps where the hardware fetches them faster (`streams`)."""
    found: dict[int, int] = {}
    for store in k.stores:
        operand = k.operands[store.operand]
        size = operand.dtype.itemsize
        if upper(operand.numel) * size < _FAR_AWAY:
            continue
        row, form = (*k.axes, *k.reduce_axes)[axis], affine(store.offset)
        steps = {} if form is None else form[1]
        pitch = next((steps[a] for a in reversed(others) if steps.get(a, 0) != 0), row)
        if not isinstance(row, int) or not isinstance(pitch, int) or row == pitch or row * size >= _LONG:
            if not streams:
                found[store.operand] = _AHEAD // size
        elif row * size >= _SHORT:
            found[store.operand] = -(-_AHEAD // (row * size)) * pitch
    return found
