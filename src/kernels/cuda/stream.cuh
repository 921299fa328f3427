#pragma once

#include "kernels/cuda/merge.cuh"
#include "kernels/cuda/rows.cuh"

// Attention of a few rows by one warp that lets keys stream past them: each row of K and V is read once, in its own format, and widened
// in registers; 32 / kLanes keys at a time, each by kLanes lanes that hold sixteen elements of it.

namespace atlas::kernels::cuda {

/** What a lane holds of kRows rows: elements of the queries, in the order of K's format, and of their sums, in that of V's. */
template <int kRows>
struct StreamedRows {
    RowPlace row[kRows];
    const uint16_t* mask[kRows];  ///< nullptr: all visible
    float slope[kRows];
    float q[kRows][kLaneElements];
    float sum[kRows][kLaneElements];
    Softmax softmax[kRows];  ///< of the keys that this lane's group of lanes has seen
    int count;               ///< rows that there are, ≤ kRows
};

template <int kRows, int kLanes>
SIMT_DEVICE void start_rows(const AttentionArguments& a, const ListPlace& place, int first_row,
                            StreamedRows<kRows>& s) {
    const int part = static_cast<int>(threadIdx.x) % kLanes;
    const bool blocks = in_blocks(a.k_type);
    s.count = simt::smaller(kRows, place.rows - first_row);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        s.row[r] = row_of(place, simt::smaller(first_row + r, place.rows - 1));
        s.mask[r] = mask_of(a, s.row[r]);
        s.slope[r] = slope_of(a, s.row[r]);
        const float* q = query_of(a, s.row[r]);
#pragma unroll
        for (int i = 0; i < kLaneElements; i += 4) {
            const int at = element_of<kLanes>(blocks, part, i);
            const float4 four = at < a.d_k ? simt::read(reinterpret_cast<const float4*>(q + at)) : float4{0, 0, 0, 0};
            s.q[r][i] = four.x;
            s.q[r][i + 1] = four.y;
            s.q[r][i + 2] = four.z;
            s.q[r][i + 3] = four.w;
        }
#pragma unroll
        for (int i = 0; i < kLaneElements; ++i) s.sum[r][i] = 0;
        s.softmax[r] = {minus_infinity(), 0.0f};
    }
}

/** Which cells of a page each row sees, and whether a mask adds to any of them. The same in all lanes. */
template <int kRows>
struct Visible {
    uint64_t cells[kRows];
    uint64_t any;
    bool biased[kRows];
};

template <int kRows>
SIMT_DEVICE Visible<kRows> visible_of(const Page& page, const StreamedRows<kRows>& s) {
    constexpr uint16_t kHidden = 0xFC00;  // −∞
    const int lane = static_cast<int>(threadIdx.x) % 32;
    Visible<kRows> visible;
    visible.any = 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        visible.cells[r] = r < s.count ? page.cells : 0;
        visible.biased[r] = false;
        if (r > 0 && r < s.count && s.mask[r] == s.mask[r - 1]) {  // heads of a group share a mask
            visible.cells[r] = visible.cells[r - 1];
            visible.biased[r] = visible.biased[r - 1];
        } else if (s.mask[r] && r < s.count) {
            uint64_t seen = 0;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int cell = half * 32 + lane;
                const uint16_t bias = page.cells >> cell & 1 ? simt::read(s.mask[r] + page.key + cell) : kHidden;
                seen |= static_cast<uint64_t>(__ballot_sync(simt::kWholeWarp, bias != kHidden)) << (half * 32);
                const bool adds = bias != kHidden && (bias & 0x7FFF) != 0;
                visible.biased[r] |= __ballot_sync(simt::kWholeWarp, adds) != 0;
            }
            visible.cells[r] = seen;
        }
        visible.any |= visible.cells[r];
    }
    return visible;
}

/** Lets a warp's rows attend to the keys of a page. */
template <int kRows, int kLanes>
SIMT_DEVICE void stream_page(const AttentionArguments& a, const PageList& list, const Page& page,
                             StreamedRows<kRows>& s) {
    constexpr int kKeys = 32 / kLanes;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int part = lane % kLanes;
    const int place = lane / kLanes;  // which of the kKeys keys is this lane's
    const Visible<kRows> visible = visible_of(page, s);
    uint64_t rest = visible.any;
    while (rest != 0) {
        uint64_t mine = rest;
#pragma unroll
        for (int i = 0; i + 1 < kKeys; ++i) {
            if (i < place) mine &= mine - 1;
        }
        const bool there = mine != 0;
        const int cell = simt::lowest_bit(there ? mine : rest);
#pragma unroll
        for (int i = 0; i < kKeys; ++i) rest &= rest - 1;

        const StoredPart k = read_part<kLanes>(a.k_type, page.k + list.k_offset + cell * a.k_stride, part, a.d_k);
        const StoredPart v = read_part<kLanes>(a.v_type, page.v + list.v_offset + cell * a.v_stride, part, a.d_v);
        float x[kLaneElements];
        widen_part(a.k_type, k, part, x);
        float logit[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            float product = 0;
#pragma unroll
            for (int i = 0; i < kLaneElements; ++i) product += s.q[r][i] * x[i];
            logit[r] = logit_of(a, simt::sum_over_lanes<1, kLanes>(product));
        }
        widen_part(a.v_type, v, part, x);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            // What a row does not see does not touch it: it may hold NaN.
            if (!there || (visible.cells[r] >> cell & 1) == 0) continue;
            if (visible.biased[r]) {
                logit[r] += s.slope[r] * simt::half_to_float(simt::read(s.mask[r] + page.key + cell)) * kLog2E;
            }
            if (logit[r] == minus_infinity()) continue;
            Softmax& softmax = s.softmax[r];
            const float top = simt::larger(softmax.top, logit[r]);
            const float shrink = weight_of(softmax.top, top);
            const float weight = simt::power_of_two(logit[r] - top);
            softmax.top = top;
            softmax.total = softmax.total * shrink + weight;
#pragma unroll
            for (int i = 0; i < kLaneElements; ++i) s.sum[r][i] = s.sum[r][i] * shrink + weight * x[i];
        }
    }
}

/** Adds up what the groups of lanes have: afterwards each lane's sums and softmax of row r are those of all keys of the warp. */
template <int kRows, int kLanes>
SIMT_DEVICE void join_lanes(StreamedRows<kRows>& s, int r) {
    Softmax& softmax = s.softmax[r];
    const float top = simt::most_over_lanes<kLanes, 32>(softmax.top);
    const float shrink = weight_of(softmax.top, top);
    softmax.top = top;
    softmax.total = simt::sum_over_lanes<kLanes, 32>(softmax.total * shrink);
#pragma unroll
    for (int i = 0; i < kLaneElements; ++i) s.sum[r][i] = simt::sum_over_lanes<kLanes, 32>(s.sum[r][i] * shrink);
}

}  // namespace atlas::kernels::cuda
