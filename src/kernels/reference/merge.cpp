#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/reference/reference.h"

namespace atlas::kernels::reference {

void merge(float* a, float* lse_a, const float* b, float lse_b, int64_t d) {
    constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
    if (lse_b == kMinusInfinity) return;
    const double max = std::max(static_cast<double>(*lse_a), static_cast<double>(lse_b));
    const double weight_a = std::exp(static_cast<double>(*lse_a) - max);
    const double weight_b = std::exp(static_cast<double>(lse_b) - max);
    const double sum = weight_a + weight_b;
    for (int64_t i = 0; i < d; ++i) {
        a[i] = static_cast<float>((weight_a * static_cast<double>(a[i]) + weight_b * static_cast<double>(b[i])) / sum);
    }
    *lse_a = static_cast<float>(max + std::log(sum));
}

}  // namespace atlas::kernels::reference
