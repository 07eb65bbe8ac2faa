"""The search: kernels by the time they take, candidates against the rules' choice, and at the end all of it in the module.

A candidate replaces the default only when it is faster by a margin twice: as the best of its round, and in runs that
alternate with the default. All replacements together have to make the module faster, or none is kept.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ...codegen.cpu.emit import emit
from ...codegen.cpu.emitted import Emitted
from ...codegen.cpu.hints import Hints, candidates
from ...codegen.cpu.parallel import CompilePool
from ...codegen.cpu.target import CpuTarget, missing_features
from ...codegen.kernel import Kernel
from ...codegen.plan import steps_of
from ...errors import CodegenError, ScheduleError
from ...ir import symbols_of
from ...runtime.threads import default_threads
from .. import bench
from ..cpu_backend import CpuBackend
from ..inputs import generate, specs_of_module, symbols_of_module, workable_shapes
from ..options import Options
from ..stages import Compilation, Progress, module_of
from .measure import Bench, Runner, calls_for_a_sample
from .records import Records

_PROMISING = 1.04  # how much faster than the default a candidate has to be in the first round,
_BETTER = 1.03  # and when it alternates with the default
_ROUNDS, _PAIRS = 4, 9
_WORTH = 0.01  # share of all kernels' time below which a kernel is not searched
_WHOLE = bench.Options(seconds=0.6, rounds=6, pause=0.02)


@dataclass(frozen=True)
class Job:
    """A kernel that occurs `count` times; `default` is the code that the rules give it."""

    key: str
    kernel: Kernel
    default: Emitted
    constant: tuple[bool, ...]
    count: int


def tune(result: Compilation, options: Options, tell: Progress) -> Compilation:
    """The compilation with schedules from the record, and from `options.tune` seconds of search.

    Raises ScheduleError when there is something to measure and the target is another machine.
    """
    if not isinstance(result.backend, CpuBackend):
        raise ScheduleError(f"--tune for {options.target}", expected="a CPU target")
    threads, target = options.threads or default_threads(), result.backend.target
    records = Records(f"{target.triple} {target.cpu}", threads)
    jobs = _jobs(result, records)
    known = {j.key: records.get(j.key) for j in jobs}
    chosen = {key: hints for key, (_, hints) in known.items() if hints is not None}
    fresh: dict[str, tuple[Hints | None, float]] = {}
    if options.tune:
        missing = missing_features(target.triple, target.features)
        if missing:
            raise ScheduleError(f"--tune for a target that needs {', '.join(missing)}", expected="this machine", remedy="Tune there.")
        search = _Search(result, target, options, threads, time.monotonic() + options.tune, tell)
        fresh = search.run([j for j in jobs if not known[j.key][0]])
        chosen |= {key: hints for key, (hints, _) in fresh.items() if hints is not None}
    tuned = _with(result, jobs, chosen)
    if any(hints is not None for hints, _ in fresh.values()) and not _faster(result, tuned, options, threads, tell):
        fresh = dict.fromkeys(fresh, (None, 1.0))
        tuned = _with(result, jobs, {key: hints for key, hints in chosen.items() if key not in fresh})
    for key, (hints, speedup) in fresh.items():
        records.put(key, hints, speedup)
    return tuned


def _jobs(result: Compilation, records: Records) -> list[Job]:
    found: dict[str, Job] = {}
    for step in steps_of(result.plan.steps):
        default = result.emitted[id(step)]
        key = records.key(default)
        if key in found:
            found[key] = replace(found[key], count=found[key].count + 1)
        elif not isinstance(default.units, int) or default.units > 0:
            constant = tuple(result.plan.buffers[_root(result, b)].kind == "const" for b in step.buffers)
            found[key] = Job(key, step.kernel, default, constant, 1)
    return list(found.values())


def _root(result: Compilation, buffer: int) -> int:
    while result.plan.buffers[buffer].kind == "alias":
        buffer = result.plan.buffers[buffer].of
    return buffer


def _with(result: Compilation, jobs: Iterable[Job], chosen: dict[str, Hints]) -> Compilation:
    """The same with other code where hints were chosen; what cannot be built any more stays as it is."""
    codes: dict[object, Emitted] = {}
    for j in jobs:
        if j.key in chosen:
            try:
                codes[_identity(j.default)] = emit(j.kernel, result.backend.target, chosen[j.key])
            except (ScheduleError, CodegenError):
                continue
    emitted = {at: codes.get(_identity(code), code) for at, code in result.emitted.items()}
    texts = {symbol: text for c in codes.values() for symbol, text in c.texts.items() if symbol not in result.objects}
    with CompilePool(result.backend.target) as pool:
        objects = {**result.objects, **pool.compile(texts)}
    return replace(result, emitted=emitted, texts={**result.texts, **texts}, objects=objects)


def _identity(code: Emitted) -> object:
    """Equal code for other sizes is another kernel."""
    return code.symbol, code.dims, code.units


def _faster(result: Compilation, tuned: Compilation, options: Options, threads: int, tell: Progress) -> bool:
    """Whether the tuned module beats the other one, in runs that take turns."""
    tell("comparing with the default", 0, 1)
    base, other = module_of(result, threads), module_of(tuned, threads)
    specs = specs_of_module(base)
    feeds = generate(specs, workable_shapes(base, specs, options.shapes or {}))
    times = bench.measure({"default": lambda: base.run(feeds), "tuned": lambda: other.run(feeds)}, threads, _WHOLE)
    ms = {t.engine: t.median for t in times}
    return ms["tuned"] < ms["default"]


class _Search:
    """A search in progress; every step looks at the clock."""

    def __init__(self, result: Compilation, target: CpuTarget, options: Options, threads: int, deadline: float, tell: Progress) -> None:
        self.target, self.threads, self.deadline, self.tell = target, threads, deadline, tell
        self.seconds = options.tune or 0.0
        module = module_of(result, threads)
        self.sizes = symbols_of_module(module, workable_shapes(module, specs_of_module(module), options.shapes or {}))

    def run(self, jobs: list[Job]) -> dict[str, tuple[Hints | None, float]]:
        """Hints and speed-up by kernel; a kernel that time did not suffice for has no entry."""
        jobs = [j for j in jobs if self._bound(j)]
        times = {j.key: self._default_time(j) * j.count for j in jobs}
        total = sum(times.values())
        jobs = sorted((j for j in jobs if times[j.key] >= _WORTH * total), key=lambda j: -times[j.key])
        found = {}
        for j in jobs:
            share = times[j.key] / max(1e-12, sum(times[x.key] for x in jobs if x.key not in found))
            until = min(self.deadline, time.monotonic() + max(0.5, share * (self.deadline - time.monotonic())))
            outcome = self._best(j, until)
            if outcome is None:
                break
            found[j.key] = outcome
            self._progress()
        return found

    def _progress(self) -> None:
        left = max(0.0, self.deadline - time.monotonic())
        self.tell("tune (seconds)", round(self.seconds - left), max(2, round(self.seconds)))

    def _bound(self, job: Job) -> bool:
        """Whether the inputs' sizes say how large the kernel's operands are."""
        dims = (*job.default.dims, job.default.units, *(o.numel for o in job.kernel.operands))
        return symbols_of(dims) <= set(self.sizes)

    def _default_time(self, job: Job) -> float:
        if time.monotonic() > self.deadline:
            return 0.0
        run = self._bench(job).runner(job.default)
        return min(run(calls_for_a_sample(run)) for _ in range(2))

    def _bench(self, job: Job) -> Bench:
        return Bench(job.kernel, job.constant, self.sizes, self.target, self.threads)

    def _best(self, job: Job, until: float) -> tuple[Hints | None, float] | None:
        """None when there was no time for any candidate."""
        place = self._bench(job)
        default = place.runner(job.default)
        calls = calls_for_a_sample(default)
        runs: dict[Hints | None, Runner] = {None: default}
        seen = {_identity(job.default)}
        tried = False
        for candidate in candidates(job.kernel, self.target):
            if time.monotonic() > until:
                break
            tried = True
            try:
                code = emit(job.kernel, self.target, candidate)
                if _identity(code) not in seen:
                    runs[candidate] = place.runner(code)
                seen.add(_identity(code))
            except (ScheduleError, CodegenError):
                continue
            self._progress()
        if not tried and time.monotonic() > until:
            return None
        best: dict[Hints | None, float] = {}
        for _ in range(_ROUNDS):
            for hints, run in runs.items():
                best[hints] = min(best.get(hints, 1e30), run(calls))
            worst = 1.5 * min(best.values())
            runs = {h: r for h, r in runs.items() if h is None or best[h] < worst}
        winner = min(runs, key=lambda h: best[h])
        if winner is None or best[None] < _PROMISING * best[winner]:
            return None, 1.0
        ratios = []
        for _ in range(_PAIRS):
            ratios.append(default(calls) / runs[winner](calls))
        speedup = statistics.median(ratios)
        return (winner, speedup) if speedup > _BETTER else (None, 1.0)
