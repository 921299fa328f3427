#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "attention/engine.h"
#include "attention/index/key_index.h"
#include "base/options.h"
#include "base/status.h"
#include "kernels/attention.h"
#include "kv/page_table.h"
#include "runtime/activity.h"
#include "runtime/mask_summaries.h"
#include "runtime/module_set.h"
#include "runtime/participation.h"
#include "runtime/runtime.h"
#include "side_car/use.h"

namespace atlas::runtime {

/** Of one session since it was made. */
struct SessionStats {
    uint64_t calls = 0;             ///< attention operations: one per layer with attention and batch
    attention::LayerStats planned;  ///< of those that went to the planner, all layers together
    attention::MemoryStats memory;
    uint64_t index_bytes = 0;
    uint64_t scratch_bytes = 0;
};

/**
 * What one backend instance owns, and a host makes one per context: the attention engine with its memories, an index per cache pair, and
 * the mask summaries of the present graph. Used by one thread at a time; different sessions are independent.
 */
class Session {
public:
    /** Starts with the runtime's options; shares its ownership. */
    explicit Session(std::shared_ptr<Runtime> runtime);
    /** Hands its statistics to the runtime, which writes them if ATLAS_STATS asks for it. */
    ~Session();
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    /** To be called before the first node of a graph: masks may hold new values. */
    void begin_graph();
    /** To be called after a graph that succeeded, if is_observed(): what its backend counted; attention is added here. */
    void end_graph(Work work);
    /** To be called between two nodes of a graph when a mask of an earlier one was written since. */
    void masks_changed();

    /** One attention operation, its mask without a summary. Errors of kernels::attention and of pinning pages. */
    Status attend(attention::AttentionCall call, int n_threads);

    /**
     * Switches, from the next call on. Off: every key of every query is read, what was learned is kept. On: what the options say; where they say
     * exact, sparse attention, with memory unless that was switched off. Starts on exactly if the options do not say exact.
     */
    bool enabled() const { return enabled_; }
    void set_enabled(bool enabled) { enabled_ = enabled; }
    /**
     * Sets one option of this context by the name of its variable, from the next call on; an empty text takes back what was set here. What was
     * learned is kept where memories stay the same kind of thing (FarMemory::set_options), and a seed is that of later memories. ATLAS_MODE switches
     * too. Errors, which change nothing: set_option's, settle_options' and check_context_option's, and features that the last call's heads would have
     * too many of.
     */
    Status set_option(std::string_view name, const std::string& text);
    /** Sets several, which may depend on each other, or none. */
    Status set_options(std::span<const std::pair<std::string, std::string>> options);
    /**
     * From the next graph on the session does what `modules` order, until these end, or it is told otherwise. What they set takes the place of what was set here.
     * nullptr: it is its own master again, and off.
     */
    void follow(std::shared_ptr<ModuleSet> modules);
    const std::shared_ptr<ModuleSet>& modules() const { return modules_; }
    /** Whether Atlas's own operation is to run, or the host's. */
    bool own_attention() const { return own_attention_; }
    bool own_weights() const { return own_weights_; }
    /** What rounds weights and what reads them from their file; nullptr where the process has none, or modules say so. */
    weights::FormatStore* formats() const { return rounded_ ? runtime_->formats() : nullptr; }
    weights::Streamer* streamer() const { return streamed_ ? runtime_->streamer() : nullptr; }
    /** Share of the inputs that the last product of a feed-forward layer leaves out for single tokens. */
    double left_out() const { return options_.sparsity; }
    /** Below which they do; null where no side-car of the model in use has any. Looked for once. */
    const side_car::Thresholds* thresholds();
    /** Whether somebody wants to know what graphs do. */
    bool is_observed() const { return modules_ != nullptr || runtime_->is_watched(); }
    /** Whether the last call of attend() estimated something. */
    bool last_estimated() const { return last_estimated_; }
    /** Empties the memories. */
    void forget() { engine_.memory().reset(); }

    Runtime& runtime() const { return *runtime_; }
    /** The runtime's, with what was set here. */
    const Options& options() const { return options_; }
    /** Whether what was asked for takes part; may be read by any thread. */
    const Participation& participation() const { return participation_; }
    /** The planner's while enabled, and the memories'. */
    const attention::Settings& settings() const { return engine_.settings(); }
    const MemoryOptions& memory_options() const { return engine_.memory().options(); }
    SessionStats stats() const;

private:
    attention::KeyIndex& index_for(const attention::AttentionCall& call);
    void take_up_side_car();
    void take_orders();
    void let_go();
    Status compute(attention::AttentionCall call, int n_threads);

    const std::shared_ptr<Runtime> runtime_;  // first: the rest may refer to it until the end
    Options asked_;                           // what was given, here or in the process, without what follows from it
    Options options_;                         // settled
    Participation participation_;
    bool enabled_;
    uint64_t graphs_ = 0;
    uint64_t calls_ = 0;
    std::shared_ptr<ModuleSet> modules_;
    uint64_t orders_version_ = 0;
    std::vector<std::pair<std::string, std::string>> ordered_;  // options that modules_ set
    bool own_attention_ = true;
    bool own_weights_ = true;
    bool rounded_ = true;
    bool streamed_ = true;
    bool last_estimated_ = false;
    bool warned_of_orders_ = false;
    double attention_seconds_ = 0.0;  // while observed
    SessionStats seen_;               // counts that modules_ know
    double seen_attention_seconds_ = 0.0;
    double seen_memory_seconds_ = 0.0;
    Held held_{1};     // as modules_ and the runtime know it
    int64_t d_k_ = 0;  // of the last call
    int64_t d_v_ = 0;
    MaskSummaries masks_;
    side_car::SideCarFit side_car_fit_;
    std::shared_ptr<const side_car::Thresholds> thresholds_;
    bool looked_for_thresholds_ = false;
    attention::Engine engine_;
    std::map<std::pair<uint64_t, uint64_t>, std::unique_ptr<attention::KeyIndex>> indexes_;  // by the ids of K and V
};

}  // namespace atlas::runtime
