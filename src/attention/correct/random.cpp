#include "attention/correct/random.h"

#include <cstring>

namespace atlas::attention {
namespace {

/** SplitMix64's mixer (Steele, Lea, Flood 2014). */
uint64_t mix(uint64_t x) {
    x ^= x >> 30;
    x *= 0xBF58476D1CE4E5B9ULL;
    x ^= x >> 27;
    x *= 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

}  // namespace

ProbeRandom::ProbeRandom(uint64_t seed, const float* query, int64_t d) : state_(mix(seed + 0x9E3779B97F4A7C15ULL)) {
    for (int64_t i = 0; i < d; ++i) {
        uint32_t bits;
        std::memcpy(&bits, query + i, sizeof bits);
        state_ = mix(state_ ^ bits);
    }
}

double ProbeRandom::next() {
    state_ += 0x9E3779B97F4A7C15ULL;
    return (static_cast<double>(mix(state_) >> 11) + 0.5) * 0x1p-53;
}

}  // namespace atlas::attention
