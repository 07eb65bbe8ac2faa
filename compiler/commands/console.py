"""Where commands write: results to standard output, everything else to standard error. Names of hostile models steer no terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment

# C0 but for tab and line feed, DEL, C1 (ECMA-48), and what turns the direction of writing.
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def shown(text: str) -> str:
    """The text without characters that a terminal acts on: each is � instead."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


class _Console(Console):
    """What is printed comes from models; escape sequences come from rich alone."""

    def render(self, *args: Any, **more: Any) -> Iterable[Segment]:
        for segment in super().render(*args, **more):
            yield segment if segment.control else segment._replace(text=shown(segment.text))


err = _Console(stderr=True)


def out() -> Console:
    """Where results go. Wide when it is no terminal, so that tables are not cut."""
    console = _Console()
    return console if console.is_terminal else _Console(width=200)
