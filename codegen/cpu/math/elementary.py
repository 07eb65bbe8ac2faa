"""exp, log, tanh, erf … on vectors: float32 polynomials with stated error; float64 lane by lane, or in `doubles.py`.

Bounds (tests/codegen/test_cpu_functions.py): exp, log, erf ≤ 2 ULP; tanh, an odd rational fit on a clamped range, ≤ 6 ULP.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from .. import llvm_ir as ir
from ..build import I1, I32, mangle, vec
from .lanes import ROUND, Lanes

ROUND64 = 1.5 * 2.0**52  # adding it leaves the nearest integer in the low mantissa bits
_TANH_P = (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08, 1.48572235717979e-05,
           6.37261928875436e-04, 4.89352455891786e-03)  # fmt: skip
_TANH_Q = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
# Minimax fits by N. Juffa: exp on |x| ≤ ln 2 / 2; erf near 0 (in x²) and 1 − exp(…) beyond; log on [2/3, 4/3).
_EXP = (1.37805939e-3, 8.37312452e-3, 4.16695364e-2, 1.66664720e-1, 4.99999851e-1, 1.0, 1.0)
# 2^x on |x| ≤ 1/2: minimax in relative error (7.5e-8), by reweighted least squares
_EXP2 = (1.32764725e-3, 9.67554096e-3, 5.55071309e-2, 2.40221202e-1, 6.93146944e-1, 1.00000012)
# the same on 0 ≤ x ≤ 1, exactly 1 at 0 (8.2e-8)
_EXP2_FRACTION = (1.86713017e-3, 9.01702978e-3, 5.57999127e-2, 2.40164444e-1, 6.93151295e-1, 1.0)
_ERF_SMALL = (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)
_ERF_LARGE = (-1.72853470e-5, 3.83197126e-4, -3.88396438e-3, 2.42546219e-2, -1.06777877e-1, -6.34846687e-1, -1.28717512e-1)
_LOG_ODD = (-0.130310059, -0.121483825, -0.166846126, -0.249996200)
_LOG_EVEN = (0.140869141, 0.139814854, 0.200120345)
# log₂ Φ(−t) on 0 ≤ t ≤ 10, minimax in Φ (4.3e-8), by reweighted least squares; it falls on beyond
_CDF = (-6.73264992e-7, 1.34362572e-5, -6.56480697e-5, -4.15080518e-4, 7.40257232e-3, -5.27103133e-2, -4.59144861e-1, -1.15111208,
        -0.999999881)  # fmt: skip
_PIECES, _PER_UNIT = 16, 2.65  # of Φ on 0 ≤ t ≤ 5.6, where vectors have as many lanes; it is 2e-8 at the beginning of the last


class Elementary(Lanes):
    """What the other functions are made of, and those that activations and norms use."""

    # helpers -----------------------------------------------------------------------------------------------------
    def _intrinsic(self, name: str, *args: Any) -> Any:
        return self.b.call(f"llvm.{name}.{mangle(args[0].type)}", args[0].type, *args)

    def _k(self, like: Any, value: float) -> Any:
        return ir.Constant(like.type, value)

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

    def _rescued(self, name: str, lanes: Any, args: Sequence[Any], y: Any) -> Any:
        """y, but the C library's result in some lanes, which are rare: behind a branch."""
        i, b = self.b.ir, self.b
        element, count = y.type.element, y.type.count
        some = b.call(f"llvm.vector.reduce.or.v{count}i1", I1, lanes)
        before = i.block
        with i.if_then(some, likely=False):
            memory = [b.alloca_entry(y.type, 1) for _ in args]
            for x, place in zip(args, memory, strict=True):
                i.store(x, place, align=8)
            suffix = "f" if self._single(y) else ""

            def one(lane: Any, _: list[Any]) -> list[Any]:
                at = [b.at(place, lane, element) for place in memory]
                i.store(b.call(name + suffix, element, *(b.load(element, p, 4) for p in at)), at[0], align=4)
                return []

            b.loop(b.i64(0), b.i64(count), b.i64(1), [], one)
            exact = i.select(lanes, b.load(y.type, memory[0], 8), y)
            inside = i.block
        return b.merge((y, before), (exact, inside))

    # float functions ---------------------------------------------------------------------------------------------
    def _f_exp(self, x: Any) -> Any:
        if not self._single(x):
            return self._each("exp", x)
        return self._exponential(x)

    def _exponential(self, x: Any, less: int = 0) -> Any:
        """exp(x) / 2^less for float32, less = 0 or 1."""
        i = self.b.ir
        low, high = -104.0, 89.0 + less  # below the one, exp is 0
        something = i.fcmp_unordered(">=", x, self._k(x, low)) if self._has_scalef(x) else None
        x = self._clamp(x, low, high) if something is None else i.select(i.fcmp_ordered(">", x, self._k(x, high)), self._k(x, high), x)
        shifted = self._fma(x, self._k(x, math.log2(math.e)), self._k(x, ROUND))
        n = i.fsub(shifted, self._k(x, ROUND))
        r = self._fma(n, self._k(x, -0.693145751953125), x)
        r = self._fma(n, self._k(x, -1.428606765330187e-06), r)
        p = self._poly(r, _EXP)
        if something is not None:
            return self._scalef(p, i.fsub(n, self._k(n, 1.0)) if less else n, something)
        # 2^n in two halves, so that neither leaves the exponent range before the product does
        t = vec(I32, x.type.count)
        whole = i.sub(i.bitcast(shifted, t), i.bitcast(self._k(x, ROUND + less), t))
        half = i.ashr(whole, ir.Constant(t, 1))
        for part in (half, i.sub(whole, half)):
            bits = i.shl(i.add(part, ir.Constant(t, 127)), ir.Constant(t, 23))
            p = i.fmul(p, i.bitcast(bits, x.type))
        return p

    def exp2_of_difference(self, x: Any) -> Any:
        """2^x for x ≤ 0, as in softmax; float32, relative error ≤ 2e-7. What would be subnormal may be 0; NaN passes."""
        i = self.b.ir
        if self._has_scalef(x) and "avx512dq" in self.target.features:
            return self._scalef(self._poly(self._fraction(x), _EXP2_FRACTION), x)
        c = i.select(i.fcmp_ordered("<", x, self._k(x, -126.0)), self._k(x, -126.0), x)
        shifted = i.fadd(c, self._k(x, ROUND))
        p = self._poly(i.fsub(c, i.fsub(shifted, self._k(x, ROUND))), _EXP2)
        # 2^n straight into the exponent
        t = vec(I32, x.type.count)
        bits = i.add(i.shl(i.bitcast(shifted, t), ir.Constant(t, 23)), ir.Constant(t, 127 << 23))
        return i.select(i.fcmp_ordered("<", x, self._k(x, -126.0)), self._k(x, 0.0), i.fmul(p, i.bitcast(bits, x.type)))

    def logistic(self, x: Any) -> Any:
        """1 / (1 + e⁻ˣ) for float32, absolute error ≤ 2e-7; NaN passes. Sums of gates take it, which see 1 beside it."""
        i, one = self.b.ir, self._k(x, 1.0)
        if not self._has_scalef(x) or "avx512dq" not in self.target.features:
            return i.fdiv(one, i.fadd(one, self._exponential(i.fneg(x))))
        t = i.fmul(x, self._k(x, -math.log2(math.e)))
        t = i.select(i.fcmp_ordered(">", t, self._k(x, 126.0)), self._k(x, 126.0), t)
        return self._inverse(i.fadd(one, self._scalef(self._poly(self._fraction(t), _EXP2_FRACTION), t)))

    def _inverse(self, y: Any) -> Any:
        """1 / y for float32 vectors, 2⁻¹²⁶ < |y| ≤ 2¹²⁶, by an estimate that is made twice as exact: sums of gates wait for divisions."""
        mask = ir.Constant(ir.IntType(max(8, y.type.count)), -1)
        near = self.b.call(f"llvm.x86.avx512.rcp14.ps.{32 * y.type.count}", y.type, y, self._k(y, 0.0), mask)
        return self._fma(near, self._fma(self.b.ir.fneg(y), near, self._k(y, 1.0)), near)

    def _has_scalef(self, x: Any) -> bool:
        return "avx512vl" in self.target.features and x.type.count in (4, 8, 16)

    def _scalef(self, p: Any, n: Any, some: Any = None) -> Any:
        """p · 2^⌊n⌋ in one instruction; of some lanes, and 0 of the others: what underflows takes a hundred times longer."""
        lanes = p.type.count
        mask, mode = ir.Constant(ir.IntType(max(8, lanes)), -1), [ir.Constant(I32, 4)] if lanes == 16 else []
        if some is None:
            return self.b.call(f"llvm.x86.avx512.mask.scalef.ps.{32 * lanes}", p.type, p, n, p, mask, *mode)
        bits = self.b.ir.bitcast(some, ir.IntType(lanes))
        mask = bits if lanes >= 8 else self.b.ir.zext(bits, mask.type)
        return self.b.call(f"llvm.x86.avx512.mask.scalef.ps.{32 * lanes}", p.type, p, n, self._k(p, 0.0), mask, *mode)

    def _fraction(self, x: Any) -> Any:
        """x − ⌊x⌋ in one instruction; 0 for ±∞."""
        lanes = x.type.count
        mask, mode = ir.Constant(ir.IntType(max(8, lanes)), -1), [ir.Constant(I32, 4)] if lanes == 16 else []
        down = ir.Constant(I32, 9)  # rounding mode of the integer part, and no exception for what is inexact
        return self.b.call(f"llvm.x86.avx512.mask.reduce.ps.{32 * lanes}", x.type, x, down, x, mask, *mode)

    def _f_log(self, x: Any) -> Any:
        if not self._single(x):
            return self._each("log", x)
        i, lanes = self.b.ir, x.type.count
        t = vec(I32, lanes)

        def c(v: int) -> Any:
            return ir.Constant(t, v)

        tiny = i.fcmp_ordered("<", x, self._k(x, 2.0**-126))
        a = i.select(tiny, i.fmul(x, self._k(x, 2.0**23)), x)
        bits = i.bitcast(a, t)
        e = i.and_(i.sub(bits, c(0x3F2AAAAB)), c(-(2**23)))
        f = i.fsub(i.bitcast(i.sub(bits, e), x.type), self._k(x, 1.0))
        exponent = self._fma(i.sitofp(e, x.type), self._k(x, 2.0**-23), i.select(tiny, self._k(x, -23.0), self._k(x, 0.0)))
        s = i.fmul(f, f)
        r = self._fma(self._poly(s, _LOG_EVEN), f, self._poly(s, _LOG_ODD))
        r = self._fma(self._fma(r, f, self._k(x, 0.333331972)), f, self._k(x, -0.5))
        r = self._fma(exponent, self._k(x, math.log(2)), self._fma(r, s, f))
        positive = i.fcmp_ordered("<", x, self._k(x, math.inf))
        r = i.select(positive, r, x)  # inf and NaN
        r = i.select(i.fcmp_ordered("==", x, self._k(x, 0.0)), self._k(x, -math.inf), r)
        return i.select(i.fcmp_ordered("<", x, self._k(x, 0.0)), self._k(x, math.nan), r)

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
        t, s = self._intrinsic("fabs", x), i.fmul(x, x)
        large = self._fma(self._k(x, _ERF_LARGE[0]), t, self._k(x, _ERF_LARGE[1]))
        large = self._fma(large, s, self._fma(self._k(x, _ERF_LARGE[2]), t, self._k(x, _ERF_LARGE[3])))
        for c in _ERF_LARGE[4:]:
            large = self._fma(large, t, self._k(x, c))
        large = i.fsub(self._k(x, 1.0), self._f_exp(self._fma(large, t, i.fneg(t))))
        large = self._intrinsic("copysign", large, x)
        small = self._fma(self._poly(s, _ERF_SMALL), x, x)
        return i.select(i.fcmp_ordered(">", t, self._k(x, 0.921875)), large, small)

    def _f_normcdf(self, x: Any) -> Any:
        """Φ(x); float32, absolute error ≤ 2e-7: half the work of erf, which is exact to the last bits near 0."""
        i, half = self.b.ir, self._k(x, 0.5)
        if not self._single(x):
            return i.fmul(half, i.fadd(self._k(x, 1.0), self._each("erf", i.fmul(x, self._k(x, math.sqrt(0.5))))))
        t = self._intrinsic("fabs", x)
        if "avx512f" in self.target.features and x.type.count == _PIECES:
            below = self._cdf_by_pieces(t)
            return i.select(i.fcmp_ordered(">", x, self._k(x, 0.0)), i.fsub(self._k(x, 1.0), below), below)
        t = i.select(i.fcmp_ordered(">", t, self._k(x, 30.0)), self._k(x, 30.0), t)
        power = self._poly(t, _CDF)
        if not self._has_scalef(x):
            power = i.select(i.fcmp_ordered("<", power, self._k(x, -126.0)), self._k(x, -126.0), power)
        shifted = i.fadd(power, self._k(x, ROUND))
        n = i.fsub(shifted, self._k(x, ROUND))
        p = self._poly(i.fsub(power, n), _EXP2)
        if self._has_scalef(x):
            below = self._scalef(p, n)
        else:
            bits = vec(I32, x.type.count)
            scale = i.add(i.shl(i.bitcast(shifted, bits), ir.Constant(bits, 23)), ir.Constant(bits, 127 << 23))
            below = i.fmul(p, i.bitcast(scale, x.type))
        return i.select(i.fcmp_ordered(">", x, self._k(x, 0.0)), i.fsub(self._k(x, 1.0), below), below)

    def _cdf_by_pieces(self, t: Any) -> Any:
        """Φ(−t) for t ≥ 0, within 3e-8 but for rounding: a register has a coefficient of every piece, one instruction picks each lane's."""
        i, whole = self.b.ir, vec(I32, _PIECES)
        end = self._k(t, (_PIECES - 1) / _PER_UNIT)
        t = i.select(i.fcmp_ordered(">", t, end), end, t)
        shifted = self._fma(t, self._k(t, _PER_UNIT), self._k(t, ROUND))
        u = self._fma(t, self._k(t, _PER_UNIT), i.fneg(i.fsub(shifted, self._k(t, ROUND))))
        piece = i.bitcast(shifted, whole)
        out = None
        for coefficients in reversed(_cdf_pieces()):
            c = self.b.call("llvm.x86.avx512.permvar.sf.512", t.type, ir.Constant(t.type, list(coefficients)), piece)
            out = c if out is None else self._fma(out, u, c)
        return out


@functools.cache
def _cdf_pieces() -> list[tuple[float, ...]]:
    """By degree, of each piece: Φ(−(n + u) / _PER_UNIT) on |u| ≤ ½ as a polynomial in u. Taylor's, of one degree more than is kept:
    u⁶ is nearest to what it has in common with its Chebyshev polynomial. (Derivatives of Φ are Hermite polynomials times the density.)
    """
    pieces = []
    for n in range(_PIECES - 1):
        t = n / _PER_UNIT
        density, hermite = math.exp(-t * t / 2) / math.sqrt(2 * math.pi), [1.0, t]
        for k in range(1, 5):
            hermite.append(t * hermite[k] - k * hermite[k - 1])
        c = [math.erfc(t / math.sqrt(2)) / 2]
        c += [(-1) ** k * hermite[k - 1] * density / math.factorial(k) / _PER_UNIT**k for k in range(1, 7)]
        last = c.pop()
        for degree, part in ((0, 1 / 2048), (2, -9 / 256), (4, 3 / 8)):
            c[degree] += part * last
        pieces.append(tuple(c))
    return list(zip(*pieces, [0.0] * 6, strict=True))  # behind the last, less than that error
