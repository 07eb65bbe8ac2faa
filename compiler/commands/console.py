"""Where commands write: results to standard output, everything else to standard error."""

from __future__ import annotations

from rich.console import Console

err = Console(stderr=True)


def out() -> Console:
    """Where results go. Wide when it is no terminal, so that tables are not cut."""
    console = Console()
    return console if console.is_terminal else Console(width=200)
