"""Packed weights follow the register tile of the target: panels as wide as it, wide ones for a single row."""

from __future__ import annotations

import mlc
import numpy as np
import onnx.parser
import pytest
from mlc.codegen.cpu.target import missing_features, parse
from mlc.codegen.kernel import ContractKernel
from mlc.codegen.plan import steps_of
from mlc.compiler.api import compile_stages
from mlc.compiler.options import Options


def model(m, k, n, dtype="float"):
    text = f"""<ir_version: 10, opset_import: ["": 20]> g ({dtype}[{m},{k}] x) => ({dtype}[{m},{n}] y) <{dtype}[{k},{n}] w> {{ y = MatMul(x, w) }}"""
    parsed = onnx.parser.parse_model(text)
    w = np.random.default_rng(0).standard_normal((k, n)).astype(np.float64 if dtype == "double" else np.float32)
    del parsed.graph.initializer[:]
    parsed.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    return parsed.SerializeToString(), w


@pytest.mark.parametrize(
    "target, dtype, m, panel",
    [
        ("cpu:x86-64-v3", "float", 5, 16),
        ("cpu:x86-64-v3", "float", 1, 64),
        ("cpu:x86-64-v4", "float", 5, 64),
        ("cpu:x86-64-v4", "double", 5, 32),
    ],
)
def test_width_of_panels(target, dtype, m, panel):
    data, _ = model(m, 24, 200, dtype)
    plan = compile_stages(data, Options(target=target)).plan
    assert [s.kernel.panel for s in steps_of(plan.steps) if isinstance(s.kernel, ContractKernel)] == [panel]


@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v3"])
@pytest.mark.parametrize("m, k, n", [(1, 40, 70), (2, 300, 16), (7, 33, 15), (40, 700, 130)])
def test_products_of_any_panel(target, m, k, n):
    if missing_features(parse(target).triple, parse(target).features):
        pytest.skip("another machine")
    data, w = model(m, k, n)
    x = np.random.default_rng(1).standard_normal((m, k)).astype(np.float32)
    got = mlc.compile(data, target=target, threads=1).run({"x": x})["y"]
    np.testing.assert_allclose(got, x.astype(np.float64) @ w, rtol=1e-4, atol=1e-4)
