#include "memory/reference/omega.h"

#include <algorithm>
#include <cmath>

#include "memory/reference/deep_memory.h"
#include "memory/reference/muon.h"

namespace atlas::memory::reference {

TokenOmega::TokenOmega(const MemoryShape& shape, const OmegaConfig& config, std::vector<double> parameters)
    : shape_(shape),
      config_(config),
      memory_(std::move(parameters)),
      anchor_(memory_),
      momentum_(memory_.size(), 0.0) {}

void TokenOmega::token(const std::vector<double>& x, const std::vector<double>& v, double weight) {
    pairs_.push_back({x, v, weight});
    std::vector<double> gradient(memory_.size(), 0.0);
    for (size_t age = 0; age < static_cast<size_t>(config_.window) && age < pairs_.size(); ++age) {
        const Pair& pair = pairs_[pairs_.size() - 1 - age];
        add_memory_gradient(shape_, anchor_.data(), pair.x.data(), pair.v.data(),
                            std::pow(config_.decay, static_cast<double>(age)) * pair.weight, gradient.data(), nullptr);
    }
    for (size_t i = 0; i < memory_.size(); ++i) {
        momentum_[i] = config_.momentum * momentum_[i] + gradient[i];
        memory_[i] *= config_.retention;
    }
    if (config_.orthogonalize == NewtonSchulz::kNone || config_.per_token) descend();
}

void TokenOmega::end_chunk() {
    if (config_.orthogonalize != NewtonSchulz::kNone && !config_.per_token) descend();
    anchor_ = memory_;
}

void TokenOmega::descend() {
    for (const ParameterTensor& tensor : parameter_tensors(shape_)) {
        const auto begin = momentum_.begin() + static_cast<std::ptrdiff_t>(tensor.offset);
        const std::vector<double> update =
            muon_step(config_.orthogonalize, tensor.rows, tensor.cols,
                      std::vector<double>(begin, begin + static_cast<std::ptrdiff_t>(tensor.rows * tensor.cols)));
        for (size_t i = 0; i < update.size(); ++i) memory_[tensor.offset + i] -= config_.step * update[i];
    }
}

}  // namespace atlas::memory::reference
