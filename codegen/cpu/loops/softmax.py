"""Greatest elements that need not tell of what is not a number: softmax adds up exp(x − max x), where it comes back."""

from __future__ import annotations

from ...expr import Call, E, Reduced, children, postorder
from ...kernel import LoopKernel


def shifts(k: LoopKernel) -> frozenset[int]:
    """The stages of such maxima: nothing reads them but the exponentials, their sum, and quotients and differences of both."""
    return frozenset(i for i, stage in enumerate(k.stages) if stage.fn == "max" and stage.value.dtype.is_float and _only_shifts(k, i))


def _only_shifts(k: LoopKernel, top: int) -> bool:
    x, rest = k.stages[top].value, k.stages[top + 1 :]
    sums = [top + 1 + j for j, s in enumerate(rest) if s.fn == "sum" and _power(s.value, x, top)]
    if len(sums) != 1:
        return False

    def inside(e: E) -> tuple[E, ...]:
        match e:
            case Call(fn="div", args=(y, Reduced(stage=total))) | Call(fn="sub", args=(y, Call(fn="log", args=(Reduced(stage=total),)))):
                if total == sums[0] and (_power if e.fn == "div" else _shifted)(y, x, top):
                    return ()
        return children(e)

    others = [s.value for j, s in enumerate(k.stages) if j != sums[0]] + [y for s in k.stores for y in (s.value, s.guard, s.offset) if y]
    return not any(isinstance(e, Reduced) and e.stage == top for e in postorder(others, inside))


def _power(e: E, x: E, top: int) -> bool:
    return isinstance(e, Call) and e.fn == "exp" and _shifted(e.args[0], x, top)


def _shifted(e: E, x: E, top: int) -> bool:
    return isinstance(e, Call) and e.fn == "sub" and e.args[0] is x and isinstance(e.args[1], Reduced) and e.args[1].stage == top
