"""Elementwise functions of one operand. Formulas are those of the ONNX operator of the same name unless said otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..op import Elementwise
from ..scalar import S
from .elementwise import Same


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
