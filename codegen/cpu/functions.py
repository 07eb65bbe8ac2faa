"""exp, tanh, erf … on vectors: float32 polynomials with stated error, LLVM's own for the rest.

exp: range reduction by ln 2 and a degree-6 polynomial, ≤ 2 ULP. tanh and erf: odd rational approximations on a clamped
range (the coefficients of the well-known single-precision minimax fits), about 4 ULP.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from ...ir import DType
from .build import I32, mangle, vec
from .lanes import Lanes

_LIBM = {"log", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp"}
_TANH_P = (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08, 1.48572235717979e-05,
           6.37261928875436e-04, 4.89352455891786e-03)  # fmt: skip
_TANH_Q = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
_ERF_P = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05, -7.34990630326855e-04,
          -2.95459980854025e-03, -1.60960333262415e-02)  # fmt: skip
_ERF_Q = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02)
_EXP = (1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0)


class Functions(Lanes):
    """Lanes with every scalar function; what Lanes has directly is left to it."""

    def call(self, fn: str, args: Sequence[Any], dtypes: Sequence[DType]) -> Any:
        dtype = DType.F32 if dtypes[-1] in (DType.F16, DType.BF16) else dtypes[-1]
        if dtype.is_float:
            method = getattr(self, f"_f_{fn}", None)
            if method is not None:
                return method(*args)
            if fn in _LIBM:
                return self._intrinsic(fn, args[0])
        else:
            method = getattr(self, f"_i_{fn}", None)
            if method is not None:
                return method(dtype, *args)
        if fn in ("and_", "or_", "xor", "eq", "ne", "lt", "le", "gt", "ge") and dtype is DType.BOOL and fn in ("lt", "le", "gt", "ge"):
            return getattr(self.b.ir, "icmp_unsigned")({"lt": "<", "le": "<=", "gt": ">", "ge": ">="}[fn], *args)
        return super().call(fn, args, dtypes)

    # helpers -----------------------------------------------------------------------------------------------------
    def _intrinsic(self, name: str, *args: Any) -> Any:
        return self.b.call(f"llvm.{name}.{mangle(args[0].type)}", args[0].type, *args)

    def _k(self, like: Any, value: float) -> Any:
        return ir.Constant(like.type, [value] * like.type.count)

    def _fma(self, a: Any, b: Any, c: Any) -> Any:
        if self.target.fma:
            return self._intrinsic("fma", a, b, c)
        return self.b.ir.fadd(self.b.ir.fmul(a, b), c)

    def _poly(self, x: Any, coefficients: Sequence[float]) -> Any:
        out = self._k(x, coefficients[0])
        for c in coefficients[1:]:
            out = self._fma(out, x, self._k(x, c))
        return out

    def _clamp(self, x: Any, lo: float, hi: float) -> Any:
        """NaN passes through."""
        i = self.b.ir
        x = i.select(i.fcmp_ordered("<", x, self._k(x, lo)), self._k(x, lo), x)
        return i.select(i.fcmp_ordered(">", x, self._k(x, hi)), self._k(x, hi), x)

    def _single(self, x: Any) -> bool:
        return isinstance(x.type.element, ir.FloatType)

    # float functions ---------------------------------------------------------------------------------------------
    def _f_exp(self, x: Any) -> Any:
        if not self._single(x):
            return self._intrinsic("exp", x)
        i = self.b.ir
        x = self._clamp(x, -104.0, 89.0)
        n = self._intrinsic("roundeven", i.fmul(x, self._k(x, math.log2(math.e))))
        r = self._fma(n, self._k(x, -0.693145751953125), x)
        r = self._fma(n, self._k(x, -1.428606765330187e-06), r)
        p = self._poly(r, _EXP)
        # 2^n in two halves, so that neither leaves the exponent range before the product does
        t = vec(I32, x.type.count)
        whole = self.b.call(f"llvm.fptosi.sat.{mangle(t)}.{mangle(x.type)}", t, n)
        half = i.ashr(whole, ir.Constant(t, [1] * x.type.count))
        for part in (half, i.sub(whole, half)):
            bits = i.shl(i.add(part, ir.Constant(t, [127] * x.type.count)), ir.Constant(t, [23] * x.type.count))
            p = i.fmul(p, i.bitcast(bits, x.type))
        return p

    def _f_tanh(self, x: Any) -> Any:
        if not self._single(x):
            return self._intrinsic("tanh", x)
        i = self.b.ir
        c = self._clamp(x, -7.90531110763549805, 7.90531110763549805)
        s = i.fmul(c, c)
        y = i.fdiv(i.fmul(c, self._poly(s, _TANH_P)), self._poly(s, _TANH_Q))
        small = i.fcmp_ordered("<", self._intrinsic("fabs", x), self._k(x, 0.0004))
        return i.select(small, x, y)

    def _f_erf(self, x: Any) -> Any:
        if not self._single(x):
            return self._each("erf", x)
        i = self.b.ir
        c = self._clamp(x, -4.0, 4.0)
        s = i.fmul(c, c)
        return i.fdiv(i.fmul(c, self._poly(s, _ERF_P)), self._poly(s, _ERF_Q))

    def _each(self, name: str, *args: Any) -> Any:
        """A libm function, lane by lane."""
        element = args[0].type.element
        suffix = "f" if isinstance(element, ir.FloatType) else ""
        out = ir.Constant(args[0].type, ir.Undefined)
        for lane in range(args[0].type.count):
            at = ir.Constant(I32, lane)
            scalars = [self.b.ir.extract_element(a, at) for a in args]
            out = self.b.ir.insert_element(out, self.b.call(name + suffix, element, *scalars), at)
        return out

    def _f_asinh(self, x: Any) -> Any:
        return self._each("asinh", x)

    def _f_acosh(self, x: Any) -> Any:
        return self._each("acosh", x)

    def _f_atanh(self, x: Any) -> Any:
        return self._each("atanh", x)

    def _f_pow(self, x: Any, y: Any) -> Any:
        return self._intrinsic("pow", x, y)

    def _f_fmod(self, x: Any, y: Any) -> Any:
        return self.b.ir.frem(x, y)

    def _f_mod(self, x: Any, y: Any) -> Any:
        i = self.b.ir
        r = i.frem(x, y)
        zero = self._k(x, 0.0)
        wrong = i.and_(i.fcmp_unordered("!=", r, zero), i.xor(i.fcmp_ordered("<", r, zero), i.fcmp_ordered("<", y, zero)))
        return i.select(wrong, i.fadd(r, y), r)

    def _f_rsqrt(self, x: Any) -> Any:
        return self.b.ir.fdiv(self._k(x, 1.0), self._intrinsic("sqrt", x))

    def _f_isnan(self, x: Any) -> Any:
        return self.b.ir.fcmp_unordered("uno", x, x)

    def _f_isinf(self, x: Any) -> Any:
        return self.b.ir.fcmp_ordered("==", self._intrinsic("fabs", x), self._k(x, math.inf))

    # integer functions -------------------------------------------------------------------------------------------
    def _i_abs(self, dtype: DType, x: Any) -> Any:
        if not dtype.is_signed:
            return x
        i = self.b.ir
        return i.select(i.icmp_signed("<", x, ir.Constant(x.type, None)), i.neg(x), x)

    def _i_div(self, dtype: DType, x: Any, y: Any) -> Any:
        i = self.b.ir
        one = ir.Constant(y.type, [1] * y.type.count)
        zero = ir.Constant(y.type, None)
        none = i.icmp_unsigned("==", y, zero)
        safe = i.select(none, one, y)
        if dtype.is_signed:
            # MIN / -1 traps on x86: negate instead
            minus = i.icmp_signed("==", safe, ir.Constant(y.type, [-1] * y.type.count))
            q = i.sdiv(x, i.select(minus, one, safe))
            q = i.select(minus, i.neg(x), q)
        else:
            q = i.udiv(x, safe)
        return i.select(none, zero, q)

    def _i_fmod(self, dtype: DType, x: Any, y: Any) -> Any:
        i = self.b.ir
        return i.select(i.icmp_unsigned("==", y, ir.Constant(y.type, None)), ir.Constant(y.type, None),
                        i.sub(x, i.mul(self._i_div(dtype, x, y), y)))  # fmt: skip

    def _i_mod(self, dtype: DType, x: Any, y: Any) -> Any:
        i = self.b.ir
        r = self._i_fmod(dtype, x, y)
        if not dtype.is_signed:
            return r
        zero = ir.Constant(x.type, None)
        wrong = i.and_(i.icmp_signed("!=", r, zero), i.xor(i.icmp_signed("<", r, zero), i.icmp_signed("<", y, zero)))
        return i.select(wrong, i.add(r, y), r)

    def _i_shl(self, dtype: DType, x: Any, y: Any) -> Any:
        return self.b.ir.shl(x, y)

    def _i_shr(self, dtype: DType, x: Any, y: Any) -> Any:
        return self.b.ir.ashr(x, y) if dtype.is_signed else self.b.ir.lshr(x, y)

    def _i_isnan(self, dtype: DType, x: Any) -> Any:
        return ir.Constant(ir.VectorType(ir.IntType(1), x.type.count), None)

    _i_isinf = _i_isnan

    def _i_pow(self, dtype: DType, x: Any, y: Any) -> Any:
        """Through float64: exact up to 2^53."""
        d = ir.VectorType(ir.DoubleType(), x.type.count)
        i = self.b.ir
        p = self._intrinsic("pow", i.sitofp(x, d), i.sitofp(y, d))
        return self.b.call(f"llvm.fptosi.sat.{mangle(x.type)}.{mangle(d)}", x.type, p)

    def _i_floor(self, dtype: DType, x: Any) -> Any:
        return x

    _i_ceil = _i_round = _i_trunc = _i_floor

    def _i_fma(self, dtype: DType, x: Any, y: Any, z: Any) -> Any:
        return self.b.ir.add(self.b.ir.mul(x, y), z)
