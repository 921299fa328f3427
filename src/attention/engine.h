#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/call.h"
#include "attention/correct/far_memory.h"
#include "attention/index/key_index.h"
#include "attention/plan/kept_keys.h"
#include "attention/plan/mask_plan.h"
#include "attention/plan/runs.h"
#include "attention/select/key_selector.h"
#include "attention/select/scores.h"
#include "attention/select/selected_keys.h"
#include "attention/select/selection.h"
#include "attention/settings.h"
#include "attention/stats.h"
#include "base/status.h"
#include "kernels/attention.h"

namespace atlas::attention {

/** Whether keys can be selected for such a call; otherwise it has to be exact. */
bool can_select(const AttentionCall& call);

/** Whether memories can correct such a call's estimate: they learn from attention without biases. */
bool memory_applies(const kernels::AttentionArgs& args);

/**
 * Runs attention with everything exact, or with selected keys exact and the rest estimated from the index. A call goes through four rooms: plan (what
 * every tile of tokens does with every page), select (scores, selection, rest), the kernels on what is read, and correct (memories). Keys are selected
 * first; only when all selections of the call are final are their pages pinned. Not thread-safe; one per backend instance, its buffers only grow.
 */
class Engine {
public:
    /** stats: null, or where what it did is added per layer. budget: null, or where memories count. Both outlive the engine. */
    explicit Engine(const Settings& settings, const MemoryOptions& memory = {}, Stats* stats = nullptr,
                    kv::Budget* budget = nullptr)
        : settings_(settings), memory_(memory, static_cast<uint64_t>(settings.seed), budget), stats_(stats) {}

    const Settings& settings() const { return settings_; }
    /** From the next call on. What was planned under the others is forgotten, what memories learned is not; the seed is that of later memories. */
    void set_settings(const Settings& settings);

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

    /** Bytes of the largest buffers: what is between planning and merging. */
    size_t scratch_bytes() const;

    /** Sums over all layers since the engine was made; Stats has them per layer. */
    const LayerStats& totals() const { return totals_; }

    /** Whether keys may be selected for a call at all, so that it needs an index: false for attend() to be exact. */
    bool wants_index(const AttentionCall& call) const;

    /**
     * Every visible key: kernels::attention over all of them, or where the mask hides most keys one by one, over those that it leaves. Errors of the
     * kernels and of pinning.
     */
    Status exact(const AttentionCall& call, int n_threads);

    /**
     * A call for which wants_index() holds, with a mask summary if there is a mask. Where nothing has to be selected the result is exact()'s, bit for bit.
     * Errors as exact(), and out of memory. Exact too where the index has no room in its budget: indexed() then is false until the next call.
     */
    Status attend(const AttentionCall& call, KeyIndex& index, int n_threads);
    bool indexed() const { return indexed_; }

private:
    struct Stale {
        int64_t page, stream, first;  // of the index, the stream through which it is read, page of that stream
        uint64_t cells;               // all: the page is to be encoded; else the mean value of these is
        auto operator<=>(const Stale&) const = default;
    };
    struct Workspace {
        TileScores scores;
        KeySelector selector;
    };

    void find_plan(const AttentionCall& call, const KeyIndex& index);
    /** Brings the index up to date with all pages that keys may be selected from; indexed_: whether there was room. Throws std::bad_alloc. */
    Status refresh(const AttentionCall& call, KeyIndex& index, int n_threads);
    /** Encodes some of stale_. */
    Status encode(const AttentionCall& call, KeyIndex& index, std::span<const Stale> stale_pages, int n_threads);
    /** exact() without a line in the statistics: it is called once per part of a batch. */
    Status attend_to_all(const AttentionCall& call, int n_threads);
    FarBudget budget_of(const TileView& view, int64_t group) const;
    /** Reads what is read in any case, selects, and reads that too: out and lse_ are then those of all that is read, far_out_ and far_lse_ those of the rest. */
    Status run(const AttentionCall& call, const KeyIndex& index, int n_threads);
    Status pin_near(const AttentionCall& call);
    /** Adds what is pinned of the selected keys to out and lse_, and ends the pins. */
    Status attend_selected(const AttentionCall& call, bool apart, int n_threads);
    // Where the memory of a paged cache does not hold all that a layer reads (engine_pieces.cpp): parts of it one after the other, merged.
    Status exact_in_pieces(const AttentionCall& call, int n_threads);
    Status selected_in_pieces(const AttentionCall& call, bool apart, int n_threads);
    /** Selects the keys of one list and estimates the others, by lse_ of what is read in any case. Throws std::bad_alloc. */
    void select(const AttentionCall& call, const KeyIndex& index, int64_t list, Workspace* work);
    /** One list of one token as a call of its own: near keys into out, or selected keys added to it. */
    Status attend_list(const AttentionCall& call, int64_t list, bool selected);
    kernels::AttentionArgs selected_args(const AttentionCall& call);
    void merge(const AttentionCall& call, bool with_selected, int n_threads);
    void record(int layer, const LayerStats& part);
    void record_call(const AttentionCall& call, double queries, double retained);

    Settings settings_;
    LayerStats totals_;
    FarMemory memory_;
    AllKeys all_keys_;
    KeptKeys kept_keys_;
    Stats* const stats_;
    bool in_graph_ = false;
    bool indexed_ = true;
    std::vector<MaskPlan> plans_;  // the first plans_in_use_ belong to this graph
    size_t plans_in_use_ = 0;
    const std::vector<TileView>* views_ = nullptr;  // [stream][tile], of the present call
    Tiling tiling_;
    std::vector<Selection> selections_;  // per list: [stream][KV head][tile]
    std::vector<float> far_lse_;         // [stream][KV head][token][group]
    std::vector<float> far_out_;         // the same, [d_v]
    std::vector<float> lse_;             // [stream][token][head]
    std::vector<float> selected_lse_;    // the same, of what was selected
    std::vector<float> selected_out_;    // the same, [d_v]
    PinnedCells near_cells_, stale_cells_;
    SelectedKeys selected_;
    std::vector<std::vector<kernels::Run>> near_runs_;  // per view
    std::vector<kernels::HeadRuns> near_lists_;
    PageSet pages_;
    std::vector<Stale> stale_;
    std::vector<Workspace> workspaces_;  // per thread
};

}  // namespace atlas::attention
