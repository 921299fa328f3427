#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "memory/feature_map.h"

namespace atlas::memory {

struct CacheStats {
    uint64_t hits = 0;
    uint64_t misses = 0;

    double hit_ratio() const {
        return hits + misses ? static_cast<double>(hits) / static_cast<double>(hits + misses) : 0.0;
    }
};

/**
 * Mapped features of recent inputs: four-way sets, least recently used out. A hit compares the whole input, so a cached result is bit for bit
 * the computed one. Not thread-safe.
 */
class FeatureCache {
public:
    /** Holds as many rows as fit in `bytes`, rounded down to a power of two of sets; too few bytes for one set: nothing is kept. */
    FeatureCache(const FeatureMap& map, size_t bytes);

    /** out[n][features] = φ(x[n][d]), from the cache where it can. Inputs that are not finite are computed and not kept. */
    void map(const float* x, size_t n, float* out);

    const CacheStats& stats() const { return stats_; }
    size_t bytes() const {
        return (inputs_.size() + outputs_.size()) * sizeof(float) + used_.size() * sizeof(uint64_t);
    }
    /** Forgets rows and counts; needed after the map's coefficients or centres changed. */
    void clear();

private:
    const FeatureMap& map_;
    size_t sets_ = 0;
    uint64_t clock_ = 0;
    std::vector<uint64_t> used_;  // per row: clock of the last use, 0 for empty
    std::vector<float> inputs_, outputs_;
    CacheStats stats_;
};

}  // namespace atlas::memory
