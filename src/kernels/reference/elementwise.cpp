#include <cmath>

#include "kernels/reference/reference.h"

namespace atlas::kernels::reference {
namespace {

/** y[i] = f(x[i]) in float64. */
template <class F>
void map(const float* x, size_t n, float* y, F f) {
    for (size_t i = 0; i < n; ++i) y[i] = static_cast<float>(f(static_cast<double>(x[i])));
}

constexpr double kTwoRootTwoOverPi = 1.5957691216057308;
constexpr double kCubic = 0.044715;

}  // namespace

void gelu(const float* z, size_t n, float* value, float* slope) {
    for (size_t i = 0; i < n; ++i) {
        const auto x = static_cast<double>(z[i]);
        const double sigma = 1.0 / (1.0 + std::exp(-kTwoRootTwoOverPi * (x + kCubic * x * x * x)));
        value[i] = static_cast<float>(x * sigma);
        if (slope) {
            const double inner = kTwoRootTwoOverPi * (1.0 + 3.0 * kCubic * x * x);
            slope[i] = static_cast<float>(sigma + x * sigma * (1.0 - sigma) * inner);
        }
    }
}

void scaled_copy(float a, const float* x, size_t n, float* y) {
    map(x, n, y, [a](double v) { return static_cast<double>(a) * v; });
}

void scaled_add(float a, const float* x, float b, size_t n, float* y) {
    for (size_t i = 0; i < n; ++i) {
        y[i] = static_cast<float>(static_cast<double>(a) * static_cast<double>(x[i]) +
                                  static_cast<double>(b) * static_cast<double>(y[i]));
    }
}

double square_sum(const float* x, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    return sum;
}

bool all_finite(const float* x, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        if (!std::isfinite(x[i])) return false;
    }
    return true;
}

void cosine(const float* x, size_t n, float scale, float* y) {
    map(x, n, y, [scale](double v) { return static_cast<double>(scale) * std::cos(v); });
}

void exponential(const float* x, size_t n, float* y) {
    map(x, n, y, [](double v) { return std::exp(v); });
}

}  // namespace atlas::kernels::reference
