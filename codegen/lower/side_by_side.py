"""Maps of equal axes that do not depend on each other as one kernel: on a GPU a launch takes longer than most of them.

The copies of new keys and of new values behind their caches, layer by layer, are such maps, and so are those of masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ..expr import Call, E, Load, Num, children, postorder, rebuilt, structure
from ..kernel import LoopKernel, Operand, Store, bytes_of
from ..plan import Branch, Buffer, PlanStep, Repeat, Step
from .in_place import root

LARGE = 16 << 20  # bytes of both: what takes longer than launches stays as it is
MOST_OPERANDS = 12
REACH = 8  # steps back
PIECE = 16  # elements, of whichever type: 16 bytes at least

_Touched = tuple[frozenset[int], frozenset[int]]  # memory read, and written


def side_by_side(steps: Sequence[PlanStep], buffers: Sequence[Buffer]) -> tuple[PlanStep, ...]:
    """The steps, maps having joined earlier ones wherever no step between touches what they write, or writes what they read."""
    out: list[PlanStep] = []
    touched: list[_Touched | None] = []  # by each of them, None where that is not known
    for step in steps:
        own = _touched(step, buffers) if isinstance(step, Step) else None
        match step:
            case Branch(then=then, orelse=orelse):
                step = replace(step, then=side_by_side(then, buffers), orelse=side_by_side(orelse, buffers))
            case Repeat(body=body):
                step = replace(step, body=side_by_side(body, buffers))
            case Step(kernel=LoopKernel() as kernel) if own is not None and _is_map(kernel):
                at = _partner(out, touched, kernel, own)
                if at is not None:
                    earlier, there = out[at], touched[at]
                    assert isinstance(earlier, Step) and there is not None
                    out[at], touched[at] = _joined(earlier, step), (there[0] | own[0], there[1] | own[1])
                    continue
        out.append(step)
        touched.append(own)
    return tuple(out)


def _partner(out: Sequence[PlanStep], touched: Sequence[_Touched | None], kernel: LoopKernel, own: _Touched) -> int | None:
    for at in range(len(out) - 1, max(-1, len(out) - 1 - REACH), -1):
        earlier, there = out[at], touched[at]
        if not isinstance(earlier, Step) or there is None or not _independent(there, own):
            return None
        if isinstance(earlier.kernel, LoopKernel) and _is_map(earlier.kernel) and _fit(earlier.kernel, kernel):
            return at
    return None


def _is_map(k: LoopKernel) -> bool:
    """Each point is computed from other memory, and stored where its place alone says: no scatter, no running sum."""
    written = {s.operand for s in k.stores}
    return (
        not k.reduce_axes
        and not k.stages
        and all(s.guard is None and not s.per_element for s in k.stores)
        and not any(isinstance(e, Load) for e in postorder([s.offset for s in k.stores]))
        and not any(isinstance(e, Load) and e.operand in written for e in postorder([s.value for s in k.stores]))
    )


def _fit(a: LoopKernel, b: LoopKernel) -> bool:
    if a.axes != b.axes or a.inward != b.inward or len(a.operands) + len(b.operands) > MOST_OPERANDS:
        return False
    size = bytes_of((*a.operands, *b.operands))
    return size <= LARGE if isinstance(size, int) else _built_alike(a, b)


def _built_alike(a: LoopKernel, b: LoopKernel) -> bool:
    """Whether all stores of both are the same of other operands, or of whole pieces of memory behind each other, as keys and values of
    one product are: then one kernel is scheduled as each of them would be."""

    def unnamed(s: Store) -> tuple[object, ...]:
        return structure([_renumbered(e, {}, _unshifted) for e in (s.offset, s.value)])

    return len({unnamed(s) for s in (*a.stores, *b.stores)}) == 1


def _independent(a: _Touched, b: _Touched) -> bool:
    (reads_a, writes_a), (reads_b, writes_b) = a, b
    return not (writes_a & (reads_b | writes_b) or writes_b & reads_a)


def _touched(s: Step, buffers: Sequence[Buffer]) -> _Touched:
    pairs = [(o.written, root(buffers, b)) for o, b in zip(s.kernel.operands, s.buffers, strict=True)]
    return frozenset(b for written, b in pairs if not written), frozenset(b for written, b in pairs if written)


def _joined(a: Step, b: Step) -> Step:
    assert isinstance(a.kernel, LoopKernel) and isinstance(b.kernel, LoopKernel)
    operands: list[Operand] = list(a.kernel.operands)
    memory = list(a.buffers)
    number: dict[int, int] = {}
    for i, (o, buffer) in enumerate(zip(b.kernel.operands, b.buffers, strict=True)):
        there = next((j for j, (p, m) in enumerate(zip(operands, memory, strict=True)) if p == o and m == buffer and not o.written), None)
        number[i] = len(operands) if there is None else there
        if there is None:
            operands.append(o)
            memory.append(buffer)
    stores = tuple(Store(number[s.operand], _renumbered(s.offset, number), _renumbered(s.value, number)) for s in b.kernel.stores)
    kernel = replace(a.kernel, operands=tuple(operands), stores=(*a.kernel.stores, *stores))
    return Step(kernel, tuple(memory), tuple(dict.fromkeys((*a.loc, *b.loc))))


def _unshifted(offset: E) -> E:
    match offset:
        case Call(fn="add", args=(rest, Num(value=int(start)))) if start % PIECE == 0:
            return rest
    return offset


def _renumbered(e: E, number: Mapping[int, int], moved: Callable[[E], E] = lambda offset: offset) -> E:
    """With other operands, 0 for those not named, and offsets `moved`."""
    new: dict[int, E] = {}
    for x in postorder([e]):
        made = rebuilt(x, tuple(new[id(c)] for c in children(x)))
        new[id(x)] = Load(number.get(made.operand, 0), moved(made.offset), dtype=made.dtype) if isinstance(made, Load) else made
    return new[id(e)]
