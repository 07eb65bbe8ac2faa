"""`mlc blame`: which pass broke a model."""

from __future__ import annotations

from dataclasses import replace

import click
from rich.markup import escape

from ..compare import Tolerance
from ..options import Options
from .common import Given, compile_options, find, input_options, progress, threads_option, tolerance_options, write_json
from .console import out
from .output_file import REPORT_FILE

_SHOWN = 40  # lines of the diff on the terminal


@click.command("blame")
@click.argument("model")
@tolerance_options
@click.option("--json", "json_path", type=REPORT_FILE, metavar="FILE", help="Write the report as JSON (- for standard output).")
@input_options
@compile_options
@threads_option
def command(
    model: str,
    tolerance: Tolerance,
    json_path: str | None,
    given: Given,
    shapes: tuple[str, ...],
    knobs: Options,
    threads: int | None,
) -> None:
    """Compile MODEL from the graph that each pass left, and name the first whose results differ from onnxruntime's.

    Exit code 0: the model agrees, nothing to blame. 1: found. 2: bad use or bad input.
    """
    from ..blame import blame

    found = find(model, shapes)
    found.require_onnx()
    knobs = replace(knobs, threads=threads)
    with progress() as tell:
        feeds = found.feeds(found.onnx_specs(), given)
        report = blame(found.path, feeds, options=knobs, tolerance=tolerance, progress=tell)
    if json_path:
        write_json(json_path, {"model": model, **report.as_json()})
    if json_path != "-":
        console = out()
        for stage, agrees in report.tried:
            console.print(f"{escape(stage)}: " + ("[green]agrees[/green]" if agrees else "[red]differs[/red]"), highlight=False)
        if report.culprit:
            console.print(f"{escape(model)} is broken by {escape(report.culprit)}", style="bold", highlight=False)
            console.print(escape(report.why), highlight=False)
            lines = report.changes.splitlines()
            console.print(escape("\n".join(lines[:_SHOWN])), highlight=False)
            if len(lines) > _SHOWN:
                console.print(f"… and {len(lines) - _SHOWN} more lines (--json has them)")
        else:
            console.print(f"{escape(model)} agrees with onnxruntime: nothing to blame", highlight=False)
    raise SystemExit(1 if report.culprit else 0)
