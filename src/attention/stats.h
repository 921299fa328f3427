#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace atlas::attention {

/** Sums over the calls of one layer; the counts are per (token, KV head) for keys and per (token, query head) for the rest. */
struct LayerStats {
    uint64_t calls = 0;
    uint64_t exact_calls = 0;  ///< calls that read every key; what follows is of the others
    double rows = 0;           ///< (tile, KV head) pairs planned
    double visible_keys = 0;   ///< summed over those
    double exact_keys = 0;     ///< read, of those visible
    double estimated_keys = 0;
    double queries = 0;        ///< (token, query head) pairs with a far part
    double retained_mass = 0;  ///< share of the softmax mass that was read, by the estimate
    uint64_t index_bytes = 0;

    void add(const LayerStats& other);
};

/** Of the memories of one layer or of all; counts include memories that are no more, the rest is about those in existence. */
struct MemoryStats {
    uint64_t memories = 0;  ///< one per layer, sequence and KV head
    uint64_t bytes = 0;
    uint64_t observations = 0;
    uint64_t learned = 0;          ///< pairs
    uint64_t skipped_pairs = 0;    ///< something was not finite
    uint64_t skipped_updates = 0;  ///< the result would not have been finite
    uint64_t muon_steps = 0;       ///< matrices orthogonalised
    uint64_t muon_iterations = 0;  ///< Newton–Schulz iterations of those
    uint64_t cache_hits = 0;       ///< of mapped features
    uint64_t cache_misses = 0;
    uint64_t resets = 0;      ///< memories emptied: another text, other options, no room
    uint64_t doubts = 0;      ///< gates closed until held-out errors open them again: context shift
    uint64_t probe_keys = 0;  ///< read to see what the estimate gets wrong
    uint64_t decode_tokens =
        0;  ///< per layer: tokens of calls of up to 8 per stream, and the time that memories took of them
    uint64_t prefill_tokens = 0;
    double decode_seconds = 0.0;
    double prefill_seconds = 0.0;
    double window_fill = 0.0;    ///< mean over memories, of the Omega rule's window
    double gate = 0.0;           ///< mean over memories
    double error_without = 0.0;  ///< recent held-out ‖r‖² (blend: ‖v‖²), mean over memories
    double error_with = 0.0;     ///< recent held-out ‖r − M(q)‖² (blend: ‖v − M(k)‖²): the loss

    void add(const MemoryStats& other);
};

/** Statistics per layer of all engines that were given it. Thread-safe. */
class Stats {
public:
    void add(int layer, const LayerStats& part);
    void add(int layer, const MemoryStats& part);
    /** {"layers": [{"layer": 0, "calls": …, "visible_keys": mean, …, "memory": {…} where there was one}]}. */
    std::string json() const;
    bool empty() const;

private:
    mutable std::mutex mutex_;  // guards layers_, memories_
    std::map<int, LayerStats> layers_;
    std::map<int, MemoryStats> memories_;
};

}  // namespace atlas::attention
