"""What searches found: a small file for each kernel, target and number of threads, in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import llvmlite

from ...codegen.cpu.emitted import Emitted
from ...codegen.cpu.hints import Hints, as_json, from_json
from ...codegen.disk_cache import cache_dir
from ...errors import ArtifactError, ScheduleError
from ...runtime.files import write_whole


class Records:
    """The best hints by kernel; None for a kernel whose rules' choice was the best.

    A kernel is known by its default code (which has the target and the rules in it) and its sizes, so that a change of
    either makes old records void. Files that do not read well count as absent, and a folder that cannot be written to
    costs a search the next time.
    """

    def __init__(self, cpu: str, threads: int, folder: Path | None = None) -> None:
        self.folder = cache_dir() / "tuned" if folder is None else folder
        self._about = f"{cpu} {threads} {llvmlite.__version__}"

    def key(self, default: Emitted) -> str:
        """Of a kernel, by the code that the rules give it."""
        parts = (self._about, default.symbol, default.dims, default.units)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:40]

    def get(self, key: str) -> tuple[bool, Hints | None]:
        """Whether there is a record, and what it says."""
        try:
            value = json.loads((self.folder / f"{key}.json").read_text("utf-8"))
            return True, None if value["hints"] is None else from_json(value["hints"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError, ScheduleError):
            return False, None

    def put(self, key: str, hints: Hints | None, speedup: float) -> None:
        """Keep the outcome of a search; `speedup` is for people."""
        if not self.folder.is_absolute():
            return  # no cache folder
        value = {"hints": None if hints is None else as_json(hints), "speedup": round(speedup, 3)}
        with suppress(OSError, ArtifactError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / f"{key}.json", lambda f: f.write(json.dumps(value).encode()))
