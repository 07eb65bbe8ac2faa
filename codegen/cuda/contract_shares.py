"""Where blocks share k: how many do so by steps, and the memory by which their sums meet (headers/blocks.cuh, stream.cuh)."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import CodegenError
from ...ir import Dim, ceildiv, upper
from ..kernel import ContractKernel
from .contract_schedule import MIN_SPLITS, FmaSchedule, MmaSchedule, WgmmaSchedule, tiles
from .contract_text import accumulator
from .launching import between
from .target import DEVICES

# Tiles that are ever split, of a number that only a launch knows.
_MOST_SPLIT = max(d.multiprocessors for d in DEVICES.values()) // MIN_SPLITS


def stream_blocks(kernel: ContractKernel, plan: MmaSchedule | WgmmaSchedule, bk: int) -> int:
    """Blocks of a stream, each with a step of `bk` along k at least; 0 where there is none. Raises CodegenError for unknown sizes."""
    if not plan.stream:
        return 0
    steps = tiles(kernel, plan) * ceildiv(kernel.k, bk)
    if not isinstance(steps, int):
        raise CodegenError(f"{steps} steps of a stream", expected="a number")
    return min(steps, plan.stream)


@dataclass(frozen=True, slots=True)
class Shares:
    """What blocks that share k want: bytes of partial sums, and counters. Both 0 where none shares."""

    bytes: Dim = 0
    counters: int = 0


def shares(kernel: ContractKernel, plan: FmaSchedule | MmaSchedule | WgmmaSchedule, stream: int = 0, each: int = 1) -> Shares:
    """A tile of sums for each block of a stream, else for each share; `each` counters for each block, else for each tile."""
    if not stream and plan.splits == 1:
        return Shares()
    places, tile = stream or tiles(kernel, plan), plan.bm * plan.bn * accumulator(kernel).itemsize
    if isinstance(plan.splits, int):
        return Shares(places * plan.splits * tile, upper(places) * each)
    split = between(plan.splits, MIN_SPLITS, None)
    return Shares(places * plan.splits * split * tile, min(upper(places), _MOST_SPLIT) * each)
