"""Paths of files to write, as options: that they can be written is seen before anything is compiled."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from ...errors import InputError


class OutputFile(click.Path):
    """The path of a file; with `or_standard_output` also "-"."""

    def __init__(self, or_standard_output: bool = False) -> None:
        super().__init__(dir_okay=False, writable=True, allow_dash=or_standard_output)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "-":
            if not self.allow_dash:
                self.fail("standard output takes no binary file; expected a path (./- for a file of that name)", param, ctx)
            return value
        path = os.fsdecode(super().convert(value, param, ctx))
        if os.path.exists(path):
            return path
        folder = os.path.dirname(os.path.realpath(path))
        if not os.path.isdir(folder):
            self.fail(f"{path} cannot be written: there is no folder {folder}", param, ctx)
        if not os.access(folder, os.W_OK | os.X_OK):
            self.fail(f"{path} cannot be written: the folder {folder} takes no files of yours", param, ctx)
        return path


OUTPUT_FILE, REPORT_FILE = OutputFile(), OutputFile(or_standard_output=True)


def require_kept(model: Path) -> None:
    """Raises InputError where an option of the running command would write over the model."""
    ctx = click.get_current_context()
    for option in ctx.command.params:
        given = ctx.params.get(option.name or "")
        if isinstance(option.type, OutputFile) and given not in (None, "-") and os.path.exists(given) and model.samefile(given):
            raise InputError(f"{given} is the model itself", expected="another file", loc=option.opts[-1])
