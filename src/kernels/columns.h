#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/weights.h"

namespace atlas::kernels {

/** Some columns of a matrix, each times a factor: a product with one vector of which most elements are left out, and their columns not read. */
struct ColumnSum {
    WeightType type;           ///< kF32, kF16 or kBF16
    const std::byte* columns;  ///< column i begins at i·stride; alignment 1
    size_t stride;             ///< bytes, at least those of n elements
    int64_t n;                 ///< elements of a column
    const int32_t* which;      ///< [count]
    const float* factors;      ///< [count]
    int64_t count;
    float* y;  ///< [n]
};

// The entry of its name of the chosen table, where its contract stands (kernels/kernel_table.h).

void add_columns(const ColumnSum& sum);

}  // namespace atlas::kernels
