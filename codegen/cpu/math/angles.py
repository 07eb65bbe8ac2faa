"""sin, cos, tan and their inverses on vectors of float32; of float64 only sin and cos, the others lane by lane.

Bounds over all finite numbers (tests/codegen/test_cpu_functions.py): sin, cos ≤ 2 ULP; tan, asin, acos, atan ≤ 3 ULP.
"""

from __future__ import annotations

import math
from typing import Any

from .. import llvm_ir as ir
from ..build import I32, I64, vec
from .doubles import Doubles
from .elementary import ROUND64

# Minimax in relative error, by reweighted least squares, in s = r²: sin r = r + r·s·P(s) and cos r = 1 − s/2 + s²·P(s) on
# |r| ≤ π/4 (4e-9, 1e-10); atan r = r + r·s·P(s) on |r| ≤ 1 (3e-9), asin alike on |r| ≤ 1/2 (5e-9).
_SIN = (-0.000195152825, 0.0083321603, -0.166666552)
_COS = (2.44331568e-05, -0.00138873165, 0.0416666456)
_ATAN = (-0.00179362227, 0.0109146088, -0.0311778504, 0.0579576008, -0.08403451, 0.109521858, -0.142642424, 0.199985489, -0.333332986)
_ASIN = (0.0421663076, 0.0241795145, 0.0454703756, 0.0749529749, 0.166667521)
# π/2 in float64 parts: two for fused multiply-adds; three, of 25 bits but the last, whose products with 28 bits are exact
_PARTS_FUSED = (1.5707963267948966, 6.123233995736766e-17)
_PARTS = (1.5707963109016418, 1.5893254712295857e-08, 6.123233995736766e-17)
_FAR = 2.0**28  # beyond, the parts are too short


class Angles(Doubles):
    def _f_sin(self, x: Any) -> Any:
        if self._doubles(x):
            return self._wave64("sin", x)
        return self._wave("sin", x) if self._single(x) else self._intrinsic("sin", x)

    def _f_cos(self, x: Any) -> Any:
        if self._doubles(x):
            return self._wave64("cos", x)
        return self._wave("cos", x) if self._single(x) else self._intrinsic("cos", x)

    def _f_tan(self, x: Any) -> Any:
        if not self._single(x):
            return self._intrinsic("tan", x)
        i = self.b.ir
        size, (r, odd, _) = self._intrinsic("fabs", x), self._quarter(x, 0)
        sine, cosine = self._near(r)
        y = i.fdiv(i.select(odd, i.fneg(cosine), sine), i.select(odd, sine, cosine))
        return self._far("tan", x, self._signed(y, i.fcmp_ordered("==", size, x), x))

    def _wave(self, name: str, x: Any) -> Any:
        """sin |x| with the sign of x, or cos |x|."""
        i = self.b.ir
        r, odd, half = self._quarter(x, int(name == "cos"))
        sine, cosine = self._near(r)
        y = i.select(odd, cosine, sine)
        sign = half
        if name == "sin":
            t = half.type
            sign = i.xor(half, i.and_(i.bitcast(x, t), ir.Constant(t, -(2**31))))
        return self._far(name, x, i.bitcast(i.xor(i.bitcast(y, sign.type), sign), y.type))

    def _signed(self, y: Any, same: Any, x: Any) -> Any:
        """y where x is its own size, else −y; zero keeps the sign of x."""
        i = self.b.ir
        y = i.select(same, y, i.fneg(y))
        return i.select(i.fcmp_ordered("==", x, self._k(x, 0.0)), x, y)

    def _quarter(self, x: Any, ahead: int) -> tuple[Any, Any, Any]:
        """|x| = q·π/2 + r: r in float32, whether q + ahead is odd, and the sign bit of its second bit. Right below 2²⁸."""
        i, lanes = self.b.ir, x.type.count
        wide = i.fpext(self._intrinsic("fabs", x), vec(ir.DoubleType(), lanes))
        shifted = self._fma(wide, self._k(wide, 2 / math.pi), self._k(wide, ROUND64))
        q = i.fsub(shifted, self._k(wide, ROUND64))
        for part in _PARTS_FUSED if self.target.fma else _PARTS:
            wide = self._fma(q, self._k(wide, -part), wide)
        t = vec(I32, lanes)
        number = i.trunc(i.bitcast(shifted, vec(I64, lanes)), t)
        if ahead:
            number = i.add(number, ir.Constant(t, ahead))
        odd = i.icmp_unsigned("!=", i.and_(number, ir.Constant(t, 1)), ir.Constant(t, 0))
        return i.fptrunc(wide, x.type), odd, i.shl(i.and_(number, ir.Constant(t, 2)), ir.Constant(t, 30))

    def _near(self, r: Any) -> tuple[Any, Any]:
        """sin r and cos r for |r| ≤ π/4."""
        i = self.b.ir
        s = i.fmul(r, r)
        sine = self._fma(i.fmul(r, s), self._poly(s, _SIN), r)
        tail = self._fma(self._poly(s, _COS), s, self._k(r, -0.5))
        return sine, self._fma(tail, s, self._k(r, 1.0))

    def _far(self, name: str, x: Any, y: Any) -> Any:
        """y, but the C library's result in lanes where |x| is finite and too large for it: rare, so behind a branch."""
        i = self.b.ir
        size = self._intrinsic("fabs", x)
        far = i.and_(i.fcmp_ordered(">=", size, self._k(x, _FAR)), i.fcmp_ordered("<", size, self._k(x, math.inf)))
        return self._rescued(name, far, (x,), y)

    def _f_atan(self, x: Any) -> Any:
        if not self._single(x):
            return self._intrinsic("atan", x)
        i = self.b.ir
        t = self._intrinsic("fabs", x)
        large = i.fcmp_ordered(">", t, self._k(x, 1.0))
        r = i.fdiv(i.select(large, self._k(x, 1.0), t), i.select(large, t, self._k(x, 1.0)))
        s = i.fmul(r, r)
        y = self._fma(i.fmul(r, s), self._poly(s, _ATAN), r)
        y = i.select(large, i.fsub(self._k(x, math.pi / 2), y), y)
        return self._intrinsic("copysign", y, x)

    def _f_asin(self, x: Any) -> Any:
        if not self._single(x):
            return self._intrinsic("asin", x)
        i = self.b.ir
        large, y = self._half_angle(self._intrinsic("fabs", x))
        y = i.select(large, self._fma(self._k(x, -2.0), y, self._k(x, math.pi / 2)), y)
        return self._intrinsic("copysign", y, x)

    def _f_acos(self, x: Any) -> Any:
        if not self._single(x):
            return self._intrinsic("acos", x)
        i, zero = self.b.ir, self._k(x, 0.0)
        large, y = self._half_angle(self._intrinsic("fabs", x))
        negative = i.fcmp_ordered("<", x, zero)
        twice = i.fadd(y, y)
        outer = i.select(negative, i.fsub(self._k(x, math.pi), twice), twice)
        return i.select(large, outer, i.fsub(self._k(x, math.pi / 2), i.select(negative, i.fneg(y), y)))

    def _half_angle(self, t: Any) -> tuple[Any, Any]:
        """For t ≥ 0: whether t > 1/2, and then asin √((1 − t)/2), else asin t. NaN where t > 1."""
        i = self.b.ir
        large = i.fcmp_ordered(">", t, self._k(t, 0.5))
        under = self._fma(t, self._k(t, -0.5), self._k(t, 0.5))
        s = i.select(large, under, i.fmul(t, t))
        r = i.select(large, self._intrinsic("sqrt", under), t)
        return large, self._fma(i.fmul(r, s), self._poly(s, _ASIN), r)
