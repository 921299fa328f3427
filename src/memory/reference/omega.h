#pragma once

#include <vector>

#include "memory/omega.h"

namespace atlas::memory::reference {

/** Float64 oracle: the token form as OmegaConfig states it, one token after another, every gradient a sum over its window. */
class TokenOmega {
public:
    TokenOmega(const MemoryShape& shape, const OmegaConfig& config, std::vector<double> parameters);

    /** One token. */
    void token(const std::vector<double>& x, const std::vector<double>& v, double weight);
    /** Ends a chunk: from here on gradients are taken at the memory as it is now. */
    void end_chunk();

    const std::vector<double>& parameters() const { return memory_; }
    const std::vector<double>& momentum() const { return momentum_; }

private:
    void descend();

    MemoryShape shape_;
    OmegaConfig config_;
    std::vector<double> memory_, anchor_, momentum_;
    struct Pair {
        std::vector<double> x, v;
        double weight;
    };
    std::vector<Pair> pairs_;
};

}  // namespace atlas::memory::reference
