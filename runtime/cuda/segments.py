"""Stretches of a program that only launch: each can be one CUDA graph."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..instructions import CALL, JUMP, JUMP_IF_FALSE, JUMP_IF_GE, instruction_length

_LEAST = 2  # launches that are worth a graph
_TARGET = {JUMP: 1, JUMP_IF_FALSE: 2, JUMP_IF_GE: 3}  # the word of an instruction that says where it jumps to


@dataclass(frozen=True)
class Segment:
    """Instructions from word `start` up to `end`, all of them calls, which are entered at the start only; the buffers and dims
    that they take, by number."""

    start: int
    end: int
    buffers: tuple[int, ...]
    dims: tuple[int, ...]


def segments(program: Sequence[int], skipped: Collection[int]) -> dict[int, Segment]:
    """The segments of a program by their start; `skipped` calls (words) are no launches. Shorter ones than two launches are left out."""
    targets, starts, pc = set(), [], 0
    while pc < len(program):
        starts.append(pc)
        if program[pc] in _TARGET:
            targets.add(program[pc + _TARGET[program[pc]]])
        pc += instruction_length(program, pc)
    found: dict[int, Segment] = {}
    run: list[int] = []
    for pc in [*starts, len(program)]:
        ends = pc == len(program) or program[pc] != CALL
        if run and (ends or pc in targets):
            _add(found, program, run, pc, skipped)
            run = []
        if not ends:
            run.append(pc)
    return found


def _add(found: dict[int, Segment], program: Sequence[int], run: Sequence[int], end: int, skipped: Collection[int]) -> None:
    launched = [pc for pc in run if pc not in skipped]
    if len(launched) < _LEAST:
        return
    buffers: dict[int, None] = {}
    dims: dict[int, None] = {}
    for pc in launched:
        n, m, at = program[pc + 2], program[pc + 3], pc + 6
        buffers |= dict.fromkeys(program[at : at + n])
        dims |= dict.fromkeys((program[pc + 4], *program[at + n : at + n + m]))
    found[run[0]] = Segment(run[0], end, tuple(buffers), tuple(dims))
