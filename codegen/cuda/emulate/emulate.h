// The device, played on the host: the functions of CUDA that kernels call, on threads that are fibers (emulate_grid.h).
#pragma once

#include "emulate_grid.h"

inline void __syncthreads() { emulate::barrier(); }
inline void __syncwarp(unsigned = 0xffffffffu) {
    const char none = 0;
    emulate::exchange(&none, 1);
}
template <class T>
inline T __shfl_xor_sync(unsigned, T x, int mask) {
    const auto slots = emulate::exchange(&x, sizeof(T));
    T out;
    std::memcpy(&out, slots[(threadIdx.x % 32) ^ (unsigned)mask], sizeof(T));
    return out;
}
template <class T>
inline T __shfl_sync(unsigned, T x, int lane) {
    const auto slots = emulate::exchange(&x, sizeof(T));
    T out;
    std::memcpy(&out, slots[lane & 31], sizeof(T));
    return out;
}
inline unsigned __ballot_sync(unsigned, bool x) {
    const unsigned char mine = x;
    const auto slots = emulate::exchange(&mine, 1);
    unsigned out = 0;
    for (unsigned i = 0; i < 32; ++i) out |= (unsigned)slots[i][0] << i;
    return out;
}
// Lanes with the same value as this one.
inline unsigned __match_any_sync(unsigned, unsigned x) {
    const auto slots = emulate::exchange(&x, sizeof(x));
    unsigned out = 0;
    for (unsigned i = 0; i < 32; ++i) out |= (unsigned)(std::memcmp(slots[i], &x, sizeof(x)) == 0) << i;
    return out;
}
template <class T>
inline T __shfl_up_sync(unsigned, T x, int by) {
    const auto slots = emulate::exchange(&x, sizeof(T));
    const unsigned lane = threadIdx.x % 32;
    T out;
    std::memcpy(&out, slots[lane < (unsigned)by ? lane : lane - (unsigned)by], sizeof(T));
    return out;
}
inline int __syncthreads_or(int x) {
    const unsigned slot = (unsigned)(emulate::block.barrier & 1);  // the votes of the barrier before may still be read
    if (emulate::block.arrived == 0) emulate::block.votes[slot] = 0;
    emulate::block.votes[slot] |= x != 0;
    emulate::barrier();
    return emulate::block.votes[slot];
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
template <class T, class V>
inline T atomicAdd(T* p, V x) {
    const T old = *p;
    *p = (T)(old + (T)x);
    return old;
}
template <class T, class V>
inline T atomicOr(T* p, V x) {
    const T old = *p;
    *p = (T)(old | (T)x);
    return old;
}
template <class T, class V>
inline T atomicMax(T* p, V x) {
    const T old = *p;
    if (*p < (T)x) *p = (T)x;
    return old;
}
template <class T, class V>
inline T atomicMin(T* p, V x) {
    const T old = *p;
    if ((T)x < *p) *p = (T)x;
    return old;
}
inline float __ldg(const float* p) { return *p; }
