"""Resize: interpolation along axes, separable in all modes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import VerifyError
from ..dims import Shape
from ..op import Op
from ..types import TensorType

_MOST = 1 << 48  # of an axis: more than memory could hold
_COORD = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)  # fmt: skip
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclass(frozen=True)
class Resize(Op):
    """x resampled to `sizes`. `scales[i]` is out/in per axis (None: sizes[i] / dim i); `roi` is starts then ends, or ().

    Fields mean what the attributes of ONNX Resize mean; mode: nearest, linear or cubic.
    """

    sizes: Shape
    scales: tuple[float | None, ...]
    mode: str = "nearest"
    coord_mode: str = "half_pixel"
    nearest_mode: str = "round_prefer_floor"
    cubic_a: float = -0.75
    exclude_outside: bool = False
    extrapolation: float = 0.0
    antialias: bool = False
    roi: tuple[float, ...] = ()

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = types
        if len(self.sizes) != x.rank or len(self.scales) != x.rank:
            raise VerifyError(f"resize of {x} to {list(self.sizes)}", expected=f"{x.rank} sizes and scales")
        if self.mode not in ("nearest", "linear", "cubic") or self.coord_mode not in _COORD or self.nearest_mode not in _NEAREST:
            raise VerifyError(f"resize with {self.mode}, {self.coord_mode}, {self.nearest_mode}")
        if any(isinstance(d, int) and d >= _MOST for d in self.sizes):
            raise VerifyError(f"resize of {x} to {list(self.sizes)}", expected=f"sizes below {_MOST}")
        if not all(s is None or 0 < s < math.inf for s in self.scales):
            raise VerifyError(f"resize by {list(self.scales)}", expected="positive scales")
        if self.coord_mode == "tf_crop_and_resize" and len(self.roi) != 2 * x.rank:
            raise VerifyError(f"resize has a region of {len(self.roi)} numbers", expected=str(2 * x.rank))
        return (TensorType(x.dtype, self.sizes),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x = np.asarray(args[0])
        y = x if self.mode == "nearest" else x.astype(np.float64)
        outside = np.zeros((1,) * x.ndim, bool)
        for axis, (size, scale) in enumerate(zip(self.sizes, self.scales, strict=True)):
            assert isinstance(size, int)
            n = x.shape[axis]
            crop = self.coord_mode == "tf_crop_and_resize"
            if size == n and (scale is None or scale == 1) and not (crop and (self.roi[axis], self.roi[x.ndim + axis]) != (0, 1)):
                continue
            at = self.coordinates(n, size, size / n if scale is None else scale, axis)
            if crop:
                outside = outside | ((at < 0) | (at > n - 1)).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
            if self.mode == "nearest":
                y = np.take(y, self.nearest(at, n), axis)
            else:
                w = self.weights(at, n, size / n if scale is None else scale)
                y = np.moveaxis(np.tensordot(w, y, (1, axis)), 0, axis)
        if self.mode != "nearest" and x.dtype.kind in "iu":
            info = np.iinfo(x.dtype)
            y = np.clip(np.trunc(y) if not self.antialias else np.rint(y), info.min, info.max)
        y = np.where(outside, np.float64(self.extrapolation), y) if outside.any() else y
        return (np.ascontiguousarray(y).astype(x.dtype),)

    def coordinates(self, n: int, size: int, scale: float, axis: int) -> np.ndarray:
        """Position in the input (of `n` elements) of each of `size` outputs, in float32 as onnxruntime."""
        i = np.arange(size).astype(np.float32)
        f = np.float32
        match self.coord_mode:
            case "asymmetric":
                return i / f(scale)
            case "align_corners":
                # ONNX takes ends that a scale gives as they are, onnxruntime rounds them down to the last element
                last = f(size - 1) if self.scales[axis] is None else f(n) * f(scale) - f(1)
                return i * f(n - 1) / last if size > 1 else i * f(0)
            case "pytorch_half_pixel" if size <= 1:
                return i * f(0)
            case "tf_half_pixel_for_nn":
                return (i + f(0.5)) / f(scale)
            case "tf_crop_and_resize":
                start, end = f(self.roi[axis]), f(self.roi[len(self.sizes) + axis])
                if size > 1:
                    return start * f(n - 1) + i * (end - start) * f(n - 1) / f(size - 1)
                return f(0.5) * (start + end) * f(n - 1) + i * f(0)
            case "half_pixel_symmetric":
                adjustment = f(size) / (f(scale) * f(n))
                return f(n / 2) * (1 - adjustment) + (i + f(0.5)) / f(scale) - f(0.5)
        return (i + f(0.5)) / f(scale) - f(0.5)

    def nearest(self, at: np.ndarray, n: int) -> np.ndarray:
        """Index of the input element for each position."""
        match self.nearest_mode:
            case "floor":
                index = np.floor(at)
            case "ceil":
                index = np.ceil(at)
            case "round_prefer_ceil":
                index = np.floor(at + np.float32(0.5))
            case _:
                index = np.ceil(at - np.float32(0.5))
        return np.clip(index, 0, n - 1).astype(np.int64)

    def weights(self, at: np.ndarray, n: int, scale: float) -> np.ndarray:
        """Matrix [out, n] of interpolation weights (positions outside are clamped to the border)."""
        at = at.astype(np.float64)
        support = 2 if self.mode == "cubic" else 1
        shrink = min(scale, 1.0) if self.antialias else 1.0
        if self.mode == "linear" and not self.antialias:
            at = np.clip(at, 0, n - 1)
        reach = int(np.ceil(support / shrink)) + 1
        base = np.floor(at).astype(np.int64)
        w = np.zeros((len(at), n))
        rows = np.arange(len(at))
        for k in range(-reach, reach + 1):
            index = base + k
            value = self._kernel(np.abs(index - at) * shrink)
            if self.exclude_outside:
                value = np.where((index >= 0) & (index < n), value, 0)
            np.add.at(w, (rows, np.clip(index, 0, n - 1)), value)
        return w / w.sum(1, keepdims=True)

    def _kernel(self, d: np.ndarray) -> np.ndarray:
        """Triangle, or Keys' cubic convolution with coefficient a (IEEE ASSP 1981)."""
        if self.mode == "linear":
            return np.maximum(0, 1 - d)
        a = self.cubic_a
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0))
