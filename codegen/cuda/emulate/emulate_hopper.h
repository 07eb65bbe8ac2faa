// hopper.cuh on the host: barriers by definition, bulk copies that happen at any moment until somebody cannot go on without
// them, and products of warp groups that read shared memory at once, or not before they are waited for.
#pragma once

namespace emulate {

// Addresses of shared memory count from a multiple of 1024, as swizzles do.
inline uint32_t shared_address(const void* p) { return (uint32_t)(static_cast<const unsigned char*>(p) - block.window); }

struct Phase {  // of a barrier, in one word: arrivals of a phase, arrivals still due, bytes due, parity of the current phase
    uint64_t count : 15, due : 15, parity : 1;
    int64_t bytes : 32;
};
inline void update(u64* barrier, Phase p) {
    if (p.due == 0 && p.bytes == 0) {
        p.due = p.count;
        p.parity ^= 1;
    }
    std::memcpy(barrier, &p, sizeof(p));
}
inline void arrive(u64* barrier, int bytes, bool far = false) {
    if (far) {
        known_to_cluster(barrier);
    } else {
        known(barrier);
    }
    if (bytes < 0 || bytes >= 1 << 20) fail("more bytes than a barrier counts");
    Phase p = bit_cast<Phase>(*barrier);
    if (p.due == 0) fail("more arrivals at a barrier than it counts");
    p.bytes += bytes;
    --p.due;
    update(barrier, p);
}

struct Map {  // what EmulatedDevice.tensor_map makes
    uint64_t base;
    int32_t itemsize, rank;
    uint64_t sizes[4], strides[4];  // strides in bytes, of all but the first
    int32_t box[4];
};
static_assert(sizeof(Map) <= sizeof(TensorMap), "fits");

// Rows of `width` bytes, 128, 64 or 32: their pieces of 16 bytes change places by the bits of the address from 7 on.
inline uint32_t swizzled(uint32_t address, uint32_t width) { return address ^ ((address >> 3) & (width - 16)); }

inline void copy_now(const Deferred& d) {
    Map m;
    std::memcpy(&m, d.from, sizeof(m));
    const uint32_t row_bytes = (uint32_t)(m.box[0] * m.itemsize), start = (uint32_t)(static_cast<unsigned char*>(d.to) - d.window);
    for (int32_t r = 0; r < m.box[1]; ++r)
        for (int32_t c = 0; c < m.box[0]; ++c) {
            unsigned char* const to = d.window + swizzled(start + (uint32_t)r * row_bytes + (uint32_t)(c * m.itemsize), row_bytes);
            const int64_t at[4] = {d.at[0] + c, d.at[1] + (int64_t)r, d.at[2], d.at[3]};
            bool inside = true;
            uint64_t offset = (uint64_t)at[0] * (uint64_t)m.itemsize;
            for (int i = 0; i < m.rank; ++i) {
                inside = inside && at[i] >= 0 && (uint64_t)at[i] < m.sizes[i];
                if (i) offset += (uint64_t)at[i] * m.strides[i];
            }
            if (inside) {
                std::memcpy(to, reinterpret_cast<const void*>(m.base + offset), (size_t)m.itemsize);
            } else {
                std::memset(to, 0, (size_t)m.itemsize);
            }
        }
    Phase p = bit_cast<Phase>(*d.barrier);
    p.bytes -= (int32_t)row_bytes * m.box[1];
    update(d.barrier, p);
}
inline void copy_box(void* to, const TensorMap& map, int rank, int k, int row, int head, int batch, u64* barrier, int blocks = 1) {
    known(barrier);
    Map m;
    std::memcpy(&m, &map, sizeof(m));
    const uint32_t width = (uint32_t)(m.box[0] * m.itemsize);
    if ((width != 128 && width != 64 && width != 32) || m.base % 16) fail("a bulk copy of boxes whose rows no swizzle is for");
    if (shared_address(to) % (8 * width)) fail("a bulk copy to a place that swizzles do not begin at");
    if (m.rank != rank) fail("a bulk copy with coordinates of another rank than its map");
    Deferred d{copy_now, to, {}, {k, row, head, batch}, barrier, block.window};
    std::memcpy(d.from, &map, sizeof(map));
    if (blocks == 1) {
        block.deferred.push_back(d);
        return;
    }
    for (unsigned r = 0; r < (unsigned)blocks; ++r) {  // each at a moment of its own
        d.to = at_rank(static_cast<unsigned char*>(to), r);
        d.barrier = at_rank(barrier, r);
        d.window = block.cluster->windows[r];
        known_to_cluster(d.barrier);
        block.deferred.push_back(d);
    }
}

// Results of a lane: rows lane / 4 and 8 further of the 16 of its warp, columns 2·(lane % 4) and one on, of every eight.
template <class Acc, class A, class B>
inline void multiply(const Fiber::Product& p) {
    const uint32_t thread = block.current->thread.x % 128, lane = thread % 32;
    const auto word = [](uint64_t descriptor, uint32_t row, uint32_t w) {
        const uint32_t start = (uint32_t)(descriptor & 0x3fff) << 4, eight = (uint32_t)(descriptor >> 32 & 0x3fff) << 4;
        const unsigned char* const from = block.window + swizzled(start + row / 8 * eight + row % 8 * 128 + w * 4, 128);
        seen_by_engines(from);
        uint32_t out;
        std::memcpy(&out, from, 4);
        return out;
    };
    const auto turned_word = [](uint64_t descriptor, uint32_t n, uint32_t w) {  // elements 2w and one on of k, of column n
        const uint32_t start = (uint32_t)(descriptor & 0x3fff) << 4, eight = (uint32_t)(descriptor >> 32 & 0x3fff) << 4;
        const uint32_t chunk = (uint32_t)(descriptor >> 16 & 0x3fff) << 4, width = swizzle_width(descriptor), count = width / 2;
        uint16_t half[2];
        for (uint32_t e = 0; e < 2; ++e) {
            const uint32_t k = w * 2 + e;
            const unsigned char* const from = block.window + swizzled(start + n / count * chunk + n % count * 2 + k / 8 * eight + k % 8 * width, width);
            seen_by_engines(from);
            std::memcpy(&half[e], from, 2);
        }
        return half[0] | (uint32_t)half[1] << 16;
    };
    if (p.registers && std::memcmp(p.registers, p.mine, sizeof(p.mine))) fail("registers of a product that changed before it was waited for");
    Acc* const d = static_cast<Acc*>(p.sums);
    for (uint32_t half = 0; half < 2; ++half) {
        uint32_t left[8];
        for (uint32_t w = 0; w < 8; ++w) left[w] = p.registers ? p.rows[half][w] : word(p.a, thread / 32 * 16 + half * 8 + lane / 4, w);
        for (uint32_t n = 0; n < (uint32_t)p.columns; n += 8)
            for (uint32_t e = 0; e < 2; ++e) {
                double sum = 0;
                for (uint32_t w = 0; w < 8; ++w) {
                    const uint32_t column = n + lane % 4 * 2 + e, right = p.turned ? turned_word(p.b, column, w) : word(p.b, column, w);
                    for (int i = 0; i < A::count; ++i) sum += A::of(left[w], i) * B::of(right, i);
                }
                Acc& to = d[n / 8 * 4 + half * 2 + e];
                to = (Acc)((p.add ? to : (Acc)0) + sum);
            }
    }
}
// Products with the same sums stay in order.
inline void give(const Fiber::Product& now) {
    const auto same = [&](const Fiber::Product& p) { return p.sums == now.sums; };
    bool follows = false;
    for (const Fiber::Product& p : block.current->products) follows = follows || same(p);
    for (const auto& group : block.current->product_groups)
        for (const Fiber::Product& p : group) follows = follows || same(p);
    if (!follows && toss()) {
        now.run(now);
    } else {
        block.current->products.push_back(now);
    }
}
// `add` is not 0: to the sums, which are overwritten otherwise. `turned`: elements of n, not of k, are next to each other in B.
template <class Acc, class A, class B, int NT>
inline void product(Acc (&sums)[NT][4], u64 a, u64 b, int add, bool turned) {
    struct {
        u64 a, b;
    } mine{a, b};
    const auto slots = exchange(&mine, sizeof(mine));
    if (std::memcmp(&mine, slots[0], sizeof(mine))) fail("a product whose lanes disagree on its matrices");
    describes(a, 64, false);
    describes(b, NT * 8, turned);
    gives(a, b, NT * 8);
    give({multiply<Acc, A, B>, sums, a, b, NT * 8, add != 0, turned, nullptr, {}, {}});
}
// The same with A in registers: lane l has words l % 4 (0, 1) and 4 further (2, 3) of rows l / 4 (0, 2) and 8 further (1, 3).
template <class Acc, class A, class B, int NT>
inline void product_of_registers(Acc (&sums)[NT][4], const uint32_t (&a)[4], u64 b, int add, bool turned) {
    describes(b, NT * 8, turned);
    gives(0, b, NT * 8);
    Fiber::Product now{multiply<Acc, A, B>, sums, 0, b, NT * 8, add != 0, turned, a, {}, {}};
    std::memcpy(now.mine, a, sizeof(now.mine));
    const auto slots = exchange(a, sizeof(now.mine));
    for (uint32_t w = 0; w < 8; ++w) {
        uint32_t theirs[4];
        std::memcpy(theirs, slots[threadIdx.x % 32 / 4 * 4 + w % 4], sizeof(theirs));
        for (uint32_t half = 0; half < 2; ++half) now.rows[half][w] = theirs[half + w / 4 * 2];
    }
    give(now);
}
inline void commit_products() {
    Fiber& f = *block.current;
    f.product_groups.push_back(std::move(f.products));
    f.products.clear();
    f.begun = false;
    __syncwarp();
}
inline void wait_for_products(int left) {
    Fiber& f = *block.current;
    while ((int)f.product_groups.size() > left) {
        for (const Fiber::Product& p : f.product_groups.front()) p.run(p);
        f.product_groups.erase(f.product_groups.begin());
    }
    __syncwarp();
}

// Stores happen as late as they may, or when their group is complete.
inline void store_now(const Fiber::Store& s) {
    Map m;
    std::memcpy(&m, s.map, sizeof(m));
    const uint32_t row_bytes = (uint32_t)(m.box[0] * m.itemsize), start = shared_address(s.from);
    for (int32_t r = 0; r < m.box[1]; ++r)
        for (int32_t c = 0; c < m.box[0]; ++c) {
            const int64_t at[3] = {s.at[0] + c, s.at[1] + (int64_t)r, s.at[2]};
            bool inside = true;
            uint64_t offset = (uint64_t)at[0] * (uint64_t)m.itemsize;
            for (int i = 0; i < m.rank; ++i) {
                inside = inside && at[i] >= 0 && (uint64_t)at[i] < m.sizes[i];
                if (i) offset += (uint64_t)at[i] * m.strides[i];
            }
            const unsigned char* const from = block.window + swizzled(start + (uint32_t)r * row_bytes + (uint32_t)(c * m.itemsize), row_bytes);
            if (inside) seen_by_engines(from);
            if (inside) std::memcpy(reinterpret_cast<void*>(m.base + offset), from, (size_t)m.itemsize);
        }
}
inline void store_box(const TensorMap& map, int rank, const void* from, int column, int row, int batch) {
    if (shared_address(from) % 1024) fail("a bulk store from a place that swizzles do not begin at");
    Map m;
    std::memcpy(&m, &map, sizeof(m));
    if (m.box[0] * m.itemsize != 128 || m.base % 16 || m.rank != rank) fail("a bulk store that its map does not fit");
    Fiber::Store s{store_now, from, {}, {column, row, batch}};
    std::memcpy(s.map, &map, sizeof(map));
    block.current->stores.push_back(s);
}
inline void commit_stores() {
    Fiber& f = *block.current;
    if (toss()) {
        for (const Fiber::Store& s : f.stores) s.run(s);
        f.stores.clear();
    }
    f.store_groups.push_back(std::move(f.stores));
    f.stores.clear();
}
inline void wait_for_stores(int left) {
    Fiber& f = *block.current;
    while ((int)f.store_groups.size() > left) {
        for (const Fiber::Store& s : f.store_groups.front()) s.run(s);
        f.store_groups.erase(f.store_groups.begin());
    }
}
inline void named_barrier(int number) {
    const uint64_t seen = block.named[number];
    if (++block.named_arrived[number] == 128) {
        block.named_arrived[number] = 0;
        ++block.named[number];
    } else {
        yield_until_changed(&block.named[number], seen);
    }
}

inline void cluster_barrier() {
    Cluster& c = *block.cluster;
    const uint64_t seen = c.generation;
    ++c.arrived;
    cluster_arrived(c);
    block.current->elsewhere = true;
    if (c.generation == seen) yield_until_changed(&c.generation, seen);
    block.current->elsewhere = false;
}

struct Tf32Word {  // the engine does not look at the lower bits
    static constexpr int count = 1;
    static double of(uint32_t w, int) { return bit_cast<float>(w & 0xffffe000u); }
};

}  // namespace emulate

MLC_FN u32 shared_address(const void* p) { return emulate::shared_address(p); }
MLC_FN void barrier_init(u64* barrier, int count) {
    const emulate::Phase p{(uint64_t)count, (uint64_t)count, 0, 0};
    std::memcpy(barrier, &p, sizeof(p));
    emulate::block.made.push_back({barrier, false, 0});
}
MLC_FN void barriers_initialized() { emulate::tell_barriers(); }
MLC_FN void barrier_arrive(u64* barrier) { emulate::arrive(barrier, 0); }
MLC_FN void barrier_expect(u64* barrier, int bytes) { emulate::arrive(barrier, bytes); }
MLC_FN void barrier_wait(u64* barrier, u32 parity) {
    emulate::known(barrier);
    emulate::block.current->elsewhere = emulate::block.cluster != nullptr;
    while (emulate::bit_cast<emulate::Phase>(*barrier).parity == parity) emulate::yield_until_changed(reinterpret_cast<uint64_t*>(barrier), *barrier);
    emulate::block.current->elsewhere = false;
}
template <int COUNT>
MLC_FN int cluster_rank() { return (int)emulate::join_cluster(COUNT); }
MLC_FN void cluster_barrier() { emulate::cluster_barrier(); }
MLC_FN void barrier_arrive_at(u64* barrier, int rank) { emulate::arrive(emulate::at_rank(barrier, (unsigned)rank), 0, true); }
template <int COUNT>
MLC_FN void copy_box_to_all(void* to, const TensorMap& map, int k, int row, u64* barrier) {
    emulate::copy_box(to, map, 2, k, row, 0, 0, barrier, COUNT);
}
template <int COUNT>
MLC_FN void copy_box_to_all(void* to, const TensorMap& map, int k, int row, int batch, u64* barrier) {
    emulate::copy_box(to, map, 3, k, row, batch, 0, barrier, COUNT);
}
MLC_FN void copy_box(void* to, const TensorMap& map, int k, int row, u64* barrier) { emulate::copy_box(to, map, 2, k, row, 0, 0, barrier); }
MLC_FN void copy_box(void* to, const TensorMap& map, int k, int row, int batch, u64* barrier) { emulate::copy_box(to, map, 3, k, row, batch, 0, barrier); }
MLC_FN void copy_box(void* to, const TensorMap& map, int column, int row, int head, int batch, u64* barrier) {
    emulate::copy_box(to, map, 4, column, row, head, batch, barrier);
}
MLC_FN void store_box(const TensorMap& map, const void* from, int column, int row) { emulate::store_box(map, 2, from, column, row, 0); }
MLC_FN void store_box(const TensorMap& map, const void* from, int column, int row, int batch) { emulate::store_box(map, 3, from, column, row, batch); }
MLC_FN void stores_commit() { emulate::commit_stores(); }
template <int LEFT>
MLC_FN void stores_wait() { emulate::wait_for_stores(LEFT); }
MLC_FN void group_barrier(int number) { emulate::named_barrier(number + 1); }
MLC_FN void prefetch_map(const TensorMap&) {}
MLC_FN void writes_visible_to_engines() { emulate::show_writes(); }
template <int COUNT>
MLC_FN void give_registers() { emulate::trade_registers<COUNT>(false); }
template <int COUNT>
MLC_FN void take_registers() { emulate::trade_registers<COUNT>(true); }
MLC_FN void products_begin() {
    emulate::block.current->begun = true;
    __syncwarp();
}
MLC_FN void products_commit() { emulate::commit_products(); }
template <int LEFT>
MLC_FN void products_wait() { emulate::wait_for_products(LEFT); }
template <class T>
MLC_FN void settled(T&) {}
