"""Templates to source text. Every template has one frozen dataclass of parameters; a name it lacks is an error."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from jinja2.bccache import Bucket

from ...environment import switch
from ..disk_cache import cache_dir, read_checked, write_checked

FOLDER = "templates"


@functools.cache
def _environment() -> jinja2.Environment:
    root = resources.files(__package__).joinpath(FOLDER)

    def load(name: str) -> str:
        return root.joinpath(name).read_text("utf-8")

    env = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
                             loader=jinja2.FunctionLoader(load), autoescape=False,
                             bytecode_cache=None if switch("MLC_NO_CACHE") else _Translated())  # fmt: skip
    env.filters["block"] = block
    return env


class _Translated(jinja2.BytecodeCache):
    """Templates as Python's code, in `$XDG_CACHE_HOME/mlc`: to make it of seven of them takes a tenth of a second and more.

    jinja2 compares what it reads with its own version, Python's and the template's text.
    """

    def load_bytecode(self, bucket: Bucket) -> None:
        if (data := read_checked(self._path(bucket))) is not None:
            bucket.bytecode_from_string(data)

    def dump_bytecode(self, bucket: Bucket) -> None:
        write_checked(self._path(bucket), bucket.bytecode_to_string())

    def _path(self, bucket: Bucket) -> Path:
        named = f"{jinja2.__version__}\0{sys.version}\0{bucket.key}\0{bucket.checksum}"
        key = hashlib.sha256(named.encode()).hexdigest()
        return cache_dir() / key[:2] / f"{key}.template"


def block(lines: Sequence[str], depth: int = 1) -> str:
    """Statements, indented by braces."""
    out = []
    for line in lines:
        text = line.strip()
        depth -= text.startswith("}")
        out.append("    " * depth + text if not text.startswith("#") else text)
        depth += text.endswith("{")
    return "\n".join(out)


def render(template: str, parameters: Any) -> str:
    """The source of a kernel: `parameters` is the template's dataclass."""
    values = {f.name: getattr(parameters, f.name) for f in fields(parameters)}
    return _environment().get_template(template).render(**values)
