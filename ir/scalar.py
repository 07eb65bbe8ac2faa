"""Scalar bodies: what an elementwise op computes, written once against `ScalarOps[T]`.

The same body runs on NumPy arrays (`NumpyScalars`, the op's reference and constant folding), builds kernel
expressions (`codegen/expr.py`), and from there becomes LLVM vectors or CUDA text.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import numpy as np

from .dtypes import DType

T = TypeVar("T")

# name -> number of operands. `select(c, a, b)`; comparisons give BOOL; `div` on integers truncates toward zero;
# `mod` has the divisor's sign, `fmod` the dividend's; `normcdf` is Φ; `round` is half-to-even; shifts are logical on unsigned types.
SCALAR_FNS: dict[str, int] = {
    "add": 2, "sub": 2, "mul": 2, "div": 2, "min": 2, "max": 2, "pow": 2, "mod": 2, "fmod": 2, "fma": 3,
    "neg": 1, "abs": 1, "sqrt": 1, "rsqrt": 1, "exp": 1, "log": 1, "sin": 1, "cos": 1, "tan": 1, "asin": 1, "acos": 1,
    "atan": 1, "sinh": 1, "cosh": 1, "tanh": 1, "asinh": 1, "acosh": 1, "atanh": 1, "erf": 1, "normcdf": 1, "floor": 1, "ceil": 1,
    "round": 1, "trunc": 1, "isnan": 1, "isinf": 1, "eq": 2, "ne": 2, "lt": 2, "le": 2, "gt": 2, "ge": 2,
    "and_": 2, "or_": 2, "xor": 2, "not_": 1, "shl": 2, "shr": 2, "select": 3,
}  # fmt: skip
COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf"})


class ScalarOps(Protocol[T]):
    """The vocabulary of scalar bodies. `call` names one of SCALAR_FNS; both operands of a binary have one dtype."""

    def const(self, value: float | int | bool, dtype: DType) -> T: ...

    def call(self, fn: str, *args: T) -> T: ...

    def cast(self, x: T, dtype: DType) -> T: ...

    def bits(self, x: T, source: DType, dtype: DType) -> T: ...

    def dtype(self, x: T) -> DType: ...


class S:
    """Sugar over a ScalarOps: `s.exp(x)`, with Python numbers taking the dtype of their neighbour."""

    def __init__(self, ops: ScalarOps[Any]) -> None:
        self.ops = ops

    def __getattr__(self, fn: str) -> Any:
        if fn not in SCALAR_FNS:
            raise AttributeError(fn)

        def call(*args: Any) -> Any:
            typed = next((a for a in reversed(args) if not isinstance(a, (int, float))), None)
            if typed is None:
                raise TypeError(f"{fn}: at least one operand must be a tensor element")
            dtype = self.ops.dtype(typed)
            return self.ops.call(fn, *(self.ops.const(a, dtype) if isinstance(a, (int, float)) else a for a in args))

        return call

    def const(self, value: float | int | bool, dtype: DType) -> Any:
        return self.ops.const(value, dtype)

    def cast(self, x: Any, dtype: DType) -> Any:
        return self.ops.cast(x, dtype)

    def bits(self, x: Any, source: DType, dtype: DType) -> Any:
        """The bits of an element of `source` read as `dtype`; x may be held in a wider dtype that is exact."""
        return self.ops.bits(x, source, dtype)

    def dtype(self, x: Any) -> DType:
        return self.ops.dtype(x)


def _int_div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """C division: truncates toward zero; division by zero gives 0 (undefined in ONNX, must not trap)."""
    safe = np.where(b == 0, 1, b).astype(b.dtype)
    q = a // safe
    q = q + ((a % safe != 0) & ((a < 0) != (safe < 0))).astype(a.dtype) if a.dtype.kind == "i" else q
    return np.where(b == 0, 0, q).astype(a.dtype)


def _erf(x: np.ndarray) -> np.ndarray:
    import math

    return np.vectorize(math.erf, otypes=[np.float64])(np.asarray(x, np.float64)).astype(x.dtype)


def _normcdf(x: np.ndarray) -> np.ndarray:
    """Φ(x), the distribution function of the standard normal distribution, in float64."""
    import math

    half = math.sqrt(0.5)
    return np.vectorize(lambda v: 0.5 * math.erfc(-v * half), otypes=[np.float64])(np.asarray(x, np.float64)).astype(x.dtype)


def _int_mod(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(b == 0, 0, np.mod(a, np.where(b == 0, 1, b).astype(b.dtype))).astype(a.dtype)


def _shift(fn: np.ufunc, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A shift by a negative amount, or by all bits or more, gives 0; a right shift of a signed number its sign."""
    fits = (b >= 0) & (b < a.dtype.itemsize * 8)
    beyond = np.where(a < 0, -1, 0) if fn is np.right_shift and a.dtype.kind == "i" else 0
    return np.where(fits, fn(a, np.where(fits, b, 0).astype(b.dtype)), beyond).astype(a.dtype)


_NP: dict[str, Any] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "min": np.minimum, "max": np.maximum, "pow": np.power,
    "fmod": np.fmod, "neg": np.negative, "abs": np.abs, "sqrt": np.sqrt, "exp": np.exp, "log": np.log,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
    "erf": _erf, "normcdf": _normcdf, "floor": np.floor, "ceil": np.ceil, "round": np.rint, "trunc": np.trunc, "isnan": np.isnan,
    "isinf": np.isinf, "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "shl": lambda a, b: _shift(np.left_shift, a, b),
    "shr": lambda a, b: _shift(np.right_shift, a, b), "select": np.where,
    "and_": np.bitwise_and, "or_": np.bitwise_or, "xor": np.bitwise_xor, "not_": np.invert,
    "rsqrt": lambda x: (1 / np.sqrt(x)).astype(x.dtype), "fma": lambda a, b, c: a * b + c,
    "div": lambda a, b: _int_div(a, b) if a.dtype.kind in "iu" else np.divide(a, b),
    "mod": lambda a, b: _int_mod(a, b) if a.dtype.kind in "iu" else np.mod(a, b),
}  # fmt: skip


class NumpyScalars:
    """ScalarOps over NumPy arrays (broadcasting as NumPy does). float16/bfloat16 compute in float32 per call."""

    def const(self, value: float | int | bool, dtype: DType) -> np.ndarray:
        return np.asarray(value).astype(dtype.np)

    def cast(self, x: np.ndarray, dtype: DType) -> np.ndarray:
        with np.errstate(all="ignore"):
            return x.astype(dtype.np)

    def bits(self, x: np.ndarray, source: DType, dtype: DType) -> np.ndarray:
        return np.ascontiguousarray(self.cast(x, source)).view(dtype.np).reshape(np.shape(x))

    def dtype(self, x: np.ndarray) -> DType:
        return DType.from_numpy(x.dtype)

    def call(self, fn: str, *args: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            small = args[-1].dtype if args[-1].dtype.itemsize <= 2 and DType.from_numpy(args[-1].dtype).is_float else None
            if small is not None:
                args = tuple(a.astype(np.float32) if a.dtype == small else a for a in args)
            out = np.asarray(_NP[fn](*args))
            return out.astype(small) if small is not None and fn not in COMPARISONS else out


NUMPY = S(NumpyScalars())
