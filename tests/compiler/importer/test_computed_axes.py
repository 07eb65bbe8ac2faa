"""Axes, scales and regions that are inputs of the model, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from onnx_nodes import feeds, node_model, run_mlc, run_ort

RNG = np.random.default_rng(41)
X = RNG.standard_normal((3, 4, 1, 5)).astype(np.float32)


def agree(op: str, inputs: list[np.ndarray | None], *, opset: int = 18, tolerance: float = 1e-5, **attributes: object) -> None:
    model = node_model(op, inputs, opset=opset, **attributes)
    given = feeds(model, inputs)
    for got, want in zip(run_mlc(model, given), run_ort(model, given), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceLogSumExp", "ReduceL2", "ReduceProd"])
def test_reductions(op: str, keepdims: int) -> None:
    for axes in ([1], [-1, 0], [0, 1, 2, 3], [2]):
        agree(op, [X, np.array(axes)], keepdims=keepdims)


def test_squeeze_and_unsqueeze() -> None:
    agree("Squeeze", [X, np.array([2])], opset=13)
    agree("Squeeze", [X[:1], np.array([-2, 0])], opset=13)
    agree("Unsqueeze", [X, np.array([0, -1, 3])], opset=13)
    agree("Unsqueeze", [np.array(2.0, np.float32), np.array([0])], opset=13)


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1, 0], [3, 4], [1, 3], [1, 2]),
        ([-1], [-100], [-1], [-2]),
        ([100, -100], [-(2**63), 2**63 - 1], [3, 0], [-1, 1]),
        ([2], [1], [1], [1]),
        ([0, 0, 0, 0], [1, 2, 1, 3], None, None),
    ],
    ids=range(5),
)
def test_slices(starts: list[int], ends: list[int], axes: list[int] | None, steps: list[int] | None) -> None:
    agree("Slice", [X, *(None if v is None else np.array(v) for v in (starts, ends, axes, steps))], opset=13)


@pytest.mark.parametrize("steps", ["", ", , steps"])
@pytest.mark.parametrize("count", range(4))
def test_slices_of_as_many_axes_as_there_are_starts(count: int, steps: str) -> None:
    """As PyTorch's exporter writes EmbeddingBag: the start of a bag is itself a slice, which might be of any size."""
    model = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 18]>
        g (float[3,4,5] x, int64[3] v, int64[3] w, int64[3] s, int64[1] n) => (float[a,b,c] y) <int64[1] none = {{0}}>
        {{ starts = Slice(v, none, n)  ends = Slice(w, none, n)  steps = Slice(s, none, n)  y = Slice(x, starts, ends{steps}) }}""")
    given = {
        "x": X.reshape(3, 4, 5),
        "v": np.array([1, -3, 0]),
        "w": np.array([3, 100, -1]),
        "s": np.array([1, 2, 2]),
        "n": np.array([count]),
    }
    if not steps:
        del given["s"]
        model.graph.input.pop(3)
        model.graph.node.pop(2)
    np.testing.assert_array_equal(run_mlc(model, given)[0], run_ort(model, given)[0])


def test_pads() -> None:
    for axes, pads in (([1, -1], [1, 0, 2, 1]), ([3], [2, 2])):
        agree("Pad", [X, np.array(pads), np.array(1.5, np.float32), np.array(axes)], mode="constant")
        agree("Pad", [X, np.array(pads), None, np.array(axes)], mode="edge")


@pytest.mark.parametrize("scales", [[1, 1, 2.5, 1.5], [1, 1, 0.6, 0.75], [1, 1, 3, 3]], ids=str)
@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"},
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
        {"mode": "cubic", "coordinate_transformation_mode": "half_pixel"},
        {"mode": "cubic", "coordinate_transformation_mode": "asymmetric", "exclude_outside": 1},
        {"mode": "linear", "antialias": 1},
        {"mode": "cubic", "antialias": 1},
    ],
    ids=lambda a: "-".join(map(str, a.values())),
)
def test_resizing(scales: list[float], attributes: dict[str, object]) -> None:
    x = RNG.standard_normal((1, 2, 7, 6)).astype(np.float32)
    agree("Resize", [x, None, np.float32(scales)], tolerance=2e-4, **attributes)
    sizes = np.array([1, 2, *(int(d * s) for d, s in zip(x.shape[2:], scales[2:], strict=True))])
    agree("Resize", [x, None, None, sizes], tolerance=2e-4, **attributes)


def test_resizing_a_region() -> None:
    x = RNG.standard_normal((1, 1, 8, 8)).astype(np.float32)
    roi = np.float32([0, 0, 0.1, 0.3, 1, 1, 0.8, 1.2])
    agree("Resize", [x, roi, None, np.array([1, 1, 5, 7])], tolerance=1e-4, mode="linear",
          coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=9.0)  # fmt: skip


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_resizing_with_the_aspect_ratio(policy: str) -> None:
    x = RNG.standard_normal((1, 1, 4, 6)).astype(np.float32)
    agree("Resize", [x, None, None, np.array([7, 7])], axes=[2, 3], keep_aspect_ratio_policy=policy, mode="nearest")
