"""What quantizing needs beside its step and zero point follows from them: where these are in the table of sizes, so is that."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ...ir import DType
from ..expr import Call, E, Num, Param, Quantizing
from .math.lanes import ROUND_BITS


def correctable(divisor: float) -> bool:
    """Whether its inverse rounds, and stays with the products that correct a quotient within the range of float32."""
    return 2.0**-60 < abs(divisor) < 2.0**60 and abs(math.frexp(divisor)[0]) != 0.5


@dataclass(frozen=True, slots=True)
class DerivedNumbers:
    """Of one kernel: every number is derived once, so that it has one place in the table."""

    inverses: dict[int, tuple[Param, Param]] = field(default_factory=dict)  # by id() of a divisor, which is kept
    ends: dict[int, tuple[Quantizing, tuple[Param, Param, Param]]] = field(default_factory=dict)  # by id() of what quantizes

    def inverse(self, divisor: Param) -> Param:
        if id(divisor) not in self.inverses:
            with np.errstate(all="ignore"):
                self.inverses[id(divisor)] = divisor, _float(np.float32(1) / np.float32(divisor.value))
        return self.inverses[id(divisor)][1]

    def ends_of(self, e: E, q: Quantizing, over: Num | Param | None = None) -> tuple[Param, Param, Param] | None:
        """What `Lanes.quantize_within` takes for the cast `e`; None where neither its zero point nor `over` is in the table."""
        zero = q.zero.value if isinstance(q.zero, Param) else q.zero
        if isinstance(zero, E) or not (isinstance(q.zero, Param) or isinstance(over, Param)):
            return None
        if id(e) not in self.ends:
            least, greatest = (np.float32(end - zero) for end in (q.low, q.high))
            if over is not None:
                least, greatest = sorted((least * np.float32(over.value), greatest * np.float32(over.value)))
            self.ends[id(e)] = q, (_float(least), _float(greatest), Param(ROUND_BITS - int(zero), dtype=DType.I32))
        return self.ends[id(e)][1]


def divides(e: E) -> Param | Num | None:
    """The number of a float32 division by one whose quotient can be corrected."""
    match e:
        case Call(fn="div", args=(_, Param() as by), dtype=DType.F32):
            return by
        case Call(fn="div", args=(_, Num(value=value) as by), dtype=DType.F32) if correctable(float(value)):
            return by
    return None


def _float(value: np.floating) -> Param:
    return Param(float(value), dtype=DType.F32)
