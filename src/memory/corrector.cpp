#include "memory/corrector.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "memory/gemm.h"
#include "memory/vector_ops.h"

namespace atlas::memory {

Status check_corrector(const CorrectorConfig& config) {
    if (!config.least_squares) return check_memory(config.memory);
    if (Status status = check_features(config.memory.features); !status.is_ok()) return status;
    const size_t features = feature_count(config.memory.features);
    if (features > 1024)
        return Status::invalid_argument("least squares over " + std::to_string(features) +
                                        " features, at most 1024 are allowed");
    if (config.memory.d_out == 0) return Status::invalid_argument("least squares onto 0 values");
    return Status::ok();
}

Corrector::Corrector(const CorrectorConfig& config)
    : config_(config), prediction_(config.memory.d_out), target_(config.memory.d_out) {
    if (config.least_squares) {
        map_ = std::make_unique<FeatureMap>(config.memory.features);
        // Unit queries: a constant of 1 beside a query of length √d / 2 (best of 1, √d / 2 and √d on recorded residuals).
        std::vector<double> scale(map_->coefficients().begin(), map_->coefficients().end());
        for (size_t i = 1; i < scale.size(); ++i)
            scale[i] *= 0.5 * std::sqrt(static_cast<double>(config.memory.features.d));
        map_->set_coefficients(scale);
        x_.resize(map_->features());
        v_.resize(config.memory.d_out);
        weights_.resize(map_->features() * config.memory.d_out);
    }
    reset();
}

void Corrector::reset() {
    if (config_.least_squares) {
        solver_ = std::make_unique<RecursiveLeastSquares>(map_->features(), config_.memory.d_out, config_.ridge,
                                                          config_.forgetting, true);
        std::fill(weights_.begin(), weights_.end(), 0.0f);
    } else if (memory_) {
        memory_->reset();
    } else {
        memory_ = std::make_unique<TestTimeMemory>(config_.memory);
    }
    gate_ = tokens_ = scale_square_ = scale_ = weight_ = rr_ = rm_ = mm_ = rm_square_ = 0.0;
    observations_ = learned_ = 0;
}

size_t Corrector::bytes() const {
    const size_t features = x_.size();
    const size_t solver = solver_ ? (features * features + features * (config_.memory.d_out + 2)) * sizeof(double) : 0;
    const size_t map = map_ ? 2 * features * sizeof(float) : 0;
    return solver + map + (memory_ ? memory_->bytes() : 0) +
           (weights_.size() + mapped_.capacity() + prediction_.capacity()) * sizeof(float);
}

void Corrector::predict(const float* q, size_t n) {
    const size_t d_out = config_.memory.d_out;
    prediction_.resize(std::max(prediction_.size(), n * d_out));
    if (memory_) {
        memory_->read(q, n, prediction_.data());
        return;
    }
    const size_t features = map_->features();
    mapped_.resize(std::max(mapped_.size(), n * features));
    map_->map(q, n, mapped_.data());
    gemm(n, d_out, features, 1.0f, {mapped_.data(), features}, {weights_.data(), d_out}, 0.0f, prediction_.data(),
         d_out);
}

void Corrector::learn(const float* q, const float* target, float weight) {
    const size_t d_out = config_.memory.d_out;
    if (memory_) {
        memory_->learn(q, target, &weight, 1);
        learned_ = memory_->learner().stats().pairs;
        return;
    }
    mapped_.resize(std::max(mapped_.size(), map_->features()));
    map_->map(q, 1, mapped_.data());
    // A weight multiplies the squared error, so its root both sides.
    const double root = std::sqrt(static_cast<double>(weight));
    for (size_t i = 0; i < x_.size(); ++i) x_[i] = root * static_cast<double>(mapped_[i]);
    for (size_t i = 0; i < d_out; ++i) v_[i] = root * static_cast<double>(target[i]);
    solver_->learn(x_.data(), v_.data());
    for (size_t i = 0; i < x_.size(); ++i) {
        for (size_t o = 0; o < d_out; ++o)
            weights_[i * d_out + o] = static_cast<float>(solver_->weights()[o * x_.size() + i]);
    }
    ++learned_;
}

CorrectorStats Corrector::stats() const {
    const double w = weight_ > 0.0 ? 1.0 / weight_ : 0.0;
    return {observations_, rr_ * w, (rr_ - 2.0 * rm_ + mm_) * w, gate_};
}

void Corrector::correct(const float* q, size_t n, float* out) {
    if (gate_ <= 0.0 || n == 0) return;
    const size_t d_out = config_.memory.d_out;
    predict(q, n);
    // A prediction that is not finite must not reach the output.
    if (!all_finite(prediction_.data(), n * d_out)) return;
    scaled_add(static_cast<float>(gate_ * scale_), prediction_.data(), 1.0f, n * d_out, out);
}

void Corrector::observe(const float* q, const float* residual, float weight, double tokens) {
    const size_t d = config_.memory.features.d;
    const size_t d_out = config_.memory.d_out;
    tokens_ += tokens;
    const double square = square_sum(residual, d_out);
    if (!all_finite(q, d) || !std::isfinite(square) || !std::isfinite(weight) || weight <= 0.0f) return;
    ++observations_;
    // Prediction first: this pair has not been learned.
    predict(q, 1);
    double dot = 0.0;
    for (size_t i = 0; i < d_out; ++i) dot += static_cast<double>(prediction_[i]) * static_cast<double>(residual[i]);
    dot *= scale_;
    const double own = scale_ * scale_ * square_sum(prediction_.data(), d_out);
    const double keep = 1.0 - 1.0 / config_.memory_length;
    const auto w = static_cast<double>(weight);
    weight_ = keep * weight_ + w;
    rr_ = keep * rr_ + w * square;
    rm_ = keep * rm_ + w * dot;
    mm_ = keep * mm_ + w * own;
    rm_square_ = keep * rm_square_ + w * w * dot * dot;
    move_gate();
    if (!config_.learn || square == 0.0) return;
    // Targets at length 1 whatever the model's values are. The scale is set while the memory is still empty and then left alone, since what
    // was learned is relative to it.
    if (learned_ == 0) {
        scale_square_ = std::max(scale_square_, 0.0) + square;
        scale_ = std::sqrt(scale_square_ / static_cast<double>(observations_));
    }
    scaled_copy(static_cast<float>(1.0 / scale_), residual, d_out, target_.data());
    learn(q, target_.data(), weight);
}

void Corrector::move_gate() {
    if (tokens_ < config_.warm_up || learned_ == 0) return;
    if (!config_.dynamic_gate) {
        gate_ = config_.gate_limit;
        return;
    }
    // Error at gate g: rr − 2 g rm + g² mm. Its slope must be below zero by two standard errors for g to rise.
    const double step = config_.gate_limit / 16.0;
    const double doubt = 2.0 * std::sqrt(rm_square_);
    if (rm_ - doubt > (gate_ + step) * mm_) {
        gate_ = std::min(config_.gate_limit, gate_ + step);
    } else if (rm_ < gate_ * mm_) {
        gate_ = std::max(0.0, gate_ - 2.0 * step);
    }
}

}  // namespace atlas::memory
