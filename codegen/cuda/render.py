"""Templates to source text. Every template has one frozen dataclass of parameters; a name it lacks is an error."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import fields
from importlib import resources
from typing import Any

import jinja2

FOLDER = "templates"


@functools.cache
def _environment() -> jinja2.Environment:
    root = resources.files(__package__).joinpath(FOLDER)

    def load(name: str) -> str:
        return root.joinpath(name).read_text("utf-8")

    env = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
                             loader=jinja2.FunctionLoader(load), autoescape=False)  # fmt: skip
    env.filters["block"] = block
    return env


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
