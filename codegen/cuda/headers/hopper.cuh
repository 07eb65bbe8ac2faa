// What kernels for sm_90a are written in besides mlc.cuh: barriers in shared memory, bulk copies of boxes of a tensor, and
// what surrounds matrix products of a warp group. The terms and their order are those of the PTX ISA, sections 9.7.13 (mbarrier),
// 9.7.9.27 (cp.async.bulk.tensor) and 9.7.15 (wgmma).
#pragma once

// A tensor as the bulk copy engine sees it: made by the driver (cuTensorMapEncodeTiled), opaque, a parameter of the kernel.
struct alignas(64) TensorMap {
    u64 words[16];
};

#ifdef MLC_EMULATE
#include "emulate_hopper.h"
#else
MLC_FN u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// A barrier completes a phase when `count` arrivals have come and all bytes that were announced are there.
MLC_FN void barrier_init(u64* barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}
// By the thread that initialized barriers, before the block's __syncthreads: the copy engine sees them from then on.
MLC_FN void barriers_initialized() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
MLC_FN void barrier_arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and announces bytes that copies will bring.
MLC_FN void barrier_expect(u64* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
// Until the phase of that parity is over; the phase before the first one has parity 1.
MLC_FN void barrier_wait(u64* barrier, u32 parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 done, [%0], %1;\n"
        "@done bra over;\n"
        "bra again;\n"
        "over:\n}" ::"r"(shared_address(barrier)), "r"(parity) : "memory");
}

// A box of the tensor, its first element at the given place along k, rows and batches, to shared memory; outside is zero.
MLC_FN void copy_box(void* to, const TensorMap& map, int k, int row, u64* barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
                 ::"r"(shared_address(to)), "l"(&map), "r"(shared_address(barrier)), "r"(k), "r"(row) : "memory");
}
MLC_FN void copy_box(void* to, const TensorMap& map, int k, int row, int batch, u64* barrier) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
                 ::"r"(shared_address(to)), "l"(&map), "r"(shared_address(barrier)), "r"(k), "r"(row), "r"(batch) : "memory");
}
MLC_FN void copy_box(void* to, const TensorMap& map, int column, int row, int head, int batch, u64* barrier) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
                 ::"r"(shared_address(to)), "l"(&map), "r"(shared_address(barrier)), "r"(column), "r"(row), "r"(head), "r"(batch) : "memory");
}
// Of a cluster of blocks, which run at once and see each other's shared memory (PTX ISA, "Cluster of Cooperative Thread Arrays"): the
// rank of this block, to which all threads are told that the cluster has `COUNT` blocks.
template <int COUNT>
MLC_FN int cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return (int)rank;
}
// All threads of all blocks of the cluster meet.
MLC_FN void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
// Arrives at the barrier that lies at the same place in the shared memory of the block of that rank. For what only engines read and
// write: what this thread wrote itself would want .release.cluster, which waits for all of the device's memory (MEMBAR.ALL.GPU).
MLC_FN void barrier_arrive_at(u64* barrier, int rank) {
    asm volatile(
        "{\n.reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(shared_address(barrier)), "r"(rank) : "memory");
}
// A box to the same place of all COUNT blocks of the cluster, each of whose barriers at that place learns of its bytes.
template <int COUNT>
MLC_FN void copy_box_to_all(void* to, const TensorMap& map, int k, int row, u64* barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;"
                 ::"r"(shared_address(to)), "l"(&map), "r"(shared_address(barrier)), "r"(k), "r"(row), "h"((u16)((1 << COUNT) - 1)) : "memory");
}
template <int COUNT>
MLC_FN void copy_box_to_all(void* to, const TensorMap& map, int k, int row, int batch, u64* barrier) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4, %5}], [%2], %6;"
                 ::"r"(shared_address(to)), "l"(&map), "r"(shared_address(barrier)), "r"(k), "r"(row), "r"(batch), "h"((u16)((1 << COUNT) - 1)) : "memory");
}
// A box from shared memory to the tensor, at any moment until it is waited for; what lies outside is left out. Stores of a thread
// form groups, of which all but the last LEFT have been read from shared memory when it has waited.
MLC_FN void store_box(const TensorMap& map, const void* from, int column, int row) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];"
                 ::"l"(&map), "r"(shared_address(from)), "r"(column), "r"(row) : "memory");
}
MLC_FN void store_box(const TensorMap& map, const void* from, int column, int row, int batch) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];"
                 ::"l"(&map), "r"(shared_address(from)), "r"(column), "r"(row), "r"(batch) : "memory");
}
MLC_FN void stores_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int LEFT>
MLC_FN void stores_wait() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(LEFT) : "memory"); }
// All 128 threads of warp group `number` meet.
MLC_FN void group_barrier(int number) { asm volatile("bar.sync %0, 128;" ::"r"(number + 1) : "memory"); }
MLC_FN void prefetch_map(const TensorMap& map) { asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }

// What this thread wrote to shared memory, its cp.async included once waited for, is seen by matrix products and bulk copies.
MLC_FN void writes_visible_to_engines() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Registers move from warps that copy to warps that multiply; every warp of a group of four calls it.
template <int COUNT>
MLC_FN void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT)); }
template <int COUNT>
MLC_FN void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT)); }

MLC_FN void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
MLC_FN void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT>
MLC_FN void products_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }
// Keeps the compiler from reading an accumulator before the wait that it comes after, or changing an operand before it.
MLC_FN void settled(float& x) { asm volatile("" : "+f"(x)::"memory"); }
MLC_FN void settled(int& x) { asm volatile("" : "+r"(x)::"memory"); }
MLC_FN void settled(u32& x) { asm volatile("" : "+r"(x)::"memory"); }
#endif

// Rows of 128 bytes whose pieces of 16 are swizzled: bits 4 to 6 of an address are xored with bits 7 to 9. A descriptor of such
// a matrix (along k, eight rows in 1024 bytes): address / 16 in bits 0 to 13, bytes / 16 from eight rows to the next in bits
// 32 to 45, the swizzle of 128 bytes as 1 in bits 62 and 63; bits 16 to 29 are not used with it.
MLC_FN u64 matrix_descriptor(const void* matrix) {
    return (u64)((shared_address(matrix) & 0x3ffffu) >> 4) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}
// Of B "turned", 16-bit elements of n next to each other: a row of WIDTH bytes, 128, 64 or 32, is swizzled in pieces of 16, by as many
// bits of the address; eight rows of k are a pattern, and columns are whole patterns, of which the next lies `chunk` bytes further, in
// bits 16 to 29. The swizzle is 1, 2 or 3 in bits 62 and 63.
template <int WIDTH>
MLC_FN u64 turned_descriptor(const void* matrix, int chunk) {
    constexpr u64 SWIZZLE = WIDTH == 128 ? 1 : WIDTH == 64 ? 2 : 3;
    return (u64)((shared_address(matrix) & 0x3ffffu) >> 4) | (u64)(chunk >> 4) << 16 | (u64)(8 * WIDTH >> 4) << 32 | SWIZZLE << 62;
}
// The descriptor of the matrix that begins so many bytes further on.
MLC_FN u64 further(u64 descriptor, int bytes) { return descriptor + (u64)(bytes >> 4); }
MLC_FN int swizzled128(int byte) { return byte ^ ((byte >> 3) & 0x70); }
