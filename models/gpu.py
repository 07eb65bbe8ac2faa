"""`python -m mlc.models bench-gpu`: operators and models on one GPU, beside torch in the same process, as markdown.

Everything is made here, from seeds: nothing is downloaded. How a row is measured: `gpu_rows.py`.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .. import compile as compile_model
from ..errors import DeviceError
from . import suite
from .gpu_cases import cases, text
from .gpu_rows import GpuRow, autotuned_row, compiled_row, device_works, kernel_row, model_row
from .isolated import Isolated
from .turns import short

MODELS = ("resnet50", "bert_base", "vit_b16", "gpt2", "whisper_tiny_encoder", "minilm_l6", "mlp", "lstm")
BATCHED = ("resnet50", "bert_base", "vit_b16", "gpt2", "whisper_tiny_encoder")  # those measured with a batch too
BATCH = 32
_OVERTIME = 20.0  # seconds that the last row may take beyond the end
_EXPORTERS, _EXPORTER_THREADS = 3, 2


@dataclass(frozen=True)
class Part:
    """Rows of a kind. `share`: none begins after this part of the time, where all parts run (0: they run alone only); `limit`: seconds
    of a row, compiling included."""

    title: str
    measure: Callable[..., GpuRow]
    share: float
    limit: float


PARTS = {
    "kernels": Part("kernels", kernel_row, 0.35, 60.0),
    "models": Part("models", model_row, 0.8, 100.0),
    "compiled": Part("models beside torch.compile", compiled_row, 1.0, 150.0),
    "autotuned": Part("models beside torch.compile, autotuned", autotuned_row, 0.0, 400.0),
}


def environment() -> dict[str, str]:
    """GPU, driver, versions, date. Raises MlcError when there is no GPU."""
    module: Any = compile_model(text("probe (float[4] x) => (float[4] y) { y = Relu(x) }"), target="cuda")
    import cupy

    version = cupy.cuda.runtime.driverGetVersion()
    found = {"GPU": module.device.name, "driver (CUDA)": f"{version // 1000}.{version % 1000 // 10}"}
    try:
        import torch

        found["torch"] = torch.__version__
    except ImportError:
        found["torch"] = "not installed"
    return {**found, "date": time.strftime("%Y-%m-%d")}


def wanted(names: Sequence[str]) -> list[tuple[str, int]]:
    """Models and batches: those named, or all, at batch 1, then some with a batch."""
    return [(n, 1) for n in names or MODELS] + [(n, BATCH) for n in names or MODELS if n in BATCHED]


@contextmanager
def exported_ahead(models: Sequence[tuple[str, int]]) -> Iterator[None]:
    """Models are exported by other processes meanwhile, in this order; whoever needs one before does it by itself."""
    missing = [(n, b) for n, b in models if not suite.path_of(n, b).exists()]
    if not missing:
        yield
        return
    with multiprocessing.get_context("spawn").Pool(_EXPORTERS) as pool:  # terminated at the end
        pool.map_async(_export, missing, chunksize=1)
        yield


def _export(job: tuple[str, int]) -> None:
    import torch

    torch.set_num_threads(_EXPORTER_THREADS)
    suite.export(job[0], batch=job[1])


def rows(seconds: float, names: Sequence[str] = (), parts: Sequence[str] = tuple(PARTS), worker: Isolated | None = None
         ) -> Iterator[tuple[str, GpuRow]]:  # fmt: skip
    """(title, row) of operators alone (not where models are named) and of suite models, when they are there.

    Each runs in a process apart: one that hangs or faults is a row that says so, and the next ones get a new process. Nothing
    new starts after so many seconds.
    """
    start = time.monotonic()
    models = wanted(names)
    with worker or Isolated(device_works) as process:
        for kind, part in PARTS.items():
            if kind not in parts:
                continue
            end = seconds * (part.share if len(parts) > 1 else 1.0)
            kernels = [(i,) for i in range(len(cases()))] if not names else []
            for args in kernels if kind == "kernels" else models:
                now = time.monotonic() - start
                if now > end:
                    break
                try:
                    row = process.call(part.measure, *args, seconds=min(part.limit, seconds + _OVERTIME - now))
                except DeviceError as e:
                    row = GpuRow(_name(kind, args), {}, notes=[f"FAILED: {short(e.found)}"])
                yield part.title, row


def _name(kind: str, args: tuple[Any, ...]) -> str:
    return cases()[args[0]].name if kind == "kernels" else f"{args[0]}, batch {args[1]}"


def line(row: GpuRow) -> str:
    """A row for reading while others still run."""
    times = ", ".join(f"{e} {t:.3f} ms" for e, t in row.milliseconds.items() if t is not None)
    return "; ".join(p for p in (row.name, times, row.rate, *row.notes) if p)


def markdown(about: Mapping[str, str], found: Sequence[tuple[str, GpuRow]]) -> str:
    """A section to append to docs/performance-gpu.md, of (title, row)."""
    lines = [f"## {about['date']}: {about['GPU']}", "", ", ".join(f"{k} {v}" for k, v in about.items() if k != "date"), ""]
    for title in dict.fromkeys(t for t, _ in found):
        rows = [r for t, r in found if t == title]
        engines = list(dict.fromkeys(e for r in rows for e in r.milliseconds))
        lines += [f"| {title} | " + " | ".join(f"{e} ms" for e in engines) + " | mlc's rate | notes |", "|---" * (len(engines) + 3) + "|"]
        for r in rows:
            cells = ["" if r.milliseconds.get(e) is None else f"{r.milliseconds[e]:.3f}" for e in engines]
            lines.append(f"| {r.name} | " + " | ".join(cells) + f" | {r.rate} | {'; '.join(r.notes)} |")
        lines.append("")
    return "\n".join(lines)
