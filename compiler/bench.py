"""Times engines that are ready to run (`engines.py`), interleaved in one process.

Engines take turns in short blocks of runs, in an order that rotates, so that a change of clock or load falls on all of
them. Before each block there is a pause, in which the spinning threads of the last engine go to sleep, and a run that is
not timed, which brings caches back. Times are wall clock of the whole call, from NumPy arrays to NumPy arrays.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Run = Callable[[], Any]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """How long to measure.

    Attributes:
        seconds: time spent in timed runs of each engine, about.
        rounds: blocks per engine.
        pause: seconds of silence before each block.
    """

    seconds: float = 2.0
    rounds: int = 8
    pause: float = 0.05


@dataclass(frozen=True)
class Timing:
    """Milliseconds per run of one engine."""

    engine: str
    threads: int
    median: float
    minimum: float
    p99: float  # of a hundred runs one takes longer
    runs: int

    def as_json(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "threads": self.threads,
            "median_ms": self.median,
            "min_ms": self.minimum,
            "p99_ms": self.p99,
            "runs": self.runs,
        }


def measure(engines: Mapping[str, Run], threads: int, options: Options, tell: Progress | None = None) -> list[Timing]:
    """Times already loaded engines, in blocks by turns."""
    tell = tell or (lambda stage, done, total: None)
    per_block: dict[str, int] = {}
    block = options.seconds / options.rounds
    for name, run in engines.items():
        run()
        start = time.perf_counter()
        run()
        per_block[name] = max(1, min(1000, int(block / max(time.perf_counter() - start, 1e-7))))
    samples: dict[str, list[float]] = {name: [] for name in engines}
    order = list(engines)
    collecting = gc.isenabled()
    gc.disable()  # a collection inside a block would be charged to whoever is running
    try:
        for turn in range(options.rounds):
            for name in order[turn % len(order) :] + order[: turn % len(order)]:
                run, times = engines[name], samples[name]
                time.sleep(options.pause)
                run()
                for _ in range(per_block[name]):
                    start = time.perf_counter_ns()
                    run()
                    times.append((time.perf_counter_ns() - start) * 1e-6)
            tell(f"{threads} thread{'s' if threads > 1 else ''}", turn + 1, options.rounds)
    finally:
        if collecting:
            gc.enable()
    return [Timing(n, threads, statistics.median(t), min(t), _p99(t), len(t)) for n, t in samples.items()]


def _p99(times: Sequence[float]) -> float:
    """The least that 99 of 100 do not exceed."""
    return float(np.quantile(times, 0.99, method="inverted_cdf"))


def table(timings: Sequence[Timing]) -> list[dict[str, Any]]:
    """Rows for JSON: each engine's times, and how many times as long as mlc's they are (`ratio` > 1: mlc is faster)."""
    ours = {t.threads: t.median for t in timings if t.engine == "mlc"}
    return [{**t.as_json(), "ratio": t.median / ours[t.threads] if t.threads in ours else None} for t in timings]
