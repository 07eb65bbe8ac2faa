"""Regions of images, encoded images and mel weights, against onnxruntime, Pillow and onnx.reference."""

from __future__ import annotations

import io

import mlc
import numpy as np
import pytest
from mlc.errors import InputError
from onnx.reference import ReferenceEvaluator
from onnx_nodes import feeds, node_model, run_mlc, run_ort

RNG = np.random.default_rng(51)
X = RNG.standard_normal((2, 3, 17, 13)).astype(np.float32)
BOXES = np.float32([[0, 0, 12, 16], [3.2, 4.1, 7.9, 15.5], [1, 1, 1.4, 1.2], [-3, 2, 20, 9]])


@pytest.mark.parametrize("transform", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 1, 3])
def test_roi_align(ratio: int, mode: str, transform: str) -> None:
    inputs = [X, BOXES, np.array([0, 1, 1, 0])]
    model = node_model("RoiAlign", inputs, opset=16, sampling_ratio=ratio, mode=mode, output_height=3, output_width=4,
                       spatial_scale=0.8, coordinate_transformation_mode=transform)  # fmt: skip
    given = feeds(model, inputs)
    np.testing.assert_allclose(run_mlc(model, given)[0], run_ort(model, given)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("constants", [(), (1,)])
@pytest.mark.parametrize("size", [(1, 3, 5, 6), (2, 3, 5, 6), (1, 1, 1, 4), (2, 3, 4, 5, 6), (1, 2, 1, 3, 1)])
def test_affine_grid(size: tuple[int, ...], constants: tuple[int, ...], align: int) -> None:
    d = len(size) - 2
    inputs = [RNG.standard_normal((size[0], d, d + 1)).astype(np.float32), np.array(size)]
    model = node_model("AffineGrid", inputs, opset=20, constants=constants, align_corners=align)
    given = feeds(model, inputs)
    np.testing.assert_allclose(run_mlc(model, given)[0], run_ort(model, given)[0], rtol=1e-5, atol=1e-6)


def test_affine_grid_of_another_batch() -> None:
    inputs = [np.zeros((2, 2, 3), np.float32), np.array([3, 1, 4, 4])]
    model = node_model("AffineGrid", inputs, opset=20)
    with pytest.raises(InputError, match="differs from"):
        run_mlc(model, feeds(model, inputs))


@pytest.mark.parametrize("symbolic", [False, True])
def test_max_roi_pool(symbolic: bool) -> None:
    rois = np.concatenate([np.float32([[0], [1], [0], [1]]), np.float32([[0, 0, 12, 16], [3, 4, 8, 15], [1, 1, 1, 1], [5, 2, 12, 9]])], 1)
    rois = np.concatenate([rois, np.float32([[1, 6, 9, 30, 40], [0, 40, 50, 60, 70]])])  # behind the image, in part and as a whole
    model = node_model("MaxRoiPool", [X, rois], opset=16, symbolic=symbolic, pooled_shape=[3, 2], spatial_scale=0.9)
    given = feeds(model, [X, rois])
    np.testing.assert_array_equal(run_mlc(model, given)[0], run_ort(model, given)[0])
    with pytest.raises(InputError, match="index 2"):
        run_mlc(model, feeds(model, [X, np.where(np.arange(5) == 0, 2, rois).astype(np.float32)]))


@pytest.mark.parametrize("pixel_format", ["RGB", "BGR", "Grayscale"])
def test_image_decoder(pixel_format: str) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = RNG.integers(0, 256, (9, 7, 3)).astype(np.uint8)
    file = io.BytesIO()
    image.fromarray(pixels).save(file, "PNG")
    data = np.frombuffer(file.getvalue(), np.uint8)
    module = mlc.compile(node_model("ImageDecoder", [data], opset=20, symbolic=True, pixel_format=pixel_format))
    (got,) = module.run({"x0": data}).values()
    want = {"RGB": pixels, "BGR": pixels[:, :, ::-1]}.get(pixel_format)
    if want is None:
        want = np.asarray(image.fromarray(pixels).convert("L"))[:, :, None]
    np.testing.assert_array_equal(got, want)
    with pytest.raises(InputError, match="no image"):
        module.run({"x0": data[20:]})


@pytest.mark.parametrize("constants", [(0, 1, 2, 3, 4), (2, 3, 4), ()], ids=["constants", "sizes at run time", "all at run time"])
def test_mel_weights(constants: tuple[int, ...]) -> None:
    numbers = [np.array(v, t) for v, t in ((8, np.int64), (512, np.int64), (16000, np.int64), (20, np.float32), (7600, np.float32))]
    model = node_model("MelWeightMatrix", numbers, opset=17, constants=constants)
    (want,) = ReferenceEvaluator(node_model("MelWeightMatrix", numbers, opset=17)).run(None, {f"x{i}": v for i, v in enumerate(numbers)})
    np.testing.assert_allclose(run_mlc(model, feeds(model, numbers))[0], want, rtol=1e-6, atol=1e-7)
