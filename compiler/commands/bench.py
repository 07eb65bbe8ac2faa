"""`mlc bench`: times against onnxruntime and OpenVINO."""

from __future__ import annotations

from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from ...errors import InputError
from .. import bench, inputs
from .common import Model, compile_options, find, input_options, out, progress, static_shapes, write_json


@click.command("bench")
@click.argument("model")
@click.option("--against", default="onnxruntime", show_default=True, metavar="LIST", help="onnxruntime, openvino, or both by comma.")
@click.option("--threads", "threads_text", default="1,2", show_default=True, metavar="LIST", help="Numbers of threads, by comma.")
@click.option("--json", "json_path", metavar="FILE", help="Write the figures as JSON (- for standard output).")
@click.option("--static", is_flag=True, help="Fix symbolic dims to the sizes of the inputs, in every engine.")
@click.option("--seconds", type=click.FloatRange(0.01), default=2.0, show_default=True, help="Time in timed runs of each engine.")
@click.option("--rounds", type=click.IntRange(1), default=8, show_default=True, help="Blocks of runs of each engine.")
@input_options
@compile_options
def command(
    model: str,
    against: str,
    threads_text: str,
    json_path: str | None,
    static: bool,
    seconds: float,
    rounds: int,
    pairs: tuple[str, ...],
    archive: str | None,
    seed: int,
    shapes: tuple[str, ...],
    target: str,
    opt_level: int,
    exact: bool,
    dump: str | None,
) -> None:
    """Time MODEL, in blocks of runs that take turns with other engines in this process."""
    engines = parse_engines(against)
    counts = parse_threads(threads_text)
    found = find(model, shapes)
    found.require_onnx()
    options = bench.Options(seconds, rounds)
    timings: list[bench.Timing] = []
    with progress() as tell:
        blob, feeds, sizes = _prepare(found, pairs, archive, seed, static, target, opt_level, exact, dump, tell)
        for threads in counts:
            timings += bench.measure(_engines(found, blob, feeds, sizes, engines, threads, static), threads, options, tell)
    rows = bench.table(timings)
    if json_path:
        listed = [{"name": n, "dtype": str(a.dtype), "shape": list(a.shape)} for n, a in feeds.items()]
        about = {"model": model, "target": target, "opt_level": opt_level, "exact": exact, "static": static, "inputs": listed}
        write_json(json_path, {**about, "versions": bench.versions(engines), "timings": rows})
    if json_path != "-":
        show(model, rows)


def parse_engines(text: str) -> list[str]:
    """Names by comma, each known."""
    names = [n.strip() for n in text.split(",") if n.strip() and n.strip() != "none"]
    for n in names:
        if n not in bench.ENGINES:
            raise InputError(f"--against {n!r}", expected=" or ".join(bench.ENGINES))
    return list(dict.fromkeys(names))


def parse_threads(text: str) -> list[int]:
    """Positive numbers by comma."""
    parts = [p.strip() for p in text.split(",")]
    if not all(p.isdigit() and 1 <= int(p) <= 256 for p in parts):
        raise InputError(f"--threads {text!r}", expected="numbers from 1 to 256 by comma, such as 1,2")
    return list(dict.fromkeys(map(int, parts)))


def _prepare(
    found: Model,
    pairs: tuple[str, ...],
    archive: str | None,
    seed: int,
    static: bool,
    target: str,
    opt_level: int,
    exact: bool,
    dump: str | None,
    tell: Any,
) -> tuple[bytes, dict[str, Any], dict[str, int]]:
    """Compiles once: the module as bytes, to be loaded once for each number of threads."""
    from ..api import compile as compile_model

    feeds = found.feeds(found.onnx_specs(), pairs, archive, seed) if static else None
    module = compile_model(
        found.path,
        target=target,
        shapes=static_shapes(feeds) if feeds is not None else None,
        opt_level=opt_level,
        exact=exact,
        dump=dump,
        progress=tell,
    )
    specs = found.onnx_specs()
    if feeds is None:
        feeds = found.feeds(specs, pairs, archive, seed)
    sizes = inputs.symbols_of_sizes(specs, static_shapes(feeds)) if static else {}
    return module.to_bytes(), feeds, sizes


def _engines(
    found: Model, blob: bytes, feeds: dict[str, Any], sizes: dict[str, int], names: list[str], threads: int, static: bool
) -> dict[str, bench.Run]:
    from ... import load

    module = load(blob, threads=threads)
    engines: dict[str, bench.Run] = {"mlc": lambda: module.run(feeds)}
    for name in names:
        if name == "onnxruntime":
            engines[name] = bench.onnxruntime_engine(found.path, feeds, threads, sizes)
        else:
            engines[name] = bench.openvino_engine(found.path, feeds, threads, static)
    return engines


def show(name: str, rows: list[dict[str, Any]]) -> None:
    table = Table("threads", "engine", "median ms", "min ms", "runs", "time / mlc's", title=escape(name))
    for r in rows:
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}"
        table.add_row(str(r["threads"]), r["engine"], f"{r['median_ms']:.3f}", f"{r['min_ms']:.3f}", str(r["runs"]), ratio)
    out().print(table)
