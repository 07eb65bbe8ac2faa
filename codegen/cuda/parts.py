"""A loop kernel as several kernels that run one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...ir import Dim
from ..expr import Axis, Bits, Call, Cast, E, Load, Reduced, postorder
from ..kernel import LoopKernel


@dataclass(frozen=True)
class Part:
    """A kernel of a sequence. `atomics`: operands whose stores combine with what is there, by the name of the function that does."""

    kernel: LoopKernel
    atomics: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Parts:
    """All have the operands of the kernel that they stand for, and behind these the workspaces, of `sizes` in bytes."""

    kernels: tuple[Part, ...]
    sizes: tuple[Dim, ...] = ()


def replaced(roots: Sequence[E], axes: Mapping[int, E], results: Mapping[int, E]) -> list[E]:
    """The expressions with loop variables and results of reductions replaced; what is shared stays shared."""
    new: dict[int, E] = {}
    for e in postorder(roots):
        out = e
        match e:
            case Axis(index=i):
                out = axes.get(i, e)
            case Reduced(stage=i):
                out = results.get(i, e)
            case Load(operand=o, offset=at):
                out = Load(o, new[id(at)], dtype=e.dtype)
            case Call(fn=fn, args=args):
                out = Call(fn, tuple(new[id(a)] for a in args), dtype=e.dtype)
            case Cast(arg=a):
                out = Cast(new[id(a)], dtype=e.dtype)
            case Bits(arg=a, source=source):
                out = Bits(new[id(a)], source, dtype=e.dtype)
        new[id(e)] = out
    return [new[id(e)] for e in roots]
