"""Milliseconds of a run by the wall clock, of engines that take turns in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import MlcError

BLOCKS, WARM, SECONDS = 5, 3, 0.15  # blocks of runs; runs before each that are not timed; time of a block


def by_turns(
    engines: Mapping[str, Callable[[], Any]], notes: list[str], finish: Callable[[], Any] = lambda: None, pause: float = 0.0
) -> dict[str, float | None]:
    """The median over blocks. One that fails is left out, and `notes` says why.

    Args:
        finish: waits for what runs launched, at the end of a block and now and then within.
        pause: seconds before a block, in which threads of the last engine that wait by spinning go to sleep.
    """
    times: dict[str, list[float]] = {}
    failed: set[str] = set()
    for _ in range(BLOCKS):
        for name, run in engines.items():
            if name in failed:
                continue
            time.sleep(pause)
            try:
                times.setdefault(name, []).append(_block(run, finish))
            except (MlcError, RuntimeError) as e:
                failed.add(name)
                notes.append(f"{name}: {short(str(e))}")
    return {n: statistics.median(t) for n, t in times.items() if t}


def short(text: str) -> str:
    """For a cell of a table."""
    return " ".join(text.replace("|", "/").split())[:120]


def _block(run: Callable[[], Any], finish: Callable[[], Any]) -> float:
    """Over as many runs as fill a block, nothing pending before and after."""
    for _ in range(WARM):
        run()
    finish()
    start = time.perf_counter()
    count = 0
    while time.perf_counter() - start < SECONDS or count < 3:
        run()
        count += 1
        if count % 8 == 0:
            finish()
    finish()
    return (time.perf_counter() - start) / count * 1e3
