#include "runtime/session.h"

#include <chrono>
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
      engine_(planner_options(options_.sparse), memory_options_of(options_), &runtime_->stats(),
              &runtime_->kv_budget()) {
    runtime_->enter(this);
    if (runtime_->is_watched()) runtime_->activity().hold({}, held_);
}

Session::~Session() {
    if (modules_) modules_->activity().hold(held_, {});
    if (runtime_->is_watched()) runtime_->activity().hold(held_, {});
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
    if (modules_ && modules_->version() != orders_version_) take_orders();
    masks_changed();
}

void Session::follow(std::shared_ptr<ModuleSet> modules) {
    if (modules_ == modules) return;
    if (modules_) let_go();
    if (!modules) return;
    modules_ = std::move(modules);
    modules_->activity().hold({}, held_);
    seen_ = stats();
    seen_attention_seconds_ = attention_seconds_;
    seen_memory_seconds_ = seen_.memory.decode_seconds + seen_.memory.prefill_seconds;
    take_orders();
}

void Session::let_go() {
    modules_->activity().hold(held_, {});
    modules_.reset();
    for (auto& [name, value] : ordered_) value.clear();
    if (Status status = set_options(ordered_); !status.is_ok())
        log().error("a context's own options: {}", status.message());
    ordered_.clear();
    own_attention_ = own_weights_ = rounded_ = streamed_ = true;
    enabled_ = false;
}

void Session::take_orders() {
    const Orders orders = modules_->orders();
    orders_version_ = orders.version;
    if (orders.ended) return let_go();
    own_attention_ = orders.own_attention;
    own_weights_ = orders.own_weights;
    rounded_ = orders.rounded;
    streamed_ = orders.streamed;
    // Those that are ordered no more go back first.
    std::vector<std::pair<std::string, std::string>> options = std::move(ordered_);
    for (auto& [name, value] : options) value.clear();
    options.insert(options.end(), orders.options.begin(), orders.options.end());
    ordered_ = orders.options;
    if (Status status = set_options(options); !status.is_ok() && !warned_of_orders_) {
        warned_of_orders_ = true;
        log().warn("what modules set does not go with what a context was set to: {}", status.message());
    }
    enabled_ = orders.sparse;
}

void Session::end_graph(Work work) {
    const SessionStats now = stats();
    work.graphs = 1;
    work.attention_calls = now.calls - seen_.calls;
    work.estimated_calls =
        now.planned.calls - now.planned.exact_calls - (seen_.planned.calls - seen_.planned.exact_calls);
    work.rows = now.planned.rows - seen_.planned.rows;
    work.visible_keys = now.planned.visible_keys - seen_.planned.visible_keys;
    work.exact_keys = now.planned.exact_keys - seen_.planned.exact_keys;
    const double memory_seconds = now.memory.decode_seconds + now.memory.prefill_seconds;
    work.attention_seconds = attention_seconds_ - seen_attention_seconds_;
    work.memory_seconds = memory_seconds - seen_memory_seconds_;
    seen_attention_seconds_ = attention_seconds_;
    seen_memory_seconds_ = memory_seconds;
    seen_ = now;
    Held held;
    held.contexts = 1;
    held.index_bytes = static_cast<int64_t>(now.index_bytes);
    held.memory_bytes = static_cast<int64_t>(now.memory.bytes);
    held.memories = static_cast<int64_t>(now.memory.memories);
    held.scratch_bytes = static_cast<int64_t>(now.scratch_bytes + work.scratch_bytes);
    held.column_bytes = static_cast<int64_t>(work.column_bytes);
    if (runtime_->is_watched()) {
        runtime_->activity().hold(held_, held);
        runtime_->activity().add(work);
    }
    if (modules_) {
        modules_->activity().hold(held_, held);
        modules_->add(work);
    }
    held_ = held;
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
    if (!is_observed()) return compute(std::move(call), n_threads);
    using Clock = std::chrono::steady_clock;
    const attention::LayerStats& totals = engine_.totals();
    const uint64_t before = totals.calls - totals.exact_calls;
    const Clock::time_point begin = Clock::now();
    Status status = compute(std::move(call), n_threads);
    attention_seconds_ += std::chrono::duration<double>(Clock::now() - begin).count();
    last_estimated_ = totals.calls - totals.exact_calls > before;
    return status;
}

Status Session::compute(attention::AttentionCall call, int n_threads) {
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

const side_car::Thresholds* Session::thresholds() {
    if (!looked_for_thresholds_) {
        looked_for_thresholds_ = true;
        thresholds_ = runtime_->side_car().find_thresholds();
        if (thresholds_) {
            log().info("activation sparsity: by thresholds of {} matrices of {}", thresholds_->weights.size(),
                       runtime_->side_car().path());
        } else {
            log().info("activation sparsity: in each layer's last product alone, as no side-car has thresholds");
        }
    }
    return thresholds_.get();
}

void Session::take_up_side_car() {
    const MemoryOptions before = memory_options();
    side_car::start_memories(side_car_fit_, runtime_->side_car(), static_cast<uint64_t>(options_.sparse.seed),
                             &engine_.memory());
    // What the file brings counts from now on as if it had been asked for.
    if (memory_options() != before) asked_.memory = options_.memory = memory_options();
}

Status Session::set_option(std::string_view name, const std::string& text) {
    const std::pair<std::string, std::string> one(name, text);
    return set_options({&one, 1});
}

Status Session::set_options(std::span<const std::pair<std::string, std::string>> options) {
    Options asked = asked_;
    bool mode_given = false;
    for (const auto& [name, text] : options) {
        if (Status status = check_context_option(name); !status.is_ok()) return status;
        if (text.empty()) {
            take_option(asked, asked_of(runtime_->options()), name);
        } else if (Status status = atlas::set_option(asked, name, text); !status.is_ok()) {
            return status;
        }
        mode_given = mode_given || name == "ATLAS_MODE";
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
    if (mode_given) set_enabled(options_.sparse.mode != AttentionMode::kExact);
    participation_.ask(what_is_asked(options_));
    return Status::ok();
}

SessionStats Session::stats() const {
    SessionStats stats{calls_, engine_.totals(), engine_.memory().stats(), 0, engine_.scratch_bytes()};
    for (const auto& [key, index] : indexes_) stats.index_bytes += index->bytes();
    return stats;
}

}  // namespace atlas::runtime
