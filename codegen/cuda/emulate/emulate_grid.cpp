// Runs a grid: blocks one after the other and threads in rounds, both in orders shuffled by a seed, so that races show; a block
// that waits for another rests until that is done. Compiled apart from kernels, once for all of them.
#include "mlc.cuh"

#include <cstdio>
#include <map>

Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulate {

Block block;
static std::map<unsigned, Cluster> clusters;  // by number, of a grid
static uint64_t turns;                        // of threads, so far

unsigned join_cluster(unsigned count) {
    if (!block.cluster) {
        if (count > 8 || gridDim.x % count) fail("a grid of parts of clusters");
        Cluster& c = clusters[block.number / count];
        if (!c.alive) c.alive = count * block.fibers.size();
        block.cluster = &c;
        block.rank = block.number % count;
        c.windows[block.rank] = block.window;
    }
    return block.rank;
}

#if defined(__SANITIZE_ADDRESS__)
static void first_switch() {
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
}
#endif

static void body() {
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
    if (block.cluster) {
        --block.cluster->alive;
        cluster_arrived(*block.cluster);
        if (!block.alive) block.cluster->windows[block.rank] = nullptr;
    }
    leave();
}

static void prepare(Fiber& f) {
    f.done = f.elsewhere = false;
    f.waits = nullptr;
    f.fake = nullptr;
    f.products.clear();
    f.product_groups.clear();
    f.stores.clear();
    f.store_groups.clear();
    f.begun = false;
    f.written.clear();
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

static std::vector<uint32_t> numbers(size_t n) {
    std::vector<uint32_t> out(n);
    for (size_t i = 0; i < n; ++i) out[i] = (uint32_t)i;
    return out;
}

// Begins one block.
static void start_block(unsigned number, const std::vector<uint32_t>& order, int64_t shared) {
    block.number = number;
    block.order = order;
    block.deferred.clear();
    if (shared) std::memset(block.shared, 0xff, (size_t)shared);  // what nobody has written reads as NaN
    block.barrier = block.arrived = 0;
    for (int i = 0; i < 16; ++i) block.named[i] = block.named_arrived[i] = 0;
    block.alive = (unsigned)block.fibers.size();
    for (Warp& w : block.warps) w.generation = w.products = w.arrived = w.alive = w.registers = 0;
    block.hidden.assign(block.bytes / 4 + 1, 0);
    block.hidden_words = 0;
    block.made.clear();
    block.cluster = nullptr;
    for (auto& given : block.products) given.clear();
    for (size_t i = 0; i < block.fibers.size(); ++i) {
        prepare(block.fibers[i]);
        ++block.warps[i / 32].alive;
    }
    block.left = block.fibers.size();
}

static const char* const RESTS = "blocks that wait for each other";

// Runs the block on; null when it is done, RESTS when it waits for other blocks, or what went wrong.
static const char* run_block(Random& random) {
    blockIdx = Dim3{block.number, 0, 0};
    while (block.left) {
        bool moved = false;
        for (uint32_t i : block.order) {
            Fiber& f = block.fibers[i];
            if (f.done || (f.waits && *f.waits == f.seen)) continue;
            f.waits = nullptr;
            moved = true;
            ++turns;
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
            ++turns;
        } else if (!moved) {
            for (const Fiber& f : block.fibers)
                if (!f.done && f.elsewhere) return RESTS;
            return "a barrier or warp collective that not all threads reach";
        }
        random.shuffle(block.order);
    }
    return block.deferred.empty() ? parted() : "a copy that nobody waits for";
}

// Makes room for a block: fibers and shared memory.
static bool furnish(int threads, int64_t shared) {
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
    block.bytes = (size_t)shared;
    return true;
}

int run_grid(void (*entry)(const int64_t*), const int64_t* args, int64_t blocks, int threads, int64_t shared, uint64_t seed,
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
    clusters.clear();
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
            const uint64_t before = turns;
            const char* outcome = run_block(random);
            std::swap(block, resting[i]);
            if (outcome == RESTS) {
                moved = moved || turns != before;
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

}  // namespace emulate
