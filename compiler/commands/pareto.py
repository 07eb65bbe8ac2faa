"""`mlc pareto`: what each precision costs and gains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from .. import engines
from ..precision.options import Precision
from .common import bytes_text, find, progress, shape_option, threads_option, write_whole
from .console import out
from .output_file import OUTPUT_FILE
from .precision_options import tuning_options


@click.command("pareto")
@click.argument("model")
@click.option("--data", "calibration", metavar="PATH", required=True, help="Sample inputs: an .npz, or a folder of them.")
@click.option("--max-drop", metavar="METRIC=VALUE", help="Mark the fastest point within this bound.")
@click.option("--json", "json_path", type=OUTPUT_FILE, metavar="FILE", help="Keep measurements here as they are made, to go on from.")
@click.option("--html", type=OUTPUT_FILE, metavar="FILE", help="Write the frontier as one self-contained page.")
@tuning_options
@shape_option
@threads_option
def command(
    model: str,
    calibration: str,
    max_drop: str | None,
    json_path: str | None,
    html: str | None,
    tuning: dict[str, Any],
    shapes: tuple[str, ...],
    threads: int | None,
) -> None:
    """Measure latency, size and fidelity of MODEL at every sensible assignment of precisions."""
    from ...passes.base import PassContext
    from ...passes.pipelines import optimize
    from ..importer import import_model
    from ..precision.page import page, require_plots
    from ..precision.pareto import measure
    from ..precision.workbench import Workbench

    found = find(model, shapes)
    found.require_onnx()
    if html:
        require_plots()
    options = Precision("fp32", calibration=calibration, max_drop=max_drop, **tuning)
    with progress() as tell:
        tell("import", 0, 1)
        graph = optimize(import_model(found.path, found.asked or None), PassContext())
        work = Workbench(graph, options, threads, tell)
        points = measure(work, Path(json_path) if json_path else None, tell)
    show(points, options)
    if html:
        about = {
            "samples": str(len(work.samples)),
            "data": Path(calibration).name,
            "threads": str(work.float32.threads),
            **engines.versions([]),
        }
        text = page(found.name, points, options.bound, about)
        write_whole(Path(html), lambda f: f.write(text.encode()))


def show(points: list[Any], options: Precision) -> None:
    """The table: every point, those of the frontier marked, and the choice."""
    from ..precision.metrics import shown
    from ..precision.pareto import choice, frontier

    metric = options.bound.name if options.bound else "relative-l2"
    best = {p.name for p in frontier(points, metric)}
    chosen = choice(points, metric, options.bound.limit) if options.bound else None
    table = Table("", "point", "ms", "speed-up", "size", *map(shown, points[0].losses), "layers")
    for p in points:
        mark = "→" if p is chosen else "•" if p.name in best else ""
        counts = ", ".join(f"{n} {k}" for k, n in p.layers.items() if n)
        losses = (f"{v:.3g}" for v in p.losses.values())
        table.add_row(mark, escape(p.name), f"{p.milliseconds:.3f}", f"{p.speedup:.2f}", bytes_text(p.size), *losses, counts)
    console = out()
    console.print(table)
    console.print(f"• no other point is faster at the same or a smaller loss ({escape(shown(metric))})", highlight=False)
    if options.bound:
        console.print(
            f"→ the fastest within {escape(str(options.bound))}" if chosen else f"no point is within {escape(str(options.bound))}",
            highlight=False,
        )
