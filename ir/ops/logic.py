"""Comparisons, and logic on truth values and bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..dtypes import DType
from ..op import Elementwise, Trait, broadcast
from ..scalar import S
from ..types import TensorType
from .elementwise import COMMUTATIVE, Binary, Same, check_operands


@dataclass(frozen=True)
class _Comparison(Elementwise):
    """Two operands of one dtype; the result is BOOL."""

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        check_operands(self.name, types, 2)
        return (TensorType(DType.BOOL, broadcast(*(t.shape for t in types))),)


@dataclass(frozen=True)
class Not(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.not_(*args)


@dataclass(frozen=True)
class BitNot(Same):
    def body(self, s: S, *args: Any) -> Any:
        return s.not_(*args)


@dataclass(frozen=True)
class Equal(_Comparison):
    traits: ClassVar[frozenset[Trait]] = COMMUTATIVE

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
class And(Binary):
    traits: ClassVar[frozenset[Trait]] = COMMUTATIVE

    def body(self, s: S, *args: Any) -> Any:
        return s.and_(*args)


@dataclass(frozen=True)
class Or(Binary):
    traits: ClassVar[frozenset[Trait]] = COMMUTATIVE

    def body(self, s: S, *args: Any) -> Any:
        return s.or_(*args)


@dataclass(frozen=True)
class Xor(Binary):
    traits: ClassVar[frozenset[Trait]] = COMMUTATIVE

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
class ShiftLeft(Binary):
    """Shifts by the width or more give 0."""

    def body(self, s: S, *args: Any) -> Any:
        x, n = args
        bits = s.dtype(x).itemsize * 8
        return s.select(s.lt(n, bits), s.shl(x, s.min(n, bits - 1)), s.const(0, s.dtype(x)))


@dataclass(frozen=True)
class ShiftRight(Binary):
    """Shifts by the width or more give 0, or −1 for negative numbers (whose shift keeps the sign)."""

    def body(self, s: S, *args: Any) -> Any:
        x, n = args
        bits = s.dtype(x).itemsize * 8
        shifted = s.shr(x, s.min(n, bits - 1))
        return shifted if s.dtype(x).is_signed else s.select(s.lt(n, bits), shifted, s.const(0, s.dtype(x)))
