#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace atlas::kernels {

/**
 * Merges attention over two disjoint key sets: o = e^{lse_a − L}·a + e^{lse_b − L}·b with L = ln(e^{lse_a} + e^{lse_b}) (natural logs), in
 * place into `a` [d] and `lse_a`. A set without a visible key has lse −inf and does not change the other.
 */
inline void merge_partial(float* a, float* lse_a, const float* b, float lse_b, int64_t d) {
    constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
    if (lse_b == kMinusInfinity) return;
    const float max = std::fmax(*lse_a, lse_b);
    const float weight_a = std::exp(*lse_a - max);
    const float weight_b = std::exp(lse_b - max);
    const float inverse = 1.0f / (weight_a + weight_b);
    for (int64_t i = 0; i < d; ++i) a[i] = (weight_a * a[i] + weight_b * b[i]) * inverse;
    *lse_a = max + std::log(weight_a + weight_b);
}

}  // namespace atlas::kernels
