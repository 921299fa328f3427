#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace atlas::attention {

/** Sums over the calls of one layer; the counts are per (token, KV head) for keys and per (token, query head) for the rest. */
struct LayerStats {
    uint64_t calls = 0;
    uint64_t exact_calls = 0;  ///< calls that took the plain path
    double rows = 0;           ///< (tile, KV head) pairs planned
    double visible_keys = 0;   ///< summed over those
    double exact_keys = 0;     ///< read, of those visible
    double estimated_keys = 0;
    double queries = 0;        ///< (token, query head) pairs with a far part
    double retained_mass = 0;  ///< share of the softmax mass that was read, by the estimate
    double probes = 0;
    double probe_ratio =
        0;  ///< true mass / estimated mass of probed blocks: its mean is an unbiased estimate of far mass / estimate
    double probe_log_squared = 0;
    uint64_t grown = 0;  ///< selections whose budget was doubled by a probe
    uint64_t index_bytes = 0;

    void add(const LayerStats& other);
};

/** Statistics per layer of a process. Thread-safe. */
class Stats {
public:
    static Stats& instance();

    void add(int layer, const LayerStats& part);
    /** {"layers": [{"layer": 0, "calls": …, "visible_keys": mean, …}]}. */
    std::string json() const;
    bool empty() const;

private:
    mutable std::mutex mutex_;  // guards layers_
    std::map<int, LayerStats> layers_;
};

}  // namespace atlas::attention
