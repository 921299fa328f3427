#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "attention/correct/far_pages.h"
#include "attention/correct/far_probe.h"
#include "attention/settings.h"
#include "attention/stats.h"
#include "kv/budget.h"
#include "memory/corrector.h"

namespace atlas::attention {

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

/** Gets every probe of the memories that were given it; add() is called from several threads at once. */
class ProbeSink {
public:
    virtual ~ProbeSink() = default;
    virtual void add(const ProbeSample& sample) = 0;
};

/** How memories of heads of this shape are made. */
memory::CorrectorConfig corrector_config(const MemoryOptions& options, int64_t d_k, int64_t d_v, uint64_t seed);

/**
 * Memories beside attention, one per (layer, sequence, KV head). Two modes:
 * - kCorrect learns what the far estimate gets wrong: for probed queries the output over the estimated keys is computed exactly, the memory learns
 *   its difference from the estimate, and adds gate·M(q) to the estimates of later queries (memory::Corrector). The mass stays the estimate's.
 * - kBlend learns k → v of every key that has left the exact part, and makes the output (1 − r)·attention + r·M(q), r fixed.
 * A sequence is told by the pages that it sees (FarPages). When their values are overwritten its memories start anew; after a context shift, or when
 * pages are cut off, a corrector has to prove itself again, and a blend is learned anew from the cache, a few pages per call. Rows without a far part, and
 * all rows while the gate is 0, are not touched. Not thread-safe; one per engine.
 */
class FarMemory {
public:
    /** `budget`, in which memories count besides MemoryOptions::budget_bytes, may be null, and outlives them. */
    explicit FarMemory(const MemoryOptions& options, uint64_t seed, kv::Budget* budget = nullptr)
        : options_(options), seed_(seed), budget_(budget) {}
    ~FarMemory() { count(0); }
    FarMemory(const FarMemory&) = delete;
    FarMemory& operator=(const FarMemory&) = delete;

    const MemoryOptions& options() const { return options_; }
    /**
     * From the next call on. Memories are kept if only switches changed (enabled, blend ratio, dynamic blend, warm-up, test-time learning, budget,
     * probe rate and size); anything else, like the type of features, makes new ones.
     */
    void set_options(const MemoryOptions& options);
    /** Of memories that are made from now on, and of which queries are probed. */
    void set_seed(uint64_t seed) { seed_ = seed; }
    /** Who gets the probes of calls from now on; nullptr: nobody. */
    void set_probe_sink(ProbeSink* sink) { probe_sink_ = sink; }
    /** Where memories of these heads start; all present ones are dropped. Shared between engines, so that a model's is held once. */
    void set_initial(std::shared_ptr<const InitialMemories> initial);
    /** What was learned, of each (layer, KV head) the memory that was used last. */
    InitialMemories learned();
    /** Empties all memories. */
    void reset();
    /** Over all layers. */
    MemoryStats stats() const;
    std::map<int, MemoryStats> layer_stats() const;

    bool enabled() const { return options_.enabled; }
    bool corrects() const { return options_.enabled && options_.mode == MemoryMode::kCorrect; }
    bool blends() const { return options_.enabled && options_.mode == MemoryMode::kBlend; }
    /** kCorrect, before the call is planned (results, log masses and outputs may be missing): finds the sequences of its tiles. Throws std::bad_alloc. */
    void find(const FarCall& call);
    /** kCorrect, after find and planning: corrects call.far_out and learns from this call's probes, tile after tile. Throws std::bad_alloc. */
    void correct(const FarCall& call, int n_threads);
    /** kBlend: learns the pages that left the exact part, then blends call.args.out, which must be merged. Throws std::bad_alloc. */
    void blend(const FarCall& call, int n_threads);
    /** Of all memories, kept within MemoryOptions::budget_bytes: the least recently used sequences go first. */
    size_t bytes() const { return bytes_; }

private:
    struct Head {
        std::unique_ptr<memory::Corrector> corrector;  // null: this head goes without
        size_t bytes = 0;
        uint64_t probe_keys = 0;
    };
    struct Sequence {
        FarPages pages;
        std::vector<Head> heads;  // per KV head
        uint64_t used = 0;        // call of the last use
        uint64_t calls = 0;
    };
    /** What a tile of queries works with. */
    struct Tile {
        Sequence* sequence = nullptr;
        std::vector<int64_t> pages;  // kBlend: to be learned, counted from key 0 of the stream
    };
    class Clock;
    using Sequences = std::vector<std::unique_ptr<Sequence>>;

    const InitialMemory* initial_of(int layer, int64_t kv_head) const;
    /** nullptr: a blend that does not learn, and that knows nothing about this sequence. */
    Sequence* sequence_of(const FarCall& call, size_t tile);
    Sequence* make_sequence(const FarCall& call);
    void make_head(const FarCall& call, int64_t kv_head, Head* head);
    bool make_room(size_t bytes);
    bool drop_oldest();
    /** Makes what counts in the budget `bytes`; false, with nothing changed, where it has no room for more. */
    bool count(uint64_t bytes);
    void measure(int layer, Sequence* sequence);
    void follow(const FarCall& call, FarPages::Change change, Sequence* sequence);
    void forget(int layer, const Head& head);
    void drop(int layer, Sequences* from, size_t at);
    void drop_all();

    void for_each_head(const FarCall& call, int n_threads, void (FarMemory::*run)(const FarCall&, int64_t, int64_t));
    double spacing_of(uint64_t observations) const;
    void correct_head(const FarCall& call, int64_t stream, int64_t kv_head);
    void blend_head(const FarCall& call, int64_t stream, int64_t kv_head);
    void learn_pages(const FarCall& call, const TileView& view, int64_t kv_head, const std::vector<int64_t>& pages,
                     memory::Corrector* corrector) const;

    MemoryOptions options_;
    uint64_t seed_;
    ProbeSink* probe_sink_ = nullptr;
    std::shared_ptr<const InitialMemories> initial_;
    std::map<int, Sequences> layers_;
    std::map<int, MemoryStats> gone_;  // counts of memories that are no more, and times
    std::vector<Tile> tiles_;          // [stream][tile] of the call
    uint64_t calls_ = 0;
    size_t bytes_ = 0;
    kv::Budget* const budget_;
    uint64_t counted_ = 0;  // in the budget
    bool warned_ = false;
};

}  // namespace atlas::attention
