"""The words by which blocks wait for each other: all steps of a program use the same ones, which are cleared when it begins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...ir import ceildiv
from .emitted import PLACEHOLDER, Emitted, Form, Launch, named
from .render import render

BYTES = 8  # of a counter
_THREADS = 256


@dataclass(frozen=True)
class ClearParameters:
    """clear_counters.cu.j2"""

    name: str
    threads: int
    count: int


def clearing(forms: Iterable[Form]) -> tuple[int, Form | None]:
    """How many counters the steps of a program want at most, and the launch before the first of them, on the architectures that do."""
    users = [f for f in forms if f.emitted.counters]
    if not users:
        return 0, None
    count = max(f.emitted.counters for f in users)
    source, symbol = named(render("clear_counters.cu.j2", ClearParameters(PLACEHOLDER, _THREADS, count)))
    launch = Launch(source, symbol, (0,), (), ceildiv(count, _THREADS), _THREADS)
    return count, Form(tuple(dict.fromkeys(a for f in users for a in f.archs)), Emitted((launch,), 0, BYTES * count))
