// Stream-K (Osama et al. 2023, https://arxiv.org/abs/2301.03598): where tiles do not come out even among blocks, blocks share the
// steps along k. A block first computes whole tiles, as many as leave one to two for each block; of the steps of those that are left
// all have an equal share, taken from its end. A tile that several blocks have parts of is finished by the one with its last
// step, which adds the sums that the others, with lower numbers, left in memory at the beginning of theirs.
#pragma once
#include "blocks.cuh"

struct StreamedWork {
    int tile, first, last;  // the one at hand, and its steps along k that are this block's

    // For a grid of so many blocks, that all steps fit an int, and give every block one.
    __device__ __forceinline__ StreamedWork(int tiles, int steps, int blocks) : tile(0), first(0), last(0), steps(steps), blocks(blocks) {
        whole = tiles < 2 * blocks ? 0 : (tiles / blocks - 1) * blocks;
        left = (tiles - whole) * steps;
        turn = (int)blockIdx.x;
        begin = share((int)blockIdx.x);
        end = share((int)blockIdx.x + 1);
    }
    __device__ __forceinline__ bool next() {
        if (turn < whole) {
            tile = turn, first = 0, last = steps, turn += blocks;
            return true;
        }
        if (end <= begin) return false;
        const int in_left = (end - 1) / steps, start = in_left * steps;
        tile = whole + in_left;
        first = begin > start ? begin - start : 0;
        last = end - start;
        end = start + first;
        return true;
    }
    // Whether results are this block's to store.
    __device__ __forceinline__ bool finishes() const { return last == steps; }
    // The block with the first step of the tile at hand, which is one that several may have parts of unless first is 0.
    __device__ __forceinline__ int first_block() const { return (int)((((i64)(tile - whole) * steps + 1) * blocks - 1) / left); }

  private:
    int steps, blocks, whole, left, turn, begin, end;

    __device__ __forceinline__ int share(int block) const { return (int)((i64)left * block / blocks); }
};
