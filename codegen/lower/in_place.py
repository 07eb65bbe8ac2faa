"""Results written over an operand of the epilogue that nobody reads any more, such as the sum of a residual layer.

The memory is in the cache already, having been read; a result somewhere else would first be fetched to be overwritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...ir import prod
from ..affine import affine
from ..expr import E, Load, children, postorder
from ..kernel import ContractKernel
from ..plan import Buffer, Expect, PlanStep, Step


def share_memory(buffers: Sequence[Buffer], steps: Sequence[PlanStep]) -> tuple[Buffer, ...]:
    """The buffers, results of contractions being aliases of operands that die there. Plans with control flow stay as they are."""
    out = list(buffers)
    straight = [s for s in steps if isinstance(s, Step | Expect)]
    if len(straight) != len(steps):
        return tuple(out)
    touched: dict[int, list[int]] = {}
    for at, step in enumerate(straight):
        for b in step.buffers if isinstance(step, Step) else (step.buffer,):
            touched.setdefault(root(buffers, b), []).append(at)
    named = {b.of for b in buffers if b.kind == "alias"}
    for at, step in enumerate(straight):
        if isinstance(step, Step) and step.buffers[-1] not in named and isinstance(step.kernel, ContractKernel):
            found = _over(step.kernel, step.buffers, out, touched, at)
            if found is not None:
                out[step.buffers[-1]] = replace(buffers[step.buffers[-1]], kind="alias", of=found)
    return tuple(out)


def _over(
    kernel: ContractKernel, operands: Sequence[int], buffers: Sequence[Buffer], touched: Mapping[int, list[int]], at: int
) -> int | None:
    """The operand that may be overwritten: read only where the result goes, and not after this step."""
    *reads, result = operands
    if buffers[result].kind != "arena" or touched[result][0] != at:
        return None
    roots = [root(buffers, b) for b in reads]
    for position in range(2, len(reads)):
        b = reads[position]
        original = buffers[b]
        same = original.dtype is buffers[result].dtype and prod(original.shape) == prod(buffers[result].shape)
        dies = buffers[roots[position]].kind == "arena" and roots.count(roots[position]) == 1 and _last_touch(touched, buffers, b) == at
        if same and dies and _only_there(kernel, position):
            return b
    return None


def _last_touch(touched: Mapping[int, list[int]], buffers: Sequence[Buffer], b: int) -> int:
    """Last step that touches the memory of b, whatever name it goes by."""
    last = -1
    while True:
        last = max([last, *touched.get(b, ())])
        if buffers[b].kind != "alias":
            return last
        b = buffers[b].of


def _only_there(kernel: ContractKernel, operand: int) -> bool:
    """Whether every load of the operand is of the element that the result is stored to."""
    loads = [e for e in postorder([kernel.epilogue], _within) if isinstance(e, Load) and e.operand == operand]
    if kernel.planes is not None:
        return False
    place = (kernel.c_batch if kernel.batch != 1 else 0, kernel.ldc, 1)
    for load in loads:
        found = affine(load.offset)
        if found is None or found[0] != 0 or any(axis > 2 for axis in found[1]):
            return False
        batch, row, column = (found[1].get(axis, 0) for axis in range(3))
        if (batch if kernel.batch != 1 else 0, row, column) != place:
            return False
    return bool(loads)


def _within(e: E) -> tuple[E, ...]:
    return () if isinstance(e, Load) else children(e)


def root(buffers: Sequence[Buffer], b: int) -> int:
    """The buffer whose memory an alias shares."""
    while buffers[b].kind == "alias":
        b = buffers[b].of
    return b
