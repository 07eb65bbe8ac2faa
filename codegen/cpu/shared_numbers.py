"""Numbers that alone tell kernels of a plan apart are read from the table of sizes, so that one text serves all of these kernels.

Layers that learn a scale and an offset of one value each, or are quantized, would else be compiled once a layer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

from ...ir import DType
from ..expr import Call, Cast, DimParam, E, Num, Param, children, postorder, rebuilt, structure
from ..kernel import ContractKernel, GroupedKernel, Kernel, LoopKernel, WinogradKernel
from .derived_numbers import divides
from .loops.rewrite import transform

_LINEAR = ("add", "sub", "mul")  # with other functions, emitters look at what a number is
_ZEROS = (DType.U8, DType.I8, DType.U16, DType.I16)  # of points that are quantized
_Shared = LoopKernel | ContractKernel | GroupedKernel | WinogradKernel


def share_numbers(kernels: Iterable[Kernel]) -> dict[int, Kernel]:
    """By id() of a kernel, what to emit for it: constants that differ between kernels that are else alike become `Param`s."""
    alike: dict[Hashable, dict[int, tuple[_Shared, list[Num]]]] = defaultdict(dict)
    out: dict[int, Kernel] = {}
    for k in kernels:
        out[id(k)] = k
        if isinstance(k, _Shared) and (numbers := _numbers(_roots(k))):
            alike[_without(k, numbers)][id(k)] = k, numbers
    for group in alike.values():
        columns = [tuple(repr(e.value) for e in same) for same in zip(*(numbers for _, numbers in group.values()), strict=True)]
        if any(len(set(values)) > 1 for values in columns):
            for i, (k, numbers) in group.items():
                out[i] = _with_params(k, _params(numbers, columns))
    return out


def _params(numbers: Sequence[Num], columns: Sequence[tuple[str, ...]]) -> dict[int, Param]:
    """By id(), for those that differ between kernels. What is equal in each kernel, such as the zero point of quantizing and of
    dequantizing again, is one."""
    made: dict[Hashable, Param] = {}
    return {
        id(e): made.setdefault((values, e.dtype), Param(e.value, dtype=e.dtype))
        for e, values in zip(numbers, columns, strict=True)
        if len(set(values)) > 1
    }


def _roots(k: _Shared) -> list[E]:
    return k.roots if isinstance(k, LoopKernel) else [k.epilogue]


def _numbers(roots: Sequence[E]) -> list[Num]:
    """Constants that only sums, products and zero points take, or that divide, in order."""
    taken: dict[int, Num] = {}
    elsewhere = {id(e) for e in roots}
    for e in postorder(roots):
        match e:
            case Call(fn="add", args=(Call(fn="round"), Num() as zero)):  # `quantizing` looks at it
                elsewhere.add(id(zero))
            case Call(fn=fn, dtype=DType.F32 | DType.I32, args=args) if fn in _LINEAR:
                taken |= {id(a): a for a in args if isinstance(a, Num)}
            case Call(args=(top, _)) if isinstance(by := divides(e), Num):
                taken[id(by)] = by
                elsewhere.add(id(top))
            case Cast(arg=Num(dtype=dtype) as zero, dtype=DType.F32 | DType.I32) if dtype in _ZEROS:
                taken[id(zero)] = zero
            case _:
                elsewhere |= {id(c) for c in children(e)}
    return [e for i, e in taken.items() if i not in elsewhere]


def _without(k: _Shared, numbers: Sequence[Num]) -> Hashable:
    """Equal for kernels that are alike but for these numbers; sizes are in the table of a contraction already."""
    blank = {id(e) for e in numbers}
    if isinstance(k, LoopKernel):
        return k.axes, k.reduce_axes, k.operands, k.inward, tuple(s.fn for s in k.stages), len(k.stores), structure(k.roots, blank)
    sizes = {id(e) for e in postorder([k.epilogue]) if isinstance(e, DimParam) or (isinstance(e, Num) and e.dtype is DType.I64)}
    return type(k), tuple(o.dtype for o in k.operands), structure([k.epilogue], blank | sizes)


def _with_params(k: _Shared, chosen: Mapping[int, Param]) -> Kernel:
    def param(e: E, kids: tuple[E, ...]) -> E:
        if isinstance(e, Cast) and e.dtype is DType.I32 and isinstance(zero := kids[0], Param):
            return Param(zero.value, dtype=e.dtype)
        return chosen.get(id(e)) or rebuilt(e, kids)

    if isinstance(k, LoopKernel):
        return transform(k, param, k.axes, k.reduce_axes)
    new: dict[int, E] = {}
    for e in postorder([k.epilogue]):
        new[id(e)] = param(e, tuple(new[id(c)] for c in children(e)))
    return replace(k, epilogue=new[id(k.epilogue)])
