#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/data_type.h"
#include "base/status.h"
#include "kernels/cuda/device.h"

namespace atlas::kernels::cuda {

/** Rows of f32 on their way into pages of a cache. */
struct RowWrites {
    DataType type = DataType::kF16;
    int64_t n = 0;                   ///< elements of a row: a multiple of the type's block
    std::span<const float> rows;     ///< [cells.size()][n]
    std::span<const int64_t> cells;  ///< where each row goes: page · 64 + place; negative: nowhere
    std::span<std::byte> pages;      ///< [pages][64][row_stride], behind each other
    int64_t row_stride = 0;          ///< bytes from cell to cell
    int64_t offset = 0;              ///< bytes of a cell before the row
};

/**
 * Encodes rows into `pages`, bit for bit as Table::encode_row does, on a device over host memory (as attention.h: for tests). Unsupported: types other than
 * f16, bf16, q8_0 and q4_0; invalid: cells outside of the pages, rows that do not fit a cell.
 */
Status write_rows(Device& device, const RowWrites& writes);

}  // namespace atlas::kernels::cuda
