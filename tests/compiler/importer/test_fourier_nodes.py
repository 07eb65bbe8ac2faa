"""Fourier transforms against NumPy: short ones by one matrix, long ones by factors, primes, and lengths known in the run."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_nodes import feeds, node_model, run_mlc

RNG = np.random.default_rng(71)


def spectrum(x: np.ndarray) -> np.ndarray:
    return np.stack([x.real, x.imag], -1)


@pytest.mark.parametrize("n", [1, 7, 60, 192, 500, 509, 1006, 1025, 1536, 2050, 1031], ids=lambda n: f"n={n}")
def test_transforms(n: int) -> None:
    x = RNG.standard_normal((2, n)).astype(np.float32)
    z = (x + 1j * RNG.standard_normal((2, n))).astype(np.complex64)
    cases = [
        (x[..., None], {}, spectrum(np.fft.fft(x))),
        (x[..., None], {"onesided": 1}, spectrum(np.fft.rfft(x))),
        (spectrum(z), {}, spectrum(np.fft.fft(z))),
        (spectrum(z), {"inverse": 1}, spectrum(np.fft.ifft(z))),
    ]
    if n > 1:
        cases.append((spectrum(np.fft.rfft(x)).astype(np.float32), {"inverse": 1, "onesided": 1}, x[..., None]))
    for data, attributes, want in cases:
        data = data.astype(np.float32)
        inputs = [data, np.array(n) if "onesided" in attributes else None, np.array(1)]
        model = node_model("DFT", inputs, opset=20, constants=[1, 2], **attributes)
        np.testing.assert_allclose(run_mlc(model, {"x0": data})[0], want, rtol=1e-4, atol=2e-4 * np.sqrt(n))


@pytest.mark.parametrize("length", [1200, 900, 40])
def test_padded_or_cut(length: int) -> None:
    x = RNG.standard_normal((3, 1000, 1)).astype(np.float32)
    model = node_model("DFT", [x, np.array(length), np.array(-2)], opset=20, constants=[1, 2], symbolic=False)
    np.testing.assert_allclose(run_mlc(model, {"x0": x})[0], spectrum(np.fft.fft(x[..., 0], length)), rtol=1e-4, atol=5e-3)


def test_lengths_and_axes_known_in_the_run() -> None:
    x = RNG.standard_normal((2, 30, 4, 1)).astype(np.float32)
    for axis, length in ((1, 30), (2, 7), (-2, 3)):
        inputs = [x, np.array(length), np.array(axis)]
        for symbolic in (False, True):
            model = node_model("DFT", inputs, opset=20, symbolic=symbolic)
            want = spectrum(np.fft.fft(x[..., 0], length, axis if axis > 0 else 2))
            np.testing.assert_allclose(run_mlc(model, feeds(model, inputs))[0], want, rtol=1e-4, atol=1e-4)
