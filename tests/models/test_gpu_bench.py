"""The GPU benchmark without a GPU: its cases are models, its tables are markdown, and it says what it lacks."""

from __future__ import annotations

import sys
from pathlib import Path

import mlc
import onnx
import pytest
from click.testing import CliRunner
from mlc.errors import MlcError
from mlc.models import gpu, gpu_cases, gpu_rows, suite
from mlc.models.__main__ import cli

sys.path.insert(0, str(Path(__file__).parents[1] / "cuda"))
from fake_cupy import FakeCupy


def test_cases_are_models_that_compile() -> None:
    cases = gpu_cases.cases()
    for case in cases[:10]:
        blob = case.onnx()
        onnx.checker.check_model(onnx.load_from_string(blob))
        assert [t.shape for t in mlc.compile(blob).inputs] == list(case.inputs.values())
    assert {c.count for c in cases} == {"GB/s", "TFLOP/s"} and all(c.amount > 0 for c in cases)


def test_models_are_of_the_suite() -> None:
    assert set(gpu.MODELS) <= set(suite.SUITE)


def test_batches() -> None:
    torch = pytest.importorskip("torch")
    x, whole = torch.ones(1, 3, 2), torch.ones(4, 2)
    assert [tuple(t.shape) for t in suite.batched((x, whole), 32)] == [(32, 3, 2), (4, 2)]
    assert set(gpu.BATCHED) <= set(gpu.MODELS)


def test_markdown() -> None:
    rows = [gpu.GpuRow("softmax", {"mlc": 0.25, "torch": None}, "4000 GB/s", ["torch is not installed"])]
    text = gpu.markdown({"GPU": "X", "driver (CUDA)": "13.0", "date": "2026-01-02"}, [("kernels", r) for r in rows])
    assert text.startswith("## 2026-01-02: X") and "| softmax | 0.250 |  | 4000 GB/s | torch is not installed |" in text


def test_rows_are_appended_as_they_come(monkeypatch, tmp_path) -> None:
    """What a command that is stopped in the middle has measured is not lost; an earlier section stays."""
    path, seen = tmp_path / "gpu.md", []

    def some(*_: object):
        for name in ("first", "second"):
            yield "kernels", gpu.GpuRow(name, {"mlc": 1.0})
            seen.append(path.read_text())

    path.write_text("## earlier\n")
    monkeypatch.setattr(gpu, "environment", lambda: {"GPU": "X", "date": "today"})
    monkeypatch.setattr(gpu, "rows", some)
    done = CliRunner().invoke(cli, ["bench-gpu", "--part", "kernels", "--append", str(path)], catch_exceptions=False)
    assert done.exit_code == 0 and "| second | 1.000 |" in done.output
    assert "| first | 1.000 |" in seen[0] and "second" not in seen[0] and "| second | 1.000 |" in seen[1]
    assert path.read_text().startswith("## earlier\n\n## today: X") and path.read_text().count("today") == 1


def test_device_times_are_medians_behind_cold_caches() -> None:
    cupy = FakeCupy()
    cupy.cuda.get_elapsed_time = lambda start, end: float(next(times))
    times, ran = iter([5.0, *[1.0] * (gpu_rows.RUNS // 2), *[2.0] * gpu_rows.RUNS]), []
    assert gpu_rows._device_time(cupy, lambda: ran.append(1)) == 1.5 and len(ran) == gpu_rows.RUNS + gpu_rows.WARM
    assert cupy.log.count("memsetAsync") == gpu_rows.RUNS


def test_without_a_gpu() -> None:
    from mlc.runtime.cuda.cupy_device import present_architecture

    if present_architecture() is not None:
        pytest.skip("this machine has a GPU")
    done = CliRunner().invoke(cli, ["bench-gpu"])
    assert isinstance(done.exception, MlcError) and "architecture" in str(done.exception)
