// Kernels with one fault each, as a program per sanitizer: planted NAME [SEED]. Ends with 0 and without a word where nothing was noticed;
// CMakeLists.txt says who must notice what. "right_…" are the same without the fault, which nobody may report.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/simt.h"

namespace {

using atlas::simt::Carver;
using atlas::simt::kWholeWarp;

constexpr unsigned kThreads = 64;

struct Arguments {
    float* data;         // [64]
    unsigned* counter;   // zero
    const float* table;  // [64] ones, aligned to 16 bytes
};

// --- shared memory ---

void shared_past_end(Arguments a) {
    SIMT_SHARED(memory);
    Carver carver(memory);
    float* first = carver.take<float>(kThreads);
    float* second = carver.take<float>(kThreads);
    first[threadIdx.x] = second[threadIdx.x] = 1;
    __syncthreads();
    a.data[threadIdx.x] = first[threadIdx.x + 1];
}
void too_much_shared(Arguments a) {
    SIMT_SHARED(memory);
    Carver carver(memory);
    float* much = carver.take<float>(4096);
    much[threadIdx.x] = 1;
    a.data[threadIdx.x] = much[threadIdx.x];
}
void never_written(Arguments a) {
    SIMT_SHARED(memory);
    Carver carver(memory);
    float* some = carver.take<float>(kThreads);
    if (threadIdx.x < kThreads - 1) some[threadIdx.x] = 1;
    __syncthreads();
    a.data[threadIdx.x] = some[kThreads - 1 - threadIdx.x];
}
template <bool kBarrier>
void neighbours(Arguments a) {
    SIMT_SHARED(memory);
    Carver carver(memory);
    float* all = carver.take<float>(kThreads);
    all[threadIdx.x] = 1;
    if (kBarrier) __syncthreads();
    a.data[threadIdx.x] = all[(threadIdx.x + 32) % kThreads];
}
template <bool kBarrier>
void neighbour_lanes(Arguments a) {  // right without on hardware whose lanes go in step
    SIMT_SHARED(memory);
    Carver carver(memory);
    float* all = carver.take<float>(kThreads);
    all[threadIdx.x] = 1;
    if (kBarrier) __syncwarp();
    a.data[threadIdx.x] = all[threadIdx.x ^ 1];
}

// --- device memory ---

void device_past_end(Arguments a) { a.data[threadIdx.x + 1] = 1; }
void misaligned(Arguments a) {
    a.data[threadIdx.x] = static_cast<float>(atlas::simt::read(reinterpret_cast<const uint4*>(a.table + 1)).x);
}
void overflow(Arguments a) {
    int at = static_cast<int>(threadIdx.x) + 2147483647 - 60;
    at -= 2147483647 - 60;
    a.data[at] = 1;
}
void blocks_race(Arguments a) { a.data[threadIdx.x] += 1; }
template <bool kFence>
void last_block_sums(Arguments a) {  // the last block reads what others wrote
    a.data[blockIdx.x] = 1;
    if (kFence) __threadfence();
    const unsigned before = atlas::simt::count_up(a.counter);
    if (kFence) __threadfence();
    if (before + 1 == gridDim.x) a.data[blockIdx.x] = a.data[0] + a.data[1] - 1;
}

// --- collectives ---

void divergent_barrier(Arguments a) {
    if (threadIdx.x < 40) __syncthreads();
    a.data[threadIdx.x] = 1;
}
void two_barriers(Arguments a) {
    if (threadIdx.x < 40) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    a.data[threadIdx.x] = 1;
}
void wrong_mask(Arguments a) {
    float x = 1;
    if (threadIdx.x % 32 < 16) x = __shfl_xor_sync(kWholeWarp, x, 1);
    a.data[threadIdx.x] = x;
}
void lane_outside(Arguments a) {
    float x = 1;
    if (threadIdx.x % 32 < 16) x = __shfl_xor_sync(0xFFFFu, x, 16);
    a.data[threadIdx.x] = x;
}
void mixed_collectives(Arguments a) {
    float x = 1;
    x = threadIdx.x % 2 ? __shfl_xor_sync(kWholeWarp, x, 1) : static_cast<float>(__ballot_sync(kWholeWarp, 1));
    a.data[threadIdx.x] = x;
}

// --- asynchronous copies ---

template <bool kWait, bool kBarrier>
void tile_of_copies(Arguments a) {
    SIMT_SHARED(memory);
    Carver carver(memory);
    float* tile = carver.take<float>(kThreads);
    if (threadIdx.x < kThreads / 4) atlas::simt::copy16(tile + 4 * threadIdx.x, a.table + 4 * threadIdx.x, true);
    atlas::simt::copy_commit();
    if (kWait) atlas::simt::copy_wait<0>();
    if (kBarrier) __syncthreads();
    a.data[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}
template <bool kBarrier>
void tile_written_again(Arguments a) {  // the second copy may land while others still read the first
    SIMT_SHARED(memory);
    Carver carver(memory);
    float* tile = carver.take<float>(kThreads);
    float sum = 0;
    for (int i = 0; i < 2; ++i) {
        if (threadIdx.x < kThreads / 4) atlas::simt::copy16(tile + 4 * threadIdx.x, a.table + 4 * threadIdx.x, true);
        atlas::simt::copy_commit();
        atlas::simt::copy_wait<0>();
        __syncthreads();
        sum += tile[kThreads - 1 - threadIdx.x];
        if (kBarrier) __syncthreads();
    }
    a.data[threadIdx.x] = sum / 2;
}

struct Planted {
    const char* name;
    void (*kernel)(Arguments);
    unsigned blocks;
    unsigned threads;
};
constexpr Planted kPlanted[] = {
    {"shared_past_end", shared_past_end, 1, kThreads},
    {"too_much_shared", too_much_shared, 1, kThreads},
    {"never_written", never_written, 1, kThreads},
    {"no_barrier", neighbours<false>, 1, kThreads},
    {"right_barrier", neighbours<true>, 1, kThreads},
    {"no_syncwarp", neighbour_lanes<false>, 1, kThreads},
    {"right_syncwarp", neighbour_lanes<true>, 1, kThreads},
    {"device_past_end", device_past_end, 1, kThreads},
    {"misaligned", misaligned, 1, kThreads},
    {"overflow", overflow, 1, kThreads},
    {"blocks_race", blocks_race, 2, kThreads},
    {"no_fence", last_block_sums<false>, 2, 1},
    {"right_fence", last_block_sums<true>, 2, 1},
    {"divergent_barrier", divergent_barrier, 1, kThreads},
    {"two_barriers", two_barriers, 1, kThreads},
    {"wrong_mask", wrong_mask, 1, kThreads},
    {"lane_outside", lane_outside, 1, kThreads},
    {"mixed_collectives", mixed_collectives, 1, kThreads},
    {"no_copy_wait", tile_of_copies<false, true>, 1, kThreads},
    {"no_barrier_after_copy", tile_of_copies<true, false>, 1, kThreads},
    {"right_copy", tile_of_copies<true, true>, 1, kThreads},
    {"copy_over_readers", tile_written_again<false>, 1, kThreads},
    {"right_copy_again", tile_written_again<true>, 1, kThreads},
};

}  // namespace

int main(int argc, char** argv) {
    if (argc > 2) atlas::simt::set_seed(static_cast<unsigned>(std::atoi(argv[2])));
    auto* data = static_cast<float*>(std::aligned_alloc(64, 4 * kThreads));
    auto* table = static_cast<float*>(std::aligned_alloc(64, 4 * kThreads));
    for (unsigned i = 0; i < kThreads; ++i) {
        data[i] = 0;
        table[i] = 1;
    }
    unsigned counter = 0;
    const Planted* planted = nullptr;
    for (const Planted& p : kPlanted) {
        if (argc > 1 && std::strcmp(p.name, argv[1]) == 0) planted = &p;
    }
    if (!planted) {
        std::fprintf(stderr, "planted NAME [SEED]\n");
        return 2;
    }
    atlas::simt::launch(planted->kernel, {planted->blocks, 1, 1}, {planted->threads, 1, 1}, 1024,
                        Arguments{data, &counter, table});
    const unsigned n = planted->threads == 1 ? planted->blocks : kThreads;
    for (unsigned i = 0; i < n; ++i) {
        if (data[i] == 1) continue;
        std::fprintf(stderr, "simt: result %u is %g instead of 1\n", i, static_cast<double>(data[i]));
        return 3;
    }
    std::free(data);
    std::free(table);
    return 0;
}
