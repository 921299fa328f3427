#include "memory/feature_map.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>

#include "kernels/elementwise.h"
#include "kernels/layers.h"
#include "kernels/matmul.h"

namespace atlas::memory {
namespace {

bool is_polynomial(FeatureType type) { return type == FeatureType::kPolynomial || type == FeatureType::kExponential; }

/** Monomials of degree exactly n in d variables: C(d + n − 1, n). */
size_t monomial_count(size_t d, int n) {
    size_t count = 1;
    for (int i = 1; i <= n; ++i) count = count * (d + static_cast<size_t>(i) - 1) / static_cast<size_t>(i);
    return count;
}

}  // namespace

Status check_features(const FeatureConfig& config) {
    const std::string what = "feature map of " + std::to_string(config.d) + " elements";
    if (config.d == 0 || config.d > 4096) return Status::invalid_argument(what + ": inputs have 1 to 4096 elements");
    if (is_polynomial(config.type) && (config.degree < 1 || config.degree > 3)) {
        return Status::invalid_argument(what + ": degree " + std::to_string(config.degree) + ", allowed is 1 to 3");
    }
    if ((config.type == FeatureType::kFourier || config.type == FeatureType::kRbf) &&
        (config.features == 0 || config.features > 65536)) {
        return Status::invalid_argument(what + ": " + std::to_string(config.features) +
                                        " features, allowed is 1 to 65536");
    }
    if (!(config.bandwidth >= 0.0))
        return Status::invalid_argument(what + ": bandwidth " + std::to_string(config.bandwidth) + " is negative");
    if (is_polynomial(config.type) && feature_count(config) > 65536) {
        return Status::invalid_argument(what + ": degree " + std::to_string(config.degree) + " gives " +
                                        std::to_string(feature_count(config)) + " features, more than 65536");
    }
    return Status::ok();
}

size_t feature_count(const FeatureConfig& config) {
    if (config.type == FeatureType::kIdentity) return config.d;
    if (!is_polynomial(config.type)) return config.features;
    size_t count = 0;
    for (int n = 0; n <= config.degree; ++n) count += monomial_count(config.d, n);
    return count;
}

FeatureMap::FeatureMap(const FeatureConfig& config) : config_(config), features_(feature_count(config)) {
    bandwidth_ = config.bandwidth > 0.0 ? config.bandwidth
                 : config.normalize     ? 1.0
                                        : std::sqrt(static_cast<double>(config.d));
    if (is_polynomial(config.type)) {
        starts_.push_back(0);
        double factorial = 1.0;
        for (int n = 0; n <= config.degree; ++n) {
            factorial *= n > 0 ? n : 1;
            coefficients_.push_back(config.type == FeatureType::kExponential ? 1.0 / std::sqrt(factorial) : 1.0);
            starts_.push_back(starts_.back() + monomial_count(config.d, n));
        }
        multiplicity_.assign(features_, 1.0f);
        if (config.type == FeatureType::kExponential) {
            size_t at = 0;
            const size_t d = config.d;
            at += 1 + d;
            for (size_t i = 0; config.degree >= 2 && i < d; ++i) {
                for (size_t j = i; j < d; ++j) multiplicity_[at++] = i == j ? 1.0f : std::sqrt(2.0f);
            }
            for (size_t i = 0; config.degree >= 3 && i < d; ++i) {
                for (size_t j = i; j < d; ++j) {
                    for (size_t k = j; k < d; ++k)
                        multiplicity_[at++] = i == k ? 1.0f : i == j || j == k ? std::sqrt(3.0f) : std::sqrt(6.0f);
                }
            }
        }
        rescale();
        return;
    }
    if (config.type == FeatureType::kIdentity) return;
    std::mt19937_64 random(config.seed);
    std::normal_distribution<float> normal;
    std::uniform_real_distribution<float> phase(0.0f, 2.0f * std::numbers::pi_v<float>);
    weights_.resize(features_ * config.d);
    if (config.type == FeatureType::kFourier) {
        for (float& w : weights_) w = normal(random) / static_cast<float>(bandwidth_);
        phases_.resize(features_);
        for (float& b : phases_) b = phase(random);
        return;
    }
    // Centres lie where inputs do: a shell of radius 1 for normalised ones, else √d.
    const float size = config.normalize ? 1.0f / std::sqrt(static_cast<float>(config.d)) : 1.0f;
    for (float& w : weights_) w = size * normal(random);
    set_centres(std::vector<float>(weights_));
}

void FeatureMap::set_centres(std::span<const float> centres) {
    weights_.assign(centres.begin(), centres.end());
    centre_squares_.resize(features_);
    for (size_t i = 0; i < features_; ++i)
        centre_squares_[i] = static_cast<float>(kernels::square_sum(weights_.data() + i * config_.d, config_.d));
}

void FeatureMap::set_coefficients(std::span<const double> coefficients) {
    std::copy_n(coefficients.begin(), std::min(coefficients.size(), coefficients_.size()), coefficients_.begin());
    rescale();
}

void FeatureMap::rescale() {
    scale_.resize(features_);
    for (size_t n = 0; n + 1 < starts_.size(); ++n) {
        for (size_t i = starts_[n]; i < starts_[n + 1]; ++i)
            scale_[i] = static_cast<float>(coefficients_[n] * static_cast<double>(multiplicity_[i]));
    }
}

/** All monomials of degree ≤ p, each degree's in lexicographic order of its indices i ≤ j ≤ k. */
void FeatureMap::monomials(const float* x, float* out) const {
    const size_t d = config_.d;
    out[0] = 1.0f;
    std::copy_n(x, d, out + 1);
    for (int n = 2; n <= config_.degree; ++n) {
        // Those of degree n that begin with x_i are x_i times those of degree n − 1 whose first index is at least i: the list's tail.
        const float* lower = out + starts_[static_cast<size_t>(n) - 1];
        const float* lower_end = out + starts_[static_cast<size_t>(n)];
        float* to = out + starts_[static_cast<size_t>(n)];
        for (size_t i = 0; i < d; ++i) {
            const auto count = static_cast<size_t>(lower_end - lower);
            kernels::scaled_copy(x[i], lower, count, to);
            to += count;
            lower += n == 2 ? 1 : d - i;
        }
    }
}

const float* FeatureMap::normalized(const float* x, std::vector<float>* buffer) const {
    if (!config_.normalize) return x;
    buffer->resize(config_.d);
    const double length = std::sqrt(kernels::square_sum(x, config_.d));
    kernels::scaled_copy(length > 0.0 ? static_cast<float>(1.0 / length) : 0.0f, x, config_.d, buffer->data());
    return buffer->data();
}

void FeatureMap::map(const float* x, size_t n, float* out) const {
    const size_t d = config_.d;
    std::vector<float> buffer;
    if (is_polynomial(config_.type) || config_.type == FeatureType::kIdentity) {
        for (size_t row = 0; row < n; ++row, out += features_) {
            const float* input = normalized(x + row * d, &buffer);
            if (config_.type == FeatureType::kIdentity) {
                std::copy_n(input, d, out);
            } else {
                monomials(input, out);
                kernels::product(scale_.data(), out, features_, out);
            }
        }
        return;
    }
    std::vector<float> inputs(x, x + n * d);
    for (size_t row = 0; config_.normalize && row < n; ++row)
        std::copy_n(normalized(x + row * d, &buffer), d, inputs.data() + row * d);
    kernels::gemm({.m = n,
                   .n = features_,
                   .k = d,
                   .a = {inputs.data(), d},
                   .b = kernels::MatrixView{weights_.data(), d}.transposed(),
                   .c = out,
                   .c_stride = features_});
    for (size_t row = 0; row < n; ++row, out += features_) {
        if (config_.type == FeatureType::kFourier) {
            kernels::scaled_add(1.0f, phases_.data(), 1.0f, features_, out);
            kernels::cosine(out, features_, std::sqrt(2.0f / static_cast<float>(features_)), out);
        } else {
            // −‖x − c‖² / 2b² = (x·c − ½‖x‖² − ½‖c‖²) / b²; rounding may leave it above 0.
            const auto inverse = static_cast<float>(1.0 / (bandwidth_ * bandwidth_));
            const auto half = 0.5f * static_cast<float>(kernels::square_sum(inputs.data() + row * d, d));
            for (size_t i = 0; i < features_; ++i)
                out[i] = std::min(0.0f, (out[i] - half - 0.5f * centre_squares_[i]) * inverse);
            kernels::exponential(out, features_, out);
        }
    }
}

void FeatureMap::coefficient_gradient(const float* x, size_t n, const float* feature_gradient, double* out) const {
    std::fill_n(out, coefficients_.size(), 0.0);
    std::vector<float> buffer, raw(features_);
    for (size_t row = 0; row < n; ++row) {
        monomials(normalized(x + row * config_.d, &buffer), raw.data());
        for (size_t degree = 0; degree + 1 < starts_.size(); ++degree) {
            for (size_t i = starts_[degree]; i < starts_[degree + 1]; ++i) {
                out[degree] += static_cast<double>(raw[i]) * static_cast<double>(multiplicity_[i]) *
                               static_cast<double>(feature_gradient[row * features_ + i]);
            }
        }
    }
}

}  // namespace atlas::memory
