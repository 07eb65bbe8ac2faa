"""The report of tests/gpu: what is said of tests that fail, hang, or lose the device."""

from __future__ import annotations

import subprocess
import sys
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
    assert lines[0] == "ok    errors: 1 passed" and lines[1].startswith("FAILS contract wgmma: tiles: 1 failed")
    assert watch.late()


def test_failures_are_told_by_their_error(watch, monkeypatch) -> None:
    monkeypatch.setattr(watch, "device_is_broken", lambda: "")
    w = watch.Watch()
    w.start("t::test_a")
    w.failed(AssertionError("wrong by\n 3"))
    w.stop()
    found = watch.tallies([("failed", "t::test_a", "long text"), ("error", "t::test_b", "first\nlast line")])
    assert found["a"].failures == {"test_a": "AssertionError: wrong by 3"} and found["b"].failures == {"test_b": "last line"}
