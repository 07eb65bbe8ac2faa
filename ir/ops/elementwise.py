"""Elementwise ops: what each computes is its scalar `body`; shapes broadcast as in NumPy.

Formulas are those of the ONNX operator of the same name unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import VerifyError
from ..dtypes import DType
from ..op import Elementwise, Trait, broadcast
from ..scalar import S
from ..types import TensorType

_COMMUTATIVE = frozenset({Trait.PURE, Trait.ELEMENTWISE, Trait.COMMUTATIVE})


@dataclass(frozen=True)
class Same(Elementwise):
    """All operands and the result have one dtype."""

    arity: ClassVar[int] = 1

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        check_operands(self.name, types, self.arity)
        return (TensorType(types[0].dtype, broadcast(*(t.shape for t in types))),)


@dataclass(frozen=True)
class _Binary(Same):
    arity: ClassVar[int] = 2


@dataclass(frozen=True)
class _Comparison(Elementwise):
    """Two operands of one dtype; the result is BOOL."""

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        check_operands(self.name, types, 2)
        return (TensorType(DType.BOOL, broadcast(*(t.shape for t in types))),)


def check_operands(name: str, types: Sequence[TensorType], arity: int) -> None:
    """Raise VerifyError unless there are `arity` operands of one dtype."""
    if len(types) != arity:
        raise VerifyError(f"{name} has {len(types)} operands", expected=str(arity))
    if any(t.dtype is not types[0].dtype for t in types):
        raise VerifyError(f"{name} has operands of dtypes {', '.join(t.dtype.value for t in types)}", expected="one dtype")


# --- arithmetic -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Add(_Binary):
    traits: ClassVar[frozenset[Trait]] = _COMMUTATIVE

    def body(self, s: S, *args: Any) -> Any:
        return s.add(*args)


@dataclass(frozen=True)
class Sub(_Binary):
    def body(self, s: S, *args: Any) -> Any:
        return s.sub(*args)


@dataclass(frozen=True)
class Mul(_Binary):
    traits: ClassVar[frozenset[Trait]] = _COMMUTATIVE

    def body(self, s: S, *args: Any) -> Any:
        return s.mul(*args)


@dataclass(frozen=True)
class Div(_Binary):
    """Integers truncate toward zero."""

    def body(self, s: S, *args: Any) -> Any:
        return s.div(*args)


@dataclass(frozen=True)
class Mod(_Binary):
    """Remainder with the sign of the divisor."""

    def body(self, s: S, *args: Any) -> Any:
        return s.mod(*args)


@dataclass(frozen=True)
class Fmod(_Binary):
    """Remainder with the sign of the dividend."""

    def body(self, s: S, *args: Any) -> Any:
        return s.fmod(*args)


@dataclass(frozen=True)
class Min(_Binary):
    traits: ClassVar[frozenset[Trait]] = _COMMUTATIVE

    def body(self, s: S, *args: Any) -> Any:
        return s.min(*args)


@dataclass(frozen=True)
class Max(_Binary):
    traits: ClassVar[frozenset[Trait]] = _COMMUTATIVE

    def body(self, s: S, *args: Any) -> Any:
        return s.max(*args)


@dataclass(frozen=True)
class Pow(Elementwise):
    """base ** exponent in the dtype of the base; the exponent may have another dtype.

    An integer base with a floating exponent is computed in float64 and truncated, as onnxruntime does.
    """

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        if len(types) != 2:
            raise VerifyError(f"pow has {len(types)} operands", expected="2")
        return (TensorType(types[0].dtype, broadcast(*(t.shape for t in types))),)

    def body(self, s: S, *args: Any) -> Any:
        x, y = args
        dx, dy = s.dtype(x), s.dtype(y)
        if dx is dy and dx.is_float:
            return s.pow(x, y)
        if dx.is_int:
            return s.cast(s.pow(s.cast(x, DType.F64), s.cast(y, DType.F64)), dx)
        return s.pow(x, s.cast(y, dx))


@dataclass(frozen=True)
class PRelu(_Binary):
    """x < 0 ? slope·x : x, operands (x, slope)."""

    def body(self, s: S, *args: Any) -> Any:
        x, slope = args
        return s.select(s.lt(x, 0), s.mul(x, slope), x)


# --- functions of one element -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Neg(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.neg(*args)


@dataclass(frozen=True)
class Abs(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.abs(*args)


@dataclass(frozen=True)
class Sqrt(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.sqrt(*args)


@dataclass(frozen=True)
class Exp(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.exp(*args)


@dataclass(frozen=True)
class Log(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.log(*args)


@dataclass(frozen=True)
class Sin(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.sin(*args)


@dataclass(frozen=True)
class Cos(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.cos(*args)


@dataclass(frozen=True)
class Tan(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.tan(*args)


@dataclass(frozen=True)
class Asin(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.asin(*args)


@dataclass(frozen=True)
class Acos(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.acos(*args)


@dataclass(frozen=True)
class Atan(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.atan(*args)


@dataclass(frozen=True)
class Sinh(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.sinh(*args)


@dataclass(frozen=True)
class Cosh(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.cosh(*args)


@dataclass(frozen=True)
class Tanh(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.tanh(*args)


@dataclass(frozen=True)
class Asinh(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.asinh(*args)


@dataclass(frozen=True)
class Acosh(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.acosh(*args)


@dataclass(frozen=True)
class Atanh(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.atanh(*args)


@dataclass(frozen=True)
class Erf(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.erf(*args)


@dataclass(frozen=True)
class NormalCdf(Same):
    """Φ(x) = (1 + erf(x/√2)) / 2."""

    def body(self, s: S, *args: Any) -> Any:
        return s.normcdf(*args)


@dataclass(frozen=True)
class Floor(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.floor(*args)


@dataclass(frozen=True)
class Ceil(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.ceil(*args)


@dataclass(frozen=True)
class Round(Same):
    """To the nearest integer, halves to even."""

    def body(self, s: S, *args: Any) -> Any:
        return s.round(*args)


@dataclass(frozen=True)
class Reciprocal(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.div(1, *args)


@dataclass(frozen=True)
class Sign(Same):
    """−1, 0 or 1; 0 for NaN, as onnxruntime."""

    def body(self, s: S, *args: Any) -> Any:
        (x,) = args
        positive = s.select(s.gt(x, 0), s.const(1, s.dtype(x)), s.const(0, s.dtype(x)))
        if not s.dtype(x).is_float and not s.dtype(x).is_signed:
            return positive
        return s.select(s.lt(x, 0), s.const(-1, s.dtype(x)), positive)


@dataclass(frozen=True)
class Not(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.not_(*args)


@dataclass(frozen=True)
class BitNot(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.not_(*args)


@dataclass(frozen=True)
class IsNaN(Elementwise):
    def body(self, s: S, *args: Any) -> Any:
        return s.isnan(*args)


@dataclass(frozen=True)
class IsInf(Elementwise):
    detect_negative: bool = True
    detect_positive: bool = True

    def body(self, s: S, *args: Any) -> Any:
        (x,) = args
        if self.detect_negative and self.detect_positive:
            return s.isinf(x)
        if self.detect_positive:
            return s.eq(x, math.inf)
        if self.detect_negative:
            return s.eq(x, -math.inf)
        return s.lt(x, x)


# --- comparisons, logic, bits -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Equal(_Comparison):
    traits: ClassVar[frozenset[Trait]] = _COMMUTATIVE

    def body(self, s: S, *args: Any) -> Any:
        return s.eq(*args)


@dataclass(frozen=True)
class Less(_Comparison):
    def body(self, s: S, *args: Any) -> Any:
        return s.lt(*args)


@dataclass(frozen=True)
class LessEqual(_Comparison):
    def body(self, s: S, *args: Any) -> Any:
        return s.le(*args)


@dataclass(frozen=True)
class Greater(_Comparison):
    def body(self, s: S, *args: Any) -> Any:
        return s.gt(*args)


@dataclass(frozen=True)
class GreaterEqual(_Comparison):
    def body(self, s: S, *args: Any) -> Any:
        return s.ge(*args)


@dataclass(frozen=True)
class And(_Binary):
    traits: ClassVar[frozenset[Trait]] = _COMMUTATIVE

    def body(self, s: S, *args: Any) -> Any:
        return s.and_(*args)


@dataclass(frozen=True)
class Or(_Binary):
    traits: ClassVar[frozenset[Trait]] = _COMMUTATIVE

    def body(self, s: S, *args: Any) -> Any:
        return s.or_(*args)


@dataclass(frozen=True)
class Xor(_Binary):
    traits: ClassVar[frozenset[Trait]] = _COMMUTATIVE

    def body(self, s: S, *args: Any) -> Any:
        return s.xor(*args)


@dataclass(frozen=True)
class BitAnd(And):
    pass


@dataclass(frozen=True)
class BitOr(Or):
    pass


@dataclass(frozen=True)
class BitXor(Xor):
    pass


@dataclass(frozen=True)
class ShiftLeft(_Binary):
    """Shifts by the width or more give 0."""

    def body(self, s: S, *args: Any) -> Any:
        x, n = args
        bits = s.dtype(x).itemsize * 8
        return s.select(s.lt(n, bits), s.shl(x, s.min(n, bits - 1)), s.const(0, s.dtype(x)))


@dataclass(frozen=True)
class ShiftRight(_Binary):
    """Shifts by the width or more give 0, or −1 for negative numbers (whose shift keeps the sign)."""

    def body(self, s: S, *args: Any) -> Any:
        x, n = args
        bits = s.dtype(x).itemsize * 8
        shifted = s.shr(x, s.min(n, bits - 1))
        return shifted if s.dtype(x).is_signed else s.select(s.lt(n, bits), shifted, s.const(0, s.dtype(x)))


# --- selection and conversion -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Where(Elementwise):
    """condition ? a : b, operands (condition, a, b). Works for strings too."""

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        if len(types) != 3 or types[0].dtype is not DType.BOOL:
            raise VerifyError("where has a condition that is not bool, or not three operands")
        check_operands(self.name, types[1:], 2)
        return (TensorType(types[1].dtype, broadcast(*(t.shape for t in types))),)

    def body(self, s: S, *args: Any) -> Any:
        return s.select(*args)


@dataclass(frozen=True)
class BitCast(Elementwise):
    """The bits of each element, of dtype `source`, read as `dtype`, which has as many."""

    source: DType
    dtype: DType

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        check_operands(self.name, types, 1)
        if types[0].dtype is not self.source or DType.STRING in (self.source, self.dtype):
            raise VerifyError(f"bitcast of {types[0].dtype.value}", expected=self.source.value)
        if self.source.bits != self.dtype.bits:
            raise VerifyError(f"bitcast from {self.source.value} to {self.dtype.value}", expected="dtypes of the same size")
        return (TensorType(self.dtype, types[0].shape),)

    def body(self, s: S, *args: Any) -> Any:
        return s.bits(args[0], self.source, self.dtype)


@dataclass(frozen=True)
class Cast(Elementwise):
    """Convert elements: to BOOL is ≠ 0, floats to integers truncate, integers wrap."""

    dtype: DType

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        check_operands(self.name, types, 1)
        if DType.STRING in (self.dtype, types[0].dtype) and self.dtype is not types[0].dtype:
            raise VerifyError(f"cast from {types[0].dtype.value} to {self.dtype.value} is not supported")
        return (TensorType(self.dtype, types[0].shape),)

    def body(self, s: S, *args: Any) -> Any:
        (x,) = args
        if self.dtype is DType.BOOL and s.dtype(x) is not DType.BOOL:
            return s.ne(x, 0)
        return s.cast(x, self.dtype)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x = np.asarray(args[0])
        if self.dtype.is_int and DType.from_numpy(x.dtype).is_float and self.dtype.itemsize < 8:
            with np.errstate(all="ignore"):  # through int64: NumPy's direct narrow conversion is undefined when out of range
                return (x.astype(np.int64).astype(self.dtype.np),)
        return super().reference(x)
