"""Powers, hyperbolic functions and their inverses on vectors of float32, by float64 where float32 would lose digits.

Bounds (tests/codegen/test_cpu_functions.py): pow ≤ 1 ULP (1.5 for exponents that are products and roots); asinh, acosh,
atanh ≤ 1 ULP; sinh, cosh ≤ 4 ULP. Float64 operands go to the C library, lane by lane.
"""

from __future__ import annotations

import math
from typing import Any

from .. import llvm_ir as ir
from ..build import I32, I64, vec
from .doubles import Doubles
from .elementary import ROUND64

# Minimax in relative error, by reweighted least squares: sinh r = r + r·s·P(s), s = r², on |r| ≤ 1 (5e-11);
# log m = z·P(z²), z = (m − 1)/(m + 1), on [√½, √2) (4e-12); 2^r on |r| ≤ 1/2 (2e-9)
_SINH = (2.81695134e-06, 0.000198361595, 0.0083333496, 0.166666672)
_LOG = (0.23617465893131645, 0.285349859088945, 0.40000385869739069, 0.66666665240446454, 2.0000000000084244)
_EXP2 = (0.00015345811869955779, 0.001339993121718478, 0.0096184889576060566, 0.055503287769711633, 0.24022646890629826,
         0.69314720573726396, 1.0000000005541663)  # fmt: skip
_SMALL = 2.0**-13  # below, asinh x and atanh x are x
_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD


class Powers(Doubles):
    def _f_sinh(self, x: Any) -> Any:
        if not self._single(x):
            return self._intrinsic("sinh", x)
        i = self.b.ir
        s, half = i.fmul(x, x), self._exponential(self._intrinsic("fabs", x), 1)
        large = i.fsub(half, i.fdiv(self._k(x, 0.25), half))
        small = self._fma(i.fmul(x, s), self._poly(s, _SINH), x)
        return i.select(i.fcmp_unordered("<", s, self._k(x, 1.0)), small, self._intrinsic("copysign", large, x))

    def _f_cosh(self, x: Any) -> Any:
        if not self._single(x):
            return self._intrinsic("cosh", x)
        half = self._exponential(self._intrinsic("fabs", x), 1)
        return self.b.ir.fadd(half, self.b.ir.fdiv(self._k(x, 0.25), half))

    def _f_asinh(self, x: Any) -> Any:
        if not self._single(x):
            return self._each("asinh", x)
        i = self.b.ir
        size = self._intrinsic("fabs", x)
        t = self._double(size)
        root = self._intrinsic("sqrt", self._fma(t, t, self._k(t, 1.0)))
        y = i.fptrunc(self._log(i.fadd(t, root)), x.type)
        return i.select(i.fcmp_ordered("<", size, self._k(x, _SMALL)), x, self._intrinsic("copysign", y, x))

    def _f_acosh(self, x: Any) -> Any:
        if not self._single(x):
            return self._each("acosh", x)
        t = self._double(x)
        root = self._intrinsic("sqrt", self._fma(t, t, self._k(t, -1.0)))
        y = self.b.ir.fptrunc(self._log(self.b.ir.fadd(t, root)), x.type)
        return self.b.ir.select(self.b.ir.fcmp_ordered("<", x, self._k(x, 1.0)), self._k(x, math.nan), y)

    def _f_atanh(self, x: Any) -> Any:
        if not self._single(x):
            return self._each("atanh", x)
        i = self.b.ir
        size = self._intrinsic("fabs", x)
        t = self._double(size)
        one = self._k(t, 1.0)
        y = i.fmul(self._k(t, 0.5), self._log(i.fdiv(i.fadd(one, t), i.fsub(one, t))))
        y = i.select(i.fcmp_ordered(">", size, self._k(x, 1.0)), self._k(x, math.nan), i.fptrunc(y, x.type))
        return i.select(i.fcmp_ordered("<", size, self._k(x, _SMALL)), x, self._intrinsic("copysign", y, x))

    def _f_pow(self, x: Any, y: Any) -> Any:
        known = self._known_power(x, _number(y))
        if known is not None:
            return known
        return self._power(x, y) if self._single(x) else self._intrinsic("pow", x, y)

    def _known_power(self, x: Any, exponent: Any) -> Any:
        """Products, roots and inverses of them; None for other exponents."""
        i = self.b.ir
        match exponent:
            case 1:
                return x
            case 2:
                return i.fmul(x, x)
            case 3:
                return i.fmul(i.fmul(x, x), x)
            case 4:
                square = i.fmul(x, x)
                return i.fmul(square, square)
            case 0.5:
                return self._root(x)
            case 1.5:
                return i.fmul(self._intrinsic("fabs", x), self._root(x))
            case -0.5:
                return i.fdiv(self._k(x, 1.0), self._root(x))
            case -1:
                return i.fdiv(self._k(x, 1.0), x)
            case -2:
                return i.fdiv(self._k(x, 1.0), i.fmul(x, x))
        return None

    def _root(self, x: Any) -> Any:
        """x^½: as the square root but for −∞ and −0."""
        i = self.b.ir
        root = i.fadd(self._intrinsic("sqrt", x), self._k(x, 0.0))
        return i.select(i.fcmp_ordered("==", x, self._k(x, -math.inf)), self._k(x, math.inf), root)

    def _power(self, x: Any, y: Any) -> Any:
        """2^(y·log₂|x|) with the sign of an odd power; what C says of zeros, infinities and NaN."""
        i, zero, one = self.b.ir, self._k(x, 0.0), self._k(x, 1.0)
        size, sign = self._intrinsic("fabs", x), vec(I32, x.type.count)
        t = self._double(size)
        log = i.fmul(self._log(t), self._k(t, math.log2(math.e)))
        log = i.select(i.fcmp_ordered("==", size, zero), self._k(t, -math.inf), log)
        product = i.fmul(self._double(y), log)
        product = i.select(i.fcmp_ordered("==", size, one), self._k(t, 0.0), product)
        power = i.fptrunc(self._exp2(product), x.type)
        whole = i.fcmp_ordered("==", self._intrinsic("floor", y), y)
        half = i.fmul(y, self._k(x, 0.5))
        odd = i.and_(whole, i.fcmp_unordered("!=", self._intrinsic("floor", half), half))
        negative = i.icmp_signed("<", i.bitcast(x, sign), ir.Constant(sign, 0))
        power = i.select(i.and_(negative, odd), i.fneg(power), power)
        finite = i.and_(i.fcmp_ordered("<", x, zero), i.fcmp_ordered(">", x, self._k(x, -math.inf)))
        power = i.select(i.and_(finite, i.not_(whole)), self._k(x, math.nan), power)
        power = i.select(i.fcmp_unordered("uno", x, y), self._k(x, math.nan), power)
        return i.select(i.or_(i.fcmp_ordered("==", x, one), i.fcmp_ordered("==", y, zero)), one, power)

    # float64 ---------------------------------------------------------------------------------------------------------
    def _double(self, x: Any) -> Any:
        return self.b.ir.fpext(x, vec(ir.DoubleType(), x.type.count))

    def _log(self, x: Any) -> Any:
        """log of normal float64 > 0, relative error 5e-12; ∞ and NaN pass."""
        i, lanes = self.b.ir, x.type.count
        t = vec(I64, lanes)
        bits = i.bitcast(x, t)
        above = i.sub(bits, ir.Constant(t, _SQRT_HALF_BITS))
        e = i.and_(above, ir.Constant(t, -(2**52)))
        m = i.bitcast(i.sub(bits, e), x.type)
        exponent = i.sitofp(i.ashr(i.trunc(i.lshr(above, ir.Constant(t, 32)), vec(I32, lanes)), ir.Constant(vec(I32, lanes), 20)), x.type)
        one = self._k(x, 1.0)
        z = i.fdiv(i.fsub(m, one), i.fadd(m, one))
        y = self._fma(exponent, self._k(x, math.log(2)), i.fmul(z, self._poly(i.fmul(z, z), _LOG)))
        return i.select(i.fcmp_ordered("<", x, self._k(x, math.inf)), y, x)

    def _exp2(self, x: Any) -> Any:
        """2^x in float64, relative error 2e-9; outside of [−160, 130] it is 2 to the nearer end, which float32 does not hold."""
        i = self.b.ir
        t = vec(I64, x.type.count)
        x = self._clamp(x, -160.0, 130.0)
        shifted = i.fadd(x, self._k(x, ROUND64))
        p = self._poly(i.fsub(x, i.fsub(shifted, self._k(x, ROUND64))), _EXP2)
        return i.fmul(p, i.bitcast(i.add(i.shl(i.bitcast(shifted, t), ir.Constant(t, 52)), ir.Constant(t, 1023 << 52)), x.type))


def _number(y: Any) -> float | None:
    """The value of a constant that is the same in all lanes."""
    if not isinstance(y, ir.Constant) or y.constant is ir.Undefined:
        return None
    lanes = y.constant if isinstance(y.constant, list) else [y.constant or 0]
    return lanes[0] if lanes.count(lanes[0]) == len(lanes) else None
