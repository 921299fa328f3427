#include "memory/test_time_memory.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace atlas::memory {

MemoryShape shape_of(const MemoryConfig& config) {
    MemoryShape shape;
    shape.kind = config.kind;
    shape.d_in = feature_count(config.features);
    shape.d_out = config.d_out;
    shape.hidden = config.kind == MemoryKind::kLinear ? 0
                   : config.hidden                    ? config.hidden
                                                      : std::min<size_t>(1024, 4 * shape.d_in);
    shape.residual = config.residual;
    shape.bias = config.bias;
    return shape;
}

Status check_memory(const MemoryConfig& config) {
    if (Status status = check_features(config.features); !status.is_ok()) return status;
    if (Status status = check_shape(shape_of(config)); !status.is_ok()) return status;
    if (config.chunk == 0 || config.chunk > 65536) {
        return Status::invalid_argument("memory: chunk of " + std::to_string(config.chunk) +
                                        " pairs, allowed is 1 to 65536");
    }
    return check_omega(config.omega);
}

TestTimeMemory::TestTimeMemory(const MemoryConfig& config)
    : config_(config),
      map_(config.features),
      cache_(map_, config.cache_bytes),
      learner_(std::make_unique<OmegaLearner>(shape_of(config), config.omega, config.seed)),
      keys_(config.chunk * config.features.d),
      values_(config.chunk * config.d_out),
      weights_(config.chunk) {}

size_t TestTimeMemory::bytes() const {
    return learner_->bytes() + cache_.bytes() +
           (keys_.size() + values_.size() + weights_.size() + mapped_.capacity() + gradient_.capacity()) *
               sizeof(float);
}

void TestTimeMemory::read(const float* queries, size_t n, float* out) {
    // In pieces, so that the mapped features of a long prompt need no more room than those of a chunk.
    for (size_t i = 0; i < n; i += config_.chunk) {
        const size_t count = std::min(config_.chunk, n - i);
        mapped_.resize(std::max(mapped_.size(), count * map_.features()));
        cache_.map(queries + i * config_.features.d, count, mapped_.data());
        learner_->read(mapped_.data(), count, out + i * config_.d_out);
    }
}

void TestTimeMemory::learn(const float* keys, const float* values, const float* weights, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        std::copy_n(keys + i * config_.features.d, config_.features.d, keys_.data() + pending_ * config_.features.d);
        std::copy_n(values + i * config_.d_out, config_.d_out, values_.data() + pending_ * config_.d_out);
        weights_[pending_] = weights ? weights[i] : 1.0f;
        if (++pending_ == config_.chunk) flush();
    }
}

void TestTimeMemory::flush() {
    if (pending_ == 0) return;
    const size_t n = pending_;
    pending_ = 0;
    mapped_.resize(std::max(mapped_.size(), n * map_.features()));
    cache_.map(keys_.data(), n, mapped_.data());
    const bool adapt = config_.coefficient_step > 0.0 && !map_.coefficients().empty();
    if (!adapt) {
        learner_->learn(mapped_.data(), values_.data(), weights_.data(), n);
        return;
    }
    gradient_.resize(std::max(gradient_.size(), n * map_.features()));
    learner_->learn(mapped_.data(), values_.data(), weights_.data(), n, gradient_.data());
    std::vector<double> slope(map_.coefficients().size());
    map_.coefficient_gradient(keys_.data(), n, gradient_.data(), slope.data());
    std::vector<double> next(map_.coefficients().begin(), map_.coefficients().end());
    bool finite = true;
    for (size_t i = 0; i < next.size(); ++i) {
        next[i] -= config_.coefficient_step * slope[i] / static_cast<double>(n);
        finite = finite && std::isfinite(next[i]);
    }
    if (!finite) return;
    map_.set_coefficients(next);
    cache_.clear();
}

void TestTimeMemory::reset() {
    pending_ = 0;
    learner_->reset();
    cache_.clear();
    if (!map_.coefficients().empty()) map_.set_coefficients(FeatureMap(config_.features).coefficients());
}

void TestTimeMemory::set_coefficients(std::span<const double> coefficients) {
    map_.set_coefficients(coefficients);
    cache_.clear();
}

std::vector<std::byte> TestTimeMemory::save() {
    flush();
    std::vector<std::byte> out(map_.coefficients().size() * sizeof(double));
    if (!out.empty()) std::memcpy(out.data(), map_.coefficients().data(), out.size());
    learner_->save(&out);
    return out;
}

Status TestTimeMemory::restore(std::span<const std::byte> data) {
    const size_t bytes = map_.coefficients().size() * sizeof(double);
    if (data.size() < bytes)
        return Status::corrupt("memory state of " + std::to_string(data.size()) + " bytes is too short");
    std::vector<double> coefficients(map_.coefficients().size());
    if (bytes) std::memcpy(coefficients.data(), data.data(), bytes);
    if (!std::all_of(coefficients.begin(), coefficients.end(), [](double a) { return std::isfinite(a); })) {
        return Status::corrupt("memory state: a coefficient is not finite");
    }
    if (Status status = learner_->restore(data.subspan(bytes)); !status.is_ok()) return status;
    if (bytes) map_.set_coefficients(coefficients);
    cache_.clear();
    pending_ = 0;
    return Status::ok();
}

}  // namespace atlas::memory
