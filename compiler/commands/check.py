"""`mlc check`: compile, run, and compare with onnxruntime."""

from __future__ import annotations

import time
from dataclasses import replace

import click
from rich.markup import escape
from rich.table import Table

from ...runtime.arguments import shape_text
from .. import oracle
from ..compare import LOWERED_L2, Difference, Tolerance
from ..held_arrays import flatten
from ..options import Options
from ..precision.options import Precision
from .common import (
    Given,
    compile_options,
    find,
    input_options,
    knobs_json,
    progress,
    static_shapes,
    threads_option,
    tolerance_options,
    write_json,
)
from .console import out
from .output_file import REPORT_FILE


@click.command("check")
@click.argument("model")
@click.option("--per-layer", is_flag=True, help="Also compare every intermediate tensor, and name the first that differs.")
@tolerance_options
@click.option("--float64", is_flag=True, help="Also say how far mlc and onnxruntime are from float64 (slow).")
@click.option("--json", "json_path", type=REPORT_FILE, metavar="FILE", help="Write the report as JSON (- for standard output).")
@click.option("--static", is_flag=True, help="Compile for exactly the sizes of the inputs, not for symbolic ones.")
@input_options
@compile_options
@threads_option
def command(
    model: str,
    per_layer: bool,
    tolerance: Tolerance,
    float64: bool,
    json_path: str | None,
    static: bool,
    given: Given,
    shapes: tuple[str, ...],
    knobs: Options,
    threads: int | None,
) -> None:
    """Compile and run MODEL, and compare every output with onnxruntime's.

    An output that differs too much is also evaluated in float64, by onnx.reference: it agrees when mlc is near enough to
    that, and onnxruntime is not nearer.

    Exit code 0: agrees. 1: differs. 2: bad use or bad input.
    """
    from ..api import compile_with

    found = find(model, shapes)
    found.require_onnx()

    with progress() as tell:
        feeds = None
        if static:
            feeds = found.feeds(found.onnx_specs(), given)
        fixed = static_shapes(feeds) if feeds is not None else None
        start = time.perf_counter()
        knobs = replace(knobs, shapes=fixed, threads=threads)
        module = compile_with(found.path, knobs, tell)
        seconds = time.perf_counter() - start
        if feeds is None:
            feeds = found.feeds(found.onnx_specs(), given, module)
        tolerance = replace(tolerance, lowered=_granted(knobs.precision), float64=float64)
        tell("comparing with onnxruntime", 0, 1)
        report = oracle.check(module.run, found.path, feeds, tolerance=tolerance, threads=threads)
        if per_layer:
            tell("comparing layers", 0, 1)
            layers = oracle.check_layers(
                lambda m: compile_with(m, replace(knobs, dump=None), tell).run,
                found.path,
                feeds,
                tolerance=tolerance,
                threads=threads,
            )
            report = replace(report, layers=layers)
    if json_path:
        value = {"model": model, **knobs_json(knobs), "seed": given.seed, "compile_seconds": seconds}
        inputs = [{"name": n, "dtype": str(a.dtype), "shape": list(a.shape)} for n, a in flatten(feeds).items()]
        write_json(json_path, {**value, "inputs": inputs, **report.as_json()})
    if json_path != "-":
        show(model, report, seconds)
        if tolerance.lowered and report.layers:
            show_entering(report)
    raise SystemExit(0 if report.agrees else 1)


def show(name: str, report: oracle.Report, seconds: float) -> None:
    """The table of outputs, the layers that differ, and the verdict."""
    console = out()
    # A common terminal has no room for all figures; --json always has them.
    wide = console.width >= 130
    settled = any(d.from_float64 for d in report.outputs)
    table = Table("output", "type", "rel. L2", "limit", "max abs", "max ULP")
    headings = ("cosine", "arg-max", "onnxruntime noise") * wide + ("mlc from float64", "onnxruntime from float64") * settled
    for heading in headings:
        table.add_column(heading)
    table.add_column("")
    for d in report.outputs:
        more = (f"{d.cosine:.8f}", f"{100 * d.arg_max:.1f} %", f"{report.noise.get(d.name, 0.0):.1e}") * wide
        table.add_row(*_cells(d), *more, *_distances(d) * settled, _verdict(d))
    console.print(table)
    if report.layers:
        differing = [x for x in report.layers if not x.difference.agrees]
        console.print(f"{len(report.layers)} layers compared, {len(differing)} differ", highlight=False)
        if differing:
            layers = Table("node", "operator", "tensor", "dtype", "shape", "rel. L2", "max abs", "")
            for x in differing[:10]:
                d = x.difference
                cells = (x.node, x.op, d.name, d.dtype, shape_text(d.shape))
                layers.add_row(*map(escape, cells), f"{d.relative_l2:.1e}", f"{d.max_abs:.1e}", _verdict(d))
            console.print(layers)
            first = differing[0]
            console.print(f"first to differ: {escape(first.node)} ({first.op})", style="bold", highlight=False)
        elif not all(d.agrees for d in report.outputs):
            console.print("Every layer agrees when it is an output: the fault appears only where layers are fused.")
    word = "[green]agrees[/green]" if report.agrees else "[red]differs[/red]"
    version = oracle.ort.__version__
    console.print(f"{escape(name)}: {word} with onnxruntime {version} (compiled in {seconds:.2f} s)", highlight=False)


def show_entering(report: oracle.Report) -> None:
    """Where a lowered model loses most."""
    table = Table("error enters at", "operator", "rel. L2 of operands", "of the result")
    for layer, more in report.entering[:10]:
        total = layer.difference.relative_l2
        table.add_row(escape(layer.node), layer.op, f"{total - more:.1e}", f"{total:.1e}")
    out().print(table)


def _granted(precision: Precision) -> float:
    """Relative L2 that a lowered module may be from onnxruntime's float32: the user's bound, or the table's."""
    if precision.is_float32:
        return 0.0
    if precision.bound is not None and precision.bound.name == "relative-l2":
        return precision.bound.limit
    asked = {precision.default, *(p for _, p in precision.overrides)}
    return max(LOWERED_L2.get(p, 0.0) for p in asked)


def _cells(d: Difference) -> tuple[str, ...]:
    ulp = "" if d.max_ulp is None else str(d.max_ulp)
    limit = f"{d.limit:.0e}" if d.limit else "exact"
    kind = d.dtype + shape_text(d.shape)
    return (escape(d.name), escape(kind), f"{d.relative_l2:.1e}", limit, f"{d.max_abs:.1e}", ulp)


def _distances(d: Difference) -> tuple[str, str]:
    x = d.from_float64
    return ("", "") if x is None else (f"{x.mlc:.1e}", f"{x.onnxruntime:.1e}")


def _verdict(d: Difference) -> str:
    if d.within_noise:
        return "[green]agrees[/green] (within onnxruntime's own noise)"
    return "[green]agrees[/green]" if d.agrees else f"[red]{escape(d.why)}[/red]"
