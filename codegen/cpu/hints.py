"""Departures from the schedule rules, to be tried by measurement: small numbers, so that a record of them can be kept.

0 leaves a choice to the rule. What a kernel cannot have is a ScheduleError.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ...errors import ScheduleError
from ..kernel import AttentionKernel, ContractKernel, GroupedKernel, Kernel, LoopKernel, RecurrentKernel, WinogradKernel
from .attention.schedule import AttentionHints, Products, schedule_attention
from .contract.schedule import ContractHints, schedule_contract
from .dot.schedule import DotHints, schedule_dot
from .grouped.schedule import GroupedHints, schedule_grouped
from .loops.merge import merge_axes
from .loops.schedule import LoopHints, LoopSchedule, schedule
from .loops.transpose import moving
from .recurrent_schedule import RecurrentHints, schedule_recurrent
from .target import CpuTarget
from .winograd.schedule import WinogradHints, schedule_winograd

Hints = ContractHints | LoopHints | AttentionHints | WinogradHints | DotHints | GroupedHints | RecurrentHints
_KINDS: dict[str, type[Hints]] = {
    "contract": ContractHints, "loop": LoopHints, "attention": AttentionHints, "winograd": WinogradHints, "dot": DotHints,
    "grouped": GroupedHints, "recurrent": RecurrentHints,
}  # fmt: skip
_REGISTERS = {512: 32, 256: 16, 128: 16}
_TALLEST = 14  # rows of a register tile: more of them is mostly compile time


def candidates(kernel: Kernel, target: CpuTarget) -> list[Hints]:
    """Other schedules worth measuring, the most promising first; none for kinds of kernels that have no choice."""
    match kernel:
        case ContractKernel(b_column=column) if column != 0:
            return []
        case ContractKernel(group=1):
            return list(_contract(kernel, target))
        case ContractKernel():
            return list(_dot(kernel, target))
        case GroupedKernel():
            return list(_grouped(kernel, target))
        case RecurrentKernel():
            return list(_recurrent(kernel, target))
        case AttentionKernel():
            return list(_attention(kernel, target))
        case WinogradKernel():
            return list(_winograd(kernel, target))
        case LoopKernel():
            merged = merge_axes(kernel)
            return [] if moving(merged, target) is not None else list(_loop(merged, target))
    return []


def _contract(kernel: ContractKernel, target: CpuTarget) -> Iterator[ContractHints]:
    chosen = schedule_contract(kernel, target)
    lanes, static = chosen.lanes, isinstance(kernel.m, int)
    registers = 32 if "aarch64" in target.triple else _REGISTERS[target.vector_bits]
    for vectors in (1, 2, 3, 4, 6):
        if kernel.panel // lanes % vectors or (isinstance(kernel.n, int) and vectors > 1 and kernel.n <= lanes * (vectors // 2)):
            continue
        if kernel.last and lanes * vectors != kernel.panel:
            continue
        most = min(_TALLEST, (registers - vectors - 1) // vectors)
        for tall in sorted({most, most - 1, chosen.tiles[0]}, reverse=True):
            if 3 <= tall <= (most if chosen.mode == "matmul" else min(most, 8)) and (tall, vectors) != (chosen.tiles[0], chosen.vectors):
                yield ContractHints(vectors=vectors, tall=tall)
    rows = chosen.whole_block if isinstance(chosen.whole_block, int) else 0
    for block in (rows // 2, rows * 2, rows // 4, rows * 4):
        if static and 2 * chosen.tiles[0] <= block < 2 * int(kernel.m):
            yield ContractHints(block=block)
    if chosen.split:
        yield ContractHints(k_block=-1)
        yield from (ContractHints(k_block=k) for k in (chosen.k_block * 2, chosen.k_block // 2) if k >= 16)
    elif chosen.mode == "matmul" and isinstance(kernel.k, int) and kernel.k >= 256:
        yield ContractHints(k_block=-(-kernel.k // 128) * 64)
    if chosen.prefetch:
        yield ContractHints(prefetch=-1)


def _attention(kernel: AttentionKernel, target: CpuTarget) -> Iterator[AttentionHints]:
    chosen = schedule_attention(kernel, target)
    if chosen.products is not Products.FLOATS or not chosen.widths or not isinstance(chosen.strips, int):
        return
    for together in (1, 2, 4, 8):
        if together <= chosen.strips and together != chosen.together:
            yield AttentionHints(together=together)
    for keys in (chosen.most_keys // 2, chosen.most_keys * 2):
        yield AttentionHints(keys=keys)
    yield AttentionHints(copied=-1 if chosen.copied_keys else 1)


def _winograd(kernel: WinogradKernel, target: CpuTarget) -> Iterator[WinogradHints]:
    chosen = schedule_winograd(kernel, target)
    if not isinstance(chosen.block, int):
        return
    for groups in (1, 2, 4, 8):
        if groups <= chosen.strips and groups != chosen.groups:
            yield WinogradHints(groups=groups)
    for block in (chosen.block // 2, chosen.block * 2, chosen.block // 3, chosen.block * 3):
        if block >= 1:
            yield WinogradHints(block=block)
            yield WinogradHints(block=block, groups=1)


def _dot(kernel: ContractKernel, target: CpuTarget) -> Iterator[DotHints]:
    chosen = schedule_dot(kernel, target)
    if not isinstance(chosen.rows, int) or not isinstance(chosen.strips, int) or not isinstance(kernel.k, int):
        return
    step = 1 if chosen.window is not None else chosen.heights[0]
    for strips in (chosen.strips * 2, chosen.strips // 2, chosen.strips * 4, chosen.strips // 4):
        if strips >= 1:
            yield DotHints(strips=strips)
    for rows in (chosen.rows * 2, chosen.rows // 2, chosen.rows * 4, chosen.rows // 4):
        if rows >= step:
            yield DotHints(rows=rows // step * step)
    if chosen.how == "tiles" and chosen.window is None:
        yield DotHints(inner=-1 if chosen.by_rows else 1)
        if chosen.gather != "conv":
            yield DotHints(gather=-1 if chosen.gather == "matmul" else 1)
            yield DotHints(fetch=-1 if chosen.fetch == "a" else 1)
    if chosen.how == "tiles":
        yield DotHints(vectors=1)


def _grouped(kernel: GroupedKernel, target: CpuTarget) -> Iterator[GroupedHints]:
    chosen = schedule_grouped(kernel, target)
    step = 32 if chosen.tiles else 1
    if isinstance(chosen.rows, int) and isinstance(kernel.m, int):
        for rows in (chosen.rows // 2, chosen.rows * 2, chosen.rows * 4):
            if step <= rows < 2 * kernel.m:
                yield GroupedHints(rows=rows // step * step)
    if chosen.tiles:
        yield GroupedHints(tiles=-1)
        yield from (GroupedHints(chunk=c) for c in (1, 2, 4, 8) if c != chosen.chunk)
    if chosen.expand and not chosen.tiles:
        yield GroupedHints(expand=-1)
    yield from (GroupedHints(vectors=v) for v in (1, 2, 4) if v < chosen.vectors)


def _recurrent(kernel: RecurrentKernel, target: CpuTarget) -> Iterator[RecurrentHints]:
    chosen = schedule_recurrent(kernel, target)
    for rows in (1, 2, 4, 6):
        for vectors in (1, 2, 4):
            if (rows, vectors) != (chosen.rows, chosen.vectors):
                yield RecurrentHints(rows=rows, vectors=vectors)
    if len(kernel.directions) > 1:
        yield RecurrentHints(together=-1 if chosen.together else 1)
    if kernel.batch != 1:
        yield RecurrentHints(by_rows=-1 if chosen.by_rows else 1)


def _loop(kernel: LoopKernel, target: CpuTarget) -> Iterator[LoopHints]:
    chosen = schedule(kernel, target)
    if chosen.axis < 0:
        return
    for group in (1, 2, 4, 8):
        if group != chosen.group:
            yield LoopHints(group=group)
    for block in (chosen.block * 4, chosen.block // 2, chosen.block * 16):
        yield LoopHints(block=block)
    for choice in (1, 2):
        other = _scheduled(kernel, target, LoopHints(choice=choice))
        if other is not None and other.axis != chosen.axis:
            yield LoopHints(choice=choice)


def _scheduled(kernel: LoopKernel, target: CpuTarget, hints: LoopHints) -> LoopSchedule | None:
    try:
        return schedule(kernel, target, hints)
    except ScheduleError:
        return None


def as_json(hints: Hints) -> dict[str, Any]:
    """Kind and numbers."""
    kind = next(k for k, t in _KINDS.items() if isinstance(hints, t))
    return {"kind": kind, **asdict(hints)}


def from_json(value: Any) -> Hints:
    """The reverse. Raises ScheduleError."""
    try:
        fields = dict(value)
        hints = _KINDS[fields.pop("kind")](**fields)
        if all(type(v) is int for v in fields.values()):
            return hints
    except (TypeError, ValueError, KeyError):
        pass
    raise ScheduleError(f"{str(value)[:100]}", expected="a record of schedule choices")
