"""Elements that are only moved go as the words that they are stored as: truths not by way of masks, small floats not by way of float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ....ir import DType
from ...expr import Call, Cast, E, Load, Num, postorder
from ...kernel import LoopKernel

_WORDS = {1: DType.U8, 2: DType.U16}


def as_words(k: LoopKernel) -> LoopKernel:
    """k itself, unless all that it stores are truths, or floats of up to 16 bits, that it chooses from loaded ones and constants."""
    kinds = {k.operands[s.operand].dtype for s in k.stores}
    dtype = min(kinds, key=lambda d: d.value)
    if k.stages or len(kinds) != 1 or not (dtype is DType.BOOL or (dtype.is_float and dtype.itemsize < 4)):
        return k
    word, exact = _WORDS[dtype.itemsize], {dtype, DType.F32} if dtype.is_float else {dtype}
    values = postorder([s.value for s in k.stores], _chosen)
    loads = [e for e in values if isinstance(e, Load)]
    if not loads or any(e.dtype is not dtype for e in loads) or any(e.dtype not in exact or not _plain(e) for e in values):
        return k
    moved = {e.operand for e in loads} | {s.operand for s in k.stores}
    own = {id(e) for e in loads}
    decisive = [e.args[0] for e in values if isinstance(e, Call)] + [e.offset for e in loads]
    decisive += [e for s in k.stores for e in (s.offset, s.guard) if e is not None]
    aside = [e for e in postorder(k.roots) if id(e) not in own] + postorder(decisive)
    if any(isinstance(e, Load) and e.operand in moved for e in aside):
        return k  # a condition or an index, too
    new: dict[int, E] = {}
    for e in values:
        match e:
            case Load(operand=operand, offset=offset):
                new[id(e)] = Load(operand, offset, dtype=word)
            case Num(value=value):
                new[id(e)] = Num(int(np.asarray(value).astype(np.float32).astype(dtype.np).view(word.np)), dtype=word)
            case Cast(arg=arg):
                new[id(e)] = new[id(arg)]
            case Call(args=(condition, *choices)):
                new[id(e)] = Call("select", (condition, *(new[id(c)] for c in choices)), dtype=word)
    operands = tuple(replace(o, dtype=word) if i in moved else o for i, o in enumerate(k.operands))
    return replace(k, operands=operands, stores=tuple(replace(s, value=new[id(s.value)]) for s in k.stores))


def _plain(e: E) -> bool:
    return isinstance(e, Load | Num | Cast) or (isinstance(e, Call) and e.fn == "select")


def _chosen(e: E) -> tuple[E, ...]:
    """What a value is one of."""
    return (e.arg,) if isinstance(e, Cast) else e.args[1:] if isinstance(e, Call) and e.fn == "select" else ()
