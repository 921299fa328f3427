#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "attention/far_field.h"
#include "attention/settings.h"
#include "attention/visibility.h"
#include "kernels/attention.h"
#include "memory/corrector.h"

namespace atlas::attention {

/** What one call of the engine hands to the memories: the plan of all tiles and the partial results. */
struct FarCall {
    const kernels::AttentionArgs& args;
    const std::vector<TileView>& views;     ///< [stream][tile]
    const std::vector<FarResult>& results;  ///< [stream][KV head][tile]
    int64_t tiles;                          ///< per stream
    int layer;
    const float* near_lse;  ///< [stream][token][head]
    float* far_lse;         ///< [stream][KV head][token][group]
    float* far_out;         ///< the same, [d_v]
};

/** Over all memories of an engine; counts are since it was made. */
struct MemoryStats {
    uint64_t memories = 0;  ///< in existence: one per layer, sequence and KV head
    uint64_t bytes = 0;
    uint64_t observations = 0;
    uint64_t learned = 0;          ///< pairs
    uint64_t skipped_pairs = 0;    ///< something was not finite
    uint64_t skipped_updates = 0;  ///< the result would not have been finite
    uint64_t muon_steps = 0;       ///< matrices orthogonalised
    uint64_t muon_iterations = 0;  ///< Newton–Schulz iterations of those
    uint64_t cache_hits = 0;       ///< of mapped features
    uint64_t cache_misses = 0;
    uint64_t resets = 0;         ///< memories emptied because their sequence changed
    double window_fill = 0.0;    ///< mean over memories, of the Omega rule's window
    double gate = 0.0;           ///< mean over memories
    double error_without = 0.0;  ///< recent held-out ‖r‖² of the far estimate, mean over memories
    double error_with = 0.0;     ///< recent held-out ‖r − M(q)‖²: the loss

    void add(const memory::CorrectorStats& head, uint64_t iterations_per_step);
};

/** Where a head's memories start, from a side-car file. */
struct InitialMemory {
    bool far = true;                                      ///< false: nothing is estimated, what is not read is left out
    bool enabled = true;                                  ///< false: this head goes without memory
    float mass_bias = 0.0f;                               ///< added to the log mass of its far estimates
    std::shared_ptr<const memory::CorrectorState> state;  ///< null: a new memory starts empty
};
using InitialMemories = std::map<std::pair<int, int64_t>, InitialMemory>;  ///< by (layer, KV head)

/** What one probe found, for calibration: a query, and attention over the keys that were read, over the others, and their estimate. */
struct ProbeSample {
    int layer = 0;
    int64_t kv_head = 0;
    int64_t d_k = 0;
    int64_t d_v = 0;
    const float* query = nullptr;     ///< [d_k]
    const float* near_out = nullptr;  ///< [d_v]
    const float* far_out = nullptr;   ///< the estimate, [d_v]
    const float* residual = nullptr;  ///< exact minus estimate, [d_v]
    float near_lse = 0.0f;            ///< natural log masses
    float far_lse = 0.0f;             ///< estimated
    float exact_lse = 0.0f;           ///< of the same keys
    double tokens = 0.0;              ///< per observation
};

/** Gets every probe of the process; add() is called from several threads at once. */
class ProbeSink {
public:
    virtual ~ProbeSink() = default;
    virtual void add(const ProbeSample& sample) = 0;
};
/** nullptr: none. To be changed only while nothing is computed. */
void set_probe_sink(ProbeSink* sink);

/** How memories of heads of this shape are made. */
memory::CorrectorConfig corrector_config(const MemoryOptions& options, int64_t d_k, int64_t d_v, uint64_t seed);

/**
 * One memory per (layer, sequence, KV head), a sequence being told by the first page that it sees, that learns what the far estimate gets
 * wrong: for probed queries the exact output over the estimated keys is computed, the memory learns its difference from the estimate, and adds gate·M(q) to the estimates of later queries (memory::Corrector). The
 * mass stays the estimate's. Rows without a far part, and all rows while the gate is 0, are not touched. Not thread-safe; one per engine.
 */
class FarMemory {
public:
    explicit FarMemory(const MemoryOptions& options, uint64_t seed) : options_(options), seed_(seed) {}

    const MemoryOptions& options() const { return options_; }
    /**
     * From the next call on. Memories are kept if only switches changed (enabled, blend ratio, dynamic blend, warm-up, test-time learning, budget,
     * probe rate); anything else, like the type of features, makes new ones.
     */
    void set_options(const MemoryOptions& options);
    /** Where memories of these heads start; all present ones are dropped. Shared between engines, so that a model's is held once. */
    void set_initial(std::shared_ptr<const InitialMemories> initial);
    /** What was learned, of each (layer, KV head) the memory that was used last. */
    InitialMemories learned();
    /** Empties all memories. */
    void reset();
    MemoryStats stats() const;

    bool enabled() const { return options_.enabled; }
    /** Corrects call.far_out and learns from this call's probes, tile after tile. Throws std::bad_alloc. */
    void apply(const FarCall& call, int n_threads);
    /** Of all memories, kept within MemoryOptions::budget_bytes: the least recently used go first. */
    size_t bytes() const { return bytes_; }

private:
    const InitialMemory* initial_of(int layer, int64_t kv_head) const;
    void drop_all();

    struct Head {
        std::unique_ptr<memory::Corrector> corrector;
        size_t bytes = 0;
        uint64_t used = 0;    // call of the last use
        int64_t visible = 0;  // keys that the last query saw: fewer than before means another sequence
    };

    using Key = std::tuple<int, int64_t, int64_t>;  // layer, first page seen, KV head

    void forget(const Head& head);
    Head* head_of(const FarCall& call, const TileView& view, int64_t kv_head);
    void run_head(const FarCall& call, int64_t stream, int64_t kv_head, Head* const* tiles) const;
    bool probe(const FarCall& call, const TileView& view, const FarResult& result, int64_t kv_head, int64_t token,
               int64_t member, float* out, float* lse) const;

    MemoryOptions options_;
    const uint64_t seed_;
    std::shared_ptr<const InitialMemories> initial_;
    MemoryStats gone_;  // counts of memories that are no more
    std::map<Key, Head> heads_;
    uint64_t calls_ = 0;
    size_t bytes_ = 0;
    bool warned_ = false;
};

}  // namespace atlas::attention
