// Weights of few bits: a word holds neighbouring elements of a column, the first in its lowest bits.
#pragma once
#include "mlc.cuh"

// RUN elements from p, `left` of which there are; the rest is zero. PACK of them are one load.
template <int RUN, int PACK>
MLC_FN void read_run(float (&out)[RUN], const float* p, int left) {
#pragma unroll
    for (int e = 0; e < RUN; e += PACK) {
        if (PACK > 1) {  // then runs are whole
            const auto x = load_pack<PACK>(p + e);
#pragma unroll
            for (int l = 0; l < PACK; ++l) out[e + l] = x.v[l];
        } else {
            out[e] = e < left ? p[e] : 0.0f;
        }
    }
}
template <int RUN, int PACK>
MLC_FN void write_run(float* p, const float (&x)[RUN], int left) {
#pragma unroll
    for (int e = 0; e < RUN; e += PACK) {
        if (PACK > 1) {
            Pack<float, PACK> out;
#pragma unroll
            for (int l = 0; l < PACK; ++l) out.v[l] = x[e + l];
            store_pack<PACK>(p + e, out);
        } else if (e < left) {
            p[e] = x[e];
        }
    }
}

// The lowest RUN elements of a word, less their zero.
template <int BITS, int RUN>
MLC_FN void levels_of(float (&out)[RUN], u32 word, float zero) {
#pragma unroll
    for (int e = 0; e < RUN; ++e) out[e] = (float)((word >> (e * BITS)) & ((1u << BITS) - 1u)) - zero;
}
// The same where a level is the place of its value in a table, which lies in shared memory.
template <int BITS, int RUN>
MLC_FN void levels_of(float (&out)[RUN], u32 word, float zero, const float* values) {
#pragma unroll
    for (int e = 0; e < RUN; ++e) out[e] = values[(word >> (e * BITS)) & ((1u << BITS) - 1u)] - zero;
}
