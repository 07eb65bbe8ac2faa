"""Paths of files to write, as options: that they can be written is seen before anything is compiled."""

from __future__ import annotations

import os
from typing import Any

import click


class OutputFile(click.Path):
    """The path of a file, or "-" for standard output."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "-":
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


OUTPUT_FILE = OutputFile()
