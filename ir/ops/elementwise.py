"""Elementwise ops: what each computes is its scalar `body`; shapes broadcast as in NumPy.

Formulas are those of the ONNX operator of the same name unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import VerifyError
from ..dtypes import DType
from ..op import Elementwise, Trait, broadcast
from ..scalar import S
from ..types import TensorType

COMMUTATIVE = frozenset({Trait.PURE, Trait.ELEMENTWISE, Trait.COMMUTATIVE})


@dataclass(frozen=True)
class Same(Elementwise):
    """All operands and the result have one dtype."""

    arity: ClassVar[int] = 1

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        check_operands(self.name, types, self.arity)
        return (TensorType(types[0].dtype, broadcast(*(t.shape for t in types))),)


@dataclass(frozen=True)
class Binary(Same):
    arity: ClassVar[int] = 2


def check_operands(name: str, types: Sequence[TensorType], arity: int) -> None:
    """Raise VerifyError unless there are `arity` operands of one dtype."""
    if len(types) != arity:
        raise VerifyError(f"{name} has {len(types)} operands", expected=str(arity))
    if any(t.dtype is not types[0].dtype for t in types):
        raise VerifyError(f"{name} has operands of dtypes {', '.join(t.dtype.value for t in types)}", expected="one dtype")


# --- arithmetic -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Add(Binary):
    traits: ClassVar[frozenset[Trait]] = COMMUTATIVE

    def body(self, s: S, *args: Any) -> Any:
        return s.add(*args)


@dataclass(frozen=True)
class Sub(Binary):
    def body(self, s: S, *args: Any) -> Any:
        return s.sub(*args)


@dataclass(frozen=True)
class Mul(Binary):
    traits: ClassVar[frozenset[Trait]] = COMMUTATIVE

    def body(self, s: S, *args: Any) -> Any:
        return s.mul(*args)


@dataclass(frozen=True)
class Div(Binary):
    """Integers truncate toward zero."""

    def body(self, s: S, *args: Any) -> Any:
        return s.div(*args)


@dataclass(frozen=True)
class Mod(Binary):
    """Remainder with the sign of the divisor."""

    def body(self, s: S, *args: Any) -> Any:
        return s.mod(*args)


@dataclass(frozen=True)
class Fmod(Binary):
    """Remainder with the sign of the dividend."""

    def body(self, s: S, *args: Any) -> Any:
        return s.fmod(*args)


@dataclass(frozen=True)
class Min(Binary):
    traits: ClassVar[frozenset[Trait]] = COMMUTATIVE

    def body(self, s: S, *args: Any) -> Any:
        return s.min(*args)


@dataclass(frozen=True)
class Max(Binary):
    traits: ClassVar[frozenset[Trait]] = COMMUTATIVE

    def body(self, s: S, *args: Any) -> Any:
        return s.max(*args)


@dataclass(frozen=True)
class Pow(Elementwise):
    """base ** exponent in the dtype of the base; the exponent may have another dtype.

    An integer base is raised in float64, whose pow need not be exact on every machine: with an integer exponent the nearest integer is
    meant, with a floating one the result is truncated, as onnxruntime does.
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
            power = s.pow(s.cast(x, DType.F64), s.cast(y, DType.F64))
            return s.cast(s.round(power) if dy.is_int else power, dx)
        return s.pow(x, s.cast(y, dx))


@dataclass(frozen=True)
class PRelu(Binary):
    """x < 0 ? slope·x : x, operands (x, slope)."""

    def body(self, s: S, *args: Any) -> Any:
        x, slope = args
        return s.select(s.lt(x, 0), s.mul(x, slope), x)


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
