"""exp, log, tanh, sin and cos on vectors of float64, where the target multiplies and adds in one rounding; else the C library.

Bounds (tests/codegen/test_cpu_functions.py): 2 ULP over all finite numbers.
"""

from __future__ import annotations

import math
from typing import Any

from .. import llvm_ir as ir
from ..build import I32, I64, vec
from .elementary import ROUND64, Elementary

# Near-minimax fits, by Chebyshev interpolation in 60 digits, with their relative error in what they are part of:
# e^r = 1 + r + r²·P(r) on |r| ≤ ln 2 / 2 (2^-61)
_EXP = (2.09147553258932e-09, 2.5105312729622103e-08, 2.755727347871858e-07, 2.755725517000089e-06, 2.480158732567746e-05,
        0.0001984126987500228, 0.0013888888888883711, 0.008333333333326084, 0.04166666666666667, 0.1666666666666667, 0.5)  # fmt: skip
# tanh x = x + x·s·P(s), s = x² ≤ 0.391 (2^-57)
_TANH = (6.479872918951109e-06, -3.1190227437815513e-05, 9.256153036516744e-05, -0.00023758584039791723, 0.0005896591704308033,
         -0.00145577511739838, 0.003592121713787555, -0.008863235100297065, 0.021869488518873555, -0.05396825396789384,
         0.1333333333333304, -0.3333333333333333)  # fmt: skip
# sin r = r + r·s·P(s) and cos r = 1 − s/2 + s²·P(s), s = r², on |r| ≤ π/4 (2^-57, 2^-59)
_SIN = (-7.586636882825159e-13, 1.6058530596645953e-10, -2.50521062259944e-08, 2.755731921932058e-06, -0.0001984126984126504,
        0.008333333333333331, -0.16666666666666666)  # fmt: skip
_COS = (-1.138254464534925e-11, 2.087614504941318e-09, -2.755731726587808e-07, 2.48015872987544e-05, -0.0013888888888887389,
        0.041666666666666664)  # fmt: skip
# log((1 + s)/(1 − s)) = 2s + s·z·P(z), z = s², for (1 + s)/(1 − s) on [√½, √2) (2^-60)
_LOG = (0.13088034850927555, 0.13268638369266825, 0.15386244737621665, 0.18181795547521137, 0.22222222392581045, 0.28571428570799784,
        0.40000000000000885, 0.6666666666666666)  # fmt: skip
_LN2 = (0.6931471805599453, 2.3190468138462996e-17)
_LN2_SHORT = (0.6931471803691238, 1.9082149292705877e-10)  # the first of 32 bits: its products with exponents are exact
_HALF_PI = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33)
_FAR = 2.0**27  # from here on, q·π/2 has more digits than the parts
_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD


class Doubles(Elementary):
    def _doubles(self, x: Any) -> bool:
        """Whether x is float64 and is computed here."""
        return not self._single(x) and self.target.fma

    def _f_exp(self, x: Any) -> Any:
        return self._exp64(x) if self._doubles(x) else super()._f_exp(x)

    def _f_log(self, x: Any) -> Any:
        return self._log64(x) if self._doubles(x) else super()._f_log(x)

    def _f_tanh(self, x: Any) -> Any:
        return self._tanh64(x) if self._doubles(x) else super()._f_tanh(x)

    def _exp64(self, x: Any) -> Any:
        i = self.b.ir
        x = self._clamp(x, -746.0, 710.0)
        shifted = self._fma(x, self._k(x, math.log2(math.e)), self._k(x, ROUND64))
        n = i.fsub(shifted, self._k(x, ROUND64))
        r = x
        for part in _LN2:
            r = self._fma(n, self._k(x, -part), r)
        p = i.fadd(self._fma(i.fmul(r, r), self._poly(r, _EXP), r), self._k(x, 1.0))
        lanes = x.type.count
        if "avx512vl" in self.target.features and lanes in (2, 4, 8):
            mode = [ir.Constant(I32, 4)] if lanes == 8 else []
            return self.b.call(f"llvm.x86.avx512.mask.scalef.pd.{64 * lanes}", p.type, p, n, p, ir.Constant(ir.IntType(8), -1), *mode)
        # 2^n in two halves, so that neither leaves the exponent range before the product does
        t = vec(I64, lanes)
        whole = i.sub(i.bitcast(shifted, t), i.bitcast(self._k(x, ROUND64), t))
        half = i.ashr(whole, ir.Constant(t, 1))
        for part in (half, i.sub(whole, half)):
            p = i.fmul(p, i.bitcast(i.shl(i.add(part, ir.Constant(t, 1023)), ir.Constant(t, 52)), x.type))
        return p

    def _log64(self, x: Any) -> Any:
        """(1 + f)·2^e with f from √½ − 1 to √2 − 1; log(1 + f) = f − (f²/2 − s·(f²/2 + z·P(z))), s = f / (2 + f)."""
        i, lanes = self.b.ir, x.type.count
        t, narrow = vec(I64, lanes), vec(I32, lanes)
        tiny = i.fcmp_ordered("<", x, self._k(x, 2.0**-1022))
        bits = i.bitcast(i.select(tiny, i.fmul(x, self._k(x, 2.0**54)), x), t)
        above = i.sub(bits, ir.Constant(t, _SQRT_HALF_BITS))
        f = i.fsub(i.bitcast(i.sub(bits, i.and_(above, ir.Constant(t, -(2**52)))), x.type), self._k(x, 1.0))
        e = i.sitofp(i.ashr(i.trunc(i.lshr(above, ir.Constant(t, 32)), narrow), ir.Constant(narrow, 20)), x.type)
        e = i.fadd(e, i.select(tiny, self._k(x, -54.0), self._k(x, 0.0)))
        s = i.fdiv(f, i.fadd(f, self._k(x, 2.0)))
        z, half = i.fmul(s, s), i.fmul(i.fmul(f, f), self._k(x, 0.5))
        rest = self._fma(s, i.fadd(half, i.fmul(z, self._poly(z, _LOG))), i.fmul(e, self._k(x, _LN2_SHORT[1])))
        y = self._fma(e, self._k(x, _LN2_SHORT[0]), i.fsub(f, i.fsub(half, rest)))
        y = i.select(i.fcmp_ordered("<", x, self._k(x, math.inf)), y, x)  # ∞ and NaN
        y = i.select(i.fcmp_ordered("==", x, self._k(x, 0.0)), self._k(x, -math.inf), y)
        return i.select(i.fcmp_ordered("<", x, self._k(x, 0.0)), self._k(x, math.nan), y)

    def _tanh64(self, x: Any) -> Any:
        i = self.b.ir
        size, s = self._intrinsic("fabs", x), i.fmul(x, x)
        power = self._exp64(i.fadd(size, size))
        large = i.fsub(self._k(x, 1.0), i.fdiv(self._k(x, 2.0), i.fadd(power, self._k(x, 1.0))))
        small = self._fma(i.fmul(x, s), self._poly(s, _TANH), x)
        return self._intrinsic("copysign", i.select(i.fcmp_ordered(">", size, self._k(x, 0.625)), large, small), x)

    def _wave64(self, name: str, x: Any) -> Any:
        """sin |x| with the sign of x, or cos |x|; q·π/2 + r as for float32 (`angles.py`), r in float64."""
        i, lanes = self.b.ir, x.type.count
        t = vec(I64, lanes)
        size = self._intrinsic("fabs", x)
        shifted = self._fma(size, self._k(x, 2 / math.pi), self._k(x, ROUND64))
        q, r = i.fsub(shifted, self._k(x, ROUND64)), size
        for part in _HALF_PI:
            r = self._fma(q, self._k(x, -part), r)
        number = i.bitcast(shifted, t)
        number = i.add(number, ir.Constant(t, 1)) if name == "cos" else number
        s = i.fmul(r, r)
        sine = self._fma(i.fmul(r, s), self._poly(s, _SIN), r)
        half = i.fmul(s, self._k(x, 0.5))
        near = i.fsub(self._k(x, 1.0), half)  # and what was lost there
        lost = i.fsub(i.fsub(self._k(x, 1.0), near), half)
        cosine = i.fadd(near, self._fma(i.fmul(s, s), self._poly(s, _COS), lost))
        odd = i.icmp_unsigned("!=", i.and_(number, ir.Constant(t, 1)), ir.Constant(t, 0))
        sign = i.shl(i.and_(number, ir.Constant(t, 2)), ir.Constant(t, 62))
        if name == "sin":
            sign = i.xor(sign, i.and_(i.bitcast(x, t), ir.Constant(t, -(2**63))))
        y = i.bitcast(i.xor(i.bitcast(i.select(odd, cosine, sine), t), sign), x.type)
        far = i.and_(i.fcmp_ordered(">=", size, self._k(x, _FAR)), i.fcmp_ordered("<", size, self._k(x, math.inf)))
        return self._rescued(name, far, (x,), y)
