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
    const float* far_lse;   ///< [stream][KV head][token][group]
    float* far_out;         ///< the same, [d_v]
};

/**
 * One memory per (layer, sequence, KV head), a sequence being told by the first page that it sees, that learns what the far estimate gets wrong: for probed queries the exact output over the estimated keys is
 * computed, the memory learns its difference from the estimate, and adds gate·M(q) to the estimates of later queries (memory::Corrector). The
 * mass stays the estimate's. Rows without a far part, and all rows while the gate is 0, are not touched. Not thread-safe; one per engine.
 */
class FarMemory {
public:
    explicit FarMemory(const MemoryOptions& options, uint64_t seed) : options_(options), seed_(seed) {}

    bool enabled() const { return options_.enabled; }
    /** Corrects call.far_out and learns from this call's probes, tile after tile. Throws std::bad_alloc. */
    void apply(const FarCall& call, int n_threads);
    /** Of all memories, kept within MemoryOptions::budget_bytes: the least recently used go first. */
    size_t bytes() const { return bytes_; }

private:
    struct Head {
        std::unique_ptr<memory::Corrector> corrector;
        size_t bytes = 0;
        uint64_t used = 0;    // call of the last use
        int64_t visible = 0;  // keys that the last query saw: fewer than before means another sequence
    };

    using Key = std::tuple<int, int64_t, int64_t>;  // layer, first page seen, KV head

    Head* head_of(const FarCall& call, const TileView& view, int64_t kv_head);
    void run_head(const FarCall& call, int64_t stream, int64_t kv_head, Head* const* tiles) const;
    bool probe(const FarCall& call, const TileView& view, const FarResult& result, int64_t kv_head, int64_t token,
               int64_t member, float* out) const;

    const MemoryOptions options_;
    const uint64_t seed_;
    std::map<Key, Head> heads_;
    uint64_t calls_ = 0;
    size_t bytes_ = 0;
    bool warned_ = false;
};

}  // namespace atlas::attention
