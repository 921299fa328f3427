#include "attention/index/value_slope.h"

#include <cmath>

#include "kernels/gemm.h"

namespace atlas::attention {
namespace {

// A block that outweighs the reference by more than e to this power becomes the reference.
constexpr double kRescale = 20.0;

bool all_finite(const float* values, int64_t n) {
    float sum = 0.0f;
    for (int64_t i = 0; i < n; ++i) sum += 0.0f * values[i];
    return sum == 0.0f;
}

}  // namespace

void ValueSlope::add(const float* keys, const float* values, const float* weights, const float* mean, float log_mass,
                     int64_t n, int64_t d_k, int64_t d_v) {
    if (!std::isfinite(log_mass) || !all_finite(weights, n) || !all_finite(mean, d_k) || !all_finite(values, n * d_v))
        return;
    if (blocks_ == 0) {
        sum_.assign(static_cast<size_t>(d_k * d_v), 0.0f);
        reference_ = static_cast<double>(log_mass);
    }
    double above = static_cast<double>(log_mass) - reference_;
    if (above > kRescale) {
        const double shrink = std::exp(-above);
        for (float& x : sum_) x *= static_cast<float>(shrink);
        weight_ *= shrink;
        reference_ += above;
        above = 0.0;
    }
    const double share = std::exp(above);
    thread_local std::vector<float> offsets;  // [n][d_k], weighted: the values need not be centred then
    offsets.resize(static_cast<size_t>(n * d_k));
    for (int64_t j = 0; j < n; ++j) {
        const float w = static_cast<float>(share) * weights[j];
        for (int64_t i = 0; i < d_k; ++i) offsets[static_cast<size_t>(j * d_k + i)] = w * (keys[j * d_k + i] - mean[i]);
    }
    const auto keys_d = static_cast<size_t>(d_k);
    const auto values_d = static_cast<size_t>(d_v);
    memory::gemm(keys_d, values_d, static_cast<size_t>(n), 1.0f,
                 memory::MatrixView{offsets.data(), keys_d}.transposed(), {values, values_d}, 1.0f, sum_.data(),
                 values_d);
    weight_ += share;
    ++blocks_;
}

void ValueSlope::forget(double share) { reference_ += std::log1p(-share); }

void ValueSlope::apply(const float* q, int64_t rows, int64_t d_k, int64_t d_v, const float* factor, float* scratch,
                       float* out) const {
    if (blocks_ == 0) return;
    for (int64_t row = 0; row < rows; ++row) {
        const float scale = static_cast<float>(factor[row] / weight_);
        for (int64_t i = 0; i < d_k; ++i) scratch[row * d_k + i] = scale * q[row * d_k + i];
    }
    const auto keys_d = static_cast<size_t>(d_k);
    const auto values_d = static_cast<size_t>(d_v);
    memory::gemm(static_cast<size_t>(rows), values_d, keys_d, 1.0f, {scratch, keys_d}, {sum_.data(), values_d}, 1.0f,
                 out, values_d);
}

}  // namespace atlas::attention
