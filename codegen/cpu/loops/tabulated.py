"""What follows from one byte is a table of 256: two permutations of 128 bytes in registers are a lookup for 64 lanes.

quantize(sigmoid(dequantize(x)))  →  table[x]
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from ....ir import DType
from ...expr import Bits, Call, Cast, E, Load, Num, Table, children, postorder, structure
from ...interpret.values import Evaluator
from ...kernel import LoopKernel
from ..target import CpuTarget
from .rewrite import rebuilt, transform
from .schedule import work

_BYTES = (DType.U8, DType.I8)
_LEAST_WORK = 16  # vector operations on 16 lanes each: a lookup takes 8 for 64


def tabulated(k: LoopKernel, target: CpuTarget) -> LoopKernel:
    """k with lookups for bytes that are computed from one byte, where the target has them and that is less work."""
    found = bytes_of_bytes(k, target)
    if not found:
        return k

    def change(e: E, kids: tuple[E, ...]) -> E:
        return Table(found[id(e)], _values(e, found[id(e)]), dtype=e.dtype) if id(e) in found else rebuilt(e, kids)

    return transform(k, change, k.axes, k.reduce_axes)


def bytes_of_bytes(k: LoopKernel, target: CpuTarget) -> dict[int, Load]:
    """By id(), what `tabulated` looks up, and by which byte."""
    if k.stages or k.reduce_axes or "avx512vbmi" not in target.features or target.vector_bits < 512:
        return {}
    sources = _sources(k)
    stored = {id(s.value) for s in k.stores}
    found: dict[int, Load] = {}
    for e in postorder([s.value for s in k.stores]):
        source = sources.get(id(e))
        # a table for each stored value, not for what is on the way there
        if id(e) in stored and e.dtype in _BYTES and isinstance(source, Load) and work(e) >= _LEAST_WORK:
            found[id(e)] = source
    return found


def _sources(k: LoopKernel) -> dict[int, Load | None]:
    """id(expression) -> the load of a byte that alone decides it, or None for numbers; what is missing follows from more."""
    out: dict[int, Load | None] = {}
    same: dict[Hashable, Load] = {}
    for e in postorder([s.value for s in k.stores]):
        match e:
            case Num():
                out[id(e)] = None
            case Load(operand=o, offset=offset) if e.dtype in _BYTES:
                out[id(e)] = same.setdefault((o, structure([offset])), e)
            case Call() | Cast() | Bits() if all(id(c) in out for c in children(e)):
                loads = {id(v): v for c in children(e) if (v := out[id(c)]) is not None}
                if len(loads) <= 1:
                    out[id(e)] = next(iter(loads.values()), None)
    return out


def _values(e: E, source: Load) -> tuple[int, ...]:
    """e for every byte of its load, 0 … 255 (an I8's as it is in memory)."""
    evaluate = _OfByte(source)
    with np.errstate(all="ignore"):
        return tuple(np.broadcast_to(evaluate(e), 256).view(np.uint8).tolist())


class _OfByte(Evaluator):
    """Values for all bytes that a load may give."""

    def __init__(self, source: Load) -> None:
        super().__init__((), {}, ())
        self._every = np.arange(256, dtype=np.uint8).view(source.dtype.np)

    def _value(self, e: E) -> np.ndarray:
        return self._every if isinstance(e, Load) else super()._value(e)
