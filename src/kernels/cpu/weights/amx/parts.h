#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/weights/amx/side_by_side.h"
#include "kernels/cpu/weights/amx/tile_panel.h"

namespace atlas::kernels::cpu {

/** Groups of 16 columns at once: their sums, [group][half of the rows][row][column], lie in the second-level cache at most. */
inline constexpr size_t kMostGroups = 32;
using GroupSums = float[2][kTile][kTile];

/** A part of k of some groups of columns; groups are `stride` parts apart. */
template <class Part>
struct PartOfGroups {
    const Part* parts;
    size_t stride;
    size_t groups;
    size_t elements;  ///< of k: at most 256
    size_t rows;      ///< of the panel: at most 32
    bool first;       ///< sums begin here
};

/** Writes, or adds to what is there, the sums of a panel of rows from `first_row` and of columns from `first_column`. */
ATLAS_AMX inline void write_sums(const WeightProduct& product, const GroupSums* sums, int64_t first_column,
                                 size_t columns, size_t first_row, size_t rows, bool overwrite) {
    for (size_t c = 0; c < columns; c += kTile) {
        for (size_t half = 0; half * kTile < rows; ++half) {
            __m512i v[16];
#pragma GCC unroll 16
            for (size_t r = 0; r < kTile; ++r) v[r] = _mm512_load_si512(sums[c / kTile][half][r]);
            turn_square(v);
            const auto mask = static_cast<__mmask16>((1u << std::min(kTile, rows - half * kTile)) - 1);
#pragma GCC unroll 16
            for (size_t i = 0; i < kTile; ++i) {
                if (c + i >= columns) break;
                const ColumnPair pair = column_pair(product, first_column + static_cast<int64_t>(c + i));
                float* out =
                    product.out + static_cast<size_t>(pair.out) * product.out_stride + first_row + kTile * half;
                __m512 value = _mm512_castsi512_ps(v[i]);
                if (!overwrite) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, out));
                _mm512_mask_storeu_ps(out, mask, value);
            }
        }
    }
}

/** Lays `count` parts of k from `from` of columns from `first_column` side by side. */
template <class Part>
const Part* lay_columns(const WeightProduct& product, const ActivationLayout& layout, int64_t first_column,
                        size_t columns, size_t from, size_t count) {
    const size_t groups = (columns + kTile - 1) / kTile;
    Part* parts = static_cast<Part*>(workspace(groups * count * sizeof(Part)));
    for (size_t g = 0; g < groups; ++g) {
        const std::byte* in[kTile];
        for (size_t c = 0; c < kTile; ++c) {
            const size_t column = std::min(g * kTile + c, columns - 1);
            const ColumnPair pair = column_pair(product, first_column + static_cast<int64_t>(column));
            in[c] = product.activations + static_cast<size_t>(pair.in) * layout.bytes;
        }
        for (size_t p = 0; p < count; ++p)
            lay_side_by_side(layout, product.weights.cols, in, from + p, parts + g * count + p);
    }
    return parts;
}

/**
 * Rows [begin, end) of a product of blocks: unpack(rows, panel) and then multiply(panel, part of groups, sums) for 32 rows by 256 elements at a
 * time. Parts of k whose activations fit the second-level cache come one after the other, since every panel of rows reads them.
 */
template <class Part, class Panel, class Unpack, class Multiply>
void multiply_parts(const WeightProduct& product, int64_t begin, int64_t end, const Unpack& unpack,
                    const Multiply& multiply) {
    constexpr size_t kCached = size_t{1} << 20;
    const WeightMatrix& w = product.weights;
    const ActivationLayout layout(weight_type_info(w.type).activations, w.cols);
    const size_t parts = parts_of(w.cols);
    alignas(64) GroupSums sums[kMostGroups];
    Panel panel;
    constexpr auto kMostColumns = static_cast<int64_t>(kMostGroups * kTile);
    for (int64_t first = 0; first < product.n; first += kMostColumns) {
        const auto columns = static_cast<size_t>(std::min(kMostColumns, product.n - first));
        const size_t groups = (columns + kTile - 1) / kTile;
        const size_t span = std::max<size_t>(kCached / (groups * sizeof(Part)), 1);
        for (size_t from = 0; from < parts; from += span) {
            const size_t count = std::min(span, parts - from);
            PartOfGroups<Part> of{nullptr, count, groups, 0, 0, true};
            const Part* there = lay_columns<Part>(product, layout, first, columns, from, count);
            for (int64_t r = begin; r < end; r += kWeightPanel) {
                of.rows = static_cast<size_t>(std::min(kWeightPanel, end - r));
                for (size_t p = 0; p < count; ++p) {
                    const int64_t at = static_cast<int64_t>(from + p) * kPanelDepth;
                    const auto* data = reinterpret_cast<const uint8_t*>(w.data) +
                                       static_cast<size_t>(r) * w.row_stride + weight_row_bytes(w.type, at);
                    of.elements = static_cast<size_t>(std::min(kPanelDepth, w.cols - at));
                    of.parts = there + p;
                    of.first = p == 0;
                    unpack(RowBlocks{w.type, data, w.row_stride, of.rows, of.elements}, &panel);
                    multiply(panel, of, sums);
                }
                write_sums(product, sums, first, columns, static_cast<size_t>(r), of.rows, from == 0);
            }
        }
    }
}

void multiply_32_amx(const WeightProduct& product, int64_t begin, int64_t end);
void multiply_256_amx(const WeightProduct& product, int64_t begin, int64_t end);

}  // namespace atlas::kernels::cpu
