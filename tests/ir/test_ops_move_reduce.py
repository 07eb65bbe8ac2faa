"""The references of moving and reducing ops agree with onnxruntime, at static and at dynamic sizes."""

from __future__ import annotations

import numpy as np
import pytest
from mlc.errors import VerifyError
from mlc.ir import DType, TensorType, ops

RNG = np.random.default_rng(5)
X = RNG.standard_normal((3, 4, 5)).astype(np.float32)
I64 = np.int64


def ints(*values):
    return np.array(values, I64)


SCALES = np.array([1, 1, 2, 1.5], np.float32)
CHANNELS = np.arange(48, dtype=np.float32).reshape(1, 8, 2, 3)
INDEX = RNG.integers(-4, 4, (3, 4, 5)).astype(I64)
CASES = {
    "reshape": ("Reshape", [X, ints(0, -1)], {}),
    "reshape-flat": ("Reshape", [X, ints(-1)], {}),
    "flatten": ("Flatten", [X], {"axis": 2}),
    "flatten-negative": ("Flatten", [X], {"axis": -1}),
    "squeeze": ("Squeeze", [X[:, :1], ints(1)], {}),
    "unsqueeze": ("Unsqueeze", [X, ints(0, -1)], {}),
    "transpose": ("Transpose", [X], {"perm": [2, 0, 1]}),
    "transpose-default": ("Transpose", [X], {}),
    "expand": ("Expand", [X[:, :1], ints(2, 1, 4, 1)], {}),
    "tile": ("Tile", [X, ints(2, 1, 3)], {}),
    "slice": ("Slice", [X, ints(1, -3), ints(1000, -1), ints(0, 2)], {}),
    "slice-step": ("Slice", [X, ints(0, 4), ints(4, -1000), ints(1, 2), ints(2, -2)], {}),
    "slice-empty": ("Slice", [X, ints(3), ints(1), ints(1)], {}),
    "slice-last": ("Slice", [X, ints(-2), ints(2**62), ints(1)], {}),
    "concat": ("Concat", [X, X[:, :2], X], {"axis": -2}),
    "split": ("Split", [X, ints(1, 3)], {"axis": 1}),
    "gather": ("Gather", [X, ints(0, -1, 2).reshape(3, 1)], {"axis": 1}),
    "gather-scalar": ("Gather", [X, ints(1)[0]], {"axis": 2}),
    "gather-elements": ("GatherElements", [X, INDEX], {"axis": 1}),
    "gather-nd": ("GatherND", [X, ints(0, 1, 2, 3).reshape(2, 2)], {}),
    "gather-nd-batch": ("GatherND", [X, ints(0, 1, 2).reshape(3, 1)], {"batch_dims": 1}),
    "scatter-elements": ("ScatterElements", [X, np.tile(np.arange(4)[:, None], (3, 1, 5)), -X], {"axis": 1}),
    "scatter-elements-add": ("ScatterElements", [X, INDEX, X], {"axis": 1, "reduction": "add"}),
    "scatter-elements-max": ("ScatterElements", [X, INDEX, X * 2], {"axis": 1, "reduction": "max"}),
    "scatter-nd": ("ScatterND", [X, ints(0, 2).reshape(2, 1), X[:2] * 3], {}),
    "scatter-nd-mul": ("ScatterND", [X, ints(0, 0).reshape(2, 1), X[:2] * 3], {"reduction": "mul"}),
    "pad": ("Pad", [X, ints(1, 0, 2, 0, 3, 1), np.float32(7)], {}),
    "pad-crop": ("Pad", [X, ints(-1, 0, 2, 0, -1, 1)], {}),
    "pad-edge": ("Pad", [X, ints(1, 0, 2, 0, 3, 1)], {"mode": "edge"}),
    "pad-reflect": ("Pad", [X, ints(1, 0, 2, 0, 3, 1)], {"mode": "reflect"}),
    "pad-wrap": ("Pad", [X, ints(1, 0, 2, 0, 3, 1)], {"mode": "wrap"}),
    "one-hot": ("OneHot", [ints(0, 2, -1, 9), ints(4)[0], np.array([2.0, 5.0], np.float32)], {"axis": 0}),
    "depth-to-space": ("DepthToSpace", [CHANNELS], {"blocksize": 2}),
    "depth-to-space-crd": ("DepthToSpace", [CHANNELS], {"blocksize": 2, "mode": "CRD"}),
    "space-to-depth": ("SpaceToDepth", [np.arange(48, dtype=np.float32).reshape(1, 2, 4, 6)], {"blocksize": 2}),
    "trilu": ("Trilu", [X], {}),
    "trilu-lower": ("Trilu", [X, ints(1)[0]], {"upper": 0}),
    "shape": ("Shape", [X], {}),
    "shape-part": ("Shape", [X], {"start": -2, "end": 3}),
    "size": ("Size", [X], {}),
    "sum": ("ReduceSum", [X, ints(1)], {}),
    "sum-all": ("ReduceSum", [X], {"keepdims": 0}),
    "sum-none": ("ReduceSum", [X], {"noop_with_empty_axes": 1}),
    "mean": ("ReduceMean", [X, ints(0, -1)], {"keepdims": 0}),
    "prod": ("ReduceProd", [X, ints(2)], {}),
    "max": ("ReduceMax", [X, ints(1, 2)], {}),
    "min-int": ("ReduceMin", [INDEX, ints(0)], {}),
    "mean-int": ("ReduceMean", [INDEX.astype(np.int32), ints(0)], {}),
    "l1": ("ReduceL1", [X, ints(1)], {}),
    "l2": ("ReduceL2", [X, ints(1)], {}),
    "log-sum": ("ReduceLogSum", [np.abs(X), ints(1)], {}),
    "log-sum-exp": ("ReduceLogSumExp", [X * 100, ints(1)], {"keepdims": 0}),
    "sum-square": ("ReduceSumSquare", [X, ints(1)], {}),
    "arg-max": ("ArgMax", [INDEX.astype(np.float32)], {"axis": 1}),
    "arg-max-last": ("ArgMax", [INDEX.astype(np.float32)], {"axis": -1, "select_last_index": 1, "keepdims": 0}),
    "arg-min": ("ArgMin", [INDEX.astype(np.float32)], {"axis": 0}),
    "softmax": ("Softmax", [X], {"axis": 1}),
    "log-softmax": ("LogSoftmax", [X], {}),
    "cum-sum": ("CumSum", [X, ints(1)[0]], {}),
    "cum-sum-exclusive": ("CumSum", [X, ints(-1)[0]], {"exclusive": 1, "reverse": 1}),
    "layer-norm": ("LayerNormalization", [X, X[0, 0], X[1, 1]], {"epsilon": 1e-3}),
    "resize": ("Resize", [X[None], None, None, ints(1, 3, 7, 2)], {"mode": "linear"}),
    "resize-nearest": ("Resize", [X[None], None, SCALES], {"coordinate_transformation_mode": "asymmetric"}),
    "resize-cubic": ("Resize", [X[None], None, SCALES], {"mode": "cubic"}),
    "resize-antialias": ("Resize", [X[None], None, np.array([1, 1, 0.6, 0.5], np.float32)], {"mode": "linear", "antialias": 1}),
}  # fmt: skip
# Inputs that say where to move elements have to be known; these ones are data.
DATA_INPUTS = {"Where": 3, "Concat": 3, "GatherElements": 2, "ScatterElements": 3, "LayerNormalization": 3}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_onnxruntime(run_both, name, dynamic):
    op, inputs, attrs = CASES[name]
    known = range(DATA_INPUTS.get(op, 1), len(inputs))
    if op in ("GatherND", "OneHot", "Expand"):
        dynamic = False  # the depth of the index is part of the types; a symbolic dim is taken to be the expanded size
    for got, want in run_both(op, inputs, known=known, outputs=2 if op == "Split" else 1, dynamic=dynamic, **attrs):
        assert got.dtype == want.dtype and got.shape == want.shape
        if want.dtype.kind == "f":
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
        else:
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_keeps_the_lower_index_of_equal_ones(run_both, largest):
    x = RNG.integers(0, 4, (3, 20)).astype(np.float32)
    for got, want in run_both("TopK", [x, ints(6)], known=[1], outputs=2, axis=1, largest=largest):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_softmax_before_opset_13_is_over_all_trailing_axes(run_both, axis):
    ((got, want),) = run_both("Softmax", [X], opset=11, axis=axis)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_empty_reductions():
    empty = np.zeros((0, 3), np.float32)
    assert ops.Reduce("sum", (0,), False).reference(empty)[0].tolist() == [0, 0, 0]
    assert ops.Reduce("prod", (0,), False).reference(empty)[0].tolist() == [1, 1, 1]
    assert np.isneginf(ops.Reduce("max", (0,), False).reference(empty)[0]).all()
    assert np.isnan(ops.Reduce("mean", (0,), False).reference(empty)[0]).all()


@pytest.mark.parametrize(
    "op,types",
    [
        (ops.Reshape((5,)), [TensorType(DType.F32, (2, 3))]),
        (ops.Transpose((0, 0)), [TensorType(DType.F32, (2, 3))]),
        (ops.Slice((0,), (4,), (1,)), [TensorType(DType.F32, (3,))]),
        (ops.Slice((0,), (4,), (0,)), [TensorType(DType.F32, (9,))]),
        (ops.Concat(0), [TensorType(DType.F32, (2, 3)), TensorType(DType.F32, (2, 4))]),
        (ops.Gather(2), [TensorType(DType.F32, (2, 3)), TensorType(DType.I64, ())]),
        (ops.Gather(0), [TensorType(DType.F32, (2, 3)), TensorType(DType.F32, ())]),
        (ops.Reduce("median", (0,), True), [TensorType(DType.F32, (2, 3))]),
        (ops.Reduce("sum", (2,), True), [TensorType(DType.F32, (2, 3))]),
        (ops.TopK(0, 3), [TensorType(DType.F32, (2,))]),
        (ops.ScatterND("xor"), [TensorType(DType.F32, (2,)), TensorType(DType.I64, (1, 1)), TensorType(DType.F32, (1,))]),
        (ops.LayerNorm(1, 1e-5), [TensorType(DType.F32, (2, 3))] + [TensorType(DType.F32, (4,))] * 2),
    ],
    ids=lambda v: str(v) if not isinstance(v, list) else "",
)
def test_operands_that_do_not_fit_are_refused(op, types):
    with pytest.raises(VerifyError):
        op.infer(types)


OLD = {
    "slice": ("Slice", 9, [X], {"starts": [1, -3], "ends": [3, 100], "axes": [0, 2]}),
    "pad": ("Pad", 10, [X], {"pads": [0, 1, 0, 2, 0, 1], "value": 1.5}),
    "clip": ("Clip", 10, [X], {"min": -0.5, "max": 0.25}),
    "clip-one-side": ("Clip", 10, [X], {"max": 0.25}),
    "squeeze": ("Squeeze", 12, [X[:, :1]], {"axes": [1]}),
    "squeeze-all": ("Squeeze", 12, [X[:1, :1]], {}),
    "unsqueeze": ("Unsqueeze", 12, [X], {"axes": [0, 4]}),
    "split": ("Split", 12, [X], {"axis": 1, "split": [1, 3]}),
    "split-equal": ("Split", 12, [X], {"axis": 1}),
    "reduce-sum": ("ReduceSum", 12, [X], {"axes": [-1], "keepdims": 0}),
    "reduce-max": ("ReduceMax", 11, [X], {"axes": [0, 1]}),
    "top-k": ("TopK", 9, [X], {"k": 2, "axis": 1}),
    "upsample": ("Upsample", 7, [X[None]], {"scales": [1.0, 1.0, 2.0, 1.5], "mode": "nearest"}),
    "upsample-linear": ("Upsample", 7, [X[None]], {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "linear"}),
    "upsample-9": ("Upsample", 9, [X[None], SCALES], {}),
    "resize-10": ("Resize", 10, [X[None], SCALES], {"mode": "linear"}),
    "scatter": ("Scatter", 9, [X, np.tile(np.arange(4)[:, None], (3, 1, 5)), -X], {"axis": 1}),
    "flatten": ("Flatten", 7, [X], {"axis": 0}),
    "hardmax": ("Hardmax", 11, [X], {"axis": 1}),
    "log-softmax": ("LogSoftmax", 11, [X], {"axis": 0}),
    "dropout": ("Dropout", 10, [X], {"ratio": 0.5}),
    "max": ("Max", 7, [X, -X], {}),
    "depth-to-space": ("DepthToSpace", 10, [CHANNELS], {"blocksize": 2}),
}


@pytest.mark.parametrize("name", OLD)
def test_old_opsets(run_both, name):
    op, opset, inputs, attrs = OLD[name]
    known = [1] if op in ("Upsample", "Resize") else ()
    outputs = 2 if op in ("Split", "TopK", "Dropout") else 1
    for got, want in run_both(op, inputs, opset=opset, known=known, outputs=outputs, **attrs):
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
