#pragma once

#include "kernels/cuda/select.cuh"

// Attention to what was not selected: a page's keys weigh what their codes say and have their mean value. Then all three parts of a row are merged.

namespace atlas::kernels::cuda {

/** Sums of a warp over its pages, for kScoredRows rows: each lane has elements 128 · part + 4 · lane … of values. */
struct RestSums {
    static constexpr int kParts = kMaxHead / 128;
    float out[kScoredRows][kParts][4];
    float total[kScoredRows];
};

/** Adds what is left of a page, whose keys have these weights together, to rows first … of a list. */
SIMT_DEVICE void add_page(const SparseArguments& s, const ListQueries& q, int first, const uint2& cells,
                          float (&weights)[kScoredRows], const unsigned char* page, RestSums& sums) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if ((cells.x & cells.y) == ~0u) return;
    if ((cells.x | cells.y) != 0) {
        // Summed anew without the selected keys: to subtract them would leave rounding errors larger than the rest.
        float logits[kScoredRows][4];
        score_page<kScoredRows>(s, q, first, page, logits);
        const unsigned mine = (lane % 16 < 8 ? cells.x : cells.y) >> (4 * (lane % 8));
#pragma unroll
        for (int r = 0; r < kScoredRows; ++r) {
            const float whole = q.more[simt::smaller(first + r, q.rows - 1)].w;
            float weight = 0;
#pragma unroll
            for (int i = 0; i < 4; ++i) weight += (mine >> i & 1u) != 0 ? 0.0f : weight_of(logits[r][i], whole);
            weights[r] = simt::sum_over_lanes<1, 16>(weight);
        }
    }
    const float factor =
        simt::read(reinterpret_cast<const float*>(page + s.layout.factors) + (lane == 0 ? 1 : 2));  // one request
    const float value_scale = __shfl_sync(simt::kWholeWarp, factor, 0);
    const float noise = __shfl_sync(simt::kWholeWarp, factor, 1);
#pragma unroll
    for (int r = 0; r < kScoredRows; ++r) {
        // e^x is convex: sums of unbiased logits' powers are too large on average by this.
        const float square = q.more[simt::smaller(first + r, q.rows - 1)].z;
        weights[r] *= simt::power_of_two(simt::larger(-kLn2 * square * noise, -126.0f));
        sums.total[r] += weights[r];
        weights[r] *= value_scale;
    }
#pragma unroll
    for (int part = 0; part < RestSums::kParts; ++part) {
        const int at = part * 128 + lane * 4;
        if (at >= s.layout.d_v) continue;
        const uint32_t mean = simt::read(reinterpret_cast<const uint32_t*>(page + s.layout.value_mean + at));
#pragma unroll
        for (int r = 0; r < kScoredRows; ++r) {
#pragma unroll
            for (int i = 0; i < 4; ++i) sums.out[r][part][i] += weights[r] * signed_byte(mean, i);
        }
    }
}

/** The rest of rows first … by all warps of a block: its part for this split. */
SIMT_DEVICE void attend_rest_of(const SparseArguments& s, const ListPlace& place, const FarList& list,
                                const ListQueries& q, int first, float* shared) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int d_v = s.layout.d_v;
    const int pitch = d_v + 4;
    RestSums sums;
#pragma unroll
    for (int r = 0; r < kScoredRows; ++r) {
        sums.total[r] = 0;
#pragma unroll
        for (int part = 0; part < RestSums::kParts; ++part) {
#pragma unroll
            for (int i = 0; i < 4; ++i) sums.out[r][part][i] = 0;
        }
    }
    // What belongs to 32 pages is read together; then page by page.
    const WarpPages pages = warp_pages(s, list);
    for (int begin = pages.begin; begin < pages.end; begin += 32) {
        const int p = begin + lane;
        uint2 cells{0, 0};
        float weights[kScoredRows] = {};
        if (p < pages.end) {
            cells = simt::read(reinterpret_cast<const uint2*>(s.cells + page_place(s, place, p)));
#pragma unroll
            for (int r = 0; r < kScoredRows; ++r) {
                const int row = simt::smaller(first + r, q.rows - 1);
                const float2 sum = simt::read(reinterpret_cast<const float2*>(s.sums + sum_place(s, place, row, p)));
                weights[r] = sum.y * weight_of(sum.x, q.more[row].w);
            }
        }
        for (int i = 0; i < simt::smaller(32, pages.end - begin); ++i) {
            const uint2 of_page{__shfl_sync(simt::kWholeWarp, cells.x, i), __shfl_sync(simt::kWholeWarp, cells.y, i)};
            float all[kScoredRows];
#pragma unroll
            for (int r = 0; r < kScoredRows; ++r) all[r] = __shfl_sync(simt::kWholeWarp, weights[r], i);
            add_page(s, q, first, of_page, all, codes_of(s, list, begin + i), sums);
        }
    }
    __syncthreads();  // the last rows' sums have been read
#pragma unroll
    for (int r = 0; r < kScoredRows; ++r) {
        float* mine = shared + (warp * kScoredRows + r) * pitch;
#pragma unroll
        for (int part = 0; part < RestSums::kParts; ++part) {
            const int at = part * 128 + lane * 4;
            if (at >= d_v) continue;
            const float* out = sums.out[r][part];
            *reinterpret_cast<float4*>(mine + at) = float4{out[0], out[1], out[2], out[3]};
        }
        if (lane == 0) mine[d_v] = sums.total[r];
    }
    __syncthreads();
    for (int r = 0; r < simt::smaller(kScoredRows, q.rows - first); ++r) {
        const int64_t row = index_of(s.attention, row_of(place, first + r));
        float* part = s.partial + (row * s.attention.splits + static_cast<int>(blockIdx.y)) * (d_v + 1);
        for (int i = static_cast<int>(threadIdx.x); i <= d_v; i += kSparseWarps * 32) {
            float sum = 0;
#pragma unroll
            for (int w = 0; w < kSparseWarps; ++w) sum += shared[(w * kScoredRows + r) * pitch + i];
            simt::write(part + i, sum);
        }
    }
}

/** near · 2^… + selected · 2^… + the rest, over their sum. All threads of a block. */
SIMT_DEVICE void merge_parts(const SparseArguments& s, const RowPlace& place, float whole) {
    const AttentionArguments& a = s.attention;
    const int64_t row = index_of(a, place);
    const int d_v = s.layout.d_v;
    const float* parts = s.partial + row * a.splits * (d_v + 1);
    float rest = 0;
    if (s.with_rest) {
        for (int split = 0; split < a.splits; ++split) rest += simt::read_fresh(parts + split * (d_v + 1) + d_v);
    }
    const float near = simt::read(s.near_lse + row) * kLog2E;
    const float selected = simt::read(s.selected_lse + row) * kLog2E;
    const float far = rest > 0.0f ? whole : minus_infinity();  // the unit of the rest's sums
    const float top = simt::larger(simt::larger(near, selected), far);
    const float near_weight = weight_of(near, top);
    const float selected_weight = weight_of(selected, top);
    const float far_weight = weight_of(far, top);
    const float total = near_weight + selected_weight + far_weight * rest;
    const float factor = total == 0.0f ? 0.0f : 1.0f / total;
    float* out = output_of(a, place);
    for (int i = static_cast<int>(threadIdx.x); i < d_v; i += kSparseWarps * 32) {
        // A part without weight may hold anything.
        float sum = near_weight == 0.0f ? 0.0f : near_weight * simt::read_fresh(out + i);
        if (selected_weight != 0.0f) sum += selected_weight * simt::read(s.selected_out + row * d_v + i);
        if (far_weight != 0.0f) {
            float of_rest = 0;
            for (int split = 0; split < a.splits; ++split) of_rest += simt::read_fresh(parts + split * (d_v + 1) + i);
            sum += far_weight * of_rest;
        }
        simt::write(out + i, sum * factor);
    }
    if (a.lse && threadIdx.x == 0) {
        simt::write(a.lse + row, total == 0.0f ? minus_infinity() : (top + simt::log_of_two(total)) * kLn2);
    }
}

SIMT_DEVICE void attend_rest(const SparseArguments& s) {
    SIMT_SHARED(memory);
    simt::Carver carver(memory);
    const ListPlace place = place_of(s.attention, static_cast<int>(blockIdx.x));
    const ListQueries q = take_queries(s, place, carver);
    const Counters counters = take_counters(carver);
    float* sums = carver.take<float>(static_cast<size_t>(kSparseWarps * kScoredRows * (s.layout.d_v + 4)));
    load_queries(s, place, true, q);
    __syncthreads();
    if (s.with_rest) {
        const FarList list = read_far_list(s.lists + place.list);
        for (int first = 0; first < q.rows; first += kScoredRows) attend_rest_of(s, place, list, q, first, sums);
    }
    if (!last_of_splits(s.attention.tickets + place.list, s.attention.splits, counters.numbers + 3)) return;
    for (int row = 0; row < q.rows; ++row) merge_parts(s, row_of(place, row), q.more[row].w);
}

}  // namespace atlas::kernels::cuda
