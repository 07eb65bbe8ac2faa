// How blocks of a grid wait for each other: by words in memory that are 0 when a program begins, and after each launch again. What is
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
