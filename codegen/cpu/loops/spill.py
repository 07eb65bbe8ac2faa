"""Rows whose last reduction and whose result need the same costly value (softmax: exp): computed once, kept in the result."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...affine import axes_of
from ...expr import Call, E, Load, postorder, rebuilt
from ...kernel import LoopKernel
from .rewrite import transform

_COSTLY = frozenset({"exp", "log", "tanh", "erf", "normcdf", "pow", "sin", "cos", "sqrt", "div"})


@dataclass(frozen=True)
class Spill:
    """While reducing `stage`, its values go where store number `store` will put the result; `kernel` reads them there."""

    kernel: LoopKernel
    stage: int
    store: int


def spill(k: LoopKernel) -> Spill | None:
    """None when nothing is worth keeping, or when the result may not be overwritten early."""
    if not k.stages or len(k.stores) != 1:
        return None
    (store,) = k.stores
    stage = len(k.stages) - 1
    value = k.stages[stage].value
    if not store.per_element or store.guard is not None or k.operands[store.operand].dtype is not value.dtype:
        return None
    inside = {id(e) for e in postorder([value])}
    used = postorder([store.value])
    if all(e is not value for e in used) or not any(isinstance(e, Call) and e.fn in _COSTLY and id(e) in inside for e in used):
        return None
    n = len(k.axes)
    if len(axes_of([store.offset])[id(store.offset)]) < sum(d != 1 for d in (*k.axes, *k.reduce_axes)):
        return None
    kept = Load(store.operand, store.offset, dtype=value.dtype)

    def change(e: E, kids: tuple[E, ...]) -> E:
        return kept if e is value else rebuilt(e, kids)

    new = transform(replace(k, stages=(), stores=(store,)), change, k.axes, k.reduce_axes).stores[0]
    # The result may share memory with an operand, so nothing else may be read element by element after the spill.
    depends = axes_of([new.value])
    others = [e for e in postorder([new.value]) if isinstance(e, Load) and e.operand != store.operand]
    if any(a >= n for e in others for a in depends[id(e)]):
        return None
    return Spill(replace(k, stores=(new,)), stage, 0)
