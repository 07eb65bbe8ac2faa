"""Running sums and products, recognised: a store that goes on from what it stored one place earlier."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import DType
from .affine import affine
from .expr import Axis, Call, E, Load, Num, postorder, structure
from .kernel import LoopKernel, Store

_FNS = ("add", "mul")
_TYPES = (DType.F32, DType.F64, DType.I32, DType.I64, DType.U32, DType.U64)


@dataclass(frozen=True, slots=True)
class Running:
    """Along the one reduce axis: what is stored is fn(what was stored at the place before, `element`), at first the element."""

    store: Store
    fn: str
    element: E


def running(kernel: LoopKernel) -> Running | None:
    """Of a kernel whose one store is select(j = 0, start, fn(the store before, update)) along its one reduce axis j."""
    if kernel.stages or len(kernel.reduce_axes) != 1 or len(kernel.stores) != 1:
        return None
    (store,), n = kernel.stores, len(kernel.axes)
    match store:
        case Store(
            operand=own, guard=None, per_element=True,
            value=Call(fn="select", args=(Call(fn="eq", args=(Axis(index=axis), Num(value=0))) as first, start,
                                          Call(fn=fn, args=(Load(operand=read, offset=before), update)))),
        ) if axis == n and read == own and fn in _FNS and kernel.operands[own].dtype in _TYPES:  # fmt: skip
            if any(isinstance(e, Load) and e.operand == own for e in postorder([start, update])):
                return None
            there, stored = affine(_of_place_before(before, n)), affine(store.offset)
            if stored is None or there != stored:
                return None
            same = structure([start]) == structure([update])
            return Running(store, fn, update if same else Call("select", (first, start, update), dtype=store.value.dtype))
    return None


def _of_place_before(offset: E, axis: int) -> E:
    """An offset as a function of the place max(j − 1, 0), which the axis stands for then."""
    new: dict[int, E] = {}
    for e in postorder([offset]):
        match e:
            case Call(fn="max", args=(Call(fn="add", args=(Axis(index=i), Num(value=-1))), Num(value=0))) if i == axis:
                new[id(e)] = Axis(axis)
            case Axis(index=i) if i == axis:
                new[id(e)] = Call("min", (e, e))  # the place itself: not what is looked for
            case Call(fn=fn, args=args):
                new[id(e)] = Call(fn, tuple(new[id(a)] for a in args), dtype=e.dtype)
            case _:
                new[id(e)] = e
    return new[id(offset)]
