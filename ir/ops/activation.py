"""Activation functions: elementwise ops of one operand, with the formulas of the ONNX operators of the same names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..scalar import S
from .elementwise import Same


@dataclass(frozen=True)
class Relu(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.max(*args, 0)


@dataclass(frozen=True)
class LeakyRelu(Same):
    alpha: float = 0.01

    def body(self, s: S, *args: Any) -> Any:
        (x,) = args
        return s.select(s.lt(x, 0), s.mul(x, self.alpha), x)


@dataclass(frozen=True)
class Elu(Same):
    alpha: float = 1.0

    def body(self, s: S, *args: Any) -> Any:
        (x,) = args
        return s.select(s.lt(x, 0), s.mul(s.sub(s.exp(x), 1), self.alpha), x)


@dataclass(frozen=True)
class Selu(Same):
    alpha: float = 1.67326319217681884765625
    gamma: float = 1.05070102214813232421875

    def body(self, s: S, *args: Any) -> Any:
        (x,) = args
        return s.mul(s.select(s.gt(x, 0), x, s.mul(s.sub(s.exp(x), 1), self.alpha)), self.gamma)


@dataclass(frozen=True)
class Celu(Same):
    alpha: float = 1.0

    def body(self, s: S, *args: Any) -> Any:
        (x,) = args
        return s.select(s.lt(x, 0), s.mul(s.sub(s.exp(s.div(x, self.alpha)), 1), self.alpha), x)


@dataclass(frozen=True)
class ThresholdedRelu(Same):
    alpha: float = 1.0

    def body(self, s: S, *args: Any) -> Any:
        (x,) = args
        return s.select(s.gt(x, self.alpha), x, s.const(0, s.dtype(x)))


@dataclass(frozen=True)
class HardSigmoid(Same):
    alpha: float = 0.2
    beta: float = 0.5

    def body(self, s: S, *args: Any) -> Any:
        (x,) = args
        return s.min(s.max(s.add(s.mul(x, self.alpha), self.beta), 0), 1)


@dataclass(frozen=True)
class HardSwish(Same):
    """x · max(0, min(1, x/6 + 1/2))."""

    def body(self, s: S, *args: Any) -> Any:
        (x,) = args
        return s.mul(x, s.min(s.max(s.add(s.mul(x, 1 / 6), 0.5), 0), 1))


@dataclass(frozen=True)
class Sigmoid(Same):
    """1 / (1 + e⁻ˣ); e⁻ˣ may overflow to ∞, which gives the right 0."""

    def body(self, s: S, *args: Any) -> Any:
        return s.div(1, s.add(s.exp(s.neg(*args)), 1))


@dataclass(frozen=True)
class Softplus(Same):
    """log(1 + eˣ), as max(x, 0) + log(1 + e^−|x|) so that it does not overflow."""

    def body(self, s: S, *args: Any) -> Any:
        (x,) = args
        return s.add(s.max(x, 0), s.log(s.add(s.exp(s.neg(s.abs(x))), 1)))


@dataclass(frozen=True)
class Softsign(Same):
    def body(self, s: S, *args: Any) -> Any:
        (x,) = args
        return s.div(x, s.add(s.abs(x), 1))


@dataclass(frozen=True)
class Mish(Same):
    """x · tanh(softplus(x))."""

    def body(self, s: S, *args: Any) -> Any:
        return s.mul(*args, s.tanh(Softplus().body(s, *args)))


@dataclass(frozen=True)
class Silu(Same):
    """x · sigmoid(x), also known as Swish."""

    def body(self, s: S, *args: Any) -> Any:
        (x,) = args
        return s.div(x, s.add(s.exp(s.neg(x)), 1))


@dataclass(frozen=True)
class Gelu(Same):
    """x · Φ(x); with `approximate`, Φ by tanh (Hendrycks & Gimpel, arXiv:1606.08415)."""

    approximate: bool = False

    def body(self, s: S, *args: Any) -> Any:
        (x,) = args
        if self.approximate:
            inner = s.mul(s.add(s.mul(s.mul(s.mul(x, x), x), 0.044715), x), math.sqrt(2 / math.pi))
            return s.mul(s.mul(x, 0.5), s.add(s.tanh(inner), 1))
        return s.mul(x, s.normcdf(x))
