// Floats of 8 and 4 bits: carried as they lie in memory, computed in float, and rounded to nearest even.
// Included by mlc.cuh. The scheme and its sources are those of codegen/cpu/math/minifloat.py.
#pragma once

// What a format is: bits of exponent and mantissa, bias, and the codes of the largest finite number, of what is larger, and of
// NaN. Without a signed zero (FNUZ), the code of -0 is NaN.
template <int EXPONENT, int MANTISSA, int BIAS, u32 LARGEST, u32 OVERFLOW, u32 NONE, bool SIGNED_ZERO>
struct Format {
    static constexpr u32 sign = 1u << (EXPONENT + MANTISSA);
    static constexpr int shift = 23 - MANTISSA, up = 31 - EXPONENT - MANTISSA;

    static __device__ __forceinline__ float decode(u32 h) {
#if !defined(MLC_EMULATE) && __CUDA_ARCH__ >= 890
        if (EXPONENT == 4 && BIAS == 7) {  // e4m3: float16 holds all of them
            u32 half;
            asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(half) : "h"((u16)(h & 0xffu)));
            return to_float(f16{(u16)half});
        }
#endif
        const u32 code = h & (sign - 1u);
        u32 o = code < (1u << MANTISSA) ? bits_of_float((float)code * float_of_bits((u32)(127 + 1 - BIAS - MANTISSA) << 23))
                                        : (code << shift) + ((u32)(127 - BIAS) << 23);
        if (OVERFLOW != NONE && OVERFLOW != LARGEST && code > LARGEST) o = 0x7f800000u | (code << shift);
        if (OVERFLOW == NONE && SIGNED_ZERO && code == NONE) o = 0x7fc00000u;
        o |= (h & sign) << up;
        if (!SIGNED_ZERO && (h & (2u * sign - 1u)) == NONE) o = 0x7fc00000u;
        return float_of_bits(o);
    }

    static __device__ __forceinline__ u8 encode(float x) {
        const u32 bits = bits_of_float(x), u = bits & 0x7fffffffu, least = (u32)(128 - BIAS) << 23;
        // adding 2^k rounds a float at the place of the least subnormal, and leaves the code in its low bits
        const u32 magic = (u32)(127 + 23 + 1 - BIAS - MANTISSA) << 23;
        const u32 half = (1u << (shift - 1)) - 1u;
        u32 o = u < least ? bits_of_float(float_of_bits(u) + float_of_bits(magic)) - magic
                          : (u - ((u32)(127 - BIAS) << 23) + half + ((u >> shift) & 1u)) >> shift;
        if (o > LARGEST) o = OVERFLOW;
        const u32 s = (bits >> up) & sign;
        const bool none = u > 0x7f800000u;
        if (!SIGNED_ZERO) return (u8)(none ? NONE : o != 0u && o != OVERFLOW ? o | s : o);
        if ((NONE & sign) != 0u) return (u8)(none ? s ^ NONE : o | s);  // without NaN: a zero of the other sign
        return (u8)((none ? NONE : o) | s);
    }
};

#define MLC_MINIFLOAT(NAME, ...)                                                       \
    struct NAME {                                                                      \
        u8 bits;                                                                       \
    };                                                                                 \
    MLC_FN float to_float(NAME x) { return Format<__VA_ARGS__>::decode(x.bits); }      \
    MLC_FN NAME to_##NAME(float x) { return NAME{Format<__VA_ARGS__>::encode(x)}; }
MLC_MINIFLOAT(f8e4m3fn, 4, 3, 7, 0x7eu, 0x7fu, 0x7fu, true)
MLC_MINIFLOAT(f8e4m3fnuz, 4, 3, 8, 0x7fu, 0x80u, 0x80u, false)
MLC_MINIFLOAT(f8e5m2, 5, 2, 15, 0x7bu, 0x7cu, 0x7eu, true)
MLC_MINIFLOAT(f8e5m2fnuz, 5, 2, 16, 0x7fu, 0x80u, 0x80u, false)
MLC_MINIFLOAT(f4e2m1, 2, 1, 1, 0x7u, 0x7u, 0x8u, true)

// A power of two without a sign; code 0 is a subnormal float, code 255 NaN.
struct f8e8m0 {
    u8 bits;
};
MLC_FN float to_float(f8e8m0 x) {
    const u32 code = x.bits;
    return float_of_bits(code == 255u ? 0x7fc00000u : code == 0u ? 1u << 22 : code << 23);
}
MLC_FN f8e8m0 to_f8e8m0(float x) {  // 0, negative and too large numbers become NaN
    const u32 bits = bits_of_float(x), up = bits == (1u << 22) ? 0u : 1u << 22, o = (bits + up) >> 23;
    return f8e8m0{(u8)((int)bits <= 0 || o > 0xfeu ? 0xffu : o)};
}
