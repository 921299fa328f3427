#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "runtime/module.h"
#include "runtime/ratio_sketch.h"

namespace atlas::runtime {

/**
 * Calls of one module that were timed beside the host's own operation on the same tensors. Seconds of the calling thread's processor time: what other programs take
 * away is in neither.
 */
struct Measured {
    uint64_t samples = 0;
    double own = 0.0;
    double host = 0.0;
    double copies = 0.0;  ///< out of pages, which the host's operation cannot read
    /** Of the host's time to ours, by who was first: the other found warm caches. */
    RatioSketch host_first, own_first;

    void add(double own_seconds, double host_seconds, double copy_seconds, bool host_was_first);
    void add(const Measured& other);
    /** Of the host's time to ours: medians of pairs, as both orders have it in the middle; 1 without samples. */
    double gain() const;
};

/** Sums over graphs. */
struct Work {
    uint64_t graphs = 0;
    uint64_t own_nodes = 0;   ///< computed by Atlas
    uint64_t host_nodes = 0;  ///< by the host's CPU backend for it
    uint64_t attention_calls = 0;
    uint64_t estimated_calls = 0;    ///< of those
    uint64_t attention_by_host = 0;  ///< beside those: while exact attention was not loaded
    uint64_t products = 0;           ///< with weights
    uint64_t sparse_products = 0;    ///< of those: with inputs left out
    uint64_t sparse_bytes = 0;       ///< of the weights of those
    uint64_t sparse_bytes_read = 0;  ///< of these
    uint64_t rounded_products = 0;   ///< with weights that ATLAS_WEIGHT_FORMAT rounded
    uint64_t streamed_products = 0;  ///< with weights that were read for them, or stayed from an earlier graph
    uint64_t products_by_host = 0;   ///< while weights were not loaded
    double rows = 0.0;               ///< (tile, KV head) pairs of estimated calls
    double visible_keys = 0.0;       ///< summed over those
    double exact_keys = 0.0;
    double compute_seconds = 0.0;   ///< of graphs, without the next one
    double sampling_seconds = 0.0;  ///< spent on what `measured` holds
    double attention_seconds = 0.0;
    double memory_seconds = 0.0;  ///< of those
    uint64_t scratch_bytes = 0;   ///< of one graph: what its backend holds
    uint64_t column_bytes = 0;    ///< of those: weights by column
    std::array<Measured, kModules> measured{};

    void add(const Work& other);
    /** Calls of a module that stands for an operation of the host's. */
    uint64_t calls_of(Module module) const;
    /** Over all modules that were measured, each with its calls: the host's time to ours; 1 where nothing was. */
    double speedup() const;
    uint64_t samples() const;
};

/** What contexts hold now. */
struct Held {
    int64_t contexts = 0;
    int64_t index_bytes = 0;
    int64_t memory_bytes = 0;
    int64_t scratch_bytes = 0;
    int64_t column_bytes = 0;  ///< of those
    int64_t memories = 0;

    /** Adds `other` `times` times: −1 takes it away. */
    void add(const Held& other, int64_t times);
};

/** What contexts did and hold: of a runtime of the C API, or of the process. Thread-safe. */
class Activity {
public:
    void add(const Work& work);
    /** A context holds `now` where it held `before`. */
    void hold(const Held& before, const Held& now);
    Work work() const;
    Held held() const;
    /** Sums begin anew. */
    void reset();

private:
    mutable std::mutex mutex_;
    Work work_;  // guarded by mutex_
    Held held_;  // the same
};

}  // namespace atlas::runtime
