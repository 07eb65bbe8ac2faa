"""Encoded images, through Pillow (an optional dependency: `pip install mlc[images]`)."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np

# What Pillow calls the order of channels that ONNX asks for; BGR is RGB turned around.
_MODES = {"RGB": "RGB", "BGR": "RGB", "Grayscale": "L"}


def image_decode(data: np.ndarray, pixel_format: str) -> np.ndarray:
    """Pixels U8 [height, width, channels] of an image file in memory (BMP, JPEG, JPEG 2000, PNG, PNM, TIFF, WebP)."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as e:
        raise ValueError("ImageDecoder needs Pillow: pip install pillow") from e
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            pixels = np.asarray(image.convert(_MODES[pixel_format]))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as e:
        raise ValueError(f"no image that can be decoded: {e}") from e
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return np.ascontiguousarray(pixels[:, :, ::-1] if pixel_format == "BGR" else pixels)


IMAGE_CALLS: dict[str, Callable[..., Any]] = {"image_decode": image_decode}
