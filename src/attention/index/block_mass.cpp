#include "attention/index/block_mass.h"

#include <algorithm>
#include <cmath>

#include "kernels/moments.h"

namespace atlas::attention {
namespace {

constexpr auto kLanes = static_cast<int64_t>(kernels::kPanelBlocks);
// ln n, the independent keys that a block of alike ones counts as. Measured on two models: 32, 8, 4, 3, 2 (docs/attention.md).
constexpr float kLogAlikeKeys = 1.38629436f;    // 4
constexpr float kLogTrustedKeys = 0.69314718f;  // 2

float largest_of(float log_n, float t) { return t > log_n ? 2.0f * std::sqrt(log_n * t) - log_n : t; }

}  // namespace

float cut_back(float bessel_sum) { return largest_of(kLogAlikeKeys, bessel_sum); }
float shrunk_mass(float bessel_sum) { return largest_of(kLogTrustedKeys, bessel_sum); }

void add_bessel(const Panel& panel, const float* q_abs, int64_t rows, const float* scale, bool alike, float* factors,
                float* trust, float* mass) {
    const int64_t n = rows * kLanes;
    if (alike) std::fill(trust, trust + n, 0.0f);
    kernels::panel_log_bessel(q_abs, static_cast<size_t>(rows), panel.spread(), scale,
                              static_cast<size_t>(panel.d_k / 2), factors, alike ? trust : mass);
    if (!alike) {
        std::fill(trust, trust + n, 1.0f);
        return;
    }
    for (int64_t i = 0; i < n; ++i) {
        const float all = cut_back(trust[i]);
        mass[i] += all;
        trust[i] = shrunk_mass(trust[i]) - all;
    }
    kernels::exp_sum(trust, static_cast<size_t>(n), 0.0f);
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
