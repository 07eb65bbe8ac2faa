"""What becomes of tests whose kernel hangs or faults: the process ends, the test is named, and another process goes on.

A kernel that hangs cannot be stopped from inside its process, and after a fault a process can use the device no more. With
pytest-xdist (the default here) the process is a worker: xdist reports the test that it ran, and starts another worker.
Workers leave notes in a folder, from which the last page of the report says, for each kind of kernel, what failed and how.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import re
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

TEST_SECONDS = 100  # of a test, compiling its kernels included
ALL_SECONDS = 370  # of all; no test starts later
_NOTES = "MLC_GPU_NOTES"  # the folder, and when the first process began


def begin() -> None:
    """In the first process: where notes go, for it and its workers."""
    if _NOTES not in os.environ:
        os.environ[_NOTES] = f"{time.time()}:{tempfile.mkdtemp(prefix='mlc-gpu-')}"


def end() -> None:
    """In the first process: notes are not kept."""
    shutil.rmtree(_folder(), ignore_errors=True)


def late() -> bool:
    """Whether no test shall start any more."""
    return time.time() - float(os.environ[_NOTES].partition(":")[0]) > ALL_SECONDS


def _folder() -> Path:
    return Path(os.environ[_NOTES].partition(":")[2])


class Watch:
    """Around the tests of this process."""

    def __init__(self) -> None:
        self._file: TextIO | None = None

    @property
    def _notes(self) -> TextIO:
        if self._file is None:
            self._file = (_folder() / f"{os.getpid()}.txt").open("a")
            atexit.register(self._file.close)
        return self._file

    def start(self, test: str) -> None:
        """A test begins; the process ends if it has not called `stop` in time."""
        self._notes.write(f"\n== {test}\n")
        self._notes.flush()
        faulthandler.dump_traceback_later(TEST_SECONDS, exit=True, file=self._notes)

    def stop(self) -> None:
        faulthandler.cancel_dump_traceback_later()

    def failed(self, error: BaseException) -> None:
        """After a test failed: ends the process if it can use the device no more, for the tests behind it."""
        broken = device_is_broken()
        self._notes.write(f"{type(error).__name__}: {error}\n" + f"the device is lost: {broken}\n" * bool(broken))
        self._notes.flush()
        if broken and "PYTEST_XDIST_WORKER" in os.environ:
            os._exit(1)


def device_is_broken() -> str:
    """What CUDA says of this process' device, if it is unusable."""
    from mlc.errors import MlcError
    from mlc.runtime.cuda.cupy_device import device

    try:
        d = device()
        stream = d.stream()
        d.download(_word(), d.allocate(8, stream).ptr, stream)
    except MlcError as e:
        return e.found
    return ""


def _word() -> Any:
    import numpy as np

    return np.zeros(1, np.int64)


@dataclass
class Tally:
    """Of one kind of kernel."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)  # by test


def kind(test: str) -> str:
    """What a test is about: the file of kernels in its parameters, else its function."""
    name = test.rpartition("::")[2]
    return re.sub(r"^test_on_device\[test_(\w+?)-test_(\w+).*", r"\1: \2", name).partition("[")[0].removeprefix("test_").replace("_", " ")


def tallies(reports: Iterable[tuple[str, str, str]]) -> dict[str, Tally]:
    """By kind, from (outcome, test, text of the failure)."""
    out: dict[str, Tally] = defaultdict(Tally)
    notes = _notes_by_test()
    for outcome, test, text in reports:
        tally = out[kind(test)]
        tally.outcomes[outcome] += 1
        if outcome in ("failed", "error"):
            tally.failures[test.rpartition("::")[2]] = notes.get(test, "") or text.strip().splitlines()[-1][:300]
    return dict(out)


def _notes_by_test() -> dict[str, str]:
    """The first lines that were noted of tests that failed."""
    found = {}
    for path in _folder().glob("*.txt"):
        for part in path.read_text(errors="replace").split("\n== ")[1:]:
            test, _, text = part.partition("\n")
            if "Timeout" in text[:40]:
                text = (
                    f"no end after {TEST_SECONDS} s, in " + (re.findall(r'File "[^"]*?([^/"]+)", line (\d+)', text) or [("?", "?")])[0][0]
                )
            if text.strip():
                found[test] = " ".join(text.split())[:400]
    return found


def page(found: dict[str, Tally]) -> list[str]:
    """Lines of the report: kinds that failed last, each with what failed."""
    lines = []
    for name, tally in sorted(found.items(), key=lambda item: (bool(item[1].failures), item[0])):
        counts = ", ".join(f"{n} {o}" for o, n in sorted(tally.outcomes.items()))
        lines.append(f"{'FAILS' if tally.failures else 'ok   '} {name}: {counts}")
        lines += [f"      {test}: {why}" for test, why in tally.failures.items()]
    return lines
