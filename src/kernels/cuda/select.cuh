#pragma once

#include "kernels/cuda/codes.cuh"

// Which keys of a list are selected: all whose share of a token's attention (summed over the heads of the group, the largest of the tile's tokens)
// is at least SparseArguments::share, but at least `least` keys and at most `most` (more where shares are equal).

namespace atlas::kernels::cuda {

/** What a block counts with, in shared memory. */
struct Counters {
    unsigned* buckets;  ///< [256]
    unsigned* numbers;  ///< [16]
};
SIMT_DEVICE Counters take_counters(simt::Carver& carver) {
    return {carver.take<unsigned>(256), carver.take<unsigned>(16)};
}

/** Shares below are no attention that a float could show. */
inline constexpr float kNoShare = 1e-30f;
/** A page's bound may be rounded otherwise than its keys' shares. */
inline constexpr float kBoundSlack = 1.001f;

/** Sum of n over the threads of a block. Two barriers. */
SIMT_DEVICE unsigned block_sum(unsigned n, const Counters& counters) {
    if (threadIdx.x == 0) counters.numbers[0] = 0;
    __syncthreads();
    if (n) simt::add_shared(counters.numbers, n);
    __syncthreads();
    const unsigned sum = counters.numbers[0];
    __syncthreads();
    return sum;
}

/**
 * The rank-th largest of numbers that are not negative, 1 is the largest, of at least so many: by their bits, eight at a time. for_each(visit)
 * calls visit(x) for every number, in some thread of the block.
 */
template <class ForEach>
SIMT_DEVICE float nth_largest(ForEach for_each, unsigned rank, const Counters& counters) {
    uint32_t found = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        const uint32_t known = shift == 24 ? 0u : ~0u << (shift + 8);
        for (int i = static_cast<int>(threadIdx.x); i < 256; i += kSparseWarps * 32) counters.buckets[i] = 0;
        __syncthreads();
        for_each([&](float x) {
            const uint32_t bits = simt::float_to_bits(x);
            if ((bits & known) == found) simt::add_shared(counters.buckets + (bits >> shift & 255u), 1);
        });
        __syncthreads();
        if (threadIdx.x < 32) {  // each lane eight buckets, the largest first
            const int lane = static_cast<int>(threadIdx.x);
            unsigned mine = 0;
            for (int i = 0; i < 8; ++i) mine += counters.buckets[255 - lane * 8 - i];
            unsigned before = mine;
            for (int step = 1; step < 32; step *= 2) {
                const unsigned other = __shfl_sync(simt::kWholeWarp, before, simt::larger(lane - step, 0));
                if (lane >= step) before += other;
            }
            before -= mine;
            if (before < rank && rank <= before + mine) {
                int bucket = 255 - lane * 8;
                while (before + counters.buckets[bucket] < rank) before += counters.buckets[bucket--];
                counters.numbers[1] = static_cast<unsigned>(bucket);
                counters.numbers[2] = rank - before;
            }
        }
        __syncthreads();
        found |= counters.numbers[1] << shift;
        rank = counters.numbers[2];
        __syncthreads();
    }
    return simt::bits_to_float(found);
}

/** Place of page p of a list in what is kept between the launches. */
SIMT_DEVICE int64_t page_place(const SparseArguments& s, const ListPlace& place, int p) {
    return static_cast<int64_t>(place.list) * s.page_stride + p;
}
/** Place of a row's sum of page p. */
SIMT_DEVICE int64_t sum_place(const SparseArguments& s, const ListPlace& place, int row, int p) {
    const int rows = s.attention.tile_tokens * place.group;
    return (static_cast<int64_t>(place.list) * rows + row) * s.page_stride + p;
}

/** Pages of a warp, by place in the list: neighbours, so that what belongs to them is read together. */
struct WarpPages {
    int begin, end, all;
};
SIMT_DEVICE WarpPages warp_pages(const SparseArguments& s, const FarList& list) {
    const auto all = static_cast<int>(list.end - list.begin);
    const int warps = s.attention.splits * kSparseWarps;
    const int per = (all + warps - 1) / warps;
    const int warp = static_cast<int>(blockIdx.y) * kSparseWarps + static_cast<int>(threadIdx.x) / 32;
    const int begin = simt::smaller(all, per * warp);
    return {begin, simt::smaller(all, begin + per), all};
}
/** visit(p) for those of these pages that may hold keys to be selected. */
template <class Visit>
SIMT_DEVICE void for_pages_from(const SparseArguments& s, const ListPlace& place, float level, int begin, int end,
                                Visit visit) {
    for (int first = begin; first < end; first += 32) {
        const int p = first + static_cast<int>(threadIdx.x) % 32;
        const bool looked = p < end && simt::read(s.bounds + page_place(s, place, p)) >= level;
        for (unsigned left = __ballot_sync(simt::kWholeWarp, looked); left != 0; left &= left - 1) {
            visit(first + simt::lowest_bit(left));
        }
    }
}

/** From the sums of all pages of a list: what each row's attention is, bounds of pages' shares, and from which on pages are looked at. */
SIMT_DEVICE void choose_level(const SparseArguments& s, const ListPlace& place, int pages, const ListQueries& q,
                              const Counters& counters) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const auto sum_of = [&](int p, int row) {
        return simt::read_fresh(reinterpret_cast<const float2*>(s.sums + sum_place(s, place, row, p)));
    };
    for (int row = warp; row < place.rows; row += kSparseWarps) {
        const int64_t index = index_of(s.attention, row_of(place, row));
        const float near = simt::read(s.near_lse + index) * kLog2E;
        float top = near;
        for (int p = lane; p < pages; p += 32) top = simt::larger(top, sum_of(p, row).x);
        top = simt::most_over_lanes<1, 32>(top);
        float total = 0;
        for (int p = lane; p < pages; p += 32) {
            const float2 sum = sum_of(p, row);
            total += sum.y * weight_of(sum.x, top);
        }
        total = simt::sum_over_lanes<1, 32>(total) + weight_of(near, top);
        if (lane == 0) {
            const float whole = total > 0.0f ? top + simt::log_of_two(total) : 0.0f;
            q.more[row].w = whole;
            simt::write(s.whole + index, whole);
        }
    }
    __syncthreads();
    unsigned sure = 0;  // pages of which some key has the asked share
    const float surely = simt::larger(s.share, kNoShare) * static_cast<float>(place.group) * kBoundSlack * kBoundSlack;
    for (int p = static_cast<int>(threadIdx.x); p < pages; p += kSparseWarps * 32) {
        float bound = 0;
        for (int row = 0; row < place.rows; row += place.group) {
            float of_token = 0;
            for (int h = row; h < row + place.group; ++h) of_token += weight_of(sum_of(p, h).x, q.more[h].w);
            bound = simt::larger(bound, of_token);
        }
        bound *= kBoundSlack;
        simt::write(s.bounds + page_place(s, place, p), bound);
        sure += bound >= surely ? 1 : 0;
    }
    float level = simt::larger(s.share, kNoShare);
    if (block_sum(sure, counters) < static_cast<unsigned>(s.least)) {
        // Of a page with a bound b some key has at least b / (group · slack): as many pages as keys are asked for have as many keys of that.
        if (pages < s.least) {
            level = kNoShare;
        } else {
            const float bound = nth_largest(
                [&](auto visit) {  // each thread those that it has written
                    for (int p = static_cast<int>(threadIdx.x); p < pages; p += kSparseWarps * 32) {
                        visit(simt::read_fresh(s.bounds + page_place(s, place, p)));
                    }
                },
                static_cast<unsigned>(s.least), counters);
            level = simt::larger(
                kNoShare, simt::smaller(level, bound / (static_cast<float>(place.group) * kBoundSlack * kBoundSlack)));
        }
    }
    if (threadIdx.x == 0) simt::write(s.levels + place.list, level);
}

SIMT_DEVICE void score_pages(const SparseArguments& s) {
    SIMT_SHARED(memory);
    simt::Carver carver(memory);
    const ListPlace place = place_of(s.attention, static_cast<int>(blockIdx.x));
    const ListQueries q = take_queries(s, place, carver);
    const Counters counters = take_counters(carver);
    load_queries(s, place, false, q);
    __syncthreads();

    const int lane = static_cast<int>(threadIdx.x) % 32;
    const FarList list = read_far_list(s.lists + place.list);
    const WarpPages pages = warp_pages(s, list);
    for (int p = pages.begin; p < pages.end; ++p) {
        score_rows(s, q, codes_of(s, list, p), [&](int row, const float (&logits)[4]) {
            const float top = simt::most_over_lanes<1, 16>(
                simt::larger(simt::larger(logits[0], logits[1]), simt::larger(logits[2], logits[3])));
            float total = 0;
#pragma unroll
            for (int i = 0; i < 4; ++i) total += weight_of(logits[i], top);
            total = simt::sum_over_lanes<1, 16>(total);
            const int64_t sum = sum_place(s, place, row, p);
            if (lane == 0) simt::write(reinterpret_cast<float2*>(s.sums + sum), float2{top, total});
            if (s.logits && lane < 16) {
                const int64_t at = sum * kPageKeys + 4 * lane;
                simt::write(reinterpret_cast<float4*>(s.logits + at),
                            float4{logits[0], logits[1], logits[2], logits[3]});
            }
        });
    }
    if (!last_of_splits(s.attention.tickets + place.list, s.attention.splits, counters.numbers + 3)) return;
    choose_level(s, place, pages.all, q, counters);
}

/** The keys of a list with the largest shares: their cells, and the pages that hold any. All threads of the last block of a list. */
SIMT_DEVICE void choose_keys(const SparseArguments& s, const ListPlace& place, const FarList& list, int pages,
                             const Counters& counters) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const float level = simt::read(s.levels + place.list);
    const int per_warp = (pages + kSparseWarps - 1) / kSparseWarps;
    const auto for_each_share = [&](auto visit) {
        for_pages_from(s, place, level, per_warp * warp, simt::smaller(pages, per_warp * (warp + 1)), [&](int p) {
            const float* shares = s.shares + page_place(s, place, p) * kPageKeys;
            visit(simt::read_fresh(shares + lane));
            visit(simt::read_fresh(shares + 32 + lane));
        });
    };
    const auto count_at_least = [&](float least) {
        unsigned count = 0;
        for_each_share([&](float share) { count += share >= least ? 1 : 0; });
        return block_sum(count, counters);
    };
    float bound = simt::larger(s.share, kNoShare);
    const unsigned count = count_at_least(bound);
    if (count > static_cast<unsigned>(s.most)) {
        bound = s.most > 0 ? nth_largest(for_each_share, static_cast<unsigned>(s.most), counters) : -minus_infinity();
    } else if (count < static_cast<unsigned>(s.least)) {
        bound = kNoShare;
        if (count_at_least(kNoShare) > static_cast<unsigned>(s.least)) {
            bound = simt::larger(bound, nth_largest(for_each_share, static_cast<unsigned>(s.least), counters));
        }
    }
    // In order: each round of pages behind those of the rounds before, and within a round by warp and lane.
    unsigned found = 0;
    for (int round = 0; round < pages; round += kSparseWarps * 32) {
        const int first = round + warp * 32;
        const int p = first + lane;
        const bool looked = p < pages && simt::read(s.bounds + page_place(s, place, p)) >= level;
        uint2 cells{0, 0};
        for (unsigned left = __ballot_sync(simt::kWholeWarp, looked); left != 0; left &= left - 1) {
            const int which = simt::lowest_bit(left);
            const float* shares = s.shares + page_place(s, place, first + which) * kPageKeys;
            const unsigned low = __ballot_sync(simt::kWholeWarp, simt::read_fresh(shares + lane) >= bound);
            const unsigned high = __ballot_sync(simt::kWholeWarp, simt::read_fresh(shares + 32 + lane) >= bound);
            if (which == lane) cells = {low, high};
        }
        const unsigned having = __ballot_sync(simt::kWholeWarp, (cells.x | cells.y) != 0);
        unsigned ahead = 0;  // of this lane, in its warp
        unsigned in_warp = 0;
        for (unsigned left = having; left != 0; left &= left - 1) {
            ahead += simt::lowest_bit(left) < lane ? 1 : 0;
            ++in_warp;
        }
        if (lane == 0) counters.numbers[4 + warp] = in_warp;
        __syncthreads();
        unsigned in_round = 0;
        for (int w = 0; w < kSparseWarps; ++w) {
            if (w == warp) ahead += found + in_round;
            in_round += counters.numbers[4 + w];
        }
        found += in_round;
        __syncthreads();
        if (p >= pages) continue;
        simt::write(reinterpret_cast<uint2*>(s.cells + page_place(s, place, p)), cells);
        if ((cells.x | cells.y) == 0) continue;
        const FarPage page = read_far_page(s.pages + list.begin + static_cast<uint32_t>(p));
        const auto low_half = [](uint64_t x) { return static_cast<uint32_t>(x); };
        const auto high_half = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
        const auto k = reinterpret_cast<uint64_t>(page.k);
        const auto v = reinterpret_cast<uint64_t>(page.v);
        const auto key = static_cast<uint64_t>(page.key);
        auto* to = reinterpret_cast<uint4*>(s.selected + page_place(s, place, static_cast<int>(ahead)));
        simt::write(to, uint4{low_half(k), high_half(k), low_half(v), high_half(v)});
        simt::write(to + 1, uint4{cells.x, cells.y, low_half(key), high_half(key)});
    }
    if (threadIdx.x != 0) return;
    PageList* selected = s.selected_lists + place.list;
    const auto begin = static_cast<uint32_t>(page_place(s, place, 0));
    simt::write(&selected->begin, begin);
    simt::write(&selected->end, begin + found);
    simt::write(&selected->k_offset, list.k_offset);
    simt::write(&selected->v_offset, list.v_offset);
}

SIMT_DEVICE void share_keys(const SparseArguments& s) {
    SIMT_SHARED(memory);
    simt::Carver carver(memory);
    const ListPlace place = place_of(s.attention, static_cast<int>(blockIdx.x));
    const ListQueries q = take_queries(s, place, carver);
    const Counters counters = take_counters(carver);
    load_queries(s, place, true, q);
    __syncthreads();

    const int lane = static_cast<int>(threadIdx.x) % 32;
    const float level = simt::read(s.levels + place.list);
    const FarList list = read_far_list(s.lists + place.list);
    const WarpPages pages = warp_pages(s, list);
    for_pages_from(s, place, level, pages.begin, pages.end, [&](int p) {
        float best[4] = {0, 0, 0, 0};
        float of_token[4] = {0, 0, 0, 0};
        score_rows(s, q, codes_of(s, list, p), [&](int row, const float (&logits)[4]) {
            const float whole = q.more[row].w;
            const bool last = (row + 1) % place.group == 0;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                of_token[i] += weight_of(logits[i], whole);
                if (!last) continue;
                best[i] = simt::larger(best[i], of_token[i]);
                of_token[i] = 0;
            }
        });
        if (lane < 16) {
            simt::write(reinterpret_cast<float4*>(s.shares + page_place(s, place, p) * kPageKeys + 4 * lane),
                        float4{best[0], best[1], best[2], best[3]});
        }
    });
    if (!last_of_splits(s.attention.tickets + place.list, s.attention.splits, counters.numbers + 3)) return;
    choose_keys(s, place, list, pages.all, counters);
}

}  // namespace atlas::kernels::cuda
