"""`mlc export`: a model as a library for C."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import click
from rich.markup import escape

from ...runtime import artifact
from ..options import Options
from .common import bytes_text, compile_options, find, progress
from .console import err


@click.command("export")
@click.argument("model")
@click.option("-o", "--output", metavar="FOLDER", help="Where to write (default: the model's name).")
@click.option("--name", metavar="NAME", help="Prefix of files and functions (default: the model's name).")
@compile_options
def command(model: str, output: str | None, name: str | None, shapes: tuple[str, ...], knobs: Options) -> None:
    """Write MODEL, an ONNX file (compiled first) or a .mlc file, as a library for C: NAME.h, NAME.c, libNAME.a, NAME.weights.

    Sizes have to be fixed, by --shape if the model leaves them open.
    """
    from ..c_library import write_c_library

    found = find(model, shapes)
    if found.is_module:
        found.require_no_options(replace(knobs, shapes=found.asked or None))
        parts = artifact.load(found.path)
    else:
        from ..api import compile_with

        with progress() as tell:
            parts = compile_with(found.path, replace(knobs, shapes=found.shapes or None), tell).parts
    stem = re.sub(r"\W", "_", found.path.stem, flags=re.ASCII)
    name = name or (f"m_{stem}" if stem[:1].isdigit() or stem.startswith("_") else stem)
    for path in write_c_library(parts, Path(output or name), name):
        err.print(f"{escape(str(path))}: {bytes_text(path.stat().st_size)}", highlight=False)
