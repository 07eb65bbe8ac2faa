"""The table of docs/models.md: `mlc check` over samples and real models, as markdown.

Each model runs in a process of its own, by the same commands that a user gives, so that a crash is one row of the table.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from . import real, samples
from .resolve import resolve
from .sizes import Shapes, all_sizes

# Runs, but differs by more than the limits: docs/models.md says why.
NOT_YET = ("common_old",)


@dataclass(frozen=True)
class Row:
    """One check: `figures` is the JSON report, or None with the `error` that came instead."""

    model: str
    sizes: Shapes
    figures: dict[str, Any] | None
    error: str
    code: int


def check_names() -> list[str]:
    """Everything that `mlc check` is held to."""
    return [f"sample:{n}" for n in samples.SAMPLES] + [f"real:{n}" for n in real.table() if n not in NOT_YET]


def check_rows(names: Sequence[str], options: Sequence[str] = ()) -> Iterator[Row]:
    """Checks each model at every one of its sizes; a model that is absent gives a row that says so."""
    for name in names:
        prefix, _, rest = name.partition(":")
        for sizes in all_sizes(rest) if prefix == "real" else [{}]:
            try:
                resolve(name)
            except InputError as e:
                yield Row(name, sizes, None, str(e), 2)
                break
            shapes = [f"--shape={k}={','.join(map(str, v))}" for k, v in sizes.items()]
            code, figures, error = mlc(["check", name, *shapes, *options])
            yield Row(name, sizes, figures, error, code)


def check_table(rows: Sequence[Row]) -> str:
    """Markdown: the worst output of each model and size."""
    lines = [
        "| model | input sizes | rel. L2 | max abs | onnxruntime's own noise | mlc / onnxruntime from float64 | compile s | result |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for r in rows:
        sizes = ", ".join(f"{k} {'×'.join(map(str, v)) or 'scalar'}" for k, v in r.sizes.items()) or "as in the model"
        if r.figures is None:
            lines.append(f"| {r.model} | {sizes} | | | | | | {r.error.replace('|', '/')[:160]} |")
            continue
        outputs = r.figures["outputs"]
        worst = max(outputs, key=lambda o: float(o["relative_l2"]))
        most = max(float(o["max_abs"]) for o in outputs)
        noise = max(float(o["onnxruntime_noise"] or 0.0) for o in outputs)
        wide = worst.get("from_float64")
        exact = f"{wide['mlc']:.1e} / {wide['onnxruntime']:.1e}" if wide else ""
        result = "agrees" if r.figures["agrees"] else "**differs**: " + "; ".join(f"{o['name']} {o['why']}" for o in outputs if o["why"])
        lines.append(
            f"| {r.model} | {sizes} | {float(worst['relative_l2']):.1e} | {most:.1e} | {noise:.1e} | {exact} "
            f"| {r.figures['compile_seconds']:.2f} | {result} |"
        )
    return "\n".join(lines)


def collect(rows: Iterator[Row], tell: Callable[[Row], None]) -> list[Row]:
    """All rows, each announced as it comes."""
    found = []
    for row in rows:
        tell(row)
        found.append(row)
    return found


def mlc(arguments: Sequence[str]) -> tuple[int, dict[str, Any] | None, str]:
    """Exit code, JSON report (None unless the command wrote one) and the error's text of one command."""
    package = (__package__ or "mlc.models").rpartition(".")[0]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", f"{package}.compiler.cli", *arguments, f"--json={report}"]
        result = subprocess.run(command, capture_output=True, text=True)
        if report.is_file():
            return result.returncode, json.loads(report.read_text()), ""
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    return result.returncode, None, (lines[0] if lines else f"ended with code {result.returncode}").removeprefix("error: ")
