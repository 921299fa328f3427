#include "memory/omega.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/log.h"
#include "kernels/elementwise.h"

namespace atlas::memory {

Status check_omega(const OmegaConfig& config) {
    const auto inside = [](double value, double low, double high) { return value >= low && value <= high; };
    if (config.window < 1 || config.window > 4096)
        return Status::invalid_argument("Omega rule: window " + std::to_string(config.window) +
                                        ", allowed is 1 to 4096");
    if (!inside(config.decay, 0.0, 1.0))
        return Status::invalid_argument("Omega rule: decay " + std::to_string(config.decay) + ", allowed is 0 to 1");
    if (!inside(config.momentum, 0.0, 1.0) || config.momentum == 1.0) {
        return Status::invalid_argument("Omega rule: momentum " + std::to_string(config.momentum) +
                                        ", allowed is 0 to below 1");
    }
    if (!inside(config.retention, 0.0, 1.0))
        return Status::invalid_argument("Omega rule: retention " + std::to_string(config.retention) +
                                        ", allowed is 0 to 1");
    if (!inside(config.step, 0.0, 1e6))
        return Status::invalid_argument("Omega rule: step " + std::to_string(config.step) + ", allowed is 0 to 1e6");
    if (config.iterations < 0 || config.iterations > 64) {
        return Status::invalid_argument("Omega rule: " + std::to_string(config.iterations) +
                                        " Newton-Schulz iterations, allowed is 0 to 64");
    }
    return Status::ok();
}

ChunkWeights chunk_weights(const OmegaConfig& config, size_t before, size_t n, std::span<const float> gates) {
    ChunkWeights result;
    const auto window = static_cast<size_t>(config.window);
    result.omega.resize(before + n);
    result.step.resize(before + n);
    for (size_t i = 0; i < before + n; ++i) {
        // Follows one unit gradient through the chunk: s is its share of S, m its share of M. Token t of the chunk has index before + t.
        double s = 0.0;
        double m = 0.0;
        double weight = i < before ? std::pow(config.decay, static_cast<double>(before - i)) : 1.0;
        for (size_t t = i < before ? before : i; t < before + n; ++t) {
            s *= config.momentum;
            if (t - i < window) s += weight;
            weight *= config.decay;
            m = config.retention * m + config.step * s;
        }
        result.omega[i] = static_cast<float>(s * static_cast<double>(gates[i]));
        result.step[i] = static_cast<float>(m * static_cast<double>(gates[i]));
    }
    for (size_t t = 0; t < n; ++t) {
        result.momentum_kept *= config.momentum;
        result.memory_kept *= config.retention;
        result.memory_of_momentum = config.retention * result.memory_of_momentum + config.step * result.momentum_kept;
    }
    return result;
}

OmegaLearner::OmegaLearner(const MemoryShape& shape, const OmegaConfig& config, uint64_t seed)
    : shape_(shape),
      config_(config),
      seed_(seed),
      tensors_(parameter_tensors(shape)),
      parameters_(parameter_count(shape)),
      momentum_(parameters_.size()),
      window_(static_cast<size_t>(config.window) - 1, shape.d_in, shape.d_out) {
    reset();
}

size_t OmegaLearner::bytes() const {
    size_t floats = parameters_.size() + momentum_.size();
    const MemoryWorkspace& w = work_;
    for (const std::vector<float>* buffer : {&w.z,
                                             &w.activation,
                                             &w.slope,
                                             &w.gate,
                                             &w.hidden,
                                             &w.output,
                                             &w.error,
                                             &w.d_hidden,
                                             &w.d_z,
                                             &w.d_gate,
                                             &w.scaled,
                                             &muon_.x,
                                             &muon_.gram,
                                             &muon_.polynomial,
                                             &muon_.next,
                                             &x_,
                                             &v_,
                                             &gates_,
                                             &gradient_,
                                             &step_gradient_,
                                             &next_parameters_,
                                             &next_momentum_,
                                             &update_})
        floats += buffer->capacity();
    return floats * sizeof(float) + muon_.bf16.capacity() * sizeof(uint32_t) + window_.bytes();
}

void OmegaLearner::set_parameters(std::span<const float> parameters) {
    std::copy_n(parameters.begin(), std::min(parameters.size(), parameters_.size()), parameters_.begin());
}

void OmegaLearner::set_momentum(std::span<const float> momentum) {
    std::copy_n(momentum.begin(), std::min(momentum.size(), momentum_.size()), momentum_.begin());
}

void OmegaLearner::reset() {
    initialize_parameters(shape_, seed_, parameters_.data());
    std::fill(momentum_.begin(), momentum_.end(), 0.0f);
    window_.clear();
    stats_ = {};
}

void OmegaLearner::read(const float* x, size_t n, float* y) {
    memory_forward(shape_, parameters_.data(), x, n, y, &work_);
}

void OmegaLearner::warn_once(const char* what) {
    if (warned_) return;
    warned_ = true;
    log().warn("memory {} → {}: {}; skipped, further ones are only counted", shape_.d_in, shape_.d_out, what);
}

void OmegaLearner::learn(const float* x, const float* v, const float* weights, size_t n, float* x_gradient) {
    if (n == 0) return;
    const size_t before = window_.size();
    const size_t d_in = shape_.d_in;
    const size_t d_out = shape_.d_out;
    x_.resize((before + n) * d_in);
    v_.resize((before + n) * d_out);
    gates_.resize(before + n);
    window_.copy(x_.data(), v_.data(), gates_.data());
    std::copy_n(x, n * d_in, x_.data() + before * d_in);
    std::copy_n(v, n * d_out, v_.data() + before * d_out);
    size_t good = 0;
    for (size_t i = 0; i < n; ++i) {
        float* row = x_.data() + (before + i) * d_in;
        float* target = v_.data() + (before + i) * d_out;
        float& gate = gates_[before + i];
        gate = weights ? weights[i] : 1.0f;
        if (kernels::all_finite(row, d_in) && kernels::all_finite(target, d_out) && std::isfinite(gate)) {
            good += gate != 0.0f;
            continue;
        }
        std::fill_n(row, d_in, 0.0f);
        std::fill_n(target, d_out, 0.0f);
        gate = 0.0f;
        ++stats_.skipped_pairs;
        warn_once("an input is not finite");
    }
    stats_.pairs += good;

    const ChunkWeights all = chunk_weights(config_, before, n, gates_);
    gradient_.resize(parameters_.size());
    const bool muon = config_.orthogonalize != NewtonSchulz::kNone;
    const float* weightings[] = {all.omega.data(), all.step.data()};
    step_gradient_.resize(muon ? 0 : parameters_.size());
    float* gradients[] = {gradient_.data(), step_gradient_.data()};
    const size_t used = muon ? 1 : 2;
    std::vector<float> all_x_gradient(x_gradient ? (before + n) * d_in : 0);
    memory_gradient(shape_, parameters_.data(), x_.data(), v_.data(), before + n, {weightings, used}, {gradients, used},
                    x_gradient ? all_x_gradient.data() : nullptr, &work_);
    // work_.error holds 2(M(x) − v) of every pair.
    double loss = 0.0;
    for (size_t i = before; i < before + n; ++i) {
        if (gates_[i] != 0.0f) loss += 0.25 * kernels::square_sum(work_.error.data() + i * d_out, d_out);
    }
    if (x_gradient) std::copy_n(all_x_gradient.data() + before * d_in, n * d_in, x_gradient);

    next_momentum_ = momentum_;
    next_parameters_ = parameters_;
    if (muon && config_.per_token) {
        apply_per_token(before, n);
    } else {
        kernels::scaled_add(1.0f, gradient_.data(), static_cast<float>(all.momentum_kept), momentum_.size(),
                            next_momentum_.data());
        if (muon) {
            update_.resize(parameters_.size());
            for (const ParameterTensor& t : tensors_) {
                muon_step(config_.orthogonalize, t.rows, t.cols, next_momentum_.data() + t.offset,
                          update_.data() + t.offset, &muon_, config_.iterations, config_.bf16);
            }
            stats_.muon_steps += tensors_.size();
            kernels::scaled_add(static_cast<float>(-config_.step), update_.data(), static_cast<float>(all.memory_kept),
                                parameters_.size(), next_parameters_.data());
        } else {
            kernels::scaled_add(-1.0f, step_gradient_.data(), static_cast<float>(all.memory_kept), parameters_.size(),
                                next_parameters_.data());
            kernels::scaled_add(static_cast<float>(-all.memory_of_momentum), momentum_.data(), 1.0f, parameters_.size(),
                                next_parameters_.data());
        }
    }
    if (commit()) {
        stats_.loss = good ? loss / static_cast<double>(good) : 0.0;
        window_.push(x_.data() + before * d_in, v_.data() + before * d_out, gates_.data() + before, n);
    }
}

/** Muon at every token: the window's gradient, momentum and Newton–Schulz one token after another, all at the chunk's first memory. */
void OmegaLearner::apply_per_token(size_t before, size_t n) {
    const auto window = static_cast<size_t>(config_.window);
    std::vector<float> weights(window);
    update_.resize(parameters_.size());
    for (size_t t = before; t < before + n; ++t) {
        const size_t first = t + 1 > window ? t + 1 - window : 0;
        for (size_t i = first; i <= t; ++i)
            weights[i - first] = static_cast<float>(std::pow(config_.decay, static_cast<double>(t - i))) * gates_[i];
        const float* weighting = weights.data();
        float* gradient = gradient_.data();
        memory_gradient(shape_, parameters_.data(), x_.data() + first * shape_.d_in, v_.data() + first * shape_.d_out,
                        t + 1 - first, {&weighting, 1}, {&gradient, 1}, nullptr, &work_);
        kernels::scaled_add(1.0f, gradient, static_cast<float>(config_.momentum), momentum_.size(),
                            next_momentum_.data());
        for (const ParameterTensor& p : tensors_) {
            muon_step(config_.orthogonalize, p.rows, p.cols, next_momentum_.data() + p.offset,
                      update_.data() + p.offset, &muon_, config_.iterations, config_.bf16);
        }
        stats_.muon_steps += tensors_.size();
        kernels::scaled_add(static_cast<float>(-config_.step), update_.data(), static_cast<float>(config_.retention),
                            parameters_.size(), next_parameters_.data());
    }
}

bool OmegaLearner::commit() {
    if (!kernels::all_finite(next_parameters_.data(), next_parameters_.size()) ||
        !kernels::all_finite(next_momentum_.data(), next_momentum_.size())) {
        ++stats_.skipped_updates;
        warn_once("an update would not have been finite");
        return false;
    }
    parameters_.swap(next_parameters_);
    momentum_.swap(next_momentum_);
    return true;
}

namespace {

constexpr std::array<char, 8> kMagic{'A', 'T', 'L', 'S', 'M', 'E', 'M', '1'};

/** Numbers that must agree between the saving and the restoring learner. Little endian, as everything the library runs on. */
struct Identity {
    std::array<char, 8> magic = kMagic;
    uint32_t kind = 0, bias = 0, window = 0, orthogonalize = 0;
    uint64_t d_in = 0, d_out = 0, hidden = 0;
    double residual = 0, decay = 0, momentum = 0, retention = 0;
    bool operator==(const Identity&) const = default;
};

struct Header {
    Identity identity;
    uint64_t window_size = 0;
    OmegaStats stats;
};
static_assert(std::is_trivially_copyable_v<Header> && sizeof(Header) == 8 + 16 + 24 + 32 + 8 + sizeof(OmegaStats));

Identity identity_of(const MemoryShape& shape, const OmegaConfig& config) {
    Identity id;
    id.kind = static_cast<uint32_t>(shape.kind);
    id.bias = shape.bias;
    id.window = static_cast<uint32_t>(config.window);
    id.orthogonalize = static_cast<uint32_t>(config.orthogonalize);
    id.d_in = shape.d_in;
    id.d_out = shape.d_out;
    id.hidden = shape.hidden;
    id.residual = static_cast<double>(shape.residual);
    id.decay = config.decay;
    id.momentum = config.momentum;
    id.retention = config.retention;
    return id;
}

}  // namespace

void OmegaLearner::save(std::vector<std::byte>* out) const {
    const size_t start = out->size();
    const auto append = [&](const void* data, size_t bytes) {
        const size_t at = out->size();
        out->resize(at + bytes);
        if (bytes) std::memcpy(out->data() + at, data, bytes);
    };
    Header h{identity_of(shape_, config_), 0, {}};
    h.window_size = window_.size();
    h.stats = stats_;
    append(&h, sizeof h);
    append(parameters_.data(), parameters_.size() * sizeof(float));
    append(momentum_.data(), momentum_.size() * sizeof(float));
    std::vector<float> x(window_.size() * shape_.d_in), v(window_.size() * shape_.d_out), weights(window_.size());
    window_.copy(x.data(), v.data(), weights.data());
    append(x.data(), x.size() * sizeof(float));
    append(v.data(), v.size() * sizeof(float));
    append(weights.data(), weights.size() * sizeof(float));
    const uint64_t check = XXH3_64bits(out->data() + start, out->size() - start);
    append(&check, sizeof check);
}

Status OmegaLearner::restore(std::span<const std::byte> data) {
    Header h;
    uint64_t check = 0;
    if (data.size() < sizeof h + sizeof check)
        return Status::corrupt("memory state of " + std::to_string(data.size()) + " bytes is too short");
    std::memcpy(&h, data.data(), sizeof h);
    const Identity& id = h.identity;
    if (id.magic != kMagic) return Status::corrupt("memory state: not one, or of another version");
    if (id != identity_of(shape_, config_)) {
        return Status::invalid_argument("memory state of another shape or rule: it is " + std::to_string(id.d_in) +
                                        " → " + std::to_string(id.d_out) + ", hidden " + std::to_string(id.hidden) +
                                        ", window " + std::to_string(id.window));
    }
    if (h.window_size > window_.capacity()) return Status::corrupt("memory state: more pairs than its window holds");
    const size_t floats = 2 * parameters_.size() + h.window_size * (shape_.d_in + shape_.d_out + 1);
    if (data.size() != sizeof h + floats * sizeof(float) + sizeof check) {
        return Status::corrupt("memory state: " + std::to_string(data.size()) + " bytes where " +
                               std::to_string(sizeof h + floats * sizeof(float) + sizeof check) + " are due");
    }
    std::memcpy(&check, data.data() + data.size() - sizeof check, sizeof check);
    if (check != XXH3_64bits(data.data(), data.size() - sizeof check))
        return Status::corrupt("memory state: checksum differs");
    std::vector<float> values(floats);
    std::memcpy(values.data(), data.data() + sizeof h, floats * sizeof(float));
    const float* at = values.data();
    std::copy_n(at, parameters_.size(), parameters_.data());
    std::copy_n(at + parameters_.size(), momentum_.size(), momentum_.data());
    at += 2 * parameters_.size();
    window_.clear();
    window_.push(at, at + h.window_size * shape_.d_in, at + h.window_size * (shape_.d_in + shape_.d_out),
                 h.window_size);
    stats_ = h.stats;
    return Status::ok();
}

}  // namespace atlas::memory
