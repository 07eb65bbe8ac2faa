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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

TEST_SECONDS = 100.0  # of a test, compiling its kernels included
WAIT_SECONDS = 25.0  # of waiting for the device, which tests give little to do
ALL_SECONDS = 370  # of all; no test starts later
LOST = 3  # tests of a kind that hang or fault, after which no more of it are run: each takes its process along
ROOM = 8000  # characters of the last page, of which some machines hand back no more than the end
_HANG, _BROKEN = "no end after", "the device is lost:"
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
        self._end = 0.0  # of the test that runs now

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
        self._end = time.monotonic() + TEST_SECONDS
        self._within(TEST_SECONDS)

    def stop(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._end = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for the device: the process ends if that takes too long."""
        if not self._end:
            yield
            return
        self._within(min(WAIT_SECONDS, self._end - time.monotonic()))
        try:
            yield
        finally:
            self._within(self._end - time.monotonic())

    def _within(self, seconds: float) -> None:
        faulthandler.dump_traceback_later(max(0.01, seconds), exit=True, file=self._notes)

    def failed(self, error: BaseException) -> None:
        """After a test failed: ends the process if it can use the device no more, for the tests behind it."""
        broken = device_is_broken()
        self._notes.write(f"{type(error).__name__}: {error}\n" + f"{_BROKEN} {broken}\n" * bool(broken))
        self._notes.flush()
        if broken and "PYTEST_XDIST_WORKER" in os.environ:
            os._exit(1)


def watch_waits(device: Any, watch: Watch) -> None:
    """Put `watch.waiting` around methods of a class of devices that wait for what was launched."""
    for name in ("synchronize", "download", "finish"):
        method = getattr(device, name)

        def waits(self: Any, *args: Any, _method: Any = method) -> Any:
            with watch.waiting():
                return _method(self, *args)

        setattr(device, name, waits)


def given_up(test: str) -> bool:
    """Whether so many tests of its kind have hung or faulted that no more shall be run."""
    mine = kind(test)
    lost = {t for t, text in _notes_by_test().items() if kind(t) == mine and (_HANG in text or _BROKEN in text)}
    return len(lost - {test}) >= LOST


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
                text = _hang(text)
            if text.strip():
                found[test] = " ".join(text.split())[:400]
    return found


def _hang(text: str) -> str:
    """How long, and where, of what faulthandler wrote: the innermost line of the thread that ran the test."""
    seconds = sum(
        float(n) * f for n, f in zip((re.findall(r"Timeout \((\d+):(\d+):([\d.]+)\)", text) or [(0, 0, 0)])[0], (3600, 60, 1), strict=True)
    )
    thread = next(
        (
            t
            for t in re.split(r"\n(?=(?:Current )?[Tt]hread )", text)
            if "_watch" in t or "pytest_runtest_protocol" in t or "/watch.py" in t
        ),
        text,
    )
    places = re.findall(r'File "[^"]*?([^/"]+)", line (\d+) in (\S+)', thread)
    return f"{_HANG} {seconds:.0f} s, in " + (" of ".join(f"{name} ({file}:{line})" for file, line, name in places[:3]) if places else "?")


def page(found: dict[str, Tally], room: int = ROOM) -> list[str]:
    """Lines of the report: how many passed; kinds that failed last, those with most failures at the end, each with what failed,
    tests that fail alike together."""
    good = [f"{name} {', '.join(f'{n} {o}' for o, n in sorted(t.outcomes.items()))}" for name, t in sorted(found.items()) if not t.failures]
    lines = [f"ok    {'; '.join(good)}"] if good else []
    failing = sorted(((name, t) for name, t in found.items() if t.failures), key=lambda item: (len(item[1].failures), item[0]))
    each = max(160, room * 2 // 3 // max(1, len(failing)))  # characters for a kind
    for name, tally in failing:
        counts = ", ".join(f"{n} {o}" for o, n in sorted(tally.outcomes.items()))
        lines += [f"FAILS {name}: {counts}", *_alike(tally.failures, each)]
    alike: Counter[str] = Counter(_pattern(why) for _, t in failing for why in t.failures.values())
    if failing:
        lines.append(
            f"{sum(alike.values())} failures, of {len(alike)} patterns; most often: "
            + "; ".join(f"{n}× {p[:110]}" for p, n in alike.most_common(5))
        )
    kept, left = [], room
    for line in reversed(lines):
        left -= len(line) + 1
        if left < 0:
            kept.append("(what does not fit is left out here: MLC_GPU_REPORT=FILE keeps all)")
            break
        kept.append(line)
    return kept[::-1]


def _pattern(why: str) -> str:
    """An error without its numbers and names."""
    return re.sub(r"mlc_[0-9a-f]+|0x[0-9a-f]+|-?\d[\d.e+-]*", "#", why)


def _alike(failures: dict[str, str], room: int) -> list[str]:
    groups: dict[str, list[str]] = defaultdict(list)
    for test, why in failures.items():
        groups[_pattern(why)[:80]].append(test)
    lines = []
    for tests in groups.values():
        more = f" and {len(tests) - 1} more" if len(tests) > 1 else ""
        lines.append(f"      {tests[0]}{more}: {failures[tests[0]]}"[: max(120, room // len(groups))])
    return lines[:6] + [f"      and {len(lines) - 6} other patterns"] * (len(lines) > 6)


def whole(found: dict[str, Tally], reports: Iterable[tuple[str, str, str]]) -> str:
    """Everything that is known of failures, for a file."""
    notes = _notes_by_test()
    texts = [f"== {t} ({o})\n{notes.get(t, '')}\n{text}\n" for o, t, text in reports if o in ("failed", "error")]
    return "\n".join([*page(found, 1 << 20), "", *texts])
