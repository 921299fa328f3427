#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cpu/weights/panel.h"

// Few columns: time goes into reading the weights, so that every row is decoded in registers and used for up to four columns.

namespace atlas::kernels::cpu {

/** Longest rows that these kernels take: their workspaces are on the stack. */
inline constexpr size_t kFewCols = 32768;
/** Most columns for which they are faster than panels. */
inline constexpr int64_t kFewColumns = 8;

struct FewArgs {
    const WeightProduct& product;
    const WeightMatrix& weights;
    ActivationLayout layout;
    int64_t n;
    int64_t begin, end;  // rows
    size_t ahead;        // bytes between what is read and what is prefetched

    FewArgs(const WeightProduct& of, int64_t from, int64_t to)
        : product(of),
          weights(of.weights),
          layout(weight_type_info(of.weights.type).activations, of.weights.cols),
          n(of.n),
          begin(from),
          end(to),
          // At 2 to 6 KiB half to two thirds of the speed are left (Sapphire Rapids), and scales are gathered a row ahead.
          ahead(std::max(size_t{16} << 10, of.weights.row_stride + (size_t{12} << 10))) {}

    /** Where to fetch what comes `ahead` bytes behind an address within the rows. */
    const uint8_t* soon(const uint8_t* at) const {
        const uint8_t* there = at + ahead;
        const uint8_t* stop = row(end);
        return there < stop || !product.next ? there : reinterpret_cast<const uint8_t*>(product.next) + (there - stop);
    }

    const uint8_t* row(int64_t r) const {
        return reinterpret_cast<const uint8_t*>(weights.data) + static_cast<size_t>(r) * weights.row_stride;
    }
};

/** Planes of C columns. */
template <size_t C>
struct FewColumns {
    const int8_t* codes[C];
    const int8_t* split_codes[C];
    const float* scales[C];
    const float* offsets[C];
    const int16_t* short_sums[C];
    const int32_t* lane_sums[C];
    const float* values[C];
    float* out[C];

    FewColumns() = default;
    FewColumns(const FewArgs& args, size_t first) {
        for (size_t c = 0; c < C; ++c) {
            const ColumnPair pair = column_pair(args.product, static_cast<int64_t>(first + c));
            const std::byte* column = args.product.activations + static_cast<size_t>(pair.in) * args.layout.bytes;
            codes[c] = reinterpret_cast<const int8_t*>(column + args.layout.codes);
            split_codes[c] = reinterpret_cast<const int8_t*>(column + args.layout.split_codes);
            scales[c] = reinterpret_cast<const float*>(column + args.layout.scales);
            offsets[c] = reinterpret_cast<const float*>(column + args.layout.offsets);
            short_sums[c] = reinterpret_cast<const int16_t*>(column + args.layout.short_sums);
            lane_sums[c] = reinterpret_cast<const int32_t*>(column + args.layout.lane_sums);
            values[c] = reinterpret_cast<const float*>(column + args.layout.values);
            out[c] = args.product.out + static_cast<size_t>(pair.out) * args.product.out_stride;
        }
    }
};

/**
 * fn(std::integral_constant<size_t, count>, part, first column) for groups of kMost, or of smaller powers of two, of n columns. Where there are
 * several, rows come in parts that stay in the second-level cache for all of them.
 */
template <size_t kMost, class Fn>
void EachGroup(const FewArgs& args, const Fn& fn) {
    const bool one = args.n == 1 || (args.n == 2 && kMost >= 2) || (args.n == 4 && kMost >= 4);
    const auto cached = static_cast<int64_t>((size_t{128} << 10) / std::max<size_t>(args.weights.row_stride, 1));
    const int64_t rows = one ? args.end - args.begin : std::max<int64_t>(cached, 8);
    for (int64_t r = args.begin; r < args.end; r += rows) {
        FewArgs part = args;
        part.begin = r;
        part.end = std::min(args.end, r + rows);
        for (int64_t j = 0; j < args.n;) {
            const auto first = static_cast<size_t>(j);
            const int64_t left = args.n - j;
            if (kMost >= 4 && left >= 4) {
                fn(std::integral_constant<size_t, (kMost >= 4 ? 4 : 1)>(), part, first);
                j += 4;
            } else if (kMost >= 2 && left >= 2) {
                fn(std::integral_constant<size_t, (kMost >= 2 ? 2 : 1)>(), part, first);
                j += 2;
            } else {
                fn(std::integral_constant<size_t, 1>(), part, first);
                j += 1;
            }
        }
    }
}

void multiply_few_32(const FewArgs& args);
void multiply_few_256(const FewArgs& args);
void multiply_few_floats(const FewArgs& args);
void multiply_few_e4m3(const FewArgs& args);

}  // namespace atlas::kernels::cpu
