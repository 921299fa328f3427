#include "memory/corrector.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/elementwise.h"
#include "kernels/matmul.h"

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

namespace {

constexpr size_t kPiece = 32;  // queries predicted at once

}  // namespace

Corrector::Corrector(const CorrectorConfig& config)
    : config_(config), prediction_(kPiece * config.memory.d_out), target_(config.memory.d_out) {
    if (config.least_squares) {
        map_ = std::make_unique<FeatureMap>(config.memory.features);
        // Unit queries: a constant of 1 beside a query of length √d / 2 (best of 1, √d / 2 and √d on recorded residuals).
        coefficients_.assign(map_->coefficients().begin(), map_->coefficients().end());
        for (size_t i = 1; i < coefficients_.size(); ++i)
            coefficients_[i] *= 0.5 * std::sqrt(static_cast<double>(config.memory.features.d));
        x_.resize(map_->features());
        mapped_.resize(kPiece * map_->features());
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
        map_->set_coefficients(coefficients_);
    } else if (memory_) {
        memory_->reset();
    } else {
        memory_ = std::make_unique<TestTimeMemory>(config_.memory);
    }
    doubt();
    trusted_ = 0.0;
    tokens_ = scale_square_ = scale_ = 0.0;
    observations_ = learned_ = skipped_ = 0;
    if (!initial_) return;
    const CorrectorState& from = *initial_;
    if (solver_) {
        if (!from.coefficients.empty()) map_->set_coefficients(from.coefficients);
        solver_->set_state(from.weights.data(), from.momentum.empty() ? nullptr : from.momentum.data());
        refresh_weights();
    } else {
        if (!from.coefficients.empty()) memory_->set_coefficients(from.coefficients);
        memory_->learner().set_parameters(from.weights);
        memory_->learner().set_momentum(from.momentum);
    }
    scale_ = from.scale;
    gate_ = std::min(from.gate, config_.gate_limit);
    weight_ = from.evidence[0];
    rr_ = from.evidence[1];
    rm_ = from.evidence[2];
    mm_ = from.evidence[3];
    rm_square_ = from.evidence[4];
    learned_ = 1;  // the scale is fixed
}

void Corrector::doubt() {
    trusted_ = std::max(trusted_, gate_);
    gate_ = weight_ = rr_ = rm_ = mm_ = rm_square_ = 0.0;
}

Status Corrector::start_from(std::shared_ptr<const CorrectorState> state) {
    const size_t d_out = config_.memory.d_out;
    const size_t features = feature_count(config_.memory.features);
    const size_t weights = solver_ ? features * d_out : memory_->learner().parameters().size();
    const size_t momentum = solver_ ? features * features : weights;
    const size_t coefficients = (solver_ ? *map_ : memory_->features()).coefficients().size();
    const auto wrong = [](const char* what, size_t is, size_t due) {
        return Status::invalid_argument("initial memory: " + std::to_string(is) + " " + what + " where " +
                                        std::to_string(due) + " are due");
    };
    if (state->weights.size() != weights) return wrong("weights", state->weights.size(), weights);
    if (!state->momentum.empty() && state->momentum.size() != momentum)
        return wrong("numbers of momentum", state->momentum.size(), momentum);
    if (!state->coefficients.empty() && state->coefficients.size() != coefficients)
        return wrong("coefficients", state->coefficients.size(), coefficients);
    const auto finite = [](double x) { return std::isfinite(x); };
    if (!kernels::all_finite(state->weights.data(), weights) ||
        !kernels::all_finite(state->momentum.data(), state->momentum.size()) ||
        !std::all_of(state->coefficients.begin(), state->coefficients.end(), finite) ||
        !std::all_of(state->evidence.begin(), state->evidence.end(), finite) || !finite(state->scale) ||
        !(state->scale > 0.0) || !(state->gate >= 0.0 && state->gate <= 1.0)) {
        return Status::invalid_argument(
            "initial memory: a number is not finite, its scale not above 0 or its gate not in 0 to 1");
    }
    initial_ = std::move(state);
    reset();
    return Status::ok();
}

CorrectorState Corrector::state() {
    CorrectorState out;
    const auto flat = [](const auto& from) { return std::vector<float>(from.begin(), from.end()); };
    if (solver_) {
        out.weights = flat(solver_->weights());
        out.momentum = flat(solver_->covariance());
    } else {
        memory_->flush();
        out.weights = flat(memory_->learner().parameters());
        out.momentum = flat(memory_->learner().momentum());
    }
    const std::span<const double> coefficients = (solver_ ? *map_ : memory_->features()).coefficients();
    out.coefficients.assign(coefficients.begin(), coefficients.end());
    out.scale = scale_;
    out.gate = gate_;
    out.evidence = {weight_, rr_, rm_, mm_, rm_square_};
    return out;
}

void Corrector::set_gate(double limit, bool dynamic, double warm_up) {
    config_.gate_limit = limit;
    config_.dynamic_gate = dynamic;
    config_.warm_up = warm_up;
    gate_ = std::min(gate_, limit);
}

size_t Corrector::bytes() const {
    const size_t features = x_.size();
    const size_t solver = solver_ ? (features * features + features * (config_.memory.d_out + 2)) * sizeof(double) : 0;
    const size_t map = map_ ? 2 * features * sizeof(float) : 0;
    return solver + map + (memory_ ? memory_->bytes() : 0) +
           (weights_.size() + mapped_.size() + prediction_.size() + target_.size()) * sizeof(float);
}

void Corrector::predict(const float* q, size_t n) {
    const size_t d_out = config_.memory.d_out;
    if (memory_) {
        memory_->read(q, n, prediction_.data());
        return;
    }
    const size_t features = map_->features();
    map_->map(q, n, mapped_.data());
    kernels::gemm({.m = n,
                   .n = d_out,
                   .k = features,
                   .a = {mapped_.data(), features},
                   .b = {weights_.data(), d_out},
                   .c = prediction_.data(),
                   .c_stride = d_out});
}

void Corrector::learn(const float* q, const float* target, float weight) {
    const size_t d_out = config_.memory.d_out;
    if (memory_) {
        memory_->learn(q, target, &weight, 1);
        learned_ = std::max(learned_, memory_->learner().stats().pairs);
        return;
    }
    // A weight multiplies the squared error, so its root both sides.
    const double root = std::sqrt(static_cast<double>(weight));
    for (size_t i = 0; i < x_.size(); ++i) x_[i] = root * static_cast<double>(mapped_[i]);
    for (size_t i = 0; i < d_out; ++i) v_[i] = root * static_cast<double>(target[i]);
    solver_->learn(x_.data(), v_.data());
    refresh_weights();
    ++learned_;
}

void Corrector::refresh_weights() {
    const size_t d_out = config_.memory.d_out;
    const size_t features = map_->features();
    for (size_t i = 0; i < features; ++i) {
        for (size_t o = 0; o < d_out; ++o)
            weights_[i * d_out + o] = static_cast<float>(solver_->weights()[o * features + i]);
    }
}

CorrectorStats Corrector::stats() const {
    CorrectorStats out;
    out.observations = observations_;
    out.learned = learned_;
    out.skipped_pairs = skipped_;
    if (memory_) {
        const OmegaStats& omega = memory_->learner().stats();
        out.skipped_pairs += omega.skipped_pairs;
        out.skipped_updates = omega.skipped_updates;
        out.muon_steps = omega.muon_steps;
        out.cache = memory_->cache_stats();
        out.window_fill = memory_->learner().window().fill_ratio();
    } else {
        out.window_fill = learned_ > 0 ? 1.0 : 0.0;
    }
    const double w = weight_ > 0.0 ? 1.0 / weight_ : 0.0;
    out.error_without = rr_ * w;
    out.error_with = (rr_ - 2.0 * rm_ + mm_) * w;
    out.gate = gate_;
    return out;
}

bool Corrector::correct(const float* q, size_t n, float* out) {
    if (gate_ <= 0.0 || n == 0) return false;
    const size_t d = config_.memory.features.d;
    const size_t d_out = config_.memory.d_out;
    bool finite = true;
    // In pieces, so that a long prompt needs no more room than a token.
    for (size_t i = 0; i < n; i += kPiece) {
        const size_t rows = std::min(kPiece, n - i);
        predict(q + i * d, rows);
        // A prediction that is not finite must not reach the output.
        if (kernels::all_finite(prediction_.data(), rows * d_out)) {
            kernels::scaled_add(static_cast<float>(gate_ * scale_), prediction_.data(), 1.0f, rows * d_out,
                                out + i * d_out);
        } else {
            finite = false;
        }
    }
    return finite;
}

void Corrector::observe(const float* q, const float* residual, float weight, double tokens) {
    const size_t d = config_.memory.features.d;
    const size_t d_out = config_.memory.d_out;
    tokens_ += tokens;
    const double square = kernels::square_sum(residual, d_out);
    if (!kernels::all_finite(q, d) || !std::isfinite(square) || !std::isfinite(weight)) {
        ++skipped_;
        return;
    }
    if (weight <= 0.0f) return;
    ++observations_;
    // Prediction first: this pair has not been learned. Its features stay in mapped_, for learn().
    predict(q, 1);
    double dot = 0.0;
    for (size_t i = 0; i < d_out; ++i) dot += static_cast<double>(prediction_[i]) * static_cast<double>(residual[i]);
    dot *= scale_;
    const double own = scale_ * scale_ * kernels::square_sum(prediction_.data(), d_out);
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
    kernels::scaled_copy(static_cast<float>(1.0 / scale_), residual, d_out, target_.data());
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
    if (gate_ < trusted_ && rm_ - doubt > trusted_ * mm_) {
        gate_ = std::min(config_.gate_limit, trusted_);
        trusted_ = 0.0;
    } else if (rm_ - doubt > (gate_ + step) * mm_) {
        gate_ = std::min(config_.gate_limit, gate_ + step);
    } else if (rm_ < gate_ * mm_) {
        gate_ = std::max(0.0, gate_ - 2.0 * step);
    }
}

}  // namespace atlas::memory
