"""Discrete Fourier transforms as products with matrices of cosines and sines.

Long ones are split in two by their factors (J. Cooley, J. Tukey, "An algorithm for the machine calculation of complex Fourier
series", 1965), so that the matrices stay small: n₁·n₁ + n₂·n₂ instead of n·n numbers for n = n₁·n₂.
"""

from __future__ import annotations

import math

import numpy as np

from ....ir import Dim, DType, Value, dim_min
from ....ir import ops as O
from ..compose import Build

_LONGEST = 1024  # of transforms by one matrix, which would hold too much beyond
_SHORT = 64  # up to here a factor is one matrix
_PASSES = 300  # products per element that moving, turning and twisting them costs (measured from 128 to 1024 elements)


def _angles(rows: int, cols: int, n: int) -> np.ndarray:
    """2π·r·c / n, the product reduced modulo n first, so that large ones stay exact."""
    return 2 * np.pi / n * (np.outer(np.arange(rows), np.arange(cols)) % n)


def wave(b: Build, rows: Dim, cols: Dim, n: Dim, dtype: DType) -> tuple[Value, Value]:
    """cos and sin of 2π·r·c / n, [rows, cols]: constants, or computed where sizes are known in the run only."""
    if isinstance(rows, int) and isinstance(cols, int) and isinstance(n, int):
        angle = _angles(rows, cols, n)
        return b.const(np.cos(angle), dtype), b.const(np.sin(angle), dtype)
    product = b.mul(b.reshape(b.iota(rows), (rows, 1)), b.reshape(b.iota(cols), (1, cols)))
    turn = b.div(b.cast(b.emit(O.Mod(), product, b.dim(n, DType.I64)), DType.F64), b.dim(n, DType.F64))
    turn = b.mul(turn, 2 * np.pi)
    return b.cast(b.emit(O.Cos(), turn), dtype), b.cast(b.emit(O.Sin(), turn), dtype)


def factor(n: int) -> int:
    """The largest divisor up to √n; 1 for a prime."""
    return next(d for d in range(math.isqrt(n), 0, -1) if n % d == 0)


def is_long(n: Dim, use: Dim, bins: Dim, products: int) -> bool:
    """Whether `transform` does better than `products` products of [rows, use] and [use, bins]."""
    if not isinstance(n, int) or factor(n) == 1:
        return False
    first, one = factor(n), dim_min(use, n) * bins * products
    return n > _LONGEST or (isinstance(one, int) and n * (4 * (first + n // first) + _PASSES) < one)


def transform(b: Build, re: Value, im: Value | None, n: int, inverse: bool) -> tuple[Value, Value]:
    """Σ x[j]·exp(∓2πi·j·k / n) of [rows, n] (unscaled; + for the inverse), as real and imaginary parts."""
    first = factor(n)
    if n <= _SHORT or first == 1:
        cos, sin = wave(b, n, n, n, re.dtype)
        return _times(b, re, im, cos, sin, inverse)
    second, rows = n // first, re.shape[0]

    def turned(v: Value, a: int, c: int) -> Value:
        """[rows, a·c] with the two parts of the index exchanged."""
        return b.reshape(b.transpose(b.reshape(v, (rows, a, c)), (0, 2, 1)), (rows * c, a))

    # j = second·j₁ + j₂ and k = k₁ + first·k₂
    re, im = transform(b, turned(re, first, second), None if im is None else turned(im, first, second), first, inverse)
    twist = _angles(second, first, n)
    cos, sin = b.const(np.cos(twist), re.dtype), b.const(np.sin(twist), re.dtype)
    re, im = (b.reshape(v, (rows, second, first)) for v in (re, im))
    turn = b.mul(re, sin), b.mul(im, sin)
    re, im = b.mul(re, cos), b.mul(im, cos)
    re, im = (b.sub(re, turn[1]), b.add(im, turn[0])) if inverse else (b.add(re, turn[1]), b.sub(im, turn[0]))
    re, im = transform(b, turned(re, second, first), turned(im, second, first), second, inverse)
    return b.reshape(turned(re, first, second), (rows, n)), b.reshape(turned(im, first, second), (rows, n))


def _times(b: Build, re: Value, im: Value | None, cos: Value, sin: Value, inverse: bool) -> tuple[Value, Value]:
    real, imaginary = b.matmul(re, cos), b.matmul(re, sin)
    if not inverse:
        imaginary = b.emit(O.Neg(), imaginary)
    if im is None:
        return real, imaginary
    cross = b.matmul(im, sin)
    return b.sub(real, cross) if inverse else b.add(real, cross), b.add(imaginary, b.matmul(im, cos))
