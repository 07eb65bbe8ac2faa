"""Maps whose last axis repeats a short row (⌊i / period⌋ is what their indices say of it), with an axis of rows around one of elements."""

from __future__ import annotations

from ...expr import Axis, Call, E, Num, postorder, rebuilt
from ...kernel import LoopKernel
from .rewrite import transform


def with_periods(k: LoopKernel) -> LoopKernel:
    """k itself, unless its last axis is divided by one number only, which divides its size."""
    if not k.axes or k.stages or k.reduce_axes or not isinstance(size := k.axes[-1], int):
        return k
    last = len(k.axes) - 1
    divided = {id(e): e for e in postorder(k.roots) if isinstance(e, Call) and e.fn in ("div", "mod")}
    periods = set()
    for e in divided.values():
        over, by = e.args
        if not (isinstance(over, Axis) and over.index == last and isinstance(by, Num)):
            return k
        periods.add(by.value)
    if len(periods) != 1 or size % (period := int(periods.pop())) or period < 2:
        return k
    row, place = Axis(last), Axis(last + 1)
    whole = Call("add", (Call("mul", (row, Num(period))), place))

    def change(e: E, kids: tuple[E, ...]) -> E:
        if isinstance(e, Axis) and e.index == last:
            return whole
        if id(e) in divided and isinstance(e, Call):
            return row if e.fn == "div" else place
        return rebuilt(e, kids)

    return transform(k, change, (*k.axes[:-1], size // period, period), ())
