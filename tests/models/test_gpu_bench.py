"""The GPU benchmark without a GPU: its cases are models, its tables are markdown, and it says what it lacks."""

from __future__ import annotations

import mlc
import onnx
import pytest
from click.testing import CliRunner
from mlc.errors import MlcError
from mlc.models import gpu, suite
from mlc.models.__main__ import cli


def test_cases_are_models_that_compile() -> None:
    cases = gpu._cases()
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
    text = gpu.markdown({"GPU": "X", "driver (CUDA)": "13.0", "date": "2026-01-02"}, rows, [])
    assert text.startswith("## 2026-01-02: X") and "| softmax | 0.250 |  | 4000 GB/s | torch is not installed |" in text


def test_without_a_gpu() -> None:
    from mlc.runtime.cuda.cupy_device import present_architecture

    if present_architecture() is not None:
        pytest.skip("this machine has a GPU")
    done = CliRunner().invoke(cli, ["bench-gpu"])
    assert isinstance(done.exception, MlcError) and "architecture" in str(done.exception)
