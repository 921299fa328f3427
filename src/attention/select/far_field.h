#pragma once

#include <cstdint>
#include <vector>

#include "attention/index/kv_index.h"
#include "attention/settings.h"
#include "attention/plan/visibility.h"
#include "kernels/attention.h"

namespace atlas::attention {

/** A panel in play: its level, its number at that level, and of a panel of blocks whether every token of the tile sees all of its lanes. */
struct FarPart {
    const Panel* panel;
    int64_t number;
    bool super;
    bool all_tokens;
};

/** Workspace of one thread; buffers only grow. */
struct FarWorkspace {
    std::vector<FarPart> parts;
    std::vector<float> memory;
    std::vector<float> mass, weight, reach;        // [panel][row][16]; weight: e^{mass − the row's largest}
    std::vector<float> trust;                      // the same: how much of its mass a mean value is given
    std::vector<float> column_mass, column_reach;  // [panel][16]
    std::vector<uint8_t> state;                    // [panel][16]: is the lane a far block, a super-block, selected
    std::vector<uint8_t> hidden;                   // per panel of the view: estimated as a super-block
    std::vector<int32_t> panel_of;                 // [super-panel][16]: which of the view's panels the lane stands for
    std::vector<uint32_t> order;  // [panel][16]: kernels::order_key of a candidate's rank; 0: no candidate
    std::vector<float> probe;     // of log_mass
    std::vector<int64_t> best;    // lanes, the best one first
};

/** What the planner found for one (tile, KV head). */
struct FarResult {
    std::vector<PageCells> selected;  ///< keys to be read besides the exact pages, ascending
    double far_keys = 0;              ///< keys left to the estimate
    double probes = 0, probe_ratio = 0, probe_log_squared = 0;
    bool grown = false;
};

/** What may be selected for one (tile, KV head). */
struct FarBudget {
    int64_t least = 0;         ///< keys, whatever they hold
    int64_t most = 0;          ///< keys
    double block_share = 0.0;  ///< above `least`: of a query's attention that a block has to hold, mean over the rows

    FarBudget times(double factor) const {
        return {static_cast<int64_t>(factor * static_cast<double>(least)),
                static_cast<int64_t>(factor * static_cast<double>(most)), block_share / factor};
    }
};

/** Log-sum-exp of what each row reads in any case: row (token t, head h of the group) at lse[t·token_stride + h]. */
struct NearPart {
    const float* lse;
    int64_t token_stride;
};

/**
 * Scores the far blocks of a tile for one KV head, selects those to read, and estimates the rest per query:
 * far_lse[row] and far_out [row][d_v] for row = token·group + head of the group; far_lse is −inf where nothing is estimated.
 * Needs the index of every far page (and whole far super-block) to be fresh.
 * Layout of the work: rows of queries against panels of 16 blocks, docs/attention.md.
 */
void plan_far_field(const kernels::AttentionArgs& args, const KvIndex& index, const Settings& settings,
                    const TileView& view, int64_t kv_head, const NearPart& near, const FarBudget& budget,
                    FarWorkspace* work, float* far_lse, float* far_out, FarResult* result);

}  // namespace atlas::attention
