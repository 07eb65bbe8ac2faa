"""A template and its parameters as the launch of a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...ir import Dim, dim_max, dim_min
from .emitted import COUNTERS, Launch, TensorMap, map_notes, named
from .render import render
from .writer import Params


def launch_of(template: str, pointers: Sequence[str], values: Any, params: Params, blocks: Dim, threads: int, shared: int, *,
              sums: str = "", maps: Sequence[TensorMap] = (), map_names: Sequence[str] = ()) -> Launch:  # fmt: skip
    """The launch of a rendered template, to whose `values` parameters and prologue are added.

    Args:
        pointers: parameters of the operands, in order.
        sums: type of what blocks that share work hand to each other, "" where none do. It follows the operands, and counters follow it.
            Other blocks write both while a block runs, so that they are not `__restrict__`.
    """
    operands: tuple[int, ...] = tuple(range(len(pointers)))
    if sums:
        operands, pointers = (*operands, len(operands), COUNTERS), [*pointers, f"{sums}* partial", "u64* counters"]
    notes = map_notes(maps, map_names, params.name)
    more = [f"const __grid_constant__ TensorMap {name}" for name in map_names]
    values = replace(values, parameters=[*pointers, *params.signature(), *more], prologue=params.prologue())
    source, symbol = named(render(template, values) + notes)
    return Launch(source, symbol, operands, tuple(params.dims), blocks, threads, shared, tuple(maps))


def between(size: Dim, least: int, most: int | None) -> Dim:
    """1 where the size is in the range, else 0: a factor of the blocks of a launch that is for such sizes."""
    above = dim_min(1, dim_max(0, size - (least - 1)))
    return above if most is None else above * dim_min(1, dim_max(0, most + 1 - size))
