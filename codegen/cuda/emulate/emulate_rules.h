// What the PTX ISA asks of programs for Hopper and no result shows here: that engines see what threads wrote (proxies), that
// barriers are known before they are used, that products are begun, and by all warps of a group alike, from matrices as their
// descriptors may say, and that registers which some warps take are those that others gave.
#pragma once

#include "emulate_fibers.h"

namespace emulate {

// A thread writes to shared memory: engines see it behind that thread's fence only (PTX ISA, "Async proxy").
inline void wrote(const void* p, size_t bytes) {
    const size_t at = (size_t)(static_cast<const unsigned char*>(p) - block.shared);
    if (block.made.empty() || at >= block.bytes) return;
    for (size_t w = at / 4; w <= (at + bytes - 1) / 4; ++w) {
        block.hidden_words += block.hidden[w] == 0;
        block.hidden[w] = (uint16_t)(block.current->thread.x + 1);
        block.current->written.push_back((uint32_t)w);
    }
}
inline void show_writes() {
    Fiber& f = *block.current;
    for (const uint32_t w : f.written)
        if (block.hidden[w] == f.thread.x + 1) {
            block.hidden[w] = 0;
            --block.hidden_words;
        }
    f.written.clear();
}
inline void seen_by_engines(const void* p) {
    if (!block.hidden_words) return;
    if (block.hidden[(size_t)(static_cast<const unsigned char*>(p) - block.shared) / 4]) fail("an engine at what a thread wrote without a fence behind it");
}

// Barriers are initialized, and that is told (fence.mbarrier_init), before a barrier of the block that comes before their use.
inline void tell_barriers() {
    for (Block::Made& m : block.made) {
        m.told = true, m.passed = block.barrier;
        if (block.cluster) block.cluster->told.push_back({m.barrier, block.cluster->generation});
    }
}
inline void known(const void* barrier) {
    for (const Block::Made& m : block.made)
        if (m.barrier == barrier && m.told && m.passed != block.barrier) return;
    fail("a barrier that is used before all know that it is initialized");
}

// The same place in the memory of another block of the cluster, which has begun, and does not end before.
template <class T>
inline T* at_rank(T* mine, unsigned rank) {
    unsigned char* const theirs = block.cluster ? block.cluster->windows[rank] : nullptr;
    if (!theirs) fail("memory of a block of the cluster that is not there");
    return reinterpret_cast<T*>(theirs + (reinterpret_cast<unsigned char*>(mine) - block.window));
}
inline void known_to_cluster(const void* barrier) {
    for (const auto& [b, generation] : block.cluster->told)
        if (b == barrier && generation != block.cluster->generation) return;
    fail("a barrier that is used before all of the cluster know that it is initialized");
}

// A descriptor of a swizzled matrix in shared memory: patterns begin at multiples of their size (their base offset is 0). k goes on within
// the first row of one of 128 bytes, or, "turned", from one to the next; then columns are whole patterns, of 128, 64 or 32 bytes each
// (PTX ISA, "Canonical layouts" of wgmma).
inline uint32_t swizzle_width(uint64_t descriptor) { return 256u >> (descriptor >> 62); }
inline void describes(uint64_t d, uint32_t rows, bool turned) {
    constexpr uint64_t FIELDS = 0xc0003fff3fff3fffull;
    const size_t start = (d & 0x3fff) << 4, chunk = (d >> 16 & 0x3fff) << 4, eight = (d >> 32 & 0x3fff) << 4;
    const uint32_t width = swizzle_width(d), pattern = 8 * width, columns = width / 2;
    if (width == 256 || (!turned && width != 128) || (d & ~FIELDS)) fail("a descriptor of a matrix that is not swizzled as it may be");
    if (start & (turned ? pattern - 1 : 0x380)) fail("a matrix that begins where its swizzle does not");
    if (turned && rows % columns) fail("columns that are no whole patterns of their swizzle");
    if (eight % pattern || (turned && rows > columns && chunk % pattern)) fail("a matrix whose strides are not those of its swizzle");
    const size_t end = turned ? (rows - 1) / columns * chunk + eight + pattern : (rows - 1) / 8 * eight + pattern;
    if ((start & ~(size_t)(pattern - 1)) + end > block.bytes + (size_t)(block.shared - block.window)) fail("a matrix that ends outside of shared memory");
}

// Products are given behind wgmma.fence, the same ones in the same order by the four warps of a group.
inline void gives(uint64_t a, uint64_t b, int columns) {
    if (!block.current->begun) fail("a product that is not begun (wgmma.fence)");
    if (threadIdx.x % 32) return;
    auto& given = block.products[threadIdx.x / 128];
    const size_t number = block.warps[threadIdx.x / 32].products++;
    const std::array<uint64_t, 3> mine{a, b, (uint64_t)columns};
    if (number == given.size()) {
        given.push_back(mine);
    } else if (given[number] != mine) {
        fail("warps of a group that give different products");
    }
}

// By all lanes of a warp; a block has a multiprocessor's 65536 registers for itself, dealt out in eights to its threads.
inline unsigned registers_at_entry() { return 65536u / (unsigned)block.fibers.size() / 8 * 8; }
template <int COUNT>
inline void trade_registers(bool more) {
    static_assert(COUNT >= 24 && COUNT <= 256 && COUNT % 8 == 0, "setmaxnreg");
    if (more == (COUNT < (int)registers_at_entry())) fail("registers that are given where they should be taken, or the other way round");
    block.warps[threadIdx.x / 32].registers = COUNT;
}

// What warps have not done together, at the end of a block; null where there is nothing.
inline const char* parted() {
    size_t used = 0;
    bool traded = false;
    for (size_t i = 0; i < block.warps.size(); ++i) {
        const Warp &w = block.warps[i], &first = block.warps[i / 4 * 4];
        if (w.products != block.products[i / 4].size()) return "a product that not all warps of a group give";
        if (w.registers != first.registers) return "registers that not all warps of a group trade";
        traded = traded || w.registers;
        used += 32 * (w.registers ? w.registers : registers_at_entry());
    }
    return traded && used > registers_at_entry() * block.fibers.size() ? "more registers than there are" : nullptr;
}

}  // namespace emulate
