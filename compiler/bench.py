"""Times a model in mlc, onnxruntime and OpenVINO, interleaved in one process.

Engines take turns in short blocks of runs, in an order that rotates, so that a change of clock or load falls on all of
them. Before each block there is a pause, in which the spinning threads of the last engine go to sleep, and a run that is
not timed, which brings caches back. Times are wall clock of the whole call, from NumPy arrays to NumPy arrays.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .oracle import Oracle


class Refusal(InputError):
    """A peer cannot run the model; the others can still be timed."""


FLOAT32 = "mlc-fp32"  # this compiler at full precision, to compare a lowered module with
ENGINES = ("onnxruntime", "openvino", FLOAT32)
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
    runs: int

    def as_json(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "threads": self.threads,
            "median_ms": self.median,
            "min_ms": self.minimum,
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
    return [Timing(n, threads, statistics.median(t), min(t), len(t)) for n, t in samples.items()]


def onnxruntime_engine(path: Path, feeds: Mapping[str, np.ndarray], threads: int, sizes: Mapping[str, int]) -> Run:
    """onnxruntime with all optimizations; `sizes` fixes symbolic dims."""
    oracle = Oracle(path, optimize=True, threads=threads, sizes=sizes)
    ready = dict(feeds)
    oracle.run(ready)
    return lambda: oracle.session.run(None, ready)


def openvino_engine(path: Path, feeds: Mapping[str, np.ndarray], threads: int, static: bool, precision: str = "f32") -> Run:
    """OpenVINO's CPU plugin at a precision, "f32" or "bf16" (it would pick bfloat16 by itself where the machine has it)."""
    try:
        import openvino as ov
    except ImportError as e:
        raise InputError("OpenVINO is not installed", remedy="pip install openvino, or use --against onnxruntime", loc="--against") from e
    core = ov.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    ready = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
    try:
        model = core.read_model(os.fspath(path))
        if static:
            model.reshape({name: list(array.shape) for name, array in ready.items()})
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        request.infer(ready)
    except Exception as e:  # OpenVINO raises bare RuntimeErrors
        raise Refusal(f"OpenVINO cannot run the model: {' '.join(str(e).split())[:200]}") from e

    def run() -> Any:
        request.infer(ready, share_inputs=True)
        return [np.array(t.data) for t in request.output_tensors]

    return run


def versions(engines: Sequence[str]) -> dict[str, str]:
    """Versions of the engines, and of the machine that they ran on."""
    from importlib import metadata

    found = {"mlc": metadata.version("mlc")}
    for name in engines:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["cpu"] = _cpu_name()
    return found


def table(timings: Sequence[Timing]) -> list[dict[str, Any]]:
    """Rows for JSON: each engine's times, and how many times as long as mlc's they are (`ratio` > 1: mlc is faster)."""
    ours = {t.threads: t.median for t in timings if t.engine == "mlc"}
    return [{**t.as_json(), "ratio": t.median / ours[t.threads] if t.threads in ours else None} for t in timings]


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    import platform

    return platform.machine()
