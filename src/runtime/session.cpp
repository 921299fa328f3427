#include "runtime/session.h"

#include <new>
#include <string>
#include <utility>

#include "attention/absence.h"
#include "base/log.h"
#include "side_car/calibration.h"

namespace atlas::runtime {
namespace {

// Options of a session that is on: a process that asked for nothing gets the whole of it.
SparseOptions planner_options(SparseOptions options) {
    if (options.mode == AttentionMode::kExact) options.mode = AttentionMode::kSparse;
    return options;
}

MemoryOptions memory_options_of(const Options& options) {
    MemoryOptions memory = options.memory;
    if (options.sparse.mode == AttentionMode::kExact && !is_given(options, "ATLAS_MEMORY")) memory.enabled = true;
    return memory;
}

attention::Absence why_exact(const attention::AttentionCall& call, int threshold) {
    using attention::Absence;
    // What is too short for anything else to matter is only that.
    return call.n_keys > threshold ? attention::absence_of(call) : Absence::kBelowThreshold;
}

}  // namespace

Session::Session(std::shared_ptr<Runtime> runtime)
    : runtime_(std::move(runtime)),
      asked_(asked_of(runtime_->options())),
      options_(runtime_->options()),
      participation_(what_is_asked(options_)),
      enabled_(options_.sparse.mode != AttentionMode::kExact),
      engine_(planner_options(options_.sparse), memory_options_of(options_), &runtime_->stats()) {
    runtime_->enter(this);
}

Session::~Session() {
    participation_.finish(graphs_ > 0 && calls_ == 0);
    try {
        for (const auto& [layer, memory] : engine_.memory().layer_stats()) runtime_->stats().add(layer, memory);
    } catch (const std::bad_alloc&) {
        // The host is ending: it must not end by an exception in a destructor.
        log().error("statistics: out of memory");
    }
    runtime_->leave(this);
    runtime_->write_statistics();
}

void Session::masks_changed() {
    masks_.begin_graph();
    engine_.begin_graph();
}

void Session::begin_graph() {
    ++graphs_;
    masks_changed();
}

attention::KeyIndex& Session::index_for(const attention::AttentionCall& call) {
    auto& index = indexes_[{call.k.pages->id(), call.v.pages->id()}];
    if (!index || !index->fits(call.args.n_head_kv, call.args.d_k, call.args.d_v)) {
        index = std::make_unique<attention::KeyIndex>(*call.k.pages, *call.v.pages, call.args.n_head_kv, call.args.d_k,
                                                      call.args.d_v, &runtime_->kv_budget());
    }
    return *index;
}

Status Session::attend(attention::AttentionCall call, int n_threads) {
    const kernels::AttentionArgs& args = call.args;
    if (args.mask.data) masks_.attach(args.n_tokens, call.n_keys, n_threads, &call.args.mask);
    const bool in_cells = call.in_cells();
    if (in_cells && side_car_fit_.see(call.layer, args.n_head_kv, args.d_k, args.d_v)) take_up_side_car();
    side_car::Calibration* const calibration = runtime_->calibration();
    if (calibration && in_cells) calibration->see(call.layer, args.n_head_kv, args.d_k, args.d_v);
    engine_.memory().set_probe_sink(calibration);
    ++calls_;
    d_k_ = args.d_k;
    d_v_ = args.d_v;
    if (!enabled_) {
        if (calls_ == 1 && asks_memory_alone(options_)) participation_.note(attention::Absence::kMemoryWithoutSparse);
        return engine_.exact(call, n_threads);
    }
    const bool planned = engine_.wants_index(call);
    if (!planned) {
        participation_.note(why_exact(call, engine_.settings().threshold));
        return engine_.exact(call, n_threads);
    }
    Status status = engine_.attend(call, index_for(call), n_threads);
    participation_.note(engine_.indexed() ? attention::Absence::kNone : attention::Absence::kIndexBudget);
    if (engine_.indexed() && engine_.memory().corrects())
        participation_.note_memory(attention::memory_absence_of(args));
    return status;
}

void Session::take_up_side_car() {
    const MemoryOptions before = memory_options();
    side_car::start_memories(side_car_fit_, runtime_->side_car(), static_cast<uint64_t>(options_.sparse.seed),
                             &engine_.memory());
    // What the file brings counts from now on as if it had been asked for.
    if (memory_options() != before) asked_.memory = options_.memory = memory_options();
}

Status Session::set_option(std::string_view name, const std::string& text) {
    if (Status status = check_context_option(name); !status.is_ok()) return status;
    Options asked = asked_;
    if (text.empty()) {
        take_option(asked, asked_of(runtime_->options()), name);
    } else if (Status status = atlas::set_option(asked, name, text); !status.is_ok()) {
        return status;
    }
    Options settled;
    if (Status status = settle_options(asked, &settled); !status.is_ok()) return status;
    const MemoryOptions memory = memory_options_of(settled);
    if (d_k_ > 0 && memory != memory_options()) {
        const Status status = memory::check_corrector(attention::corrector_config(memory, d_k_, d_v_, 0));
        if (!status.is_ok()) return status;
    }
    asked_ = std::move(asked);
    options_ = std::move(settled);
    engine_.set_settings(planner_options(options_.sparse));
    engine_.memory().set_options(memory);
    if (name == "ATLAS_MODE") set_enabled(options_.sparse.mode != AttentionMode::kExact);
    participation_.ask(what_is_asked(options_));
    return Status::ok();
}

SessionStats Session::stats() const {
    SessionStats stats{calls_, engine_.totals(), engine_.memory().stats(), 0};
    for (const auto& [key, index] : indexes_) stats.index_bytes += index->bytes();
    return stats;
}

}  // namespace atlas::runtime
