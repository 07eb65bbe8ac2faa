// What CUDA C++ has beside the language of the host: qualifiers, places of threads, and numbers of 16 bits.
#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>

// of CUDA's math library only
inline double normcdf(double x) { return 0.5 * std::erfc(-x * 0.70710678118654752440); }

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define MLC_SHARED(name) unsigned char* const name = emulate::block.shared

struct Dim3 {
    unsigned x, y, z;
};
#define MLC_OF_LIBRARY extern __attribute__((visibility("hidden")))  // what a library of kernels has for itself (emulate_grid.cpp)
MLC_OF_LIBRARY Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulate {

template <class To, class From>
inline To bit_cast(From x) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To out;
    std::memcpy(&out, &x, sizeof(To));
    return out;
}

inline int64_t nanoseconds() {
    using namespace std::chrono;
    return duration_cast<std::chrono::nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

// --- float16 -------------------------------------------------------------------------------------------------------
inline float half_to_float(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = (h >> 10) & 31u, m = h & 1023u;
    if (e == 31) return bit_cast<float>(sign | 0x7f800000u | (m << 13) | (m ? 0x400000u : 0u));
    if (e == 0) return (sign ? -1.0f : 1.0f) * std::ldexp((float)m, -24);
    return bit_cast<float>(sign | ((e + 112u) << 23) | (m << 13));
}
inline uint16_t float_to_half(float x) {  // to nearest even
    const uint32_t b = bit_cast<uint32_t>(x), sign = (b >> 16) & 0x8000u, a = b & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint16_t)0x7fff;
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u) return (uint16_t)(sign | (uint32_t)std::nearbyint(std::ldexp((double)bit_cast<float>(a), 24)));
    return (uint16_t)(sign | ((a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13));
}

}  // namespace emulate
