#pragma once

#include <cstdint>
#include <vector>

#include "attention/call.h"
#include "attention/correct/random.h"
#include "attention/index/key_index.h"
#include "attention/plan/runs.h"
#include "attention/plan/visibility.h"
#include "attention/select/selection.h"
#include "kernels/attention.h"

namespace atlas::attention {

/** What one call of the engine hands to the memories: the plan of all tiles and the partial results. */
struct FarCall {
    const AttentionCall& attention;
    const KeyIndex& index;
    const std::vector<TileView>& views;     ///< [stream][tile]
    const std::vector<Selection>& results;  ///< [stream][KV head][tile]
    int64_t tiles;                          ///< per stream
    int layer;
    const float* near_lse;  ///< [stream][token][head]
    float* far_lse;         ///< [stream][KV head][token][group]
    float* far_out;         ///< the same, [d_v]
};

/** Attention of single queries over the keys that an estimate stands for. One per thread; its buffers only grow. */
class FarProbe {
public:
    /**
     * Of more than `max_keys` (0: no limit) estimated keys, about that many are read: runs of 16, one at a random place in each of max_keys / 16 equal
     * stretches. The output over such a sample differs from the one over all keys by noise of mean nearly zero, which the memory averages out.
     */
    explicit FarProbe(int64_t max_keys) : max_keys_(max_keys) {}

    /** out [d_v] and log mass of all of them (of a sample: scaled up) for query head `member` of the group; false if the estimate stands for nothing that this token sees. */
    bool run(const FarCall& far, const TileView& view, const Selection& result, int64_t kv_head, int64_t token,
             int64_t member, ProbeRandom* random, float* out, float* lse);
    /** Keys read so far. */
    uint64_t keys() const { return keys_; }

private:
    void collect(const FarCall& far, const TileView& view, const Selection& result, int64_t token);
    void keep_resident(const AttentionCall& call, int64_t base_page);
    void sample(ProbeRandom* random);

    const int64_t max_keys_;
    uint64_t keys_ = 0;
    std::vector<KeyRange> ranges_, sampled_;
    std::vector<kernels::Run> runs_;
    PageSet pages_;
    PinnedCells cells_;
};

}  // namespace atlas::attention
