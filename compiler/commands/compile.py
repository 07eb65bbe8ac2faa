"""`mlc compile`: ONNX in, a `.mlc` file out."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import click
from rich.markup import escape

from ..options import Options
from .common import bytes_text, compile_options, find, progress, threads_option
from .console import err
from .finite import FiniteRange
from .output_file import OUTPUT_FILE


@click.command("compile")
@click.argument("model")
@click.option("-o", "--output", type=OUTPUT_FILE, metavar="FILE", help="The file to write (default: the model's name with .mlc).")
@click.option("--tune", type=FiniteRange(0), metavar="SECONDS", help="Search schedules by measuring; 0: only use what is on record.")
@compile_options
@threads_option
def command(
    model: str,
    output: str | None,
    shapes: tuple[str, ...],
    knobs: Options,
    threads: int | None,
    tune: float | None,
) -> None:
    """Compile MODEL, an ONNX file or one of those that `mlc --help` names, to native code."""
    from ..api import compile_with

    found = find(model, shapes)
    found.require_onnx()
    path = Path(output) if output else Path(found.path.with_suffix(".mlc").name)
    start = time.perf_counter()
    with progress() as tell:
        module = compile_with(found.path, replace(knobs, shapes=found.asked or None, threads=threads, tune=tune), tell)
        module.save(path)
    seconds = time.perf_counter() - start
    err.print(f"{escape(str(path))}: {bytes_text(path.stat().st_size)} in {seconds:.2f} s", highlight=False)
