// Kernels whose work follows the data: sorting, selection, positions of true elements, suppression of boxes.
// Blocks have 256 threads. Rows have less than 2^32 - 1 elements.
#pragma once
#include "mlc.cuh"

enum { THREADS = 256, WARPS = 8, DIGITS = 256 };

// --- order of keys as order of unsigned numbers: one for all NaN, above the others -----------------------------------------
template <int BYTES>
struct Unsigned {
    typedef u32 type;
};
template <>
struct Unsigned<8> {
    typedef u64 type;
};

template <class T>
MLC_FN typename Unsigned<sizeof(T)>::type ascending(T x) {
    typedef typename Unsigned<sizeof(T)>::type U;
    const U all = (U)~(U)0 >> (8 * (sizeof(U) - sizeof(T)));
    return ((U)x & all) ^ ((T)-1 < (T)0 ? (U)1 << (8 * sizeof(T) - 1) : (U)0);
}
MLC_FN u32 ascending(float x) {
    const u32 b = bits_of_float(x + 0.0f);  // -0 becomes 0
    return x != x ? ~0u : (int)b < 0 ? ~b : b | 0x80000000u;
}
MLC_FN u64 ascending(double x) {
    const u64 b = read_bits<u64>(x + 0.0);
    return x != x ? ~0ull : (i64)b < 0 ? ~b : b | 0x8000000000000000ull;
}
template <bool DOWN, class T>
MLC_FN typename Unsigned<sizeof(T)>::type ordinal(T x) {
    typedef typename Unsigned<sizeof(T)>::type U;
    const U o = ascending(x), all = (U)~(U)0 >> (8 * (sizeof(U) - sizeof(T)));
    return DOWN ? all - o : o;
}

// --- prefix sums of a block ------------------------------------------------------------------------------------------------
// The sum over all threads before this one; `total` is that over all. `scratch`: WARPS words, free to be written.
MLC_FN u32 block_prefix(u32 x, u32* scratch, u32& total) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    u32 sum = x;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
        const u32 y = __shfl_up_sync(0xffffffffu, sum, o);
        if (lane >= o) sum += y;
    }
    if (lane == 31) scratch[warp] = sum;
    __syncthreads();
    u32 before = 0;
    total = 0;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
        if (w < warp) before += scratch[w];
        total += scratch[w];
    }
    __syncthreads();
    return before + sum - x;
}

// counts[row, n] become what is before each in its row. `totals` (or null): the sum of each row. A block takes a row.
MLC_FN void scan_counts(u32* counts, i64* totals, i64 n, u32* scratch) {
    enum { EACH = 8 };
    counts += (i64)blockIdx.x * n;
    u32 carry = 0;
    for (i64 start = 0; start < n; start += THREADS * EACH) {
        const i64 at = start + (i64)threadIdx.x * EACH;
        u32 x[EACH], sum = 0, total;
#pragma unroll
        for (int e = 0; e < EACH; ++e) {
            x[e] = at + e < n ? counts[at + e] : 0u;
            sum += x[e];
        }
        u32 before = carry + block_prefix(sum, scratch, total);
#pragma unroll
        for (int e = 0; e < EACH; ++e) {
            if (at + e < n) counts[at + e] = before;
            before += x[e];
        }
        carry += total;
    }
    if (totals && threadIdx.x == 0) totals[blockIdx.x] = (i64)carry;
}

// --- positions of true elements: counted by tile, then stored in order --------------------------------------------------------
enum { TILE = 4096, TILE_ROUNDS = TILE / THREADS };

MLC_FN void count_true(const u8* mask, u32* counts, i64 size, u32* scratch) {
    const i64 start = (i64)blockIdx.x * TILE;
    u32 mine = 0, total;
#pragma unroll
    for (int e = 0; e < TILE_ROUNDS; ++e) {
        const i64 at = start + e * THREADS + threadIdx.x;
        mine += at < size && mask[at] != 0;
    }
    block_prefix(mine, scratch, total);
    if (threadIdx.x == 0) counts[blockIdx.x] = total;
}

MLC_FN void store_true(const u8* mask, const u32* before, i64* found, i64 size, u32* scratch) {
    // rounds of a warp lie side by side, so that their results do too
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const i64 start = (i64)blockIdx.x * TILE + (i64)warp * (32 * TILE_ROUNDS);
    u32 votes[TILE_ROUNDS], mine = 0, total;
#pragma unroll
    for (int e = 0; e < TILE_ROUNDS; ++e) {
        const i64 at = start + e * 32 + lane;
        votes[e] = __ballot_sync(0xffffffffu, at < size && mask[at] != 0);
        mine += (u32)__popc(votes[e]);
    }
    u32 at = block_prefix(lane == 0 ? mine : 0u, scratch, total);
    at = before[blockIdx.x] + __shfl_sync(0xffffffffu, at, 0);
    const u32 lower = (1u << lane) - 1u;
#pragma unroll
    for (int e = 0; e < TILE_ROUNDS; ++e) {
        if (votes[e] >> lane & 1u) found[at + (u32)__popc(votes[e] & lower)] = start + e * 32 + lane;
        at += (u32)__popc(votes[e]);
    }
}

// --- radix sort, stable, a byte at a time from the lowest ---------------------------------------------------------------------
// Words are 32 bits of key over 32 bits of index. Where a pass takes them from: the keys themselves, words of the pass
// before, or indices of those and the upper half of their 64-bit keys.
enum Source { KEYS, WORDS, UPPER };
enum Sink { TO_WORDS, TO_ORDER };

template <class T, bool DOWN, Source SOURCE>
MLC_FN u64 sort_word(const T* keys, const i64* words, i64 at) {
    if (SOURCE == WORDS) return (u64)words[at];
    const u32 index = SOURCE == KEYS ? (u32)at : (u32)words[at];
    const u64 key = ordinal<DOWN>(keys[index]);
    return (SOURCE == UPPER ? key >> 32 : key) << 32 | index;
}

// counts[row, digit, tile]
template <class T, bool DOWN, Source SOURCE, int SHIFT>
MLC_FN void radix_count(const T* keys, const i64* words, u32* counts, i64 size, i64 tiles, u32* digits) {
    const i64 row = blockIdx.x / tiles, tile = blockIdx.x % tiles;
    digits[threadIdx.x] = 0;
    __syncthreads();
#pragma unroll 4
    for (int e = 0; e < TILE_ROUNDS; ++e) {
        const i64 at = tile * TILE + e * THREADS + threadIdx.x;
        if (at < size) {
            const u64 word = sort_word<T, DOWN, SOURCE>(keys + row * size, words + row * size, at);
            atomicAdd(&digits[(word >> (32 + SHIFT)) & 255u], 1u);
        }
    }
    __syncthreads();
    counts[(row * DIGITS + threadIdx.x) * tiles + tile] = digits[threadIdx.x];
}

// Moves words, or only the indices of the first `most` of a row, to where the counts before them say. `ranks`: WARPS × DIGITS.
template <class T, bool DOWN, Source SOURCE, int SHIFT, Sink SINK>
MLC_FN void radix_move(const T* keys, const i64* words, const u32* counts, i64* to, i64 size, i64 tiles, i64 most, u32* ranks) {
    const i64 row = blockIdx.x / tiles, tile = blockIdx.x % tiles;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    u32* mine = ranks + warp * DIGITS;
    u64 word[TILE_ROUNDS];
    u32 rank[TILE_ROUNDS];
    for (int d = threadIdx.x; d < WARPS * DIGITS; d += THREADS) ranks[d] = 0;
    __syncthreads();
    const i64 start = tile * TILE + (i64)warp * (32 * TILE_ROUNDS);
    const u32 lower = (1u << lane) - 1u;
#pragma unroll
    for (int e = 0; e < TILE_ROUNDS; ++e) {
        const i64 at = start + e * 32 + lane;
        const bool valid = at < size;
        word[e] = valid ? sort_word<T, DOWN, SOURCE>(keys + row * size, words + row * size, at) : 0ull;
        const u32 digit = (u32)(word[e] >> (32 + SHIFT)) & 255u;
        const u32 peers = __match_any_sync(0xffffffffu, valid ? digit : 256u);
        rank[e] = mine[digit] + (u32)__popc(peers & lower);
        __syncwarp();
        if (valid && (peers & lower) == 0u) mine[digit] += (u32)__popc(peers);
        __syncwarp();
    }
    __syncthreads();
    u32 before = counts[(row * DIGITS + threadIdx.x) * tiles + tile];
    for (int w = 0; w < WARPS; ++w) {
        const u32 here = ranks[w * DIGITS + threadIdx.x];
        ranks[w * DIGITS + threadIdx.x] = before;
        before += here;
    }
    __syncthreads();
#pragma unroll
    for (int e = 0; e < TILE_ROUNDS; ++e) {
        if (start + e * 32 + lane >= size) continue;
        const i64 at = (i64)mine[(word[e] >> (32 + SHIFT)) & 255u] + rank[e];
        if (SINK == TO_WORDS) to[row * size + at] = (i64)word[e];
        else if (at < most) to[row * most + at] = (i64)(word[e] & 0xffffffffull);
    }
}

// --- sorting in shared memory -------------------------------------------------------------------------------------------------
// A key and where it is: all differ, so that the result does not depend on the network.
template <int BYTES>
struct Entry {
    u64 word;
    static __device__ __forceinline__ Entry of(u32 key, u32 index) { return Entry{(u64)key << 32 | index}; }
    static __device__ __forceinline__ Entry last() { return Entry{~0ull}; }
    __device__ __forceinline__ u32 index() const { return (u32)word; }
    __device__ __forceinline__ bool before(const Entry& b) const { return word < b.word; }
};
template <>
struct Entry<8> {
    u64 key, place;
    static __device__ __forceinline__ Entry of(u64 key, u32 index) { return Entry{key, index}; }
    static __device__ __forceinline__ Entry last() { return Entry{~0ull, ~0ull}; }
    __device__ __forceinline__ u32 index() const { return (u32)place; }
    __device__ __forceinline__ bool before(const Entry& b) const { return key != b.key ? key < b.key : place < b.place; }
};

// Batcher's bitonic network on SIZE (a power of two) entries; the caller has a barrier before.
template <int SIZE, class E>
MLC_FN void bitonic_sort(E* entries) {
    for (int run = 2; run <= SIZE; run <<= 1) {
        for (int step = run >> 1; step > 0; step >>= 1) {
            for (int i = threadIdx.x; i < SIZE / 2; i += THREADS) {
                const int a = 2 * i - (i & (step - 1)), b = a + step;
                const E x = entries[a], y = entries[b];
                if (y.before(x) == ((a & run) == 0)) {
                    entries[a] = y;
                    entries[b] = x;
                }
            }
            __syncthreads();
        }
    }
}

// Rows of at most SIZE elements: the first `most` indices in order.
template <class T, bool DOWN, int SIZE>
MLC_FN void sort_rows(const T* keys, i64* order, i64 size, i64 most, void* shared) {
    typedef Entry<sizeof(T)> E;
    E* entries = static_cast<E*>(shared);
    const i64 row = blockIdx.x;
    for (int i = threadIdx.x; i < SIZE; i += THREADS) entries[i] = i < size ? E::of(ordinal<DOWN>(keys[row * size + i]), (u32)i) : E::last();
    __syncthreads();
    bitonic_sort<SIZE>(entries);
    for (int i = threadIdx.x; i < most; i += THREADS) order[row * most + i] = (i64)entries[i].index();
}

// --- the first few of long rows ---------------------------------------------------------------------------------------------------
enum { KEPT_ROOM = 2048, KEPT_STEP = 4 * THREADS };

// What selection reads: a part of a row of keys, or entries that it wrote itself.
template <class T, bool DOWN>
struct RowOfKeys {
    typedef Entry<sizeof(T)> E;
    const T* keys;
    i64 first;
    __device__ __forceinline__ E at(i64 i) const { return E::of(ordinal<DOWN>(keys[first + i]), (u32)(first + i)); }
};
template <class Item>
struct RowOfEntries {
    typedef Item E;
    const Item* entries;
    __device__ __forceinline__ E at(i64 i) const { return entries[i]; }
};

// The first `most` (at most 128) of `size` entries, in order at the start of `kept`. Only what comes before the last of those
// kept so far goes into the buffer, which is sorted when full. Behind KEPT_ROOM entries, `kept` has an int for their number.
template <class Row>
MLC_FN void select_first(const Row& row, i64 size, int most, typename Row::E* kept) {
    typedef typename Row::E E;
    int* count = reinterpret_cast<int*>(kept + KEPT_ROOM);
    __syncthreads();
    for (int i = threadIdx.x; i < KEPT_ROOM; i += THREADS) kept[i] = E::last();
    if (threadIdx.x == 0) *count = 0;
    E limit = E::last();
    __syncthreads();
    for (i64 start = 0; start < size; start += KEPT_STEP) {
#pragma unroll
        for (int e = 0; e < KEPT_STEP / THREADS; ++e) {
            const i64 i = start + e * THREADS + threadIdx.x;
            if (i < size) {
                const E x = row.at(i);
                if (x.before(limit)) kept[atomicAdd(count, 1)] = x;
            }
        }
        __syncthreads();
        const bool full = *count > KEPT_ROOM - KEPT_STEP;
        __syncthreads();
        if (full) {
            bitonic_sort<KEPT_ROOM>(kept);
            limit = kept[most - 1];
            for (int i = most + threadIdx.x; i < KEPT_ROOM; i += THREADS) kept[i] = E::last();
            if (threadIdx.x == 0) *count = most;
            __syncthreads();
        }
    }
    bitonic_sort<KEPT_ROOM>(kept);
}

// One part of each row -> its first entries [row, part, most].
template <class T, bool DOWN>
MLC_FN void select_part(const T* keys, void* entries, i64 size, i64 parts, i64 most, void* shared) {
    typedef Entry<sizeof(T)> E;
    const i64 row = blockIdx.x / parts, part = blockIdx.x % parts, length = (size + parts - 1) / parts;
    const i64 first = part * length, here = size - first < length ? size - first : length;
    E* kept = static_cast<E*>(shared);
    select_first(RowOfKeys<T, DOWN>{keys + row * size, first}, here, (int)most, kept);
    for (int i = threadIdx.x; i < most; i += THREADS) static_cast<E*>(entries)[blockIdx.x * most + i] = kept[i];
}
template <class T, bool DOWN>
MLC_FN void select_of_parts(const void* entries, i64* order, i64 parts, i64 most, void* shared) {
    typedef Entry<sizeof(T)> E;
    E* kept = static_cast<E*>(shared);
    select_first(RowOfEntries<E>{static_cast<const E*>(entries) + blockIdx.x * parts * most}, parts * most, (int)most, kept);
    for (int i = threadIdx.x; i < most; i += THREADS) order[blockIdx.x * most + i] = (i64)kept[i].index();
}
template <class T, bool DOWN>
MLC_FN void select_row(const T* keys, i64* order, i64 size, i64 most, void* shared) {
    typedef Entry<sizeof(T)> E;
    E* kept = static_cast<E*>(shared);
    select_first(RowOfKeys<T, DOWN>{keys + blockIdx.x * size, 0}, size, (int)most, kept);
    for (int i = threadIdx.x; i < most; i += THREADS) order[blockIdx.x * most + i] = (i64)kept[i].index();
}

// --- greedy suppression of boxes, 64 candidates at a time ----------------------------------------------------------------------------
struct Box {
    float y0, x0, y1, x1, area;
};

// Products are rounded by themselves, as the definition has it.
template <bool CENTER>
MLC_FN Box box_of(const float* p) {
    Box b;
    if (CENTER) {
        const float dy = __fmul_rn(p[2], 0.5f), dx = __fmul_rn(p[3], 0.5f);
        b = Box{p[0] - dy, p[1] - dx, p[0] + dy, p[1] + dx, 0.0f};
    } else {
        b = Box{p[0] < p[2] ? p[0] : p[2], p[1] < p[3] ? p[1] : p[3], p[0] > p[2] ? p[0] : p[2], p[1] > p[3] ? p[1] : p[3], 0.0f};
    }
    b.area = __fmul_rn(b.y1 - b.y0, b.x1 - b.x0);
    return b;
}
MLC_FN bool overlaps(const Box& a, const Box& b, float threshold) {
    const float h = (a.y1 < b.y1 ? a.y1 : b.y1) - (a.y0 > b.y0 ? a.y0 : b.y0), w = (a.x1 < b.x1 ? a.x1 : b.x1) - (a.x0 > b.x0 ? a.x0 : b.x0);
    const float inter = __fmul_rn(h > 0.0f ? h : 0.0f, w > 0.0f ? w : 0.0f), both = (a.area + b.area) - inter;
    return inter > 0.0f && a.area > 0.0f && b.area > 0.0f && both > 0.0f && inter / both > threshold;
}

struct Suppression {
    Box boxes[64];
    u64 hits[64];  // bit j: overlaps candidate j < i of the same 64
    u64 gone;      // suppressed by what was taken before, or no candidate
    u32 index[64];
    int taken, ended;
};
static_assert(sizeof(Suppression) == 2064, "codegen/cuda/irregular.py asks for so much shared memory");

// `order`: boxes by descending score, NaN first. A block takes a row (class of a batch).
template <bool CENTER>
MLC_FN void suppress(const float* boxes, const float* scores, const i64* most, const float* overlap, const float* least, const i64* order,
                     i64* taken, i64* count, i64 size, i64 classes, Suppression& s) {
    const i64 row = blockIdx.x;
    const i64 limit = most[0];
    const float threshold = overlap[0], floor = least[0];
    boxes += row / classes * size * 4;
    scores += row * size;
    order += row * size;
    taken += row * size;
    if (threadIdx.x == 0) {
        s.taken = 0;
        s.ended = limit <= 0;
    }
    __syncthreads();
    for (i64 start = 0; start < size && !s.ended; start += 64) {
        const int here = size - start < 64 ? (int)(size - start) : 64;
        if (threadIdx.x == 0) s.gone = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < here; i += THREADS) {
            const u32 index = (u32)order[start + i];
            s.index[i] = index;
            s.boxes[i] = box_of<CENTER>(boxes + (i64)index * 4);
            s.hits[i] = 0;
            const float score = scores[index];
            if (!(score > floor)) atomicOr(&s.gone, 1ull << i);
            if (score <= floor) s.ended = 1;  // and so are all that follow
        }
        __syncthreads();
        const int before = s.taken;
        for (int pair = threadIdx.x; pair < 64 * here; pair += THREADS) {
            const int i = pair >> 6, j = pair & 63;
            if (j < i && overlaps(s.boxes[i], s.boxes[j], threshold)) atomicOr(&s.hits[i], 1ull << j);
        }
        for (int pair = threadIdx.x; pair < 64 * before; pair += THREADS) {
            const int i = pair & 63;
            if (i < here && !(s.gone >> i & 1ull) && overlaps(s.boxes[i], box_of<CENTER>(boxes + taken[pair >> 6] * 4), threshold))
                atomicOr(&s.gone, 1ull << i);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            u64 chosen = 0;
            for (int i = 0; i < here && s.taken < limit; ++i) {
                if ((s.gone >> i & 1ull) || (s.hits[i] & chosen)) continue;
                chosen |= 1ull << i;
                taken[s.taken++] = (i64)s.index[i];
            }
            if (s.taken >= limit) s.ended = 1;
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) count[row] = s.taken;
}
