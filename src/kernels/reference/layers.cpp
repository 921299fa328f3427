#include "kernels/layers.h"

#include <cmath>

#include "kernels/reference/reference.h"

namespace atlas::kernels::reference {
namespace {

double gate_of(Gate gate, double x) {
    switch (gate) {
        case Gate::kReLU:
            return x > 0.0 || std::isnan(x) ? x : 0.0;
        case Gate::kGELU:
            // 2√(2/π)
            return x / (1.0 + std::exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)));
        case Gate::kSiLU:
            break;
    }
    return x / (1.0 + std::exp(-x));
}

}  // namespace

void rms_norm(const float* x, size_t n, float epsilon, float* y) {
    double squares = 0.0;
    for (size_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(n) + static_cast<double>(epsilon));
    for (size_t i = 0; i < n; ++i) y[i] = static_cast<float>(static_cast<double>(x[i]) * scale);
}

void add(const float* a, const float* b, size_t n, float* sum) {
    for (size_t i = 0; i < n; ++i) sum[i] = static_cast<float>(static_cast<double>(a[i]) + static_cast<double>(b[i]));
}

void product(const float* a, const float* b, size_t n, float* y) {
    for (size_t i = 0; i < n; ++i) y[i] = static_cast<float>(static_cast<double>(a[i]) * static_cast<double>(b[i]));
}

void gated(Gate gate, const float* x, const float* up, size_t n, float* y) {
    for (size_t i = 0; i < n; ++i)
        y[i] = static_cast<float>(gate_of(gate, static_cast<double>(x[i])) * static_cast<double>(up[i]));
}

void rotate_pairs(RopePairs which, const float* x, const float* cosines, const float* sines, size_t pairs, float* y) {
    const size_t step = which == RopePairs::kAdjacent ? 2 : 1;
    const size_t other = which == RopePairs::kAdjacent ? 1 : pairs;
    for (size_t i = 0; i < pairs; ++i) {
        const auto a = static_cast<double>(x[i * step]), b = static_cast<double>(x[i * step + other]);
        const auto c = static_cast<double>(cosines[i]), s = static_cast<double>(sines[i]);
        y[i * step] = static_cast<float>(a * c - b * s);
        y[i * step + other] = static_cast<float>(a * s + b * c);
    }
}

}  // namespace atlas::kernels::reference
