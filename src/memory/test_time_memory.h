#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "memory/feature_cache.h"
#include "memory/feature_map.h"
#include "memory/omega.h"

namespace atlas::memory {

/** One head's memory: a feature map, a function of its features, and the rule by which that function learns. */
struct MemoryConfig {
    FeatureConfig features;  ///< features.d: elements of a key
    MemoryKind kind = MemoryKind::kDeep;
    size_t d_out = 0;   ///< elements of a value
    size_t hidden = 0;  ///< 0: four times the number of features, at most 1024
    float residual = 0.0f;
    bool bias = false;
    OmegaConfig omega;
    size_t chunk = 64;              ///< pairs per update; fewer wait until a chunk is full
    size_t cache_bytes = 0;         ///< of mapped features; 0: no cache
    double coefficient_step = 0.0;  ///< learning rate of the polynomial's coefficients; 0: fixed
    uint64_t seed = 1;
};

/** The function that such a memory is. */
MemoryShape shape_of(const MemoryConfig& config);

Status check_memory(const MemoryConfig& config);

/**
 * Reads and learns key → value pairs. Pairs collect until a chunk is full, so a read sees all chunks completed before it. Not thread-safe;
 * memory use is fixed after the first chunk, whatever the number of pairs.
 */
class TestTimeMemory {
public:
    /** `config` must pass check_memory. */
    explicit TestTimeMemory(const MemoryConfig& config);
    TestTimeMemory(const TestTimeMemory&) = delete;
    TestTimeMemory& operator=(const TestTimeMemory&) = delete;

    const OmegaLearner& learner() const { return *learner_; }
    OmegaLearner& learner() { return *learner_; }
    const FeatureMap& features() const { return map_; }
    CacheStats cache_stats() const { return cache_.stats(); }
    size_t bytes() const;
    size_t pending() const { return pending_; }

    /** out[n][d_out] = M(φ(queries[n][d])). */
    void read(const float* queries, size_t n, float* out);
    /** Queues n pairs and learns from every chunk that gets full. weights: null or [n]. */
    void learn(const float* keys, const float* values, const float* weights, size_t n);
    /** Learns from what is queued, as a shorter chunk. */
    void flush();
    void reset();

    /** Replaces the polynomial's coefficients; as many as features() has. */
    void set_coefficients(std::span<const double> coefficients);

    /** The learner's state and the coefficients; what is queued is learned first. */
    std::vector<std::byte> save();
    Status restore(std::span<const std::byte> data);

private:
    MemoryConfig config_;
    FeatureMap map_;
    FeatureCache cache_;
    std::unique_ptr<OmegaLearner> learner_;
    size_t pending_ = 0;
    std::vector<float> keys_, values_, weights_;  // [chunk]
    std::vector<float> mapped_, gradient_;
};

}  // namespace atlas::memory
