// Threads of a block are fibers, which switch at barriers and warp collectives. A barrier or collective that not all threads
// reach is reported, not waited for.
#pragma once

#include "emulate_language.h"

#include <array>
#include <cstdlib>
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

namespace emulate {

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
    bool begun = false;             // products may be given
    std::vector<uint32_t> written;  // words of shared memory that engines do not see yet
};

// Something that happens at any moment, at the latest when no thread can go on without it.
struct Deferred {
    void (*run)(const Deferred&);
    void* to;
    unsigned char from[128];  // a tensor map
    int at[4];
    unsigned long long* barrier;
    unsigned char* window;  // of the block whose memory it writes to
};

// Blocks that run at once and see each other's shared memory.
struct Cluster {
    unsigned char* windows[8] = {};  // by rank, of blocks that have begun and not ended
    uint64_t generation = 0;         // barriers of the cluster that were passed
    size_t arrived = 0, alive = 0;
    std::vector<std::pair<const void*, uint64_t>> told;  // barriers that may be used behind the next one
};

struct Warp {
    uint64_t generation = 0;
    size_t products = 0;     // given so far
    unsigned registers = 0;  // of a thread, where it traded them
    unsigned arrived = 0, alive = 0;
    unsigned char slots[2][32][64];
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    uint64_t barrier = 0;
    unsigned arrived = 0, alive = 0;
    int votes[2] = {};                // of this barrier and the one before
    unsigned char* shared = nullptr;
    unsigned char* window = nullptr;  // a multiple of 1024 bytes before it, from where on it has memory
    unsigned number = 0;              // in the grid
    std::vector<uint32_t> order;      // of threads
    size_t left = 0;                  // threads
    std::vector<Deferred> deferred;
    uint64_t named[16] = {};  // barriers of warp groups: how often each was passed
    unsigned named_arrived[16] = {};
    size_t bytes = 0;               // of shared memory
    std::vector<uint16_t> hidden;   // by its words: which thread (+ 1) wrote what engines do not see yet
    size_t hidden_words = 0;
    struct Made {
        const void* barrier;
        bool told;
        uint64_t passed;  // barriers of the block before that
    };
    std::vector<Made> made;  // barriers in shared memory; a kernel without has no engines to look after
    std::vector<std::array<uint64_t, 3>> products[8];  // of each warp group, in order
    Cluster* cluster = nullptr;
    unsigned rank = 0;  // in it
    uint64_t coins = 0;  // whether what may happen at once does; 0: never
    Fiber* current = nullptr;
    Fiber scheduler;
    const char* error = nullptr;
    void (*entry)(const int64_t*) = nullptr;
    const int64_t* args = nullptr;
};
MLC_OF_LIBRARY Block block;

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

inline void cluster_arrived(Cluster& c) {
    if (c.arrived && c.arrived == c.alive) {
        c.arrived = 0;
        ++c.generation;
    }
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

}  // namespace emulate
