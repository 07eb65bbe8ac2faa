"""Truths that are only moved go as the bytes that they are stored as, not by way of masks."""

from __future__ import annotations

from dataclasses import replace

from ....ir import DType
from ...expr import Call, E, Load, Num, postorder
from ...kernel import LoopKernel


def as_bytes(k: LoopKernel) -> LoopKernel:
    """k itself, unless all that it stores are truths that it chooses from loaded ones and constants."""
    if k.stages or any(k.operands[s.operand].dtype is not DType.BOOL for s in k.stores):
        return k
    values = postorder([s.value for s in k.stores], _chosen)
    loads = [e for e in values if isinstance(e, Load)]
    if not loads or any(e.dtype is not DType.BOOL or not _plain(e) for e in values):
        return k
    moved = {e.operand for e in loads} | {s.operand for s in k.stores}
    own = {id(e) for e in loads}
    if any(isinstance(e, Load) and e.operand in moved and id(e) not in own for e in postorder(k.roots)):
        return k  # a condition, too
    new: dict[int, E] = {}
    for e in values:
        match e:
            case Load(operand=operand, offset=offset):
                new[id(e)] = Load(operand, offset, dtype=DType.U8)
            case Num(value=value):
                new[id(e)] = Num(int(value), dtype=DType.U8)
            case Call(args=(condition, *choices)):
                new[id(e)] = Call("select", (condition, *(new[id(c)] for c in choices)), dtype=DType.U8)
    operands = tuple(replace(o, dtype=DType.U8) if i in moved else o for i, o in enumerate(k.operands))
    return replace(k, operands=operands, stores=tuple(replace(s, value=new[id(s.value)]) for s in k.stores))


def _plain(e: E) -> bool:
    return isinstance(e, Load | Num) or (isinstance(e, Call) and e.fn == "select")


def _chosen(e: E) -> tuple[E, ...]:
    """What a value is one of."""
    return e.args[1:] if isinstance(e, Call) and e.fn == "select" else ()
