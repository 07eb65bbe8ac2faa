"""`mlc run`: a model on given or generated inputs."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO

import click
import numpy as np
from rich.markup import escape
from rich.table import Table

from ...runtime.arguments import shape_text
from ...runtime.files import write_whole
from ..held_arrays import flatten
from ..inputs import specs_of_module
from ..options import Options
from .common import Given, compile_options, find, input_options, native_work, progress, threads_option
from .console import err, out
from .output_file import OUTPUT_FILE


@click.command("run")
@click.argument("model")
@click.option("-o", "--output", type=OUTPUT_FILE, metavar="FILE.npz", help="Write the outputs here; those of a sequence s as s[0], s[1] …")
@input_options
@compile_options
@threads_option
def command(
    model: str,
    output: str | None,
    given: Given,
    shapes: tuple[str, ...],
    knobs: Options,
    threads: int | None,
) -> None:
    """Run MODEL, an ONNX file (compiled first) or a .mlc file. Inputs not given are generated."""
    from ... import load

    found = find(model, shapes)
    if found.is_module:
        found.require_no_options(knobs)
        module = load(found.path, threads=threads)
        specs = specs_of_module(module)
    else:
        from ..api import compile_with  # only where it is needed: it takes half a second to import

        with progress() as tell:
            module = compile_with(found.path, replace(knobs, threads=threads), tell)
        specs = found.onnx_specs()
    feeds = found.feeds(specs, given, module)
    with native_work():
        results = flatten(module.run(feeds))
    if output:
        write_whole(Path(output), lambda f: write_npz(f, results))
        err.print(f"{escape(output)}: {len(results)} outputs", highlight=False)
    else:
        out().print(summary(results))


def write_npz(f: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Like np.savez, but any name goes (that has a parameter of its own) and objects are texts, never pickles."""
    with zipfile.ZipFile(f, "w") as z:
        for name, array in arrays.items():
            plain = array.astype(str) if array.dtype == object else np.asarray(array)
            with z.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, plain, allow_pickle=False)


def summary(arrays: Mapping[str, np.ndarray]) -> Table:
    """A line on each array."""
    table = Table("output", "dtype", "shape", "min", "mean", "max")
    for name, array in arrays.items():
        figures = ["", "", ""]
        if array.size and array.dtype.kind not in "OUSTc":
            wide = array.astype(np.float64)
            figures = [f"{v:.6g}" for v in (wide.min(), wide.mean(), wide.max())]
        table.add_row(escape(name), str(array.dtype), escape(shape_text(array.shape)), *figures)
    return table
