"""Every scalar function on vectors: what is left of floats (order, remainders), and integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I32, I64, mangle, vec
from .angles import Angles
from .lanes import compute
from .powers import Powers

_LIBM = {"log", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp"}


class Functions(Angles, Powers):
    """Lanes with every scalar function; what Lanes has directly is left to it."""

    def call(self, fn: str, args: Sequence[Any], dtypes: Sequence[DType]) -> Any:
        dtype = compute(dtypes[-1])
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
        return super().call(fn, args, dtypes)

    # float functions ---------------------------------------------------------------------------------------------
    def _f_max(self, x: Any, y: Any) -> Any:
        return self._extreme("max", x, y)

    def _f_min(self, x: Any, y: Any) -> Any:
        return self._extreme("min", x, y)

    def _extreme(self, fn: str, x: Any, y: Any) -> Any:
        """A NaN in either operand wins, as in NumPy. Of zeros either may: x86 maxps(x, y) gives y when unordered, which settles a NaN
        in y, and then x needs a comparison that does not wait for y (two `select`s would become one of both)."""
        if isinstance(y, ir.Constant):
            x, y = y, x
        name = f"llvm.{fn}imum.{mangle(x.type)}"
        return self.b.call(name, x.type, x, y, flags=("nsz",) if self.target.is_x86 else ())

    def _f_fmod(self, x: Any, y: Any) -> Any:
        """x − q·y is exact for the quotient q, or one beside it that rounding made of it, unless q is too long."""
        i = self.b.ir
        if not self.target.fma:
            return i.frem(x, y)
        size, divisor = self._intrinsic("fabs", x), self._intrinsic("fabs", y)
        q = self._intrinsic("trunc", i.fdiv(size, divisor))
        r = self._fma(i.fneg(q), divisor, size)
        zero = self._k(x, 0.0)
        r = i.select(i.fcmp_ordered("<", r, zero), i.fadd(r, divisor), r)
        r = i.select(i.fcmp_ordered(">=", r, divisor), i.fsub(r, divisor), r)
        usual = i.fcmp_ordered("<", q, self._k(x, 2.0**22 if self._single(x) else 2.0**51))
        usual = i.and_(usual, i.fcmp_ordered("<", divisor, self._k(x, math.inf)))
        return self._rescued("fmod", i.not_(usual), (x, y), self._intrinsic("copysign", r, x))

    def _f_mod(self, x: Any, y: Any) -> Any:
        i = self.b.ir
        r = self._f_fmod(x, y)
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
        if dtype.itemsize < 8 and x.type.count > 1 and not isinstance(y, ir.Constant):
            return i.select(none, zero, self._quotient(dtype, x, safe))
        if dtype.is_signed:
            # MIN / -1 traps on x86: negate instead
            minus = i.icmp_signed("==", safe, ir.Constant(y.type, [-1] * y.type.count))
            q = i.sdiv(x, i.select(minus, one, safe))
            q = i.select(minus, i.neg(x), q)
        else:
            q = i.udiv(x, safe)
        return i.select(none, zero, q)

    def _quotient(self, dtype: DType, x: Any, y: Any) -> Any:
        """Of integers of up to 32 bits: those of floats twice as long, rounded, are on the same side of every integer."""
        i = self.b.ir
        wide = vec(ir.DoubleType() if dtype.itemsize == 4 else ir.FloatType(), x.type.count)
        whole = vec(I64 if dtype.itemsize == 4 else I32, x.type.count)  # holds MIN / −1, which then wraps
        to = i.sitofp if dtype.is_signed else i.uitofp
        q = i.fdiv(to(x, wide), to(y, wide))
        if dtype is DType.I32:
            minus = i.icmp_signed("==", y, ir.Constant(y.type, [-1] * y.type.count))
            return i.select(minus, i.neg(x), i.fptosi(i.select(minus, ir.Constant(wide, None), q), x.type))
        return i.trunc(i.fptosi(q, whole), x.type)

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
        return self._shift(self.b.ir.shl, x, y)

    def _i_shr(self, dtype: DType, x: Any, y: Any) -> Any:
        i = self.b.ir
        if not dtype.is_signed:
            return self._shift(i.lshr, x, y)
        # as far as bits − 1, which leaves copies of the sign
        last = ir.Constant(y.type, [x.type.element.width - 1] * y.type.count)
        return i.ashr(x, i.select(i.icmp_unsigned("<", y, last), y, last))

    def _shift(self, fn: Any, x: Any, y: Any) -> Any:
        """A shift by a negative amount, or by all bits or more, gives 0 (LLVM leaves it undefined)."""
        i = self.b.ir
        fits = i.icmp_unsigned("<", y, ir.Constant(y.type, [x.type.element.width] * y.type.count))
        return i.select(fits, fn(x, i.select(fits, y, ir.Constant(y.type, None))), ir.Constant(x.type, None))

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
