"""Random graphs give what onnxruntime gives: optimized, unoptimized, and with symbolic sizes.

A few examples, always the same ones. For more: MLC_FUZZ_EXAMPLES=500 pytest tests/fuzz.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import mlc
import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import HealthCheck, given, settings
from mlc.errors import CodegenError, InputError, OnnxImportError

sys.path.insert(0, str(Path(__file__).parent))

import newer
from graphs import OPERATORS, models, with_symbols

FLOAT16 = onnx.TensorProto.FLOAT16
EXAMPLES = int(os.environ.get("MLC_FUZZ_EXAMPLES", "12"))
CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
MODEST = settings(max_examples=EXAMPLES, derandomize="MLC_FUZZ_EXAMPLES" not in os.environ, database=None, suppress_health_check=CHECKS)


def reference(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, feeds)


def compare(model: onnx.ModelProto, got: dict[str, np.ndarray], want: list[np.ndarray]) -> None:
    has_halves = any(t.data_type == FLOAT16 for t in model.graph.initializer) or any(
        a.name == "to" and a.i == FLOAT16 for n in model.graph.node for a in n.attribute
    )
    for output, expected in zip(model.graph.output, want, strict=True):
        have = got[output.name]
        assert have.shape == expected.shape and have.dtype == expected.dtype, output.name
        if have.dtype.kind == "f":
            near = 4e-3 if has_halves else 2e-4
            np.testing.assert_allclose(have, expected, rtol=near, atol=near, err_msg=output.name)
        elif have.dtype in (np.int8, np.uint8, np.int16, np.uint16):  # what is nearly between two steps may be rounded to either
            assert np.abs(have.astype(np.int64) - expected).max(initial=0) <= 1, output.name
        else:
            np.testing.assert_array_equal(have, expected, err_msg=output.name)


@MODEST
@given(models())
def test_static(case: tuple[onnx.ModelProto, dict[str, np.ndarray]]) -> None:
    model, feeds = case
    want = reference(model, feeds)
    for level in (0, 3):
        compare(model, mlc.compile(model, threads=1, opt_level=level).run(feeds), want)


@MODEST
@given(models())
def test_symbolic(case: tuple[onnx.ModelProto, dict[str, np.ndarray]]) -> None:
    """What depends on sizes (a reshape to numbers) may be refused, but with an error that says so."""
    model, feeds = case
    try:
        got = mlc.compile(with_symbols(model), threads=1).run(feeds)
    except (OnnxImportError, CodegenError, InputError):
        return
    compare(model, got, reference(model, feeds))


@settings(MODEST, max_examples=EXAMPLES // 2)
@given(models((*newer.OPERATORS, *OPERATORS[:10]), newer.OPSET))
def test_newer_operators(case: tuple[onnx.ModelProto, dict[str, np.ndarray]]) -> None:
    """As they are, and with every size symbolic, also those of 1."""
    model, feeds = case
    want = reference(model, feeds)
    compare(model, mlc.compile(model, threads=1).run(feeds), want)
    try:
        got = mlc.compile(with_symbols(model, ones=True), threads=1).run(feeds)
    except (OnnxImportError, CodegenError, InputError):
        return
    compare(model, got, want)
