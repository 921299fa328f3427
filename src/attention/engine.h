#pragma once

#include <cstdint>
#include <vector>

#include "attention/select/far_field.h"
#include "attention/plan/far_groups.h"
#include "attention/correct/far_memory.h"
#include "attention/index/kv_index.h"
#include "attention/plan/mask_plan.h"
#include "attention/settings.h"
#include "attention/stats.h"
#include "attention/plan/visibility.h"
#include "base/status.h"
#include "kernels/attention.h"

namespace atlas::attention {

/** Where the keys of a call lie in the index. */
struct LayerInfo {
    int layer = 0;
    /** Per stream: page of the index that holds key 0. */
    const int64_t* base_pages = nullptr;
};

/** Whether the far part of such a call has a defined estimate; otherwise attend() is exact. */
bool can_estimate(const kernels::AttentionArgs& args);

/**
 * Runs attention with everything exact, or with selected blocks exact and the rest estimated from the index. Not thread-safe; keep one
 * per backend instance, its buffers only grow.
 */
class Engine {
public:
    explicit Engine(const Settings& settings, const MemoryOptions& memory = {})
        : settings_(settings), memory_(memory, static_cast<uint64_t>(settings.seed)) {}

    const Settings& settings() const { return settings_; }

    /** The memories beside sparse attention; their switches may be changed between calls. */
    FarMemory& memory() { return memory_; }
    const FarMemory& memory() const { return memory_; }

    /**
     * To be called before the first layer of a graph: until the next call, masks keep their values, and layers with the same mask and pages
     * share what is made of it. Without it every call looks at its mask anew.
     */
    void begin_graph() {
        in_graph_ = true;
        plans_in_use_ = 0;
    }

    /** Sums over all layers since the engine was made; Stats has those of the process, per layer. */
    const LayerStats& totals() const { return totals_; }

    /** Whether a call over n_keys keys may need an index at all; false means that the plain kernels are to be called. */
    bool wants_index(const kernels::AttentionArgs& args, int64_t n_keys) const;

    /**
     * `args` with one list per (stream, KV head) covering keys 0…n_keys−1 in ascending runs, a mask summary if there is a mask, and
     * args.lse = nullptr. Without an approximable part the result is that of kernels::attention(args), bit for bit.
     */
    Status attend(const kernels::AttentionArgs& args, int64_t n_keys, KvIndex& index, const LayerInfo& info,
                  int n_threads);

private:
    void find_plan(const kernels::AttentionArgs& args, int64_t n_keys, const KvIndex& index, const LayerInfo& info);
    void calibrate(const kernels::AttentionArgs& args, int64_t stream, KvIndex& index, int n_threads);
    void add_slopes(const kernels::AttentionArgs& args, const std::vector<FarGroup>& groups, KvIndex& index,
                    int n_threads);
    void add_super_slopes(const kernels::AttentionArgs& args, const std::vector<int64_t>& supers, KvIndex& index,
                          int n_threads);
    void refresh(const kernels::AttentionArgs& args, KvIndex& index, int n_threads);
    FarBudget budget_of(const TileView& view, int layer) const;
    /** Reads what is read in any case, chooses, and reads that too: out and lse_ are then those of all that is read, far_out_ and far_lse_ those of the rest. */
    Status run(const kernels::AttentionArgs& args, const KvIndex& index, int layer, bool corrects, int n_threads);
    /** near_lists_: the exact pages of each tile. Throws std::bad_alloc. */
    void list_near(const kernels::AttentionArgs& args);
    /** Chooses the keys of one list and estimates the others, by lse_ of what is read in any case. Throws std::bad_alloc. */
    void plan(const kernels::AttentionArgs& args, const KvIndex& index, int layer, bool corrects, int64_t list);
    /** near, plan and selected keys of one list of one token. Throws std::bad_alloc. */
    Status run_list(const kernels::AttentionArgs& args, const KvIndex& index, int layer, bool corrects, int64_t list);
    /** Adds what was selected to out and lse_. */
    void merge_selected(const kernels::AttentionArgs& args, int n_threads);
    void merge(const kernels::AttentionArgs& args, int layer, int n_threads);
    void record(int layer, const LayerStats& part);

    const Settings settings_;
    LayerStats totals_;
    FarMemory memory_;
    bool in_graph_ = false;
    std::vector<MaskPlan> plans_;  // the first plans_in_use_ belong to this graph
    size_t plans_in_use_ = 0;
    const std::vector<TileView>* views_ = nullptr;  // [stream][tile], of the present call
    const FarGroups* groups_ = nullptr;
    int64_t tile_ = 1;                             // tokens per tile
    int64_t tiles_ = 1;                            // per stream
    std::vector<FarResult> results_;               // [stream][KV head][tile]
    std::vector<float> far_lse_;                   // [stream][KV head][token][group]
    std::vector<float> far_out_;                   // the same, [d_v]
    std::vector<float> lse_;                       // [stream][token][head]
    std::vector<float> selected_lse_;              // the same, of what was selected
    std::vector<float> selected_out_;              // the same, [d_v]
    std::vector<std::vector<kernels::Run>> near_;  // per list: [stream][KV head][tile]; heads may share the first one's
    std::vector<std::vector<kernels::Run>> runs_;  // selected, per list
    std::vector<kernels::HeadRuns> near_lists_, lists_;
    std::vector<FarWorkspace> workspaces_;  // per thread
};

}  // namespace atlas::attention
