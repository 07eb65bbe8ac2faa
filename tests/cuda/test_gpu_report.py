"""The report of tests/gpu: what is said of tests that fail, hang, or lose the device."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

GPU = Path(__file__).parents[1] / "gpu"
HANG = """import sys, time
sys.path.insert(0, sys.argv[1])
import watch
watch.TEST_SECONDS = 0.2
w = watch.Watch()
w.start("tests/gpu/test_kernels.py::test_on_device[test_contract_wgmma-test_tiles[64-64]]")
time.sleep(60)
"""


@pytest.fixture
def watch(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(GPU))
    monkeypatch.setenv("MLC_GPU_NOTES", f"0:{tmp_path}")
    import watch

    return watch


def test_kinds(watch) -> None:
    assert watch.kind("tests/gpu/test_kernels.py::test_on_device[test_contract_mma-test_splits]") == "contract mma: splits"
    assert watch.kind("tests/gpu/test_kernels.py::test_on_device[test_loops-test_maps[f32-3]]") == "loops: maps"
    assert watch.kind("tests/gpu/test_models.py::test_models_agree_with_onnxruntime[mlp]") == "models agree with onnxruntime"


def test_a_hang_ends_its_process_and_is_named(watch) -> None:
    done = subprocess.run([sys.executable, "-c", HANG, str(GPU)], timeout=60)
    assert done.returncode == 1
    test = "tests/gpu/test_kernels.py::test_on_device[test_contract_wgmma-test_tiles[64-64]]"
    found = watch.tallies([("failed", test, "worker 'gw0' crashed"), ("passed", "t::test_errors", "")])
    assert found["contract wgmma: tiles"].failures[test.partition("::")[2]].startswith("no end after")
    lines = watch.page(found)
    assert lines[0] == "ok    errors 1 passed" and lines[1].startswith("FAILS contract wgmma: tiles: 1 failed")
    assert watch.late()


def noted(watch, test: str, text: str) -> None:
    with (watch._folder() / "1.txt").open("a") as f:
        f.write(f"\n== {test}\n{text}\n")


def test_waiting_for_the_device_ends_sooner(watch) -> None:
    """In a test that has time left; outside of tests nothing is watched."""
    text = HANG.replace("time.sleep(60)", "watch.watch_waits(Device, w)\nDevice().synchronize()")
    text = text.replace(
        "watch.TEST_SECONDS = 0.2",
        "watch.WAIT_SECONDS = 0.2\nclass Device:\n    def synchronize(self): time.sleep(60)\n    finish = download = synchronize",
    )
    done = subprocess.run([sys.executable, "-c", text, str(GPU)], timeout=30)
    assert done.returncode == 1
    (why,) = watch._notes_by_test().values()
    assert why.startswith("no end after 0 s, in synchronize")
    with watch.Watch().waiting():
        pass


def test_kinds_that_hang_are_given_up(watch) -> None:
    names = [f"t::test_on_device[test_loops-test_maps[{i}]]" for i in range(4)]
    for name in names[:2]:
        noted(watch, name, 'Timeout (0:00:25)!\nThread 0x1 (most recent call first):\n  File "/a/b.py", line 3 in wait')
    noted(watch, "t::test_on_device[test_loops-test_rows]", "the device is lost: fault")
    assert watch._notes_by_test()[names[0]] == "no end after 25 s, in wait (b.py:3)"
    assert not watch.given_up(names[3])
    noted(watch, names[2], "the device is lost: fault")
    assert watch.given_up(names[3]) and not watch.given_up("t::test_on_device[test_loops-test_rows]")


def test_the_page_is_short(watch) -> None:
    """However much fails: what fails alike is told once, and what does not fit is left out at its beginning."""
    found = {f"kind {i}": watch.Tally(Counter(failed=40)) for i in range(60)}
    for name, tally in found.items():
        tally.failures |= {f"test_{j}": f"DeviceError: kernel mlc_{j:024x} of {name} at {j} went wrong" + "!" * 300 for j in range(40)}
    lines = watch.page(found)
    assert sum(len(line) + 1 for line in lines) < watch.ROOM + 200 and "left out here" in lines[0]
    assert lines[-2].startswith("      test_0 and 39 more: DeviceError") and lines[-1].startswith("2400 failures, of 1 patterns")
    text = watch.whole(found, [("failed", "t::test_a", "all of it")])
    assert text.count("FAILS kind") == 60 and "== t::test_a (failed)\n\nall of it" in text


def test_failures_are_told_by_their_error(watch, monkeypatch) -> None:
    monkeypatch.setattr(watch, "device_is_broken", lambda: "")
    w = watch.Watch()
    w.start("t::test_a")
    w.failed(AssertionError("wrong by\n 3"))
    w.stop()
    found = watch.tallies([("failed", "t::test_a", "long text"), ("error", "t::test_b", "first\nlast line")])
    assert found["a"].failures == {"test_a": "AssertionError: wrong by 3"} and found["b"].failures == {"test_b": "last line"}
