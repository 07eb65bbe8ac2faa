"""Everything here needs an NVIDIA GPU; `python -m pytest tests/gpu` runs it, and skips it with a reason elsewhere.

The report ends with a line for each kind of kernel. No test takes longer than `watch.TEST_SECONDS`, and none starts after
`watch.ALL_SECONDS`; see `watch.py` for what hangs or faults. `MLC_GPU_REHEARSAL=1` runs the tests without a GPU (`rehearsal.py`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlc.errors import MlcError
from mlc.runtime.cuda.cupy_device import CupyDevice

sys.path.insert(0, str(Path(__file__).parents[1] / "codegen"))
sys.path.insert(0, str(Path(__file__).parents[1] / "cuda"))
sys.path.insert(0, str(Path(__file__).parent))

import watch

HERE = Path(__file__).parent
FEW = 3  # failures of which pytest shows the tracebacks
_watch = watch.Watch()


def pytest_configure() -> None:
    watch.begin()
    if os.environ.get("MLC_GPU_REHEARSAL"):
        import rehearsal

        rehearsal.begin()
        if not os.environ["MLC_GPU_REHEARSAL"].startswith("hang"):
            watch.TEST_SECONDS = 1000.0  # g++ takes its time, and so does the emulation
    watch.watch_waits(CupyDevice, _watch)


def pytest_unconfigure() -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        watch.end()


def _why_not() -> str:
    try:
        from mlc.codegen.cuda.nvrtc import nvrtc
        from mlc.runtime.cuda.cupy_device import device

        nvrtc()
        device()
    except MlcError as e:
        return str(e)
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [i for i in items if HERE in Path(i.fspath).parents]
    reason = _why_not() if mine else ""
    for item in mine:
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _watch.start(item.nodeid)
    try:
        return (yield)
    finally:
        _watch.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    report = yield
    if report.failed and call.excinfo is not None:
        _watch.failed(call.excinfo.value)
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    if watch.late() and not os.environ.get("MLC_GPU_REHEARSAL"):
        pytest.skip(f"not run: {watch.ALL_SECONDS} s are over")
    if watch.given_up(item.nodeid):
        pytest.skip(f"not run: {watch.LOST} of its kind hung, or lost the device")


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_terminal_summary(terminalreporter: Any) -> Iterator[None]:
    """The last page. Of more than a few failures pytest itself tells nothing, so that this is the end of what is shown."""
    reports = [(o, r.nodeid, r.longreprtext) for o in ("passed", "failed", "error", "skipped") for r in terminalreporter.stats.get(o, ())
               if HERE.name in Path(r.nodeid.partition("::")[0]).parts and (o != "passed" or r.when == "call")]  # fmt: skip
    ran = any(o != "skipped" for o, _, _ in reports)
    if ran:
        terminalreporter.reportchars = terminalreporter.reportchars.replace("w", "")  # warnings of ONNX's own test cases: a screen of them
    if ran and sum(o in ("failed", "error") for o, _, _ in reports) > FEW:
        terminalreporter.config.option.tbstyle = "no"
        terminalreporter.reportchars = ""
    yield
    if ran:
        found = watch.tallies(reports)
        terminalreporter.section("by kind of kernel")
        for line in watch.page(found):
            terminalreporter.line(line)
        if path := os.environ.get("MLC_GPU_REPORT"):
            Path(path).write_text(watch.whole(found, reports))


@pytest.fixture
def real() -> None:
    """For tests that a rehearsal cannot run, or not in time."""
    if os.environ.get("MLC_GPU_REHEARSAL"):
        pytest.skip("a rehearsal, without a GPU")


@pytest.fixture(scope="session")
def device():
    from mlc.runtime.cuda.cupy_device import device

    return device()
