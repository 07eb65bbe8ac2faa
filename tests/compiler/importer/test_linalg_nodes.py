"""Determinants, running sums and products, and caches written in place."""

from __future__ import annotations

import numpy as np
import pytest
from mlc.ir.ops import CumProd, CumSum
from onnx.reference import ReferenceEvaluator
from onnx_nodes import feeds, node_model, run_mlc, run_ort

RNG = np.random.default_rng(22)


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (2, 3, 5, 5), (7, 2, 2), (0, 3, 3)], ids=str)
def test_determinants(shape: tuple[int, ...], symbolic: bool) -> None:
    x = RNG.standard_normal(shape).astype(np.float32)
    got = run_mlc(node_model("Det", [x], opset=11, symbolic=symbolic), {"x0": x})[0]
    np.testing.assert_allclose(got, np.linalg.det(x.astype(np.float64)), rtol=2e-5, atol=1e-5)


def test_matrices_that_need_exchanges_or_are_singular() -> None:
    x = np.array([[[0, 1, 0], [0, 0, 1], [1, 0, 0]], [[1, 2, 3], [2, 4, 6], [1, 1, 1]], [[0, 2, 1], [3, 0, 1], [1, 1, 0]]], np.float64)
    np.testing.assert_allclose(run_mlc(node_model("Det", [x], opset=11), {"x0": x})[0], np.linalg.det(x), atol=1e-12)


@pytest.mark.parametrize("constants", [(), (1,)], ids=["axis at run time", "axis constant"])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize(("op", "kind"), [("CumSum", CumSum), ("CumProd", CumProd)], ids=["sum", "product"])
def test_running(op: str, kind: type, reverse: int, exclusive: int, constants: tuple[int, ...]) -> None:
    x = RNG.standard_normal((3, 17, 5)).astype(np.float32)
    for axis in (0, 1, -1):
        at = np.array(axis, np.int32)
        model = node_model(op, [x, at], opset=26, constants=constants, exclusive=exclusive, reverse=reverse)
        (want,) = kind(axis % 3, bool(exclusive), bool(reverse)).reference(x)
        np.testing.assert_allclose(run_mlc(model, feeds(model, [x, at]))[0], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int32, np.float64, np.float16])
@pytest.mark.parametrize("shape", [(1000,), (0,), (3, 0), (0, 3), (1,)], ids=str)
def test_running_products_of_other_types_and_sizes(shape: tuple[int, ...], dtype: type) -> None:
    x = (1 + RNG.standard_normal(shape) / 64).astype(dtype)
    axis = np.array(len(shape) - 1)
    model = node_model("CumProd", [x, axis], opset=26, constants=[1], symbolic=True)
    (want,) = CumProd(len(shape) - 1).reference(x)
    np.testing.assert_allclose(run_mlc(model, {"x0": x})[0], want, rtol=2e-3 if dtype is np.float16 else 1e-6)


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
@pytest.mark.parametrize("mode", ["linear", "circular"])
@pytest.mark.parametrize("axis", [1, -2, 3])
def test_caches(axis: int, mode: str, symbolic: bool) -> None:
    past = RNG.standard_normal((2, 4, 5, 6)).astype(np.float32)
    shape = list(past.shape)
    shape[axis] = 2
    update = RNG.standard_normal(shape).astype(np.float32)
    at = np.array([1, past.shape[axis] - (1 if mode == "circular" else 2)])
    model = node_model("TensorScatter", [past, update, at], opset=24, symbolic=symbolic, mode=mode, axis=axis)
    given = feeds(model, [past, update, at])
    want = ReferenceEvaluator(node_model("TensorScatter", [past, update, at], opset=24, mode=mode, axis=axis)).run(None, given)[0]
    np.testing.assert_array_equal(run_mlc(model, given)[0], want)


@pytest.mark.parametrize("opset", [9, 15])
def test_batch_normalization_in_training(opset: int) -> None:
    x = RNG.standard_normal((4, 3, 5, 2)).astype(np.float32)
    params = [RNG.random(3).astype(np.float32) + 0.5 for _ in range(4)]
    if opset == 9:
        model = node_model("BatchNormalization", [x, *params], 5, opset=9, momentum=0.8)
        got = run_mlc(model, feeds(model, [x, *params]))
        want = [x.mean((0, 2, 3)), x.var((0, 2, 3))]
        for saved, running, old, new in zip(got[3:], got[1:3], params[2:], want, strict=True):
            np.testing.assert_allclose(saved, new, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(running, 0.8 * old + 0.2 * new, rtol=1e-5)
        return
    model = node_model("BatchNormalization", [x, *params], 3, opset=15, training_mode=1, momentum=0.8)
    given = feeds(model, [x, *params])
    for got, want in zip(run_mlc(model, given), run_ort(model, given), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
