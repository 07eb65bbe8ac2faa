"""Numbers that alone tell kernels of a plan apart are read from the table of sizes, so that one text serves all of these kernels.

Layers that learn a scale and an offset of one value each would else be compiled once a layer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import TypeGuard

from ...ir import DType
from ..expr import Call, DimParam, E, Num, Param, children, postorder, structure
from ..kernel import ContractKernel, GroupedKernel, Kernel, LoopKernel, WinogradKernel
from .loops.rewrite import rebuilt, transform

_LINEAR = ("add", "sub", "mul")  # with other functions, emitters look at what a number is
_Shared = LoopKernel | ContractKernel | GroupedKernel | WinogradKernel


def share_numbers(kernels: Iterable[Kernel]) -> dict[int, Kernel]:
    """By id() of a kernel, what to emit for it: float32 constants that differ between kernels that are else alike become `Param`s."""
    alike: dict[Hashable, dict[int, _Shared]] = defaultdict(dict)
    out: dict[int, Kernel] = {}
    for k in kernels:
        out[id(k)] = k
        if _of_floats(k) and (numbers := _numbers(_roots(k))):
            alike[_without(k, numbers)][id(k)] = k
    for group in alike.values():
        each = {i: _numbers(_roots(k)) for i, k in group.items()}
        differ = [len({repr(e.value) for e in same}) > 1 for same in zip(*each.values(), strict=True)]
        if any(differ):
            for i, k in group.items():
                out[i] = _with_params(k, {id(e) for e, d in zip(each[i], differ, strict=True) if d})
    return out


def _of_floats(k: Kernel) -> TypeGuard[_Shared]:
    """Emitters look for constants where integers of few bits are made, or read."""
    return isinstance(k, _Shared) and all(o.dtype.is_float and o.dtype.itemsize > 1 for o in k.operands)


def _roots(k: _Shared) -> list[E]:
    return k.roots if isinstance(k, LoopKernel) else [k.epilogue]


def _numbers(roots: Sequence[E]) -> list[Num]:
    """Float32 constants that only sums and products take, in order."""
    linear: dict[int, Num] = {}
    elsewhere = {id(e) for e in roots}
    for e in postorder(roots):
        if isinstance(e, Call) and e.fn in _LINEAR and e.dtype is DType.F32:
            linear |= {id(a): a for a in e.args if isinstance(a, Num)}
        else:
            elsewhere |= {id(c) for c in children(e)}
    return [e for i, e in linear.items() if i not in elsewhere]


def _without(k: _Shared, numbers: Sequence[Num]) -> Hashable:
    """Equal for kernels that are alike but for these numbers; sizes are in the table of a contraction already."""
    blank = {id(e) for e in numbers}
    if isinstance(k, LoopKernel):
        return k.axes, k.reduce_axes, k.operands, k.inward, tuple(s.fn for s in k.stages), len(k.stores), structure(k.roots, blank)
    sizes = {id(e) for e in postorder([k.epilogue]) if isinstance(e, DimParam) or (isinstance(e, Num) and e.dtype is DType.I64)}
    return type(k), tuple(o.dtype for o in k.operands), structure([k.epilogue], blank | sizes)


def _with_params(k: _Shared, chosen: set[int]) -> Kernel:
    def param(e: E, kids: tuple[E, ...]) -> E:
        return Param(float(e.value), dtype=e.dtype) if isinstance(e, Num) and id(e) in chosen else rebuilt(e, kids)

    if isinstance(k, LoopKernel):
        return transform(k, param, k.axes, k.reduce_axes)
    new: dict[int, E] = {}
    for e in postorder([k.epilogue]):
        new[id(e)] = param(e, tuple(new[id(c)] for c in children(e)))
    return replace(k, epilogue=new[id(k.epilogue)])
