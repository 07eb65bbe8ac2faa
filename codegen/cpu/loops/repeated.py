"""Whether the vectors of a line repeat what is the same for all of them, and costs more than keeping it in a register."""

from __future__ import annotations

from collections.abc import Iterable

from ...affine import axes_of
from ...expr import COMPARISONS, Call, Num, postorder
from ...kernel import LoopKernel

_ONE_INSTRUCTION = frozenset({"add", "sub", "mul", "min", "max", "neg", "abs", "and_", "or_", "xor", "not_", "select", "fma"}) | COMPARISONS


def repeated(kernels: Iterable[LoopKernel], axis: int) -> bool:
    """For kernels with vectors along `axis`; one that has none repeats everything."""
    for k in kernels:
        depends = axes_of(k.roots)
        if any(isinstance(e, Call) and e.fn not in _ONE_INSTRUCTION and _same(e, depends, axis) for e in postorder(k.roots)):
            return True
    return False


def _same(e: Call, depends: dict[int, frozenset[int]], axis: int) -> bool:
    if axis not in depends[id(e)]:
        return True
    divides = e.fn == "div" and e.dtype.is_float and not isinstance(e.args[1], Num)
    return divides and axis not in depends[id(e.args[1])]  # by its inverse
