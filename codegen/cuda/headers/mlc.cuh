// What generated kernels are written in: element types, scalar functions, packs, reductions.
// Compiles under NVRTC, nvcc, and (with MLC_EMULATE, emulate.h before it) as C++ for the host.
#pragma once

#ifdef MLC_EMULATE
#include "emulate.h"
#else
#define MLC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#endif

#define MLC_FN static __device__ __forceinline__

typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

// Elements of 16 bits are carried as they lie in memory, and computed in float.
struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

// Before anything in memory is touched. A launch that overlaps with the one before (see CudaModule) waits here until that has ended,
// and what it wrote can be seen; then the one behind may begin. To other launches it is nothing.
#if !defined(MLC_EMULATE) && __CUDA_ARCH__ >= 900
MLC_FN void begin_work() { asm volatile("griddepcontrol.wait;\ngriddepcontrol.launch_dependents;" ::: "memory"); }
#else
MLC_FN void begin_work() {}
#endif

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
    T v[N];
};

template <int N, class T>
MLC_FN Pack<T, N> load_pack(const T* p) {
    return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <int N, class T>
MLC_FN void store_pack(T* p, const Pack<T, N>& x) {
#ifdef MLC_EMULATE
    emulate::wrote(p, sizeof(x));
#endif
    *reinterpret_cast<Pack<T, N>*>(p) = x;
}

// --- conversions ---------------------------------------------------------------------------------------------------
#ifdef MLC_EMULATE
MLC_FN float to_float(f16 x) { return emulate::half_to_float(x.bits); }
MLC_FN f16 to_f16(float x) { return f16{emulate::float_to_half(x)}; }
#else
MLC_FN float to_float(f16 x) {
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x.bits));
    return out;
}
MLC_FN f16 to_f16(float x) {
    f16 out;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
    return out;
}
#endif

#ifdef MLC_EMULATE
MLC_FN float float_of_bits(u32 x) { return emulate::bit_cast<float>(x); }
MLC_FN u32 bits_of_float(float x) { return emulate::bit_cast<u32>(x); }
#else
MLC_FN float float_of_bits(u32 x) { return __uint_as_float(x); }
MLC_FN u32 bits_of_float(float x) { return __float_as_uint(x); }
#endif

MLC_FN float to_float(bf16 x) { return float_of_bits((u32)x.bits << 16); }
MLC_FN float to_float(float x) { return x; }

// Round to nearest even; a NaN stays one.
#ifdef MLC_EMULATE
MLC_FN bf16 to_bf16(float x) {
    u32 b = bits_of_float(x);
    u32 r = x != x ? (b >> 16) | 0x40u : (b + 0x7fffu + ((b >> 16) & 1u)) >> 16;
    return bf16{(u16)r};
}
#else
MLC_FN bf16 to_bf16(float x) {
    bf16 out;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
    return out;
}
#endif

#include "minifloat.cuh"

// Complex numbers are only moved: as their bits.
typedef u64 c64;
struct alignas(16) c128 {
    u64 half[2];
};

// Nanoseconds of the device's clock.
#ifdef MLC_EMULATE
MLC_FN i64 ticks() { return emulate::nanoseconds(); }
#else
MLC_FN i64 ticks() {
    i64 out;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(out));
    return out;
}
#endif

// Two floats, rounded, in a word: the first in its lower half.
#ifdef MLC_EMULATE
MLC_FN u32 pack_bf16(float x, float y) { return to_bf16(x).bits | (u32)to_bf16(y).bits << 16; }
MLC_FN u32 pack_f16(float x, float y) { return to_f16(x).bits | (u32)to_f16(y).bits << 16; }
#else
MLC_FN u32 pack_bf16(float x, float y) {
    u32 out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(y), "f"(x));
    return out;
}
MLC_FN u32 pack_f16(float x, float y) {
    u32 out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(y), "f"(x));
    return out;
}
#endif

// Float to integer saturates, and a NaN gives 0.
template <class To, class From>
MLC_FN To saturate(From x, From lo, From hi, To least, To most) {
    if (x != x) return (To)0;
    if (x < lo) return least;
    if (x >= hi) return most;
    return (To)x;
}

// 2^x of a weight in a softmax: what is less than the least normal number is zero.
#ifdef MLC_EMULATE
MLC_FN float exp2_weight(float x) { return x < -126.0f ? 0.0f : exp2f(x); }
#else
MLC_FN float exp2_weight(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}
#endif

// Φ(x), absolute error ≤ 3e-7: below 0, 2 to a polynomial of |x| (that of CPUs, codegen/cpu/math/elementary.py), a third of the
// instructions of CUDA's normcdff, which is exact to the last bits in the tail too.
MLC_FN float normal_cdf(float x) {
    const float far = fabsf(x), t = far > 30.0f ? 30.0f : far;
    float power = fmaf(-6.73264992e-7f, t, 1.34362572e-5f);
    power = fmaf(power, t, -6.56480697e-5f);
    power = fmaf(power, t, -4.15080518e-4f);
    power = fmaf(power, t, 7.40257232e-3f);
    power = fmaf(power, t, -5.27103133e-2f);
    power = fmaf(power, t, -4.59144861e-1f);
    power = fmaf(power, t, -1.15111208f);
    power = fmaf(power, t, -0.999999881f);
    const float below = exp2_weight(power);
    return x > 0.0f ? 1.0f - below : below;
}

// What a mask adds to a score, in logarithms of base 2. The least numbers stay finite: keys that all have them are seen alike.
MLC_FN float mask_in_base_2(float x) {
    const float out = x * 1.44269504f;
    return out == -INFINITY && x != -INFINITY ? -3.40282347e38f : out;
}

// --- integers ------------------------------------------------------------------------------------------------------
// Division truncates; by zero it gives 0 (and must not trap), and the least number by -1 wraps.
template <class T>
MLC_FN T int_div(T a, T b) {
    if (b == (T)0) return (T)0;
    if ((T)-1 < (T)0 && b == (T)-1) return (T)((u64)0 - (u64)a);
    return (T)(a / b);
}
template <class T>
MLC_FN T int_fmod(T a, T b) {
    if (b == (T)0) return (T)0;
    if ((T)-1 < (T)0 && b == (T)-1) return (T)0;
    return (T)(a % b);
}
template <class T>
MLC_FN T int_mod(T a, T b) {  // the sign of the divisor
    T r = int_fmod(a, b);
    return r != (T)0 && ((r < (T)0) != (b < (T)0)) ? (T)(r + b) : r;
}
template <class T>
MLC_FN T int_shl(T a, T b) {
    return b < (T)0 || (u64)b >= sizeof(T) * 8 ? (T)0 : (T)((u64)a << (u64)b);
}
template <class T>
MLC_FN T int_shr(T a, T b) {
    if (b < (T)0 || (u64)b >= sizeof(T) * 8) return a < (T)0 ? (T)-1 : (T)0;
    return (T)(a >> b);
}
// The low BITS of a number, with their sign if T has one.
template <class T, int BITS>
MLC_FN T narrow(T x) {
    const int up = (int)sizeof(T) * 8 - BITS;
    return (T)((T)((u64)x << up) >> up);
}
template <class To, class From>
MLC_FN To read_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    union Both {
        From from;
        To to;
        __device__ Both() {}
    } u;
    u.from = x;
    return u.to;
}
// Wrapping arithmetic: signed overflow is undefined in C++, and a model may rely on it.
template <class T>
MLC_FN T wrap_add(T a, T b) { return (T)((u64)a + (u64)b); }
template <class T>
MLC_FN T wrap_sub(T a, T b) { return (T)((u64)a - (u64)b); }
template <class T>
MLC_FN T wrap_mul(T a, T b) { return (T)((u64)a * (u64)b); }
template <class T>
MLC_FN T int_abs(T a) { return a < (T)0 ? wrap_sub((T)0, a) : a; }
template <class T>
MLC_FN T int_pow(T a, T b) {  // through double: exact up to 2^53
    double p = pow((double)a, (double)b);
    double top = (T)-1 < (T)0 ? (double)((u64)1 << (sizeof(T) * 8 - 1)) : 2.0 * (double)((u64)1 << (sizeof(T) * 8 - 1));
    T most = (T)-1 < (T)0 ? (T)(((u64)1 << (sizeof(T) * 8 - 1)) - 1) : (T)-1;
    T least = (T)-1 < (T)0 ? (T)((u64)1 << (sizeof(T) * 8 - 1)) : (T)0;
    return saturate<T, double>(p, (T)-1 < (T)0 ? -top : 0.0, top, least, most);
}

// --- maxima: a NaN in either operand wins, as in NumPy -------------------------------------------------------------
template <class T>
MLC_FN T take_max(T a, T b) { return a > b || a != a ? a : b; }
template <class T>
MLC_FN T take_min(T a, T b) { return a < b || a != a ? a : b; }

MLC_FN float float_mod(float a, float b) {
    float r = fmodf(a, b);
    return r != 0.0f && ((r < 0.0f) != (b < 0.0f)) ? r + b : r;
}
MLC_FN double float_mod(double a, double b) {
    double r = fmod(a, b);
    return r != 0.0 && ((r < 0.0) != (b < 0.0)) ? r + b : r;
}

// --- combining: functors of reductions -----------------------------------------------------------------------------
struct Sum {
    template <class T>
    static __device__ __forceinline__ T of(T a, T b) { return (T)(a + b); }
    static __device__ __forceinline__ i64 of(i64 a, i64 b) { return wrap_add(a, b); }
    static __device__ __forceinline__ int of(int a, int b) { return wrap_add(a, b); }
};
struct Prod {
    template <class T>
    static __device__ __forceinline__ T of(T a, T b) { return (T)(a * b); }
    static __device__ __forceinline__ i64 of(i64 a, i64 b) { return wrap_mul(a, b); }
    static __device__ __forceinline__ int of(int a, int b) { return wrap_mul(a, b); }
};
struct Max {
    template <class T>
    static __device__ __forceinline__ T of(T a, T b) { return take_max(a, b); }
};
struct Min {
    template <class T>
    static __device__ __forceinline__ T of(T a, T b) { return take_min(a, b); }
};
struct And {
    static __device__ __forceinline__ bool of(bool a, bool b) { return a && b; }
};
struct Or {
    static __device__ __forceinline__ bool of(bool a, bool b) { return a || b; }
};

// An element and where it was; `at` < 0 is "none yet". Equal elements: the first. NaN before all numbers.
template <class T>
struct Place {
    T value;
    i64 at;
};
struct ArgMax {
    template <class T>
    static __device__ __forceinline__ Place<T> of(Place<T> a, Place<T> b) {
        if (a.at < 0 || b.at < 0) return a.at < 0 ? b : a;
        bool an = a.value != a.value, bn = b.value != b.value;
        if (an != bn) return an ? a : b;
        if (!an && a.value != b.value) return a.value > b.value ? a : b;
        return a.at < b.at ? a : b;
    }
};
struct ArgMin {
    template <class T>
    static __device__ __forceinline__ Place<T> of(Place<T> a, Place<T> b) {
        if (a.at < 0 || b.at < 0) return a.at < 0 ? b : a;
        bool an = a.value != a.value, bn = b.value != b.value;
        if (an != bn) return an ? a : b;
        if (!an && a.value != b.value) return a.value < b.value ? a : b;
        return a.at < b.at ? a : b;
    }
};

// Integers in memory combined in any order. Sums wrap, so that signed and unsigned ones are alike.
MLC_FN void atomic_add(int* p, int x) { atomicAdd(p, x); }
MLC_FN void atomic_add(u32* p, u32 x) { atomicAdd(p, x); }
MLC_FN void atomic_add(u64* p, u64 x) { atomicAdd(p, x); }
MLC_FN void atomic_add(i64* p, i64 x) { atomicAdd(reinterpret_cast<u64*>(p), (u64)x); }
template <class T>
MLC_FN void atomic_max(T* p, T x) { atomicMax(p, x); }
template <class T>
MLC_FN void atomic_min(T* p, T x) { atomicMin(p, x); }

// Any value moves between lanes as 32-bit words.
template <class T>
MLC_FN T shuffle_xor(T x, int mask) {
    constexpr int N = (sizeof(T) + 3) / 4;
    union Words {
        T value;
        u32 words[N];
        __device__ Words() {}
    } u;
    for (int i = 0; i < N; ++i) u.words[i] = 0;
    u.value = x;
#pragma unroll
    for (int i = 0; i < N; ++i) u.words[i] = __shfl_xor_sync(0xffffffffu, u.words[i], mask);
    return u.value;
}

template <class F, class T>
MLC_FN T warp_reduce(T x) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) x = F::of(x, shuffle_xor(x, o));
    return x;
}

// The result in every thread. `scratch` holds WARPS values; the block's previous use of it must be over.
template <class F, int WARPS, class T>
MLC_FN T block_reduce(T x, void* scratch) {
    x = warp_reduce<F>(x);
    if (WARPS == 1) return x;
    T* slots = static_cast<T*>(scratch);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    __syncthreads();
    if (lane == 0) slots[warp] = x;
    __syncthreads();
    T out = slots[0];
#pragma unroll
    for (int i = 1; i < WARPS; ++i) out = F::of(out, slots[i]);
    return out;
}

// What combines this thread's and all before it, `carry` first, which then is what combines all; `scratch` holds WARPS values.
template <class F, int WARPS, class T>
MLC_FN T block_scan(T x, T& carry, void* scratch) {
    T* slots = static_cast<T*>(scratch);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
        const T before = __shfl_up_sync(0xffffffffu, x, o);
        if (lane >= o) x = F::of(before, x);
    }
    __syncthreads();  // the slots have been read
    if (lane == 31) slots[warp] = x;
    __syncthreads();
    T before = carry;
#pragma unroll
    for (int i = 0; i < WARPS; ++i) {
        if (i == warp) x = F::of(before, x);
        before = F::of(before, slots[i]);
    }
    carry = before;
    return x;
}

// --- asynchronous copies to shared memory: 16 bytes, of which `bytes` are read and the rest is zero ------------------
#ifdef MLC_EMULATE
MLC_FN void cp_async16(void* to, const void* from, int bytes) { emulate::copy_later(to, from, bytes); }
MLC_FN void cp_async_commit() { emulate::commit_copies(); }
template <int LEFT>
MLC_FN void cp_async_wait() { emulate::wait_for_copies(LEFT); }
#else
MLC_FN void cp_async16(void* to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from), "r"(bytes) : "memory");
}
MLC_FN void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT>
MLC_FN void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }
#endif

// --- matrices from shared memory to fragments ------------------------------------------------------------------------
// Where word `word` (of a piece of 4) of a row of WORDS words lies in it: pieces of eight rows that are read together are
// in different banks.
template <int WORDS>
MLC_FN int swizzled(int row, int word) {
    return WORDS >= 32 ? word ^ ((row & 7) << 2) : WORDS == 16 ? word ^ (((row >> 1) & 3) << 2) : WORDS == 8 ? word ^ (((row >> 2) & 1) << 2) : word;
}
// Four matrices of 8 rows by 16 bytes; lane l gives the address of row l % 8 of matrix l / 8, and gets word l % 4 of row l / 4
// of each. "Turned" are matrices of 16-bit elements: the lane gets elements 2·(l % 4) and one on, of column l / 4.
#ifdef MLC_EMULATE
MLC_FN void load_matrices(u32 (&out)[4], const void* row) { emulate::load_matrices(out, row); }
MLC_FN void load_turned_matrices(u32 (&out)[4], const void* row) { emulate::load_turned_matrices(out, row); }
#else
MLC_FN void load_matrices(u32 (&out)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"((u32)__cvta_generic_to_shared(row)));
}
MLC_FN void load_turned_matrices(u32 (&out)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"((u32)__cvta_generic_to_shared(row)));
}
#endif

// --- tensor cores: c += a·b of a warp, 16×8 results, 8 words of k ------------------------------------------------------
// a: rows quad and quad + 8, words t and t + 4 (as 2·column + row); b: words t and t + 4 of column quad;
// c: rows quad (0, 1) and quad + 8 (2, 3), columns 2t and 2t + 1, where quad = lane / 4 and t = lane % 4.
MLC_FN u32 same_word(u32 x) { return x; }
#ifdef MLC_EMULATE
MLC_FN u32 to_tf32(u32 x) { return (x + 0x1000u) & 0xffffe000u; }
MLC_FN void mma_bf16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { emulate::mma<float, emulate::Bf16Word, emulate::Bf16Word>(c, a, b); }
MLC_FN void mma_f16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { emulate::mma<float, emulate::F16Word, emulate::F16Word>(c, a, b); }
MLC_FN void mma_tf32(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { emulate::mma<float, emulate::F32Word, emulate::F32Word>(c, a, b); }
MLC_FN void mma_e4m3(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { emulate::mma<float, emulate::E4m3Word, emulate::E4m3Word>(c, a, b); }
MLC_FN void mma_u8s8(int (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { emulate::mma<int, emulate::U8Word, emulate::S8Word>(c, a, b); }
MLC_FN void mma_s8s8(int (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { emulate::mma<int, emulate::S8Word, emulate::S8Word>(c, a, b); }
#else
MLC_FN u32 to_tf32(u32 x) {  // to nearest
    u32 out;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(out) : "f"(__uint_as_float(x)));
    return out;
}
#define MLC_MMA(NAME, ACC, LETTER, SHAPE)                                                                                       \
    MLC_FN void NAME(ACC(&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {                                                        \
        asm volatile("mma.sync.aligned." SHAPE " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                         \
                     : "+" LETTER(c[0]), "+" LETTER(c[1]), "+" LETTER(c[2]), "+" LETTER(c[3])                                   \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                       \
    }
MLC_MMA(mma_bf16, float, "f", "m16n8k16.row.col.f32.bf16.bf16.f32")
MLC_MMA(mma_f16, float, "f", "m16n8k16.row.col.f32.f16.f16.f32")
MLC_MMA(mma_tf32, float, "f", "m16n8k8.row.col.f32.tf32.tf32.f32")
MLC_MMA(mma_e4m3, float, "f", "m16n8k32.row.col.f32.e4m3.e4m3.f32")  // from sm_89 on
MLC_MMA(mma_u8s8, int, "r", "m16n8k32.row.col.s32.u8.s8.s32")
MLC_MMA(mma_s8s8, int, "r", "m16n8k32.row.col.s32.s8.s8.s32")
#endif
