#pragma once

#include "kernels/cuda/stream.cuh"

// Attention of few rows (one token, small groups): memory bound. A block takes up to kRows rows of one list and one part of its pages;
// its warps take the pages in turn.

namespace atlas::kernels::cuda {

/** Head sizes up to 16 · kLanes. */
template <int kRows, int kLanes>
SIMT_DEVICE void decode(const AttentionArguments& a) {
    constexpr int kWidth = kLanes * kLaneElements;
    SIMT_SHARED(memory);
    simt::Carver carver(memory);
    float* sums = carver.take<float>(kDecodeWarps * kRows * kWidth);
    Softmax* softmaxes = carver.take<Softmax>(kDecodeWarps * kRows);
    unsigned* ticket = carver.take<unsigned>(1);

    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int split = static_cast<int>(blockIdx.y);
    const int row_blocks = (a.tile_tokens * (a.n_head / a.n_head_kv) + kRows - 1) / kRows;
    const ListPlace place = place_of(a, static_cast<int>(blockIdx.x) / row_blocks);
    const int first_row = static_cast<int>(blockIdx.x) % row_blocks * kRows;
    if (first_row >= place.rows) return;  // of a last tile with fewer tokens
    const PageList list = read_list(a.lists + place.list);
    const PageRange range = pages_of(list, split, a.splits);

    StreamedRows<kRows> s;
    start_rows<kRows, kLanes>(a, place, first_row, s);
    for (uint32_t at = range.begin + static_cast<uint32_t>(warp); at < range.end; at += kDecodeWarps) {
        stream_page<kRows, kLanes>(a, list, read_page(a.pages + at), s);
    }

    const bool blocks = in_blocks(a.v_type);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        join_lanes<kRows, kLanes>(s, r);
        float* mine = sums + (warp * kRows + r) * kWidth;
#pragma unroll
        for (int i = 0; i < kLaneElements; ++i) {  // each group of lanes writes its share
            if (lane / kLanes == i % (32 / kLanes)) mine[element_of<kLanes>(blocks, lane % kLanes, i)] = s.sum[r][i];
        }
        if (lane == 0) softmaxes[warp * kRows + r] = s.softmax[r];
    }
    __syncthreads();

    for (int r = 0; r < s.count; ++r) {
        Softmax all{minus_infinity(), 0.0f};
        for (int w = 0; w < kDecodeWarps; ++w) all.top = simt::larger(all.top, softmaxes[w * kRows + r].top);
        float weights[kDecodeWarps];
#pragma unroll
        for (int w = 0; w < kDecodeWarps; ++w) {
            weights[w] = weight_of(softmaxes[w * kRows + r].top, all.top);
            all.total += softmaxes[w * kRows + r].total * weights[w];
        }
        const RowPlace row = row_of(place, first_row + r);
        const RowTarget target = target_of(a, row, split, all, threadIdx.x == 0);
        for (int i = static_cast<int>(threadIdx.x); i < a.d_v; i += kDecodeWarps * 32) {
            float sum = 0;
#pragma unroll
            for (int w = 0; w < kDecodeWarps; ++w) sum += sums[(w * kRows + r) * kWidth + i] * weights[w];
            simt::write(target.to + i, sum * target.factor);
        }
    }
    if (a.splits == 1 || !last_of_splits(a, static_cast<int>(blockIdx.x), ticket)) return;
    for (int r = 0; r < s.count; ++r) merge_splits(a, row_of(place, first_row + r), kDecodeWarps * 32);
}

}  // namespace atlas::kernels::cuda
