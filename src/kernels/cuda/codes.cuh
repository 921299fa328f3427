#pragma once

#include "kernels/cuda/geometry.cuh"
#include "kernels/cuda/merge.cuh"
#include "kernels/cuda/sparse_arguments.h"

// Logits of a page's keys from their two-bit codes (kernels/codes.h): a warp takes a page, a lane four keys of it and half of their dimensions.

namespace atlas::kernels::cuda {

/** The queries of a list, in shared memory. */
struct ListQueries {
    int8_t* codes;  ///< [rows][d]
    float* exact;   ///< [rows][d]
    float4* more;   ///< [rows]: scale, offset, |q|², log of the whole attention (share_keys, attend_rest)
    int rows;
};

SIMT_DEVICE ListQueries take_queries(const SparseArguments& s, const ListPlace& place, simt::Carver& carver) {
    ListQueries q;
    q.rows = place.rows;
    const int most = s.attention.tile_tokens * place.group;
    q.codes = carver.take<int8_t>(static_cast<size_t>(most * s.layout.d));
    q.exact = carver.take<float>(static_cast<size_t>(most * s.layout.d));
    q.more = carver.take<float4>(static_cast<size_t>(most));
    return q;
}

/** All threads of a block; a barrier must follow. */
SIMT_DEVICE void load_queries(const SparseArguments& s, const ListPlace& place, bool with_whole, const ListQueries& q) {
    const int d = s.layout.d;
    constexpr int kThreads = kSparseWarps * 32;
    for (int i = static_cast<int>(threadIdx.x); i < q.rows * d / 4; i += kThreads) {
        const int64_t row = index_of(s.attention, row_of(place, i * 4 / d));
        const int at = i * 4 % d;
        reinterpret_cast<uint32_t*>(q.codes)[i] = simt::read(reinterpret_cast<const uint32_t*>(s.codes + row * d + at));
        reinterpret_cast<float4*>(q.exact)[i] = simt::read(reinterpret_cast<const float4*>(s.exact + row * d + at));
    }
    for (int r = static_cast<int>(threadIdx.x); r < q.rows; r += kThreads) {
        const int64_t row = index_of(s.attention, row_of(place, r));
        q.more[r] = {simt::read(s.scale + row), simt::read(s.offset + row), simt::read(s.squares + row),
                     with_whole ? simt::read(s.whole + row) : 0.0f};
    }
}

SIMT_DEVICE FarPage read_far_page(const FarPage* from) {
    const uint4 first = simt::read(reinterpret_cast<const uint4*>(from));
    const uint4 second = simt::read(reinterpret_cast<const uint4*>(from) + 1);
    const auto wide = [](uint32_t low, uint32_t high) { return low | static_cast<uint64_t>(high) << 32; };
    FarPage page;
    page.k = reinterpret_cast<const unsigned char*>(wide(first.x, first.y));
    page.v = reinterpret_cast<const unsigned char*>(wide(first.z, first.w));
    page.codes = reinterpret_cast<unsigned char*>(wide(second.x, second.y));
    page.key = static_cast<int64_t>(wide(second.z, second.w));
    return page;
}
SIMT_DEVICE FarList read_far_list(const FarList* from) {
    FarList list;
    list.begin = simt::read(&from->begin);
    list.end = simt::read(&from->end);
    list.k_offset = simt::read(&from->k_offset);
    list.v_offset = simt::read(&from->v_offset);
    list.code_offset = simt::read(&from->code_offset);
    return list;
}
/** The codes of page `p` of a list. */
SIMT_DEVICE const unsigned char* codes_of(const SparseArguments& s, const FarList& list, int p) {
    return reinterpret_cast<const unsigned char*>(
               simt::read(reinterpret_cast<const uint64_t*>(&s.pages[list.begin + static_cast<uint32_t>(p)].codes))) +
           list.code_offset;
}

/** Byte i of a word. */
SIMT_DEVICE float signed_byte(uint32_t word, int i) { return static_cast<float>(static_cast<int8_t>(word >> (8 * i))); }

/**
 * Logits of rows first … first + kRows − 1 of a list (those that there are): logits[r][i] of key 4 · (lane % 16) + i, the same in both halves of the warp;
 * −∞ for what is not finite.
 */
template <int kRows>
SIMT_DEVICE void score_page(const SparseArguments& s, const ListQueries& q, int first, const unsigned char* page,
                            float (&logits)[kRows][4]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int half = lane / 16;
    const int quad = lane % 16;
    const int groups = s.layout.d / 16;
    int row[kRows];
    int sums[kRows][4];
    float of_mean[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        row[r] = simt::smaller(first + r, q.rows - 1);
        of_mean[r] = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[r][i] = 0;
    }
    const uint2 scales = simt::read(reinterpret_cast<const uint2*>(page + s.layout.key_scale) + quad);
    const float mean_scale = simt::read(reinterpret_cast<const float*>(page + s.layout.factors));
#pragma unroll 4
    for (int g = half; g < groups; g += 2) {
        const uint4 four = simt::read(reinterpret_cast<const uint4*>(page) + g * 16 + quad);
        const uint32_t words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const uint4 query = reinterpret_cast<const uint4*>(q.codes)[row[r] * groups + g];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                constexpr uint32_t kLevels = 0x03030303u;
                sums[r][i] = simt::dot_bytes(words[i] & kLevels, query.x, sums[r][i]);
                sums[r][i] = simt::dot_bytes(words[i] >> 2 & kLevels, query.y, sums[r][i]);
                sums[r][i] = simt::dot_bytes(words[i] >> 4 & kLevels, query.z, sums[r][i]);
                sums[r][i] = simt::dot_bytes(words[i] >> 6 & kLevels, query.w, sums[r][i]);
            }
        }
    }
    for (int at = lane * 4; at < s.layout.d; at += 128) {
        const uint32_t mean = simt::read(reinterpret_cast<const uint32_t*>(page + s.layout.mean + at));
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const float4 exact = *reinterpret_cast<const float4*>(q.exact + row[r] * s.layout.d + at);
            of_mean[r] += exact.x * signed_byte(mean, 0) + exact.y * signed_byte(mean, 1) +
                          exact.z * signed_byte(mean, 2) + exact.w * signed_byte(mean, 3);
        }
    }
    const float cap = s.attention.softcap * kLog2E;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        const float base = mean_scale * simt::sum_over_lanes<1, 32>(of_mean[r]);
        const float4 more = q.more[row[r]];
        const float2 low = simt::unpack_halves(scales.x);
        const float2 high = simt::unpack_halves(scales.y);
        const float key_scales[4] = {low.x, low.y, high.x, high.y};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int sum = sums[r][i] + __shfl_xor_sync(simt::kWholeWarp, sums[r][i], 16);
            float x = base + key_scales[i] * more.x * (2.0f * static_cast<float>(sum) + more.y);
            if (cap != 0.0f) x = cap * simt::hyperbolic_tangent(x / cap);
            logits[r][i] = is_finite(x) ? x : minus_infinity();
        }
    }
}

/** Calls visit(row, logits of this lane's four keys) for all rows of a list, in order. */
template <class Visit>
SIMT_DEVICE void score_rows(const SparseArguments& s, const ListQueries& q, const unsigned char* page, Visit visit) {
    if (q.rows == 1) {  // four times the products otherwise
        float logits[1][4];
        score_page<1>(s, q, 0, page, logits);
        visit(0, logits[0]);
        return;
    }
    for (int first = 0; first < q.rows; first += kScoredRows) {
        float logits[kScoredRows][4];
        score_page<kScoredRows>(s, q, first, page, logits);
#pragma unroll
        for (int r = 0; r < kScoredRows; ++r) {
            if (first + r < q.rows) visit(first + r, logits[r]);
        }
    }
}

}  // namespace atlas::kernels::cuda
