"""Conversions of floats of 16, 8 and 4 bits to and from float32, in integer arithmetic.

For processors without instructions for them (float16 before F16C; all of the others). One scheme for every format, after
F. Giesen, "half to float done quick": rounds to nearest even, keeps subnormals, and what is too large becomes what NumPy
(ml_dtypes) makes of it. Formats: IEEE 754 binary16, "FP8 Formats for Deep Learning" (arXiv 2209.05433), "8-bit Numerical
Formats for Deep Neural Networks" (arXiv 2206.02915) for FNUZ, and the OCP Microscaling Formats 1.0 for E2M1 and E8M0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I8, I32, Builder, storage, vec

_INFINITY = 0x7F800000  # bits of float32 infinity; more is NaN


@dataclass(frozen=True)
class Format:
    """`largest`: code of the largest finite number; `overflow`: code of what is larger; `nan`: code of NaN.

    `signed_zero` is false where the code of −0 is NaN instead (FNUZ).
    """

    exponent: int
    mantissa: int
    bias: int
    largest: int
    overflow: int
    nan: int
    signed_zero: bool = True

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa


FORMATS = {
    DType.F16: Format(5, 10, 15, 0x7BFF, 0x7C00, 0x7E00),
    DType.F8E4M3FN: Format(4, 3, 7, 0x7E, 0x7F, 0x7F),
    DType.F8E4M3FNUZ: Format(4, 3, 8, 0x7F, 0x80, 0x80, signed_zero=False),
    DType.F8E5M2: Format(5, 2, 15, 0x7B, 0x7C, 0x7E),
    DType.F8E5M2FNUZ: Format(5, 2, 16, 0x7F, 0x80, 0x80, signed_zero=False),
    DType.F4E2M1: Format(2, 1, 1, 0x7, 0x7, 0x8),
}


def decode(b: Builder, x: Any, dtype: DType) -> Any:
    """<n x storage of dtype> to <n x float>."""
    i, n = b.ir, x.type.count
    t, f = vec(I32, n), vec(ir.FloatType(), n)

    def c(v: int) -> Any:
        return ir.Constant(t, v)

    raw = ir.IntType(storage(dtype).width) if isinstance(storage(dtype), ir.IntType) else ir.IntType(16)
    h = i.zext(i.bitcast(x, vec(raw, n)), t)
    if dtype is DType.F8E8M0:  # 2^(code − 127), code 0 being subnormal
        o = i.select(i.icmp_unsigned("==", h, c(0)), c(1 << 22), i.shl(h, c(23)))
        return i.bitcast(i.select(i.icmp_unsigned("==", h, c(0xFF)), c(0x7FC00000), o), f)
    form = FORMATS[dtype]
    sign = 1 << (form.bits - 1)
    code = i.and_(h, c(sign - 1))
    shift = 23 - form.mantissa
    normal = i.add(i.shl(code, c(shift)), c((127 - form.bias) << 23))
    subnormal = i.bitcast(i.fmul(i.uitofp(code, f), ir.Constant(f, 2.0 ** (1 - form.bias - form.mantissa))), t)
    o = i.select(i.icmp_unsigned("<", code, c(1 << form.mantissa)), subnormal, normal)
    if form.overflow not in (form.nan, form.largest):  # infinity, and NaN with its mantissa
        special = i.or_(c(_INFINITY), i.shl(code, c(shift)))
        o = i.select(i.icmp_unsigned(">", code, c(form.largest)), special, o)
    elif form.overflow == form.nan and form.signed_zero:
        o = i.select(i.icmp_unsigned("==", code, c(form.nan)), c(0x7FC00000), o)
    o = i.or_(o, i.shl(i.and_(h, c(sign)), c(32 - form.bits)))
    if not form.signed_zero:
        o = i.select(i.icmp_unsigned("==", h, c(form.nan)), c(0x7FC00000), o)
    return i.bitcast(o, f)


def encode(b: Builder, x: Any, dtype: DType) -> Any:
    """<n x float> to <n x storage of dtype>."""
    i, n = b.ir, x.type.count
    t, f = vec(I32, n), vec(ir.FloatType(), n)

    def c(v: int) -> Any:
        return ir.Constant(t, v)

    bits = i.bitcast(x, t)
    if dtype is DType.F8E8M0:  # to the nearest power of two; 0, negative and too large numbers become NaN
        tie = i.select(i.icmp_unsigned("==", bits, c(1 << 22)), c(0), c(1 << 22))  # up, but for the least number
        o = i.lshr(i.add(bits, tie), c(23))
        wrong = i.or_(i.icmp_signed("<=", bits, c(0)), i.icmp_unsigned(">", o, c(0xFE)))
        return i.trunc(i.select(wrong, c(0xFF), o), vec(I8, n))
    form = FORMATS[dtype]
    u = i.and_(bits, c(0x7FFFFFFF))
    shift = 23 - form.mantissa
    odd = i.and_(i.lshr(u, c(shift)), c(1))
    rounding = ((form.bias - 127) << 23) + (1 << (shift - 1)) - 1
    normal = i.lshr(i.add(i.add(u, c(_int32(rounding))), odd), c(shift))
    # adding 2^k rounds a float at the place of the least subnormal, and leaves the code in its low bits
    magic = (127 + 23 + 1 - form.bias - form.mantissa) << 23
    subnormal = i.sub(i.bitcast(i.fadd(i.bitcast(u, f), i.bitcast(c(magic), f)), t), c(magic))
    o = i.select(i.icmp_unsigned("<", u, c((128 - form.bias) << 23)), subnormal, normal)
    o = i.select(i.icmp_unsigned(">", o, c(form.largest)), c(form.overflow), o)
    sign = i.and_(i.lshr(bits, c(32 - form.bits)), c(1 << (form.bits - 1)))
    nan = i.icmp_unsigned(">", u, c(_INFINITY))
    if form.signed_zero:
        o = i.or_(i.select(nan, c(form.nan & ~(1 << (form.bits - 1))), o), sign)
        if form.nan >> (form.bits - 1):  # a format without NaN: a zero of the other sign
            o = i.select(nan, i.xor(sign, c(form.nan)), o)
    else:
        plain = i.and_(i.icmp_unsigned("!=", o, c(0)), i.icmp_unsigned("!=", o, c(form.overflow)))
        o = i.select(nan, c(form.nan), i.or_(o, i.select(plain, sign, c(0))))
    narrow = i.trunc(o, vec(ir.IntType(16 if dtype is DType.F16 else 8), n))
    return i.bitcast(narrow, vec(storage(dtype), n))


def _int32(v: int) -> int:
    return (v + 2**31) % 2**32 - 2**31
