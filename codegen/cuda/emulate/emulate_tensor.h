// Asynchronous copies, and products of warps on tensor cores, by definition.
#pragma once

#include "emulate_rules.h"

namespace emulate {

// Asynchronous copies happen as late as they may: when their thread waits for them.
inline void copy_later(void* to, const void* from, int bytes) {
    if (bytes < 0 || bytes > 16) fail("an asynchronous copy of more than its place");
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
            wrote(c.to, 16);
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
struct E4m3Word {
    static constexpr int count = 4;
    static double of(uint32_t w, int i) {
        const uint32_t code = (w >> (8 * i)) & 0x7fu, mantissa = code & 7u;
        const double size = code == 0x7fu ? NAN : code < 8u ? mantissa / 512.0 : std::ldexp(1.0 + mantissa / 8.0, (int)(code >> 3) - 7);
        return (w >> (8 * i)) & 0x80u ? -size : size;
    }
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

}  // namespace emulate
