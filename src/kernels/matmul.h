#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace atlas::kernels {

/** Element (i, j) of an f32 matrix is data[i·row_stride + j·col_stride]. */
struct MatrixView {
    const float* data;
    size_t row_stride;
    size_t col_stride = 1;

    MatrixView transposed() const { return {data, col_stride, row_stride}; }
};

/** C = alpha·A·B + beta·C for A [m][k], B [k][n], C [m][n]. C overlaps neither A nor B. k = 0: only beta·C. */
struct GemmArgs {
    size_t m = 0;
    size_t n = 0;
    size_t k = 0;
    MatrixView a;
    MatrixView b;
    float* c = nullptr;   ///< contiguous rows, c_stride elements apart
    size_t c_stride = 0;  ///< ≥ n; what lies between rows is left alone
    float alpha = 1.0f;
    float beta = 0.0f;  ///< 0 does not read C
};

/** Table::gemm of the chosen table. */
void gemm(const GemmArgs& args);
/** Table::gemm_bf16 of the chosen table. */
void gemm_bf16(const GemmArgs& args, std::vector<uint32_t>* work);

}  // namespace atlas::kernels
