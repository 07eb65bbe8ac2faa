"""Integer quantisation: linear quantisers, and integer products whose operands have zero points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import VerifyError
from ..dtypes import DType
from ..op import Elementwise, Op, broadcast
from ..scalar import S
from ..types import TensorType
from .nn import Conv, Convolution

_BYTES = (DType.U8, DType.I8)


def integer_range(dtype: DType) -> tuple[int, int]:
    """Least and greatest value of an integer type, sub-byte ones included."""
    bits = {"4": 4, "2": 2}.get(dtype.value[1:], dtype.itemsize * 8)
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if dtype.is_signed else (0, (1 << bits) - 1)


@dataclass(frozen=True)
class Dequantize(Elementwise):
    """(q, scale f32, zero?) -> (q − zero)·scale in f32; the difference is exact. Scale and zero broadcast to q."""

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        if len(types) not in (2, 3) or not types[0].dtype.is_int or types[1].dtype is not DType.F32:
            raise VerifyError(f"dequantize: operands {', '.join(map(str, types))}", expected="integers, an f32 scale, maybe a zero point")
        return (TensorType(DType.F32, broadcast(*(t.shape for t in types))),)

    def body(self, s: S, *args: Any) -> Any:
        q = s.cast(args[0], DType.I32)
        if len(args) == 3:
            q = s.sub(q, s.cast(args[2], DType.I32))
        return s.mul(s.cast(q, DType.F32), args[1])


@dataclass(frozen=True)
class Quantize(Elementwise):
    """(x f32, scale f32, zero `dtype`) -> saturate(round(x / scale) + zero), halves to even.

    With `inverse` the second operand is 1/scale, and multiplied by.
    """

    dtype: DType
    inverse: bool = False

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        fits = len(types) == 3 and types[0].dtype is DType.F32 and types[1].dtype is DType.F32 and types[2].dtype is self.dtype
        if not fits or not self.dtype.is_int:
            raise VerifyError(f"quantize: operands {', '.join(map(str, types))}", expected=f"f32, f32 and {self.dtype.value}")
        return (TensorType(self.dtype, broadcast(*(t.shape for t in types))),)

    def body(self, s: S, *args: Any) -> Any:
        x, scale, zero = args
        low, high = integer_range(self.dtype)
        y = s.round(s.mul(x, scale) if self.inverse else s.div(x, scale))
        y = s.add(y, s.cast(zero, DType.F32))
        return s.cast(s.min(s.max(y, float(low)), float(high)), self.dtype)


def _check_bytes(op: Op, types: Sequence[TensorType]) -> None:
    if len(types) != 4 or any(t.dtype not in _BYTES for t in types):
        raise VerifyError(f"{op.name}: operands {', '.join(map(str, types))}", expected="two tensors of bytes and their zero points")
    for t, zero in zip(types[:2], types[2:], strict=True):
        if zero.dtype is not t.dtype:
            raise VerifyError(f"{op.name}: zero point {zero.dtype.value} of {t.dtype.value}", expected="one dtype")


def _exact(a: np.ndarray, zero: np.ndarray) -> np.ndarray:
    return a.astype(np.float64) - zero.astype(np.float64)


@dataclass(frozen=True)
class IntegerMatMul(Op):
    """(a[…, M, K], b[…, K, N], a_zero, b_zero) -> i32 Σ_k (a − a_zero)·(b − b_zero), leading axes broadcast; u8 or i8.

    a_zero is one number or [..., M, 1], b_zero one number, [N] or […, 1, N].
    """

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_bytes(self, types)
        a, b, a_zero, b_zero = types
        if a.rank < 2 or b.rank < 2:
            raise VerifyError(f"integermatmul: ranks {a.rank} and {b.rank}", expected="rank 2 or more")
        k1, k2 = a.shape[-1], b.shape[-2]
        if isinstance(k1, int) and isinstance(k2, int) and k1 != k2:
            raise VerifyError(f"integermatmul: inner dimensions {k1} and {k2}", expected="equal ones")
        if a_zero.numel != 1 and (a_zero.rank < 2 or a_zero.shape[-1] != 1):
            raise VerifyError(f"integermatmul: zero point {a_zero} of a", expected="one number, or one a row")
        if b_zero.numel != 1 and b_zero.rank > 1 and b_zero.shape[-2] != 1:
            raise VerifyError(f"integermatmul: zero point {b_zero} of b", expected="one number, or one a column")
        return (TensorType(DType.I32, (*broadcast(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        a, b, a_zero, b_zero = args
        out = np.matmul(_exact(a, a_zero), _exact(b, b_zero))  # float64 holds every sum that int32 does
        return (out.astype(np.int64).astype(np.int32),)


@dataclass(frozen=True)
class IntegerConv(Convolution):
    """(x[N, *S, C], w[*K, C/groups, O], x_zero, w_zero) -> i32[N, *out, O], fields as `Conv`; u8 or i8.

    What lies outside of the image counts as x_zero, that is, as nothing. x_zero is one number, w_zero one or [O].
    """

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_bytes(self, types)
        x, w, x_zero, w_zero = types
        if x_zero.numel != 1 or (w_zero.numel != 1 and w_zero.shape != (w.shape[-1],)):
            raise VerifyError(f"integerconv: zero points {x_zero} and {w_zero}", expected="one number, and one or one an output channel")
        (out,) = self.of_kind(Conv).infer([TensorType(DType.I32, x.shape), TensorType(DType.I32, w.shape)])
        return (out,)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, w, x_zero, w_zero = args
        (out,) = self.of_kind(Conv).reference(_exact(x, x_zero.reshape(())), _exact(w, w_zero.reshape(-1)))
        return (out.astype(np.int64).astype(np.int32),)


def accumulates_exactly_in_f32(terms: int) -> bool:
    """Whether float32 holds every partial sum of `terms` products of u8 by i8."""
    return terms * 255 * 128 < 1 << 24


def is_finite_positive(scale: np.ndarray) -> bool:
    return bool(scale.size) and all(math.isfinite(float(s)) and s > 0 for s in scale.reshape(-1))
