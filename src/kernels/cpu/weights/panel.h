#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/weights.h"

namespace atlas::kernels::cpu {

/** Elements of k per panel: one block of the large types, eight of the small ones. */
inline constexpr int64_t kPanelDepth = 256;
inline constexpr size_t kPanelRows = static_cast<size_t>(kWeightPanel);

/**
 * 32 rows by 256 elements of weights in a form that all types of blocks share, small enough for the first-level cache:
 *     weight = scale · (code − code_offset) + minimum
 * with one scale and one minimum per sub-block of 16 or 32 elements (PanelKind). Rows that are not there have scale and minimum 0.
 */
struct alignas(64) Panel {
    uint8_t codes[kPanelDepth / 4][kPanelRows][4];  ///< four neighbours in k share a 32-bit lane
    float scales[kPanelDepth / 16][kPanelRows];
    float minima[kPanelDepth / 16][kPanelRows];
};

/** What the codes of a type are. */
struct PanelKind {
    int sub;           ///< elements per scale: 16 or 32
    int code_offset;   ///< 8 for q4_0, 128 for signed bytes
    int largest_code;  ///< 15, 31, 63 or 255: no code is larger
    bool minima;
};
PanelKind panel_kind(WeightType type);

/** Rows of weights at some element of k. */
struct RowBlocks {
    WeightType type;
    const uint8_t* data;  ///< the first block of the first row
    size_t stride;        ///< bytes from row to row
    size_t rows;          ///< at most 32
    size_t elements;      ///< at most 256, whole blocks
    uint8_t bias = 0;     ///< fill_panel_32: subtracted from every code
};

/** Decodes types with blocks of 32 (fill_panel_32) and of 256. What lies beyond `elements` is undefined. */
void fill_panel_32(const RowBlocks& rows, Panel* panel);
void fill_panel_256(const RowBlocks& rows, Panel* panel);

/** 32 rows by 256 elements of bf16; neighbours in k share a word. */
struct alignas(64) PairPanel {
    uint32_t words[kPanelDepth / 2][kPanelRows];
};
/** Types whose panels are pairs of bf16, and so are their activations. */
inline bool is_pairs(WeightType type) { return type == WeightType::kBF16 || type == WeightType::kE4M3; }
/**
 * Rows of bf16, E4M3 or f16; zeros beyond `elements` up to a multiple of 32. f16 becomes the sum of two bf16, exactly: `high` rounded to the nearest,
 * `low` the rest, 0 where it is not finite. The others leave `low` alone.
 */
void fill_pair_panels(const RowBlocks& rows, PairPanel* high, PairPanel* low);

/** Rows [begin, end) of a product whose weights are blocks, and of one whose weights are plain numbers. */
void multiply_blocks(const WeightProduct& product, int64_t begin, int64_t end);
void multiply_floats(const WeightProduct& product, int64_t begin, int64_t end);

inline ColumnPair column_pair(const WeightProduct& product, int64_t j) {
    return product.columns != nullptr ? product.columns[j]
                                      : ColumnPair{static_cast<int32_t>(j), static_cast<int32_t>(j)};
}

}  // namespace atlas::kernels::cpu
