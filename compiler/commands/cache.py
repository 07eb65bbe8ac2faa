"""`mlc cache`: what compiled kernels take on disk, and less of it."""

from __future__ import annotations

import click
from rich.markup import escape

from ...codegen import disk_cache
from .common import bytes_text, write_json
from .console import out
from .output_file import REPORT_FILE


@click.command("cache")
@click.option("--clear", is_flag=True, help="Remove all kernels.")
@click.option("--trim", is_flag=True, help="Remove what was used longest ago, as far as the cache is above its limit.")
@click.option("--json", "json_path", type=REPORT_FILE, metavar="FILE", help="Write the figures as JSON (- for standard output).")
def command(clear: bool, trim: bool, json_path: str | None) -> None:
    """Show, trim or clear the cache of compiled kernels.

    It is in $XDG_CACHE_HOME/mlc (by default ~/.cache/mlc), and trims itself to MLC_CACHE_LIMIT (such as 500M; by default 1G, and 0 keeps
    nothing): what was used longest ago goes first. MLC_NO_CACHE=1 neither reads nor writes it.
    """
    if clear and trim:
        raise click.UsageError("--clear and --trim: give one of them.")
    limit = disk_cache.limit()
    removed = disk_cache.trim_all(0 if clear else limit) if clear or trim else 0
    sizes = [entry.size for folder in disk_cache.folders() for entry in disk_cache.entries(folder)]
    folder = str(disk_cache.cache_dir())
    if json_path:
        write_json(json_path, {"folder": folder, "files": len(sizes), "bytes": sum(sizes), "limit": limit, "removed": removed})
    if json_path != "-":
        text = f"{folder}: {len(sizes)} files, {bytes_text(sum(sizes))} of at most {bytes_text(limit)}"
        text += f", {bytes_text(removed)} removed" if clear or trim else ""
        out().print(escape(text), highlight=False, soft_wrap=True)
