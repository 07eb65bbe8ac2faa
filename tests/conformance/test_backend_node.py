"""The ONNX backend suite's node cases: compiled as they are, without optimisation, and with symbolic dims.

A case that mlc refuses with a typed "unsupported" error is skipped with that error as the reason; a wrong result, a
crash or any other error fails. Loop over what is refused: `pytest tests/conformance -rs`.
"""

from __future__ import annotations

import functools
from typing import Any

import mlc
import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from mlc.errors import CodegenError, InputError, OnnxImportError
from onnx.backend.test.loader import load_model_tests

# Random results: only their distribution is specified.
RANDOM = ("bernoulli", "dropout", "random", "multinomial")
MODES = ("static", "unoptimized", "symbolic")


@functools.cache
def _cases() -> dict[str, Any]:
    return {c.name: c for c in load_model_tests(kind="node") if not any(r in c.name for r in RANDOM)}


def _array(data: Any) -> np.ndarray:
    if isinstance(data, onnx.TensorProto):
        return onnx.numpy_helper.to_array(data)
    if not isinstance(data, (np.ndarray, np.generic)):
        pytest.skip("not a tensor: sequences, optionals and maps are not supported yet")
    return np.asarray(data)


def _symbolic(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with every input dim unknown, except those of size 1: which axes broadcast belongs to the model."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.graph.value_info[:]
    for i, value in enumerate(out.graph.input):
        for j, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value != 1:
                dim.Clear()
                dim.dim_param = f"d{i}_{j}"
    for value in out.graph.output:
        value.type.tensor_type.ClearField("shape")
    return out


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", sorted(_cases()))
def test_node_case(name: str, mode: str) -> None:
    case = _cases()[name]
    model = case.model
    if model is None:
        pytest.skip("the case comes as files")
    graph_inputs, graph_outputs = list(model.graph.input), list(model.graph.output)
    try:
        module = mlc.compile(_symbolic(model) if mode == "symbolic" else model, opt_level=0 if mode == "unoptimized" else 3, threads=1)
    except (OnnxImportError, CodegenError) as e:
        pytest.skip(str(e)[:300])
    for inputs, outputs in case.data_sets:
        try:
            got = module.run({v.name: _array(x) for v, x in zip(graph_inputs, inputs, strict=True)})
        except InputError as e:
            # grouped heads and the like: without numbers, dims that meet are taken as equal, and others are refused
            if mode == "symbolic" and "to make sense" in str(e):
                pytest.skip(str(e)[:300])
            raise
        for v, expected in zip(graph_outputs, outputs, strict=True):
            want, have = _array(expected), got[v.name]
            assert have.dtype == want.dtype and have.shape == want.shape, f"{v.name}: {have.dtype}{have.shape}"
            if want.dtype.kind in "biuOS":
                np.testing.assert_array_equal(have, want)
            else:
                # The suite's own bound (rtol 1e-3) for float32; float16 and bfloat16 hold 11 and 8 bits.
                rtol = case.rtol if want.dtype.itemsize >= 4 else 2e-2 if want.dtype.name == "bfloat16" else 2e-3
                np.testing.assert_allclose(
                    have.astype(np.float64) if want.dtype.kind != "c" else have,
                    want.astype(np.float64) if want.dtype.kind != "c" else want, rtol=rtol, atol=max(case.atol, 1e-6),
                )  # fmt: skip
