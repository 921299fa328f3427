#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace atlas::memory {

/** Element (i, j) of an f32 matrix is data[i·row_stride + j·col_stride]. */
struct MatrixView {
    const float* data;
    size_t row_stride;
    size_t col_stride = 1;

    MatrixView transposed() const { return {data, col_stride, row_stride}; }
};

/**
 * C = alpha·A·B + beta·C for A [m][k], B [k][n], C [m][n] with contiguous rows c_stride elements apart; beta 0 does not read C. C overlaps
 * neither A nor B. Single-threaded (callers run heads in parallel), allocates nothing. B is packed in panels of k = 256; few rows of A
 * against a transposed B are dot products.
 */
void gemm(size_t m, size_t n, size_t k, float alpha, MatrixView a, MatrixView b, float beta, float* c, size_t c_stride);

/**
 * The same with A and B rounded to bf16 (to the nearest, ties to even) and sums in f32; k of 0 included. Wherever the CPU has no bf16 products they are emulated,
 * which is slower than gemm. Each product is off by at most 2⁻⁸ of itself. `work` grows to half of the elements of A and B.
 */
void gemm_bf16(size_t m, size_t n, size_t k, float alpha, MatrixView a, MatrixView b, float beta, float* c,
               size_t c_stride, std::vector<uint32_t>* work);

}  // namespace atlas::memory
