"""Where a run's time goes, kernel by kernel, against what this machine can do at most (its roofline).

A kernel of f floating-point operations that moves b bytes takes at least max(f / peak flops, b / bandwidth); its share of
the roofline is that time over the measured one. Peaks are measured here and now, with as many threads. The clock of a core
depends on what it has been doing: for flops, the peak that counts is what multiply-adds in registers sustain for some
milliseconds, in turns with the model's runs, and not the fastest moment of an idle machine. Bandwidth is that of
reading b bytes again and again: of a cache, if they fit into one, since the kernel before may have left them there. Integer
kernels are held against the float32 peak, which they may exceed, as does a convolution that is not done directly.
"""

from __future__ import annotations

import ctypes
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..codegen.cpu.compile import compile_ir
from ..codegen.cpu.probe import Probe, loads, multiply_adds
from ..codegen.cpu.target import host
from ..runtime.instructions import JUMP, instruction_length
from ..runtime.module import Module
from ..runtime.native import Code

_WORKING_SETS = tuple(1 << n for n in (15, 18, 21, 24, 28))  # bytes of each thread; the last is more than caches hold
_ROUNDS = 25
_SECONDS = 0.003  # of one round: less than a slice of time of the system's scheduler
_SUSTAINED = 0.005  # seconds of multiply-adds behind a run: many times longer than a core takes to change its clock
_PASSES = 2  # over all probes, in case that the machine was busy during one


@dataclass(frozen=True)
class Peaks:
    """GFLOP/s of float32 multiply-adds, and GB/s read, of `threads` threads together.

    gbytes: by the size in bytes of what one thread reads over and over, ascending; the last is far more than caches hold.
    """

    threads: int
    gflops: float
    gbytes: tuple[tuple[int, float], ...]

    def bandwidth(self, moved: int) -> float:
        """GB/s for a kernel that moves so many bytes, shared by the threads."""
        return next((rate for size, rate in self.gbytes if moved <= size * self.threads), self.gbytes[-1][1])


@dataclass(frozen=True)
class KernelTime:
    """One call of the program.

    Attributes:
        kernel: symbol of the code; equal kernels share it.
        nodes: ONNX nodes that it implements.
        ms: median over runs; of all iterations together when it is inside a loop of the model.
        share: of the time of all calls.
        flops, bytes: of one call.
        gflops, gbytes, roofline: rates per second, and the share of the roofline; None inside a loop, whose number of
            iterations is not known.
    """

    kernel: str
    nodes: tuple[str, ...]
    ms: float
    share: float
    flops: int
    bytes: int
    gflops: float | None
    gbytes: float | None
    roofline: float | None


@dataclass(frozen=True)
class Profile:
    """Kernels by time, the longest first; `run_ms` is the median of whole runs, calls and what is between them."""

    peaks: Peaks
    run_ms: float
    kernels: tuple[KernelTime, ...]

    @property
    def kernels_ms(self) -> float:
        return sum(k.ms for k in self.kernels)

    @property
    def roofline(self) -> float:
        """Share of the roofline of all calls together; what exceeds it counts as reaching it."""
        known = [k for k in self.kernels if k.roofline is not None]
        total = sum(k.ms for k in known)
        return sum(min(1.0, k.roofline or 0.0) * k.ms for k in known) / total if total else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "peaks": asdict(self.peaks),
            "run_ms": self.run_ms,
            "kernels_ms": self.kernels_ms,
            "flops": sum(k.flops for k in self.kernels if k.ms > 0),
            "bytes": sum(k.bytes for k in self.kernels if k.ms > 0),
            "roofline": self.roofline,
            "kernels": [asdict(k) for k in self.kernels],
        }


def measure_peaks(threads: int) -> Peaks:
    """Runs the probes, best of many rounds; takes about a second."""
    target = host()
    flops, reads = _Running(multiply_adds(target)), _Running(loads(target))
    data = [np.ones(_WORKING_SETS[-1], np.uint8) for _ in range(threads)]  # ones, so that pages are there
    gflops, gbytes = 0.0, dict.fromkeys(_WORKING_SETS, 0.0)
    for _ in range(_PASSES):
        gflops = max(gflops, flops.probe.flops * flops.steps_per_second(data, 0) * 1e-9)
        for size in _WORKING_SETS:
            gbytes[size] = max(gbytes[size], reads.probe.bytes * reads.steps_per_second(data, size) * 1e-9)
    # what a larger set can do, a smaller one can too
    return Peaks(threads, gflops, tuple((s, max(gbytes[x] for x in _WORKING_SETS if x >= s)) for s in _WORKING_SETS))


def sustained_gflops(threads: int) -> Callable[[], float]:
    """A function that measures, each time it is called, what multiply-adds in registers reach on all threads together for some
    milliseconds."""
    probe = _Running(multiply_adds(host()))
    data = [np.ones(64, np.uint8) for _ in range(threads)]
    steps = max(1, int(_SUSTAINED * probe.steps_per_second(data, 0) / threads))
    return lambda: threads * steps * probe.probe.flops / probe.seconds(data, steps, 0) * 1e-9


def profile(
    module: Module, feeds: Mapping[str, np.ndarray], peaks: Peaks, runs: int = 20, sustained: Callable[[], float] | None = None
) -> Profile:
    """Times every call of the module's program; peaks should be of as many threads as the module has.

    sustained: from `sustained_gflops`, called in turns with the runs; its median replaces the peak of `peaks`.
    """
    whole, calls, pace = [], [], []
    for _ in range(runs):
        calls.append(module.profile(feeds))
        if sustained is not None:
            pace.append(sustained())
        start = time.perf_counter()
        module.run(feeds)
        whole.append(time.perf_counter() - start)
    if pace:
        peaks = replace(peaks, gflops=statistics.median(pace))
    binding = module.binding(**_sizes(module, feeds))
    dims, manifest = binding.dims, binding.program.manifest
    start_word = 0 if manifest is module.manifest else len(module.manifest.program)
    costs = {start_word + s.word: (int(dims[s.flops]), int(dims[s.bytes])) for s in manifest.steps}
    seconds = {word: statistics.median(c[word] for c in calls) for word in calls[0]}
    total = sum(seconds.values()) or 1.0
    looped = {start_word + word for word in words_in_loops(manifest.program)}
    rows = []
    for s in module.steps:
        if s.word not in seconds:
            continue
        t, (flops, moved) = seconds[s.word], costs.get(s.word, (0, 0))  # data may have chosen the other program
        rates: tuple[float | None, ...] = (None, None, None)
        if t > 0 and s.word in costs and s.word not in looped:
            least = max(flops / (peaks.gflops * 1e9), moved / (peaks.bandwidth(moved) * 1e9))
            rates = flops / t * 1e-9, moved / t * 1e-9, least / t
        rows.append(KernelTime(s.symbol, tuple(dict.fromkeys(s.loc)), t * 1e3, t / total, flops, moved, *rates))
    rows.sort(key=lambda k: -k.ms)
    return Profile(peaks, statistics.median(whole) * 1e3, tuple(rows))


def words_in_loops(program: Sequence[int]) -> set[int]:
    """Words of a program that a backward jump passes over."""
    found: set[int] = set()
    pc = 0
    while pc < len(program):
        if program[pc] == JUMP and program[pc + 1] <= pc:
            found.update(range(program[pc + 1], pc))
        pc += instruction_length(program, pc)
    return found


def _sizes(module: Module, feeds: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Values of the symbols that stand alone as a dim of an input."""
    bound: dict[str, int] = {}
    for info in module.inputs:
        bound |= {d: n for d, n in zip(info.shape, feeds[info.name].shape, strict=True) if isinstance(d, str)}
    return {s.name: bound[s.name] for s in module.manifest.symbols if s.name in bound}


class _Running:
    """A probe, loaded."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self._code = Code([compile_ir(probe.ir_text, host())])
        self._fn = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(self._code.address(probe.symbol))

    def steps_per_second(self, data: Sequence[np.ndarray], size: int) -> float:
        """The best of several rounds, of all threads (an array each) together; `size` bytes of each array are used."""
        steps = max(1 << 10, size // max(1, self.probe.bytes))
        while (seconds := self.seconds(data, steps, size)) < _SECONDS / 2:
            steps *= max(2, min(64, int(_SECONDS / seconds)))
        rounds = max(2, min(_ROUNDS, int(_ROUNDS * _SECONDS / seconds)))
        best = min(seconds, *(self.seconds(data, steps, size) for _ in range(rounds)))
        return len(data) * steps / best

    def seconds(self, data: Sequence[np.ndarray], steps: int, size: int) -> float:
        """Wall time of one call in each of as many threads as there are arrays, begun together."""
        barrier = threading.Barrier(len(data))
        spans: list[tuple[float, float]] = []

        def work(array: np.ndarray) -> None:
            barrier.wait()
            start = time.perf_counter()
            self._fn(array.ctypes.data, steps, size - 1)  # ctypes lets other threads run meanwhile
            spans.append((start, time.perf_counter()))

        helpers = [threading.Thread(target=work, args=(a,)) for a in data[1:]]
        for t in helpers:
            t.start()
        work(data[0])
        for t in helpers:
            t.join()
        return max(end for _, end in spans) - min(start for start, _ in spans)
