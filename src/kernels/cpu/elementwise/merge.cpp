#include <cmath>
#include <limits>

#include "kernels/cpu/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise/merge.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

/** a[i] = (weight_a·a[i] + weight_b·b[i])·factor. */
void Blend(float* a, float weight_a, const float* b, float weight_b, float factor, size_t n) {
    const hn::ScalableTag<float> d;
    const size_t lanes = hn::Lanes(d);
    const auto wa = hn::Set(d, weight_a), wb = hn::Set(d, weight_b), f = hn::Set(d, factor);
    size_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        const auto sum = hn::MulAdd(wa, hn::LoadU(d, a + i), hn::Mul(wb, hn::LoadU(d, b + i)));
        hn::StoreU(hn::Mul(sum, f), d, a + i);
    }
    if (i < n) {
        const auto sum = hn::MulAdd(wa, hn::LoadN(d, a + i, n - i), hn::Mul(wb, hn::LoadN(d, b + i, n - i)));
        hn::StoreN(hn::Mul(sum, f), d, a + i, n - i);
    }
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {

HWY_EXPORT(Blend);

void merge(float* a, float* lse_a, const float* b, float lse_b, int64_t d) {
    if (lse_b == -std::numeric_limits<float>::infinity()) return;
    const float max = std::fmax(*lse_a, lse_b);
    const float weight_a = std::exp(*lse_a - max);
    const float weight_b = std::exp(lse_b - max);
    HWY_DYNAMIC_DISPATCH(Blend)(a, weight_a, b, weight_b, 1.0f / (weight_a + weight_b), static_cast<size_t>(d));
    *lse_a = max + std::log(weight_a + weight_b);
}

}  // namespace atlas::kernels::cpu
#endif
