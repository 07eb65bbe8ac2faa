"""Positions of maxima and their inverse, against onnxruntime and the op's reference."""

from __future__ import annotations

import numpy as np
import pytest
from mlc.ir.ops import Pool
from onnx_nodes import feeds, node_model, run_mlc, run_ort

RNG = np.random.default_rng(21)
WINDOWS = [
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 2], "strides": [1, 2], "pads": [1, 0, 2, 1]},
    {"kernel_shape": [3, 3], "dilations": [2, 1], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [4, 3], "auto_pad": "SAME_LOWER", "strides": [3, 2]},
]


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("window", WINDOWS, ids=range(len(WINDOWS)))
def test_indices_of_maxima(window: dict[str, object], order: int, symbolic: bool) -> None:
    x = RNG.integers(-4, 4, (2, 3, 11, 9)).astype(np.float32)  # many ties
    model = node_model("MaxPool", [x], 2, opset=12, symbolic=symbolic, storage_order=order, **window)
    for got, want in zip(run_mlc(model, {"x0": x}), run_ort(model, {"x0": x}), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float64, np.float16])
def test_indices_of_other_types_and_ranks(dtype: type) -> None:
    x = RNG.integers(0, 3, (1, 2, 6, 5, 4)).astype(dtype)
    op = Pool("argmax", (2, 3, 2), (2, 1, 1), (1, 1, 0), (0, 1, 1), (1, 1, 1))
    want = op.reference(x.transpose(0, 2, 3, 4, 1))[0].transpose(0, 4, 1, 2, 3) + np.arange(2).reshape(1, 2, 1, 1, 1) * 120
    model = node_model("MaxPool", [x], 2, opset=22, kernel_shape=[2, 3, 2], strides=[2, 1, 1], pads=[1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(run_mlc(model, {"x0": x})[1], want)


def test_a_nan_is_the_maximum() -> None:
    x = np.float32([[[1, np.nan, 0, -np.inf, -np.inf, -np.inf]]])
    model = node_model("MaxPool", [x], 2, opset=12, kernel_shape=[3], strides=[3])
    y, at = run_mlc(model, {"x0": x})
    assert np.isnan(y[0, 0, 0]) and y[0, 0, 1] == -np.inf
    np.testing.assert_array_equal(at, [[[1, 3]]])


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_unpooling(symbolic: bool) -> None:
    x = RNG.permutation(2 * 3 * 8 * 6).reshape(2, 3, 8, 6).astype(np.float32) + 1
    pool = node_model("MaxPool", [x], 2, opset=12, kernel_shape=[2, 3], strides=[2, 3])
    y, at = run_mlc(pool, {"x0": x})
    model = node_model("MaxUnpool", [y, at], opset=22, symbolic=symbolic, kernel_shape=[2, 3], strides=[2, 3])
    given = feeds(model, [y, at])
    (got,) = run_mlc(model, given)
    np.testing.assert_array_equal(got, run_ort(model, given)[0])
    np.testing.assert_array_equal(got, np.where(np.isin(x, y), x, 0))
    wide = node_model("MaxUnpool", [y, at, np.array([2, 3, 9, 8])], opset=22, constants=[2], kernel_shape=[2, 3], strides=[2, 3])
    np.testing.assert_array_equal(run_mlc(wide, given)[0], np.pad(got, [(0, 0), (0, 0), (0, 1), (0, 2)]))
