// Weights of few bits: a word holds neighbouring elements of a column, the first in its lowest bits.
#pragma once
#include "mlc.cuh"

// What a float of the target's type is made by.
MLC_FN void round_to(float& out, float x) { out = x; }
MLC_FN void round_to(f16& out, float x) { out = to_f16(x); }
MLC_FN void round_to(bf16& out, float x) { out = to_bf16(x); }

// RUN elements from p, `left` of which there are; the rest is zero. PACK of them are one load.
template <int RUN, int PACK, class T>
MLC_FN void read_run(float (&out)[RUN], const T* p, int left) {
#pragma unroll
    for (int e = 0; e < RUN; e += PACK) {
        if (PACK > 1) {  // then runs are whole
            const auto x = load_pack<PACK>(p + e);
#pragma unroll
            for (int l = 0; l < PACK; ++l) out[e + l] = to_float(x.v[l]);
        } else {
            out[e] = e < left ? to_float(p[e]) : 0.0f;
        }
    }
}
template <int RUN, int PACK, class T>
MLC_FN void write_run(T* p, const float (&x)[RUN], int left) {
#pragma unroll
    for (int e = 0; e < RUN; e += PACK) {
        if (PACK > 1) {
            Pack<T, PACK> out;
#pragma unroll
            for (int l = 0; l < PACK; ++l) round_to(out.v[l], x[e + l]);
            store_pack<PACK>(p + e, out);
        } else if (e < left) {
            round_to(p[e], x[e]);
        }
    }
}

// x & mask | more, as one instruction, which the compiler does not make of two constants.
MLC_FN u32 masked_or(u32 x, u32 mask, u32 more) {
#ifdef MLC_EMULATE
    return (x & mask) | more;
#else
    u32 out;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(x), "r"(mask), "r"(more));
    return out;
#endif
}
// The lowest RUN elements of a word, less their zero, which is a whole number if WHOLE. A level becomes a float where it lies: behind
// the exponent of 2^23 it is one, times 2^place. That scaled back, less 2^23 and the zero, is exact, and one multiply-add.
template <int BITS, int RUN, bool WHOLE>
MLC_FN void levels_of(float (&out)[RUN], u32 word, float zero) {
#pragma unroll
    for (int e = 0; e < RUN; ++e) {
        const int at = e * BITS, shift = at + BITS <= 23 ? 0 : BITS == 4 ? 12 : 16, place = at - shift;
        const float x = float_of_bits(masked_or(word >> shift, ((1u << BITS) - 1u) << place, 0x4b000000u));
        const float unit = 1.0f / (float)(1 << place), base = 8388608.0f * unit;
        out[e] = WHOLE ? fmaf(x, unit, -(base + zero)) : fmaf(x, unit, -base) - zero;
    }
}
// The same where a level is the place of its value in a table, which lies in shared memory.
template <int BITS, int RUN, bool WHOLE>
MLC_FN void levels_of(float (&out)[RUN], u32 word, float zero, const float* values) {
#pragma unroll
    for (int e = 0; e < RUN; ++e) out[e] = values[(word >> (e * BITS)) & ((1u << BITS) - 1u)] - zero;
}
