// The device, played on the host: a block's threads are fibers, which switch at barriers and warp collectives.
// Blocks run one after the other and threads in rounds, both in orders shuffled by a seed, so that races show; a block that
// waits for another rests until that is done.
// A barrier or collective that not all threads reach is reported, not waited for.
#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define MLC_STACK (1 << 17)
#else
#define MLC_STACK (1 << 16)
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

// of CUDA's math library only
inline double normcdf(double x) { return 0.5 * std::erfc(-x * 0.70710678118654752440); }
inline float normcdff(float x) { return static_cast<float>(normcdf(static_cast<double>(x))); }

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define MLC_SHARED(name) unsigned char* const name = emulate::block.shared

struct Dim3 {
    unsigned x, y, z;
};
static Dim3 threadIdx, blockIdx, blockDim, gridDim;

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

// --- fibers --------------------------------------------------------------------------------------------------------
struct Fiber {
    char* stack = nullptr;
#if defined(__x86_64__)
    void* sp = nullptr;
#else
    ucontext_t context;
#endif
    void* fake = nullptr;               // AddressSanitizer's
    const uint64_t* waits = nullptr;    // runs on when *waits differs from `seen`
    uint64_t seen = 0;
    bool elsewhere = false;             // what it waits for is another block
    bool done = false;
    Dim3 thread{};
    struct Copy {
        void* to;
        const void* from;
        int bytes;
    };
    std::vector<Copy> open;                   // asynchronous copies, not committed yet
    std::vector<std::vector<Copy>> groups;    // committed, not waited for yet
    struct Product {
        void (*run)(const Product&);
        void* sums;
        uint64_t a, b;
        int columns;
        bool add, turned;
        const uint32_t* registers;  // of A, if it is not in shared memory
        uint32_t mine[4], rows[2][8];  // what they held when the product was given, and the rows of A that this lane's results are of
    };
    std::vector<Product> products;                      // likewise, of warp groups
    std::vector<std::vector<Product>> product_groups;
    struct Store {
        void (*run)(const Store&);
        const void* from;
        unsigned char map[128];
        int at[3];
    };
    std::vector<Store> stores;                          // bulk copies from shared memory
    std::vector<std::vector<Store>> store_groups;
};

// Something that happens at any moment, at the latest when no thread can go on without it.
struct Deferred {
    void (*run)(const Deferred&);
    void* to;
    unsigned char from[128];  // a tensor map
    int at[4];
    unsigned long long* barrier;
};

struct Warp {
    uint64_t generation = 0;
    unsigned arrived = 0, alive = 0;
    unsigned char slots[2][32][64];
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    uint64_t barrier = 0;
    unsigned arrived = 0, alive = 0;
    unsigned char* shared = nullptr;
    unsigned char* window = nullptr;  // a multiple of 1024 bytes before it, from where on it has memory
    unsigned number = 0;              // in the grid
    std::vector<uint32_t> order;      // of threads
    size_t left = 0;                  // threads
    std::vector<Deferred> deferred;
    uint64_t named[16] = {};  // barriers of warp groups: how often each was passed
    unsigned named_arrived[16] = {};
    uint64_t coins = 0;  // whether what may happen at once does; 0: never
    Fiber* current = nullptr;
    Fiber scheduler;
    const char* error = nullptr;
    void (*entry)(const int64_t*) = nullptr;
    const int64_t* args = nullptr;
};
static Block block;

#if defined(__x86_64__)
asm(".text\n.p2align 4\n.type mlc_switch,@function\nmlc_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n.size mlc_switch,.-mlc_switch\n");
extern "C" void mlc_switch(void** save, void* to) __attribute__((visibility("hidden")));
#endif

inline void switch_to(Fiber& from, Fiber& to, bool leaving = false) {
#if defined(__SANITIZE_ADDRESS__)
    static const void* main_bottom;
    static size_t main_size;
    if (&from == &block.scheduler) {
        __sanitizer_start_switch_fiber(&from.fake, to.stack, MLC_STACK);
    } else {
        __sanitizer_start_switch_fiber(leaving ? nullptr : &from.fake, main_bottom, main_size);
    }
#endif
#if defined(__x86_64__)
    mlc_switch(&from.sp, to.sp);
#else
    swapcontext(&from.context, &to.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
    if (&from == &block.scheduler) {
        __sanitizer_finish_switch_fiber(from.fake, nullptr, nullptr);
    } else {
        __sanitizer_finish_switch_fiber(from.fake, &main_bottom, &main_size);
    }
#else
    (void)leaving;
#endif
}

inline bool toss() {
    block.coins = block.coins * 6364136223846793005ull + (block.coins != 0);
    return block.coins >> 63;
}

inline void yield_until_changed(const uint64_t* counter, uint64_t seen) {
    Fiber& self = *block.current;
    self.waits = counter;
    self.seen = seen;
    switch_to(self, block.scheduler);
}

inline void wait_for_block(const uint64_t* flag) {
    block.current->elsewhere = true;
    if (!*flag) yield_until_changed(flag, 0);
    block.current->elsewhere = false;
}

[[noreturn]] inline void leave() {
    Fiber& self = *block.current;
    self.done = true;
    switch_to(self, block.scheduler, true);
    std::abort();
}

[[noreturn]] inline void fail(const char* message) {
    if (!block.error) block.error = message;
    leave();
}

inline Warp& warp() { return block.warps[threadIdx.x / 32]; }

inline void barrier_arrived() {
    if (block.arrived && block.arrived == block.alive) {
        block.arrived = 0;
        ++block.barrier;
    }
}

inline void barrier() {
    const uint64_t seen = block.barrier;
    ++block.arrived;
    barrier_arrived();
    if (block.barrier == seen) yield_until_changed(&block.barrier, seen);
}

// All 32 lanes hand in `size` bytes; then every lane may read what any handed in, until the collective after next.
inline const unsigned char (*exchange(const void* mine, size_t size))[64] {
    Warp& w = warp();
    const uint64_t seen = w.generation;
    std::memcpy(w.slots[seen & 1][threadIdx.x % 32], mine, size);
    if (++w.arrived == 32) {
        w.arrived = 0;
        ++w.generation;
    } else {
        if (w.alive != 32) fail("a warp collective with lanes that have exited");
        yield_until_changed(&w.generation, seen);
    }
    return w.slots[seen & 1];
}

// Asynchronous copies happen as late as they may: when their thread waits for them.
inline void copy_later(void* to, const void* from, int bytes) {
    if (reinterpret_cast<uintptr_t>(to) % 16 || (bytes && reinterpret_cast<uintptr_t>(from) % 16)) fail("a misaligned asynchronous copy");
    block.current->open.push_back({to, from, bytes});
}
inline void commit_copies() {
    Fiber& f = *block.current;
    f.groups.push_back(std::move(f.open));
    f.open.clear();
}
inline void wait_for_copies(int left) {
    Fiber& f = *block.current;
    while ((int)f.groups.size() > left) {
        for (const Fiber::Copy& c : f.groups.front()) {
            std::memset(c.to, 0, 16);
            if (c.bytes) std::memcpy(c.to, c.from, (size_t)c.bytes);
        }
        f.groups.erase(f.groups.begin());
    }
}

// Every lane hands in the address of a row of 16 bytes; see mlc.cuh.
inline void load_matrices(uint32_t (&out)[4], const void* row) {
    if (reinterpret_cast<uintptr_t>(row) % 16) fail("a misaligned row of a matrix");
    const auto slots = exchange(&row, sizeof(row));
    const unsigned lane = threadIdx.x % 32;
    for (unsigned i = 0; i < 4; ++i) {
        const char* from;
        std::memcpy(&from, slots[i * 8 + lane / 4], sizeof(from));
        std::memcpy(&out[i], from + lane % 4 * 4, 4);
    }
}
inline void load_turned_matrices(uint32_t (&out)[4], const void* row) {
    if (reinterpret_cast<uintptr_t>(row) % 16) fail("a misaligned row of a matrix");
    const auto slots = exchange(&row, sizeof(row));
    const unsigned lane = threadIdx.x % 32;
    for (unsigned i = 0; i < 4; ++i) {
        uint16_t half[2];
        for (unsigned e = 0; e < 2; ++e) {
            const char* from;
            std::memcpy(&from, slots[i * 8 + lane % 4 * 2 + e], sizeof(from));
            std::memcpy(&half[e], from + lane / 4 * 2, 2);
        }
        out[i] = half[0] | (uint32_t)half[1] << 16;
    }
}

// Elements of the words that tensor cores read.
struct F32Word {
    static constexpr int count = 1;
    static double of(uint32_t w, int) { return bit_cast<float>(w); }
};
struct Bf16Word {
    static constexpr int count = 2;
    static double of(uint32_t w, int i) { return bit_cast<float>((w >> (16 * i)) << 16); }
};
struct F16Word {
    static constexpr int count = 2;
    static double of(uint32_t w, int i) { return half_to_float((uint16_t)(w >> (16 * i))); }
};
struct U8Word {
    static constexpr int count = 4;
    static double of(uint32_t w, int i) { return (uint8_t)(w >> (8 * i)); }
};
struct S8Word {
    static constexpr int count = 4;
    static double of(uint32_t w, int i) { return (int8_t)(w >> (8 * i)); }
};

// c += a·b by definition: every lane hands in its fragments and sums up its own four results.
template <class Acc, class A, class B>
inline void mma(Acc (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const auto slots = exchange(mine, sizeof(mine));
    const unsigned lane = threadIdx.x % 32;
    for (unsigned e = 0; e < 4; ++e) {
        const unsigned row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
        double sum = 0;
        for (unsigned w = 0; w < 8; ++w) {
            uint32_t left[6], right[6];
            std::memcpy(left, slots[row % 8 * 4 + w % 4], sizeof(left));
            std::memcpy(right, slots[column * 4 + w % 4], sizeof(right));
            const uint32_t x = left[row / 8 + w / 4 * 2], y = right[4 + w / 4];
            for (int i = 0; i < A::count; ++i) sum += A::of(x, i) * B::of(y, i);
        }
        c[e] = (Acc)(c[e] + sum);
    }
}

#if defined(__SANITIZE_ADDRESS__)
inline void first_switch() {
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
}
#endif

inline void body() {
#if defined(__SANITIZE_ADDRESS__)
    first_switch();
#endif
    block.entry(block.args);
    Fiber& self = *block.current;
    self.open.clear();
    self.groups.clear();
    if (!self.products.empty() || !self.product_groups.empty()) fail("products that nobody waits for");
    if (!self.stores.empty() || !self.store_groups.empty()) fail("stores that nobody waits for");
    --block.alive;
    --warp().alive;
    barrier_arrived();
    leave();
}

inline void prepare(Fiber& f) {
    f.done = f.elsewhere = false;
    f.waits = nullptr;
    f.fake = nullptr;
    f.products.clear();
    f.product_groups.clear();
    f.stores.clear();
    f.store_groups.clear();
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(f.stack, MLC_STACK);  // the last run left without returning from its frames
#endif
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(f.stack) + MLC_STACK) & ~(uintptr_t)15);
    *--top = nullptr;                                // keeps the stack aligned as after a call
    *--top = reinterpret_cast<void*>(&body);         // where the first switch returns to
    for (int i = 0; i < 6; ++i) *--top = nullptr;    // saved registers
    f.sp = top;
#else
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack;
    f.context.uc_stack.ss_size = MLC_STACK;
    f.context.uc_link = nullptr;
    makecontext(&f.context, body, 0);
#endif
}

struct Random {
    uint64_t state;
    uint64_t next() {
        state += 0x9e3779b97f4a7c15ull;
        uint64_t z = state;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        return z ^ (z >> 31);
    }
    void shuffle(std::vector<uint32_t>& v) {
        for (size_t i = v.size(); i > 1; --i) std::swap(v[i - 1], v[next() % i]);
    }
};

inline std::vector<uint32_t> numbers(size_t n) {
    std::vector<uint32_t> out(n);
    for (size_t i = 0; i < n; ++i) out[i] = (uint32_t)i;
    return out;
}

// Begins one block.
inline void start_block(unsigned number, const std::vector<uint32_t>& order, int64_t shared) {
    block.number = number;
    block.order = order;
    block.deferred.clear();
    if (shared) std::memset(block.shared, 0xff, (size_t)shared);  // what nobody has written reads as NaN
    block.barrier = block.arrived = 0;
    for (int i = 0; i < 16; ++i) block.named[i] = block.named_arrived[i] = 0;
    block.alive = (unsigned)block.fibers.size();
    for (Warp& w : block.warps) w.generation = w.arrived = w.alive = 0;
    for (size_t i = 0; i < block.fibers.size(); ++i) {
        prepare(block.fibers[i]);
        ++block.warps[i / 32].alive;
    }
    block.left = block.fibers.size();
}

static const char* const RESTS = "blocks that wait for each other";

// Runs the block on; null when it is done, RESTS when it waits for other blocks, or what went wrong.
inline const char* run_block(Random& random) {
    blockIdx = Dim3{block.number, 0, 0};
    while (block.left) {
        bool moved = false;
        for (uint32_t i : block.order) {
            Fiber& f = block.fibers[i];
            if (f.done || (f.waits && *f.waits == f.seen)) continue;
            f.waits = nullptr;
            moved = true;
            block.current = &f;
            threadIdx = f.thread;
            switch_to(block.scheduler, f);
            if (block.error) return block.error;
            block.left -= f.done;
        }
        if (!block.deferred.empty() && (!moved || (random.state && random.next() % 2))) {
            const size_t which = random.next() % block.deferred.size();
            const Deferred d = block.deferred[which];
            block.deferred.erase(block.deferred.begin() + (std::ptrdiff_t)which);
            d.run(d);
        } else if (!moved) {
            for (const Fiber& f : block.fibers)
                if (!f.done && f.elsewhere) return RESTS;
            return "a barrier or warp collective that not all threads reach";
        }
        random.shuffle(block.order);
    }
    return block.deferred.empty() ? nullptr : "a copy that nobody waits for";
}

// Makes room for a block: fibers and shared memory.
inline bool furnish(int threads, int64_t shared) {
    block.fibers.resize((size_t)threads);
    block.warps.resize((size_t)(threads + 31) / 32);
    for (int i = 0; i < threads; ++i) {
        Fiber& f = block.fibers[(size_t)i];
        if (!f.stack) f.stack = static_cast<char*>(std::malloc(MLC_STACK));
        f.thread = Dim3{(unsigned)i, 0, 0};
    }
    void* memory = nullptr;
    constexpr size_t before = 128;  // all that blocks may rely on: dynamic shared memory begins at a multiple of it
    if (posix_memalign(&memory, 1024, (size_t)shared + before)) return false;
    block.window = static_cast<unsigned char*>(memory);
    block.shared = block.window + before;
    return true;
}

// Runs a grid. Returns 0, or 1 with a message.
inline int run_grid(void (*entry)(const int64_t*), const int64_t* args, int64_t blocks, int threads, int64_t shared, uint64_t seed,
                    char* message, int size) {
    block.entry = entry;
    block.args = args;
    block.error = nullptr;
    block.coins = seed;
    if (!furnish(threads, shared)) return 1;
    blockDim = Dim3{(unsigned)threads, 1, 1};
    gridDim = Dim3{(unsigned)blocks, 1, 1};
    Random random{seed};
    std::vector<uint32_t> grid = numbers((size_t)blocks), order = numbers((size_t)threads);
    if (seed) {
        random.shuffle(grid);
        random.shuffle(order);
    }
    std::vector<Block> resting, spare;
    const char* error = nullptr;
    size_t next = 0;
    while (!error && (next < grid.size() || !resting.empty())) {
        bool moved = next < grid.size();
        if (moved) {
            start_block(grid[next++], order, shared);
            error = run_block(random);
            if (error == RESTS) {
                error = nullptr;
                resting.push_back(std::move(block));  // what it points to stays where it is
                block.fibers.clear();
                block.warps.clear();
                if (!spare.empty()) {
                    block = std::move(spare.back());
                    spare.pop_back();
                } else if (!furnish(threads, shared)) {
                    return 1;
                }
            }
        }
        for (size_t i = 0; !error && i < resting.size();) {
            std::swap(block, resting[i]);
            const char* outcome = run_block(random);
            std::swap(block, resting[i]);
            if (outcome == RESTS) {
                ++i;
            } else {
                error = outcome;
                moved = true;
                spare.push_back(std::move(resting[i]));
                resting.erase(resting.begin() + (std::ptrdiff_t)i);
            }
        }
        if (!moved) error = RESTS;
    }
    if (error) std::snprintf(message, (size_t)size, "block %u: %s", blockIdx.x, error);
    for (std::vector<Block>* others : {&resting, &spare})
        for (Block& b : *others) {
            std::free(b.window);
            for (Fiber& f : b.fibers) std::free(f.stack);
        }
    std::free(block.window);
    if (error) block.fibers.clear();  // fibers in the middle of something are given up, with their stacks
    return error ? 1 : 0;
}

template <class T, class = void>
struct Argument {  // a structure, given by its address
    static T of(int64_t x) { return *reinterpret_cast<const T*>(static_cast<intptr_t>(x)); }
};
template <class T>
struct Argument<T, std::enable_if_t<std::is_arithmetic<T>::value>> {
    static T of(int64_t x) { return static_cast<T>(x); }
};
template <class T>
struct Argument<T*> {
    static T* of(int64_t x) { return reinterpret_cast<T*>(static_cast<intptr_t>(x)); }
};
template <class... A, size_t... I>
inline void call(void (*kernel)(A...), const int64_t* args, std::index_sequence<I...>) {
    kernel(Argument<A>::of(args[I])...);
}
template <class... A>
inline void call(void (*kernel)(A...), const int64_t* args) {
    call(kernel, args, std::index_sequence_for<A...>{});
}

}  // namespace emulate

// --- the parts of CUDA that kernels use ------------------------------------------------------------------------------
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
    static int any[2];
    const unsigned slot = (unsigned)(emulate::block.barrier & 1);  // the votes of the barrier before may still be read
    if (emulate::block.arrived == 0) any[slot] = 0;
    any[slot] |= x != 0;
    emulate::barrier();
    return any[slot];
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
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
