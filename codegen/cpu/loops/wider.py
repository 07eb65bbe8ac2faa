"""Copies of short runs of elements as copies of larger elements: two bytes side by side move as 16 bits."""

from __future__ import annotations

from dataclasses import replace

from ....ir import Dim, DType, floordiv
from ...affine import affine
from ...expr import Axis, Call, DimParam, E, Load, Num
from ...kernel import LoopKernel

_WORDS = {2: DType.U16, 4: DType.U32, 8: DType.U64}


def wider(k: LoopKernel) -> LoopKernel:
    """k itself, if it is anything else than a copy whose last axis is a run of 2, 4 or 8 bytes wherever it is read and written."""
    if k.stages or k.reduce_axes or len(k.stores) != 1 or len(k.axes) < 2:
        return k
    (store,) = k.stores
    size, dtype, last = k.axes[-1], k.operands[store.operand].dtype, len(k.axes) - 1
    load = store.value
    if store.guard is not None or store.per_element or not isinstance(load, Load) or load.operand == store.operand:
        return k
    if not isinstance(size, int) or size < 2 or k.operands[load.operand].dtype is not dtype:
        return k
    word = _WORDS.get(size * dtype.itemsize)
    to, source = (_shorter(o, last, size) for o in (store.offset, load.offset))
    if word is None or to is None or source is None:
        return k
    operands = tuple(replace(o, dtype=word, numel=floordiv(o.numel, size)) for o in k.operands)
    moved = replace(store, offset=to, value=Load(load.operand, source, dtype=word))
    return replace(k, axes=k.axes[:last], operands=operands, stores=(moved,))


def _shorter(offset: E, last: int, size: int) -> E | None:
    """The offset in runs of `size` elements; None unless every one starts at a whole number of them."""
    form = affine(offset)
    if form is None or form[1].get(last) != 1:
        return None
    terms: list[tuple[Dim, int]] = [(form[0], -1), *((c, a) for a, c in form[1].items() if a != last)]
    total: E | None = None
    for c, axis in terms:
        part = floordiv(c, size)
        if part * size != c:
            return None
        number: E = Num(part) if isinstance(part, int) else DimParam(part)
        if part == 0:
            continue
        term = number if axis < 0 else Call("mul", (Axis(axis), number))
        total = term if total is None else Call("add", (total, term))
    return Num(0) if total is None else total
