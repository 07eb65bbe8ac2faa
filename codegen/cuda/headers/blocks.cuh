// How blocks of a grid wait for each other: by words in memory that are 0 before the first run, and after each launch again. What is
// to be seen by others is written before a barrier of the threads that write, and read behind one.
#pragma once

#ifdef MLC_EMULATE
MLC_FN void tell_blocks(u64* flag) { *flag = 1; }
MLC_FN void wait_for_block(u64* flag) {
    emulate::wait_for_block(reinterpret_cast<const uint64_t*>(flag));
    *flag = 0;
}
MLC_FN bool last_of(u64* counter, int count) {
    if (++*counter < (u64)count) return false;
    *counter = 0;
    return true;
}
#else
// By one thread, after the barrier: what all threads wrote before is seen by those that have waited for the flag.
MLC_FN void tell_blocks(u64* flag) { asm volatile("st.release.gpu.global.u64 [%0], 1;" ::"l"(flag) : "memory"); }
// By the one thread that waits for it, before the barrier. The block waited for has a lower number, so that it has started before.
MLC_FN void wait_for_block(u64* flag) {
    u64 done;
    do {
        asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(done) : "l"(flag) : "memory");
    } while (done == 0);
    *flag = 0;
}
// By one thread of each of `count` blocks, between barriers: whether the others have come before.
MLC_FN bool last_of(u64* counter, int count) {
    u64 before;
    asm volatile("atom.add.acq_rel.gpu.global.u64 %0, [%1], 1;" : "=l"(before) : "l"(counter) : "memory");
    if (before + 1 < (u64)count) return false;
    *counter = 0;
    return true;
}
#endif

// Sums of a tile of which blocks have parts, on their way through memory. Part `number` is of so many threads, by pieces of 16 bytes.
template <int THREADS, class Acc, class Sums>
MLC_FN void leave_sums(Acc* partial, i64 number, int thread, const Sums& sums) {
    constexpr int COUNT = sizeof(Sums) / sizeof(Acc), EACH = 16 / sizeof(Acc);
    const Acc* const from = reinterpret_cast<const Acc*>(&sums);
    Acc* const to = partial + number * (COUNT * THREADS) + thread * EACH;
#pragma unroll
    for (int i = 0; i < COUNT; i += EACH) {
        Pack<Acc, EACH> piece;
#pragma unroll
        for (int e = 0; e < EACH; ++e) piece.v[e] = from[i + e];
        store_pack<EACH>(to + i * THREADS, piece);
    }
}
template <int THREADS, class Acc, class Sums>
MLC_FN void add_sums(Sums& sums, const Acc* partial, i64 number, int thread) {
    constexpr int COUNT = sizeof(Sums) / sizeof(Acc), EACH = 16 / sizeof(Acc);
    Acc* const to = reinterpret_cast<Acc*>(&sums);
    const Acc* const from = partial + number * (COUNT * THREADS) + thread * EACH;
#pragma unroll
    for (int i = 0; i < COUNT; i += EACH) {
        const auto piece = load_pack<EACH>(from + i * THREADS);
#pragma unroll
        for (int e = 0; e < EACH; ++e) to[i + e] = Sum::of(to[i + e], piece.v[e]);
    }
}
// All of `parts`, in their order, whoever comes last; loads of some 64 sums are under way at a time, as registers allow.
template <int THREADS, class Acc, class Sums>
MLC_FN void sum_parts(Sums& sums, const Acc* partial, i64 first, int parts, int thread) {
    constexpr int COUNT = sizeof(Sums) / sizeof(Acc), AT_A_TIME = COUNT < 64 ? 64 / COUNT : 1;
    Acc* const to = reinterpret_cast<Acc*>(&sums);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) to[i] = (Acc)0;
#pragma unroll AT_A_TIME
    for (int part = 0; part < parts; ++part) add_sums<THREADS>(sums, partial, first + part, thread);
}
