"""`python -m mlc.models bench-torch`: suite models on this CPU by mlc, by torch as it is, and by torch.compile, as markdown.

torch.compile gets what makes its code fast: constants that are frozen, which packs weights, and its autotuning. Seconds are those
of a first compilation, caches off, torch.compile's for the inputs' sizes.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .. import compile as compile_model
from ..errors import InputError
from . import suite
from .turns import by_turns, short

MLC, EAGER, INDUCTOR = "mlc", "torch", "torch.compile"
_PAUSE = 0.05  # seconds; as in `mlc bench`
_COLD = {"MLC_NO_CACHE": "1", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}


@dataclass
class TorchRow:
    """A line of the table: milliseconds of a run, and seconds of a compilation, by engine (what failed is missing)."""

    name: str
    threads: int
    milliseconds: dict[str, float | None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def rows(names: Sequence[str], threads: Sequence[int]) -> Iterator[TorchRow]:
    """Each model at each number of threads, in a process of its own: torch.compile's code is for one number of threads."""
    unknown = [n for n in names if n not in suite.SUITE]
    if unknown:
        raise InputError(f"no suite model is called {unknown[0]!r}", expected="one of " + ", ".join(suite.SUITE))
    for name in names or list(suite.SUITE):
        for count in threads:
            try:
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                    yield process.submit(measured, name, count).result()
            except BrokenProcessPool:
                yield TorchRow(name, count, notes=["the process died"])


def measured(name: str, threads: int) -> TorchRow:
    """One row, in a process that is for nothing else. Raises InputError where there is no torch."""
    os.environ.update(_COLD)
    row = TorchRow(name, threads)
    path = suite.export(name)  # which needs torch too
    import torch
    from torch._inductor import config

    torch.set_num_threads(threads)
    torch.manual_seed(suite.SEED)
    model, example = suite.SUITE[name].build()
    model.eval()
    config.freezing = True
    fast = torch.compile(model, mode="max-autotune-no-cudagraphs")
    given = [x.numpy() for x in example]

    def by_torch(run: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: _arrays(run(*map(torch.from_numpy, given)))

    with torch.no_grad():
        with _timed(row, MLC):
            module = compile_model(path, threads=threads)
        engines = {MLC: lambda: module(*given), EAGER: by_torch(model)}
        try:
            with _timed(row, INDUCTOR):
                by_torch(fast)()
            engines[INDUCTOR] = by_torch(fast)
        except Exception as e:  # compilers of others fail in their own ways
            row.notes.append(f"{INDUCTOR}: {short(f'{type(e).__name__}: {e}')}")
        row.milliseconds = by_turns(engines, row.notes, pause=_PAUSE)
    return row


def markdown(found: Sequence[TorchRow]) -> str:
    """The table: times, ratios to mlc's, seconds of compilation."""
    lines = [
        "| model | threads | mlc ms | torch ms | torch.compile ms | torch / mlc | torch.compile / mlc | mlc compile s | torch.compile s |",
        "| --- |" + " --: |" * 8,
    ]
    for r in found:
        own, *others = (r.milliseconds.get(e) for e in (MLC, EAGER, INDUCTOR))
        ratios = [None if own is None or t is None else t / own for t in others]
        figures = [*(own, *others), *ratios, *(r.seconds.get(e) for e in (MLC, INDUCTOR))]
        cells = [suite.SUITE[r.name].title, str(r.threads), *("" if x is None else f"{x:.2f}" for x in figures)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"\n{suite.SUITE[r.name].title}, {r.threads}: {note}" for r in found for note in r.notes]
    return "\n".join(lines)


def _arrays(found: Any) -> Any:
    return [x.numpy() for x in found] if isinstance(found, list | tuple) else found.numpy()


@contextmanager
def _timed(row: TorchRow, engine: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    row.seconds[engine] = time.perf_counter() - start
