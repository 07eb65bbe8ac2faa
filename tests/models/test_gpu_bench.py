"""The GPU benchmark without a GPU: its cases are models, its tables are markdown, and it says what it lacks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mlc
import onnx
import pytest
from click.testing import CliRunner
from mlc.errors import MlcError
from mlc.models import gpu, gpu_cases, gpu_rows, suite, turns
from mlc.models.__main__ import cli
from mlc.runtime.cuda import cupy_device

sys.path.insert(0, str(Path(__file__).parents[1] / "cuda"))
sys.path.insert(0, str(Path(__file__).parents[1] / "gpu"))
import rehearsal
import small_models
from emulated import needs_gxx
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


class Here:
    """`Isolated`, in this process."""

    def __init__(self, healthy: Callable[[], bool]) -> None:
        self.healthy = healthy

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.healthy()

    def call(self, function: Callable[..., Any], *args: Any, seconds: float) -> Any:
        assert seconds > 0
        return function(*args)


@pytest.fixture
def emulated_gpu(monkeypatch, tmp_path):
    """A cupy that runs kernels by the emulation, no torch, and one suite model that was exported before."""
    monkeypatch.setenv("MLC_NO_CACHE", "1")
    cupy_device._opened.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", rehearsal.begin(monkeypatch.setattr))
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(gpu, "Isolated", Here)
    monkeypatch.setattr(turns, "SECONDS", 0.0)
    monkeypatch.setattr(suite, "path_of", lambda name, batch=1: tmp_path / f"{name}{batch}.onnx")
    (tmp_path / "mlp1.onnx").write_bytes(small_models.mlp())
    yield tmp_path
    cupy_device._opened.cache_clear()


@needs_gxx
def test_the_command_from_end_to_end(emulated_gpu, monkeypatch) -> None:
    """Operators, a model, and one that is not there, where torch is missing: mlc's times, what it took to compile, and what is missing."""
    few = [gpu_cases._product(32, 16, 24, "fp32"), gpu_cases._attention(1, 4, 2, 1, 300, 8, False), gpu_cases._product(32, 16, 8, "fp32")]
    known = gpu_rows._by_cublas

    def by_cublas(cupy, case):
        if case is few[2]:
            raise OSError("libcublas.so.13 does not load")
        return known(cupy, case)

    monkeypatch.setattr(gpu_rows, "_by_cublas", by_cublas)
    monkeypatch.setattr(gpu, "cases", lambda: few)
    monkeypatch.setattr(gpu_rows, "cases", lambda: few)
    monkeypatch.setattr(gpu, "MODELS", ("mlp", "lstm"))
    monkeypatch.setattr(gpu, "exported_ahead", lambda models: nullcontext())
    path = emulated_gpu / "gpu.md"
    done = CliRunner().invoke(cli, ["bench-gpu", "--append", str(path)], catch_exceptions=False)
    assert done.exit_code == 0
    lines = {line.split(" | ")[0].lstrip("| "): line for line in path.read_text().splitlines() if line.startswith("| ")}
    product, attention, alone = (lines[c.name] for c in few)
    assert "1.000" in product and "TFLOP/s" in product and "torch is not installed" in product and "cuBLAS by cupy ms" in path.read_text()
    assert "| 1.000 |" in attention and "GB/s" in attention
    assert "| 1.000 |" in alone and "OSError: libcublas.so.13 does not load" in alone
    for title in (suite.SUITE["mlp"].title, suite.SUITE["lstm"].title):
        tables = [line for line in path.read_text().splitlines() if line.startswith(f"| {title} |")]
        assert len(tables) == 2 and all("torch is not installed" in line for line in tables)
        assert all(("bf16 compiled in" in line) == (title == suite.SUITE["mlp"].title) for line in tables)
    assert all("exporting the benchmark suite needs torch" in line for line in tables)
    assert "torch not installed" in path.read_text() and "a fake" in path.read_text()


def test_without_a_gpu() -> None:
    from mlc.runtime.cuda.cupy_device import present_architecture

    if present_architecture() is not None:
        pytest.skip("this machine has a GPU")
    done = CliRunner().invoke(cli, ["bench-gpu"])
    assert isinstance(done.exception, MlcError) and "architecture" in str(done.exception)
