"""float16 conversions in integer arithmetic, for processors without instructions for them (x86 before F16C).

After F. Giesen, "half to float done quick"; rounds to nearest even, keeps subnormals, infinities and NaN.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .build import I16, I32, Builder, vec

_TINY = 113 << 23  # 2^-14, the least normal half
_MAGIC = ((127 - 15) + (23 - 10) + 1) << 23  # adding it as a float shifts a subnormal's mantissa into place


def from_half(b: Builder, x: Any) -> Any:
    """<n x half> to <n x float>."""
    i, n = b.ir, x.type.count
    t, f = vec(I32, n), vec(ir.FloatType(), n)

    def c(v: int) -> Any:
        return ir.Constant(t, [v] * n)

    h = i.zext(i.bitcast(x, vec(I16, n)), t)
    o = i.shl(i.and_(h, c(0x7FFF)), c(13))
    exponent = i.and_(o, c(0x7C00 << 13))
    o = i.add(o, c((127 - 15) << 23))
    special = i.add(o, c((128 - 16) << 23))
    subnormal = i.bitcast(i.fsub(i.bitcast(i.add(o, c(1 << 23)), f), i.bitcast(c(_TINY), f)), t)
    o = i.select(i.icmp_unsigned("==", exponent, c(0x7C00 << 13)), special, o)
    o = i.select(i.icmp_unsigned("==", exponent, c(0)), subnormal, o)
    return i.bitcast(i.or_(o, i.shl(i.and_(h, c(0x8000)), c(16))), f)


def to_half(b: Builder, x: Any) -> Any:
    """<n x float> to <n x half>."""
    i, n = b.ir, x.type.count
    t, f = vec(I32, n), vec(ir.FloatType(), n)

    def c(v: int) -> Any:
        return ir.Constant(t, [v] * n)

    bits = i.bitcast(x, t)
    u = i.and_(bits, c(0x7FFFFFFF))
    odd = i.and_(i.lshr(u, c(13)), c(1))
    normal = i.lshr(i.add(i.add(u, c((((15 - 127) << 23) + 0xFFF) & 0xFFFFFFFF)), odd), c(13))
    subnormal = i.sub(i.bitcast(i.fadd(i.bitcast(u, f), i.bitcast(c(_MAGIC), f)), t), c(_MAGIC))
    special = i.select(i.icmp_unsigned(">", u, c(255 << 23)), c(0x7E00), c(0x7C00))
    o = i.select(i.icmp_unsigned("<", u, c(_TINY)), subnormal, normal)
    o = i.select(i.icmp_unsigned(">=", u, c((127 + 16) << 23)), special, o)
    o = i.or_(o, i.lshr(i.and_(bits, c(0x80000000)), c(16)))
    return i.bitcast(i.trunc(o, vec(I16, n)), vec(ir.HalfType(), n))
