#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/weights/panel.h"

namespace atlas::kernels::cpu {

/** A tile's worth of columns: 16 of them, or fewer at the end. */
struct ColumnTile {
    const std::byte* in[kTile];  // quantised columns; the last one again where there are fewer
    float* out[kTile];
    size_t count = 0;
    bool even = false;  // evenly spaced, so that tiles can be loaded where they lie
    ptrdiff_t stride = 0;

    ColumnTile() = default;
    ColumnTile(const WeightProduct& product, size_t column_bytes, int64_t first)
        : count(static_cast<size_t>(std::min<int64_t>(static_cast<int64_t>(kTile), product.n - first))) {
        for (size_t c = 0; c < kTile; ++c) {
            const ColumnPair pair = column_pair(product, first + static_cast<int64_t>(std::min(c, count - 1)));
            in[c] = product.activations + static_cast<size_t>(pair.in) * column_bytes;
            out[c] = product.out + static_cast<size_t>(pair.out) * product.out_stride;
        }
        even = product.columns == nullptr && count == kTile;
        stride = static_cast<ptrdiff_t>(column_bytes);
    }
};

/** Bytes of 16 columns side by side, for tiles that cannot be loaded where they lie. */
template <size_t kBytes>
struct Gathered {
    static constexpr size_t kStride = kBytes + 64;
    alignas(64) std::byte bytes[kTile * kStride];

    /** The tile's first byte and its stride: in the columns themselves or here. */
    const std::byte* take(const ColumnTile& tile, size_t offset, size_t count, ptrdiff_t* stride) {
        if (tile.even) {
            *stride = tile.stride;
            return tile.in[0] + offset;
        }
        for (size_t c = 0; c < kTile; ++c) std::memcpy(bytes + c * kStride, tile.in[c] + offset, count);
        *stride = static_cast<ptrdiff_t>(kStride);
        return bytes;
    }
};

/**
 * fn(rows, first row, first element of k) for all panels of rows [begin, end). Parts of k whose activations, `element_bytes` per element and
 * column, fit the second-level cache come one after the other, since every panel of rows reads them; within one, panels of rows.
 */
template <class Fn>
void EachPanel(const WeightProduct& product, int64_t begin, int64_t end, int64_t element_bytes, const Fn& fn) {
    constexpr int64_t kCached = 768 << 10;
    const WeightMatrix& w = product.weights;
    const int64_t part =
        std::max(kPanelDepth, kCached / (element_bytes * std::max<int64_t>(product.n, 1)) / kPanelDepth * kPanelDepth);
    for (int64_t from = 0; from < w.cols; from += part) {
        for (int64_t r = begin; r < end; r += kWeightPanel) {
            const auto rows = static_cast<size_t>(std::min(kWeightPanel, end - r));
            for (int64_t at = from; at < std::min(from + part, w.cols); at += kPanelDepth) {
                const auto* data = reinterpret_cast<const uint8_t*>(w.data) + static_cast<size_t>(r) * w.row_stride +
                                   weight_row_bytes(w.type, at);
                const auto elements = static_cast<size_t>(std::min(kPanelDepth, w.cols - at));
                fn(RowBlocks{w.type, data, w.row_stride, rows, elements}, static_cast<size_t>(r),
                   static_cast<size_t>(at));
            }
        }
    }
}

}  // namespace atlas::kernels::cpu
