#pragma once

#include <cstdint>

// What the kernels of products with quantised weights are handed (arguments.h says how).

namespace atlas::kernels::cuda {

/** Types of weights that are multiplied; blocks as in GGUF (kernels/reference/weights.cpp). */
enum class ProductType : int32_t { kQ8_0, kQ4_0, kQ5_1, kIQ4_NL, kQ4_K, kQ5_K, kQ6_K };

/** Of 32 activations. */
struct alignas(16) ActivationPart {
    float scale;
    float offset;   ///< kQ8: scale times the sum of the codes, rounded to f16
    uint32_t sums;  ///< of the first and of the last sixteen codes, int16 each, the first in the low half
    uint32_t unused = 0;
};

/** Columns of f32 become codes and parts. */
struct QuantiseArguments {
    const float* x;         ///< [columns][k]; 4-byte alignment
    int64_t x_stride;       ///< elements
    int8_t* codes;          ///< [columns][k]
    ActivationPart* parts;  ///< [columns][k / 32]
    int32_t k, columns;     ///< k a multiple of 32, of 256 where wide
    int32_t
        wide;  ///< one scale for 256 elements (kernels::ActivationType::kQ8K), in f32; else one for 32, rounded to f16 (kQ8)
};

/** out[column][row] = Σ weights[row][i] · activations[column][i]. */
struct ProductArguments {
    const unsigned char* weights;  ///< rows of blocks
    int64_t row_stride;            ///< bytes; a multiple of 2, of 8 for q5_1, of 16 for q4_K and q5_K
    const int8_t* codes;
    const ActivationPart* parts;
    float* out;                   ///< 4-byte alignment
    int64_t out_stride;           ///< elements from column to column
    int32_t rows, cols, columns;  ///< cols a multiple of the type's block
    ProductType type;
};

}  // namespace atlas::kernels::cuda
