#pragma once

#include <cstdint>

namespace atlas::attention {

/** Uniform numbers in (0, 1) from the seed and the query itself, so that the same query draws the same sample wherever it is computed. */
class ProbeRandom {
public:
    ProbeRandom(uint64_t seed, const float* query, int64_t d);
    double next();

private:
    uint64_t state_;
};

}  // namespace atlas::attention
