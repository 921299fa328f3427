#include <bit>
#include <cmath>

#include "kernels/reference/reference.h"

namespace atlas::kernels::reference {
namespace {

float same(float x) { return x; }

/** To the nearest bf16, ties to even. */
float to_bf16(float x) {
    if (std::isnan(x)) return x;
    auto bits = std::bit_cast<uint32_t>(x);
    bits += 0x7FFF + (bits >> 16 & 1);
    return std::bit_cast<float>(bits & 0xFFFF0000u);
}

template <float (*factor)(float)>
void product(const GemmArgs& args) {
    const auto at = [](const MatrixView& view, size_t i, size_t j) {
        return static_cast<double>(factor(view.data[i * view.row_stride + j * view.col_stride]));
    };
    for (size_t i = 0; i < args.m; ++i) {
        for (size_t j = 0; j < args.n; ++j) {
            double sum = 0.0;
            for (size_t l = 0; l < args.k; ++l) sum += at(args.a, i, l) * at(args.b, l, j);
            float& c = args.c[i * args.c_stride + j];
            const double kept = args.beta == 0.0f ? 0.0 : static_cast<double>(args.beta) * static_cast<double>(c);
            c = static_cast<float>(static_cast<double>(args.alpha) * sum + kept);
        }
    }
}

}  // namespace

void gemm(const GemmArgs& args) { product<same>(args); }

void gemm_bf16(const GemmArgs& args, std::vector<uint32_t>* /*work*/) { product<to_bf16>(args); }

}  // namespace atlas::kernels::reference
