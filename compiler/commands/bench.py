"""`mlc bench`: times against other engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from ...errors import InputError, OnnxImportError
from .. import bench, engines, inputs, roofline
from ..held_arrays import flatten
from ..options import Options
from ..precision.options import FLOAT32
from ..trial import crashes
from .common import (
    Given,
    Model,
    Tell,
    bytes_text,
    compile_options,
    count_text,
    find,
    input_options,
    knobs_json,
    opened,
    progress,
    static_shapes,
    write_json,
)
from .console import out
from .finite import FiniteRange
from .output_file import REPORT_FILE


@click.command("bench")
@click.argument("model")
@click.option(
    "--against",
    default="onnxruntime",
    show_default=True,
    metavar="LIST",
    help="onnxruntime, openvino (at bf16 with --precision bf16), iree (sizes as in the file), mlc-fp32; by comma.",
)
@click.option("--threads", "threads_text", default="1,2", show_default=True, metavar="LIST", help="Numbers of threads, by comma.")
@click.option("--json", "json_path", type=REPORT_FILE, metavar="FILE", help="Write the figures as JSON (- for standard output).")
@click.option("--static", is_flag=True, help="Fix symbolic dims to the sizes of the inputs, in every engine.")
@click.option("--seconds", type=FiniteRange(0.01), default=2.0, show_default=True, help="Time in timed runs of each engine.")
@click.option("--kernels", is_flag=True, help="Also list mlc's kernels: time, GFLOP/s, GB/s, share of this machine's roofline.")
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
    kernels: bool,
    rounds: int,
    given: Given,
    shapes: tuple[str, ...],
    knobs: Options,
) -> None:
    """Time MODEL, an ONNX file or a .mlc file, in blocks of runs that take turns with other engines in this process."""
    peers = parse_engines(against)
    counts = parse_threads(threads_text)
    for name in peers:
        engines.require_installed(name)
    found = find(model, shapes)
    options = bench.Options(seconds, rounds)
    timings: list[bench.Timing] = []
    profiles: list[roofline.Profile] = []
    refusals = dict.fromkeys(peers, f"{found.name} is a compiled module; it runs ONNX models") if found.is_module else {}
    with progress() as tell:
        blob, feeds, sizes = _prepare(found, given, static, knobs, tell)
        makers = {n: _makers(found, feeds, sizes, peers, n, static, knobs) for n in counts}
        tell("trying the other engines", 0, 1)
        refusals.update(_crashes(makers))
        for threads in counts:
            ready = _engines(blob, feeds, makers[threads], threads, refusals)
            timings += bench.measure(ready, threads, options, tell)
        if kernels:
            profiles = _profiles(blob, feeds, counts, seconds, timings, tell)
    rows = bench.table(timings)
    if json_path:
        listed = [{"name": n, "dtype": str(a.dtype), "shape": list(a.shape)} for n, a in flatten(feeds).items()]
        about = {"model": model, **knobs_json(knobs), "static": static, "inputs": listed}
        figures = {"versions": engines.versions(peers), "timings": rows, "refused": refusals}
        listed_kernels = {"kernels": [p.as_json() for p in profiles]} if kernels else {}
        write_json(json_path, {**about, **figures, **listed_kernels})
    if json_path != "-":
        show(model, rows, refusals)
        for p in profiles:
            show_kernels(p)


def parse_engines(text: str) -> list[str]:
    """Names by comma, each known."""
    names = [n.strip() for n in text.split(",") if n.strip() and n.strip() != "none"]
    for n in names:
        if n not in engines.ENGINES:
            raise InputError(f"--against {n!r}", expected=" or ".join(engines.ENGINES))
    return list(dict.fromkeys(names))


def parse_threads(text: str) -> list[int]:
    """Positive numbers by comma."""
    parts = [p.strip() for p in text.split(",")]
    if not all(p.isdigit() and 1 <= int(p) <= 256 for p in parts):
        raise InputError(f"--threads {text!r}", expected="numbers from 1 to 256 by comma, such as 1,2")
    return list(dict.fromkeys(map(int, parts)))


def _prepare(
    found: Model,
    given: Given,
    static: bool,
    knobs: Options,
    tell: Any,
) -> tuple[bytes, dict[str, Any], dict[str, int]]:
    """The module as bytes, to be loaded once for each number of threads, and what it is run with."""
    if found.is_module:
        return _prepare_module(found, given, static, knobs)
    from ..api import compile_with

    feeds = found.feeds(found.onnx_specs(), given) if static else None
    module = compile_with(found.path, replace(knobs, shapes=static_shapes(feeds) if feeds is not None else None), tell)
    specs = found.onnx_specs()
    if feeds is None:
        feeds = found.feeds(specs, given, module)
    sizes = inputs.symbols_of_sizes(specs, static_shapes(feeds)) if static else {}
    return module.to_bytes(), feeds, sizes


def _prepare_module(found: Model, given: Given, static: bool, knobs: Options) -> tuple[bytes, dict[str, Any], dict[str, int]]:
    from ... import load

    found.require_no_options(knobs)
    if static:
        raise InputError(f"--static, but {found.name} is a compiled module", expected="an ONNX model")
    with opened(found.path) as f:
        blob = f.read()
    module = load(blob)
    return blob, found.feeds(inputs.specs_of_module(module), given, module), {}


def _makers(
    found: Model,
    feeds: dict[str, Any],
    sizes: dict[str, int],
    names: list[str],
    threads: int,
    static: bool,
    knobs: Options,
) -> dict[str, Callable[[], bench.Run]]:
    """What makes the model ready in each peer; picklable for those that are not mlc. None for a compiled module."""
    if found.is_module:
        return {}
    precision = "bf16" if knobs.precision.default == "bf16" else "f32"
    makers: dict[str, Callable[[], bench.Run]] = {
        "onnxruntime": partial(engines.onnxruntime_engine, found.path, feeds, threads, sizes),
        "openvino": partial(engines.openvino_engine, found.path, feeds, threads, static, precision),
        "iree": partial(engines.iree_engine, found.path, feeds, threads),
        engines.FLOAT32: partial(_float32, found, feeds, static, replace(knobs, precision=FLOAT32, threads=threads, dump=None)),
    }
    return {name: makers[name] for name in names}


def _crashes(makers: dict[int, dict[str, Callable[[], bench.Run]]]) -> dict[str, str]:
    """Peers that end the process which makes the model ready in them, by a segmentation fault, say."""
    tried: dict[str, list[Callable[[], bench.Run]]] = {}
    for named in makers.values():
        for name, make in named.items():
            if name != engines.FLOAT32:
                tried.setdefault(name, []).append(make)
    return {name: f"crashed ({signal}) on this model" for name, signal in crashes(tried).items()}


def _engines(
    blob: bytes,
    feeds: dict[str, Any],
    makers: dict[str, Callable[[], bench.Run]],
    threads: int,
    refusals: dict[str, str],
) -> dict[str, bench.Run]:
    """mlc and those peers that take the model; why the others do not goes into `refusals`."""
    from ... import load

    module = load(blob, threads=threads)
    ready: dict[str, bench.Run] = {"mlc": lambda: module.run(feeds)}
    for name, make in makers.items():
        if name in refusals:
            continue
        try:
            ready[name] = make()
        except (engines.Refusal, OnnxImportError) as e:
            refusals[name] = str(e)
    return ready


def _float32(found: Model, feeds: dict[str, Any], static: bool, knobs: Options) -> bench.Run:
    from ..api import compile_with

    module = compile_with(found.path, replace(knobs, shapes=static_shapes(feeds) if static else None))
    return lambda: module.run(feeds)


def _profiles(
    blob: bytes, feeds: dict[str, Any], counts: list[int], seconds: float, timings: list[bench.Timing], tell: Tell
) -> list[roofline.Profile]:
    from ... import load

    found = []
    for threads in counts:
        tell("peaks of this machine", 0, 1)
        peaks, sustained = roofline.measure_peaks(threads), roofline.sustained_gflops(threads)
        tell("kernels", 0, 1)
        (ms,) = (t.median for t in timings if t.engine == "mlc" and t.threads == threads)
        runs = max(3, min(200, int(seconds * 1e3 / (3 * ms))))  # a profile is two runs, and then there is one as a whole
        found.append(roofline.profile(load(blob, threads=threads), feeds, peaks, runs, sustained))
    return found


def show_kernels(p: roofline.Profile) -> None:
    """The longest kernels first, then all together."""

    def number(x: float | None, digits: int = 1) -> str:
        return "" if x is None else f"{x:.{digits}f}"

    reads = ", ".join(f"{rate:.0f} from {bytes_text(size)}" for size, rate in p.peaks.gbytes)
    title = f"{p.peaks.threads} thread{'s' if p.peaks.threads > 1 else ''}: peak {p.peaks.gflops:.0f} GFLOP/s sustained; GB/s read: {reads}"
    table = Table("kernel", "ms", "% of time", "flop", "bytes", "GFLOP/s", "GB/s", "% of roofline", "from", title=title)
    ran = [k for k in p.kernels if k.ms > 0]
    for k in ran:
        nodes = " + ".join(k.nodes)
        share = "" if k.roofline is None else f"{100 * k.roofline:.0f}"
        rates = number(k.gflops), number(k.gbytes), share
        sizes = count_text(k.flops), bytes_text(k.bytes)
        table.add_row(
            k.kernel[-12:], f"{k.ms:.4f}", f"{100 * k.share:.1f}", *sizes, *rates, escape(nodes if len(nodes) < 60 else nodes[:57] + "…")
        )
    flops, moved, seconds = sum(k.flops for k in ran), sum(k.bytes for k in ran), max(p.kernels_ms * 1e-3, 1e-12)
    table.add_section()
    table.add_row(
        f"{len(ran)} calls", f"{p.kernels_ms:.4f}", "100", count_text(flops), bytes_text(moved), number(flops / seconds * 1e-9),
        number(moved / seconds * 1e-9), f"{100 * p.roofline:.0f}", f"a run as a whole takes {p.run_ms:.4f} ms",
    )  # fmt: skip
    console = out()
    console.print(table)
    if len(ran) < len(p.kernels):
        console.print(f"{len(p.kernels) - len(ran)} calls did not run: they are in branches not taken")


def show(name: str, rows: list[dict[str, Any]], refusals: dict[str, str]) -> None:
    table = Table("threads", "engine", "median ms", "min ms", "p99 ms", "runs", "time / mlc's", title=escape(name))
    for r in rows:
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}"
        table.add_row(
            str(r["threads"]), r["engine"], f"{r['median_ms']:.3f}", f"{r['min_ms']:.3f}", f"{r['p99_ms']:.3f}", str(r["runs"]), ratio
        )
    console = out()
    console.print(table)
    for engine, why in refusals.items():
        console.print(f"{engine} does not take part: {escape(why)}", highlight=False, soft_wrap=True)
