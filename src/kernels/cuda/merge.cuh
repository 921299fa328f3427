#pragma once

#include "kernels/cuda/geometry.cuh"
#include "kernels/cuda/shapes.h"

// What becomes of a block's sums: the result where it has seen all pages, else a part that the last block of the list merges
// (log-sum-exp; maxima and denominators in base 2).

namespace atlas::kernels::cuda {

/** 2^(x − top), 0 where both are −∞; NaN stays NaN. */
SIMT_DEVICE float weight_of(float x, float top) { return x == minus_infinity() ? 0.0f : simt::power_of_two(x - top); }

/** Of a row that has seen all keys: adds its sink, writes its log-sum-exp where `writes`, returns the factor that makes sums outputs. */
SIMT_DEVICE float finish_row(const AttentionArguments& a, const RowPlace& row, Softmax s, bool writes) {
    float shrink = 1.0f;
    if (a.sinks) {
        const float sink = simt::read(a.sinks + row.head) * kLog2E;
        const float top = simt::larger(s.top, sink);
        shrink = weight_of(s.top, top);
        s = {top, s.total * shrink + weight_of(sink, top)};
    }
    if (writes && a.lse) {
        simt::write(a.lse + index_of(a, row),
                    s.total == 0.0f ? minus_infinity() : (s.top + simt::log_of_two(s.total)) * kLn2);
    }
    return s.total == 0.0f ? 0.0f : shrink / s.total;
}

SIMT_DEVICE float* partial_of(const AttentionArguments& a, const RowPlace& row, int split) {
    return a.partial + (index_of(a, row) * a.splits + split) * (a.d_v + 2);
}

/**
 * Where a block's sums of a row go, `factor` times each: to the output where nothing is to be merged, else to the row's part for this split, with
 * the softmax behind it. One thread of those that call it `writes` what a row has once.
 */
struct RowTarget {
    float* to;
    float factor;
};
SIMT_DEVICE RowTarget target_of(const AttentionArguments& a, const RowPlace& row, int split, const Softmax& s,
                                bool writes) {
    if (a.splits == 1) return {output_of(a, row), finish_row(a, row, s, writes)};
    float* part = partial_of(a, row, split);
    if (writes) {
        simt::write(part + a.d_v, s.top);
        simt::write(part + a.d_v + 1, s.total);
    }
    return {part, 1.0f};
}

/**
 * To be called by all threads of a block when its parts are written: true in the last of the `splits` blocks that call it with this ticket, which then sees
 * what all of them wrote. `shared` is one word of shared memory.
 */
SIMT_DEVICE bool last_of_splits(unsigned* ticket, int splits, unsigned* shared) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        const unsigned before = simt::count_up(ticket);
        __threadfence();
        *shared = before;
    }
    __syncthreads();
    if (*shared + 1 != static_cast<unsigned>(splits)) return false;
    if (threadIdx.x == 0) simt::write(ticket, 0u);  // as the next launch expects it
    return true;
}

SIMT_DEVICE bool last_of_splits(const AttentionArguments& a, int ticket, unsigned* shared) {
    return last_of_splits(a.tickets + ticket, a.splits, shared);
}

/** A row from the parts of all splits, by all `threads` of a block. */
SIMT_DEVICE void merge_splits(const AttentionArguments& a, const RowPlace& row, int threads) {
    const float* parts = partial_of(a, row, 0);
    const int step = a.d_v + 2;
    Softmax s{minus_infinity(), 0.0f};
    for (int split = 0; split < a.splits; ++split) {
        s.top = simt::larger(s.top, simt::read_fresh(parts + split * step + a.d_v));
    }
    for (int split = 0; split < a.splits; ++split) {
        const float weight = weight_of(simt::read_fresh(parts + split * step + a.d_v), s.top);
        s.total += simt::read_fresh(parts + split * step + a.d_v + 1) * weight;
    }
    const float factor = finish_row(a, row, s, threadIdx.x == 0);
    for (int i = static_cast<int>(threadIdx.x); i < a.d_v; i += threads) {
        float sum = 0;
        for (int split = 0; split < a.splits; ++split) {
            const float weight = weight_of(simt::read_fresh(parts + split * step + a.d_v), s.top);
            sum += simt::read_fresh(parts + split * step + i) * weight;
        }
        simt::write(output_of(a, row) + i, sum * factor);
    }
}

}  // namespace atlas::kernels::cuda
