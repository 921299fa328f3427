#include "attention/block_mass.h"

#include <algorithm>
#include <cmath>

#include "kernels/moments.h"

namespace atlas::attention {
namespace {

constexpr auto kLanes = static_cast<int64_t>(kernels::kPanelBlocks);
// ln n for n = 4, the independent keys that a block of alike ones counts as. Measured on two models: 32, 8, 4, 3, 2 (docs/attention.md).
constexpr float kLogAlikeKeys = 1.38629436f;

}  // namespace

float cut_back(float bessel_sum) {
    return bessel_sum > kLogAlikeKeys ? 2.0f * std::sqrt(kLogAlikeKeys * bessel_sum) - kLogAlikeKeys : bessel_sum;
}

void add_bessel(const Panel& panel, const float* q_abs, int64_t rows, const float* scale, bool alike, float* factors,
                float* sums, float* mass) {
    if (alike) std::fill(sums, sums + rows * kLanes, 0.0f);
    kernels::panel_log_bessel(q_abs, static_cast<size_t>(rows), panel.spread(), scale,
                              static_cast<size_t>(panel.d_k / 2), factors, alike ? sums : mass);
    if (!alike) return;
    for (int64_t i = 0; i < rows * kLanes; ++i) mass[i] += cut_back(sums[i]);
}

void add_second_order(const Panel& panel, const float* q_abs, int64_t rows, const float* scale, float log_keys,
                      float* mass) {
    const float limit = std::sqrt(2.0f * log_keys);
    const int64_t pairs = panel.d_k / 2;
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t b = 0; b < kLanes; ++b) {
            float t = 0.0f;
            for (int64_t p = 0; p < pairs; ++p) {
                const float z = q_abs[row * pairs + p] * scale[b] * static_cast<float>(panel.spread()[p * kLanes + b]);
                t += 0.25f * z * z;
            }
            const float s = std::sqrt(2.0f * t);
            mass[row * kLanes + b] += s <= limit ? t : s * limit - log_keys;
        }
    }
}

}  // namespace atlas::attention
