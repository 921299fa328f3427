#include "attention/engine.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <new>
#include <utility>

#include "attention/select/probe.h"
#include "kernels/merge.h"

namespace atlas::attention {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
// Plans kept for later graphs, one per layer where each layer is a graph of its own.
constexpr size_t kMostPlans = 1024;

}  // namespace

bool can_estimate(const kernels::AttentionArgs& args) {
    return args.max_bias == 0.0f && args.softcap == 0.0f && args.sinks == nullptr && args.mask.n_heads == 1 &&
           args.d_k % 2 == 0 && (args.mask.data == nullptr || args.mask.summary != nullptr) && args.n_tokens < 65536;
}

bool Engine::wants_index(const kernels::AttentionArgs& args, int64_t n_keys) const {
    return settings_.mode != Mode::kExact && n_keys > settings_.threshold && can_estimate(args) &&
           most_visible(args, n_keys) > settings_.threshold;
}

void Engine::find_plan(const kernels::AttentionArgs& args, int64_t n_keys, const KvIndex& index,
                       const LayerInfo& info) {
    tile_ = args.n_tokens <= kDecodeTokens ? 1 : settings_.tile;
    tiles_ = (args.n_tokens + tile_ - 1) / tile_;
    if (!in_graph_) plans_in_use_ = 0;
    size_t at = 0;
    while (at < plans_in_use_ && !plans_[at].is_for(args, n_keys, info.base_pages)) ++at;
    if (at == plans_in_use_) {
        // What this index made for an earlier mask may still hold. A host may compute each layer as a graph of its own.
        const auto first = plans_.begin() + static_cast<std::ptrdiff_t>(at);
        auto plan = std::find_if(first, plans_.end(), [&](const MaskPlan& p) { return p.is_of(index); });
        if (plan == plans_.end() && (at == plans_.size() || plans_.size() < kMostPlans)) {
            plans_.emplace_back();
            plan = plans_.end() - 1;
        } else if (plan == plans_.end()) {
            plan = first;
        }
        std::iter_swap(plans_.begin() + static_cast<std::ptrdiff_t>(at), plan);
        plans_[at].make(args, n_keys, index, settings_, tile_, info.base_pages);
        // Only now: an allocation may have failed.
        if (in_graph_) ++plans_in_use_;
    }
    views_ = &plans_[at].views();
    groups_ = &plans_[at].groups();
}

FarBudget Engine::budget_of(const TileView& view, int layer) const {
    const auto share = static_cast<int64_t>(settings_.fraction * static_cast<double>(view.visible));
    const int64_t most = std::clamp<int64_t>(share, settings_.floor, std::max(settings_.floor, settings_.cap));
    const FarBudget budget{settings_.floor, most, settings_.block_share};
    return layer < settings_.first_layers ? budget.times(settings_.first_factor) : budget;
}

Status Engine::run(const kernels::AttentionArgs& args, const KvIndex& index, int layer, bool corrects, int n_threads) {
    const int64_t n = args.n_stream * args.n_head_kv * tiles_;
    const auto threads = static_cast<int64_t>(std::max(n_threads, 1));
    results_.resize(static_cast<size_t>(n));
    runs_.resize(static_cast<size_t>(n));
    lists_.resize(static_cast<size_t>(n));
    workspaces_.resize(static_cast<size_t>(threads));
    const auto rows = static_cast<size_t>(args.n_stream * args.n_tokens * args.n_head);
    const auto d_v = static_cast<size_t>(args.d_v);
    lse_.resize(rows);
    selected_lse_.resize(rows);
    selected_out_.resize(rows * d_v);
    far_lse_.assign(rows, kMinusInfinity);
    far_out_.resize(rows * d_v);
    list_near(args);
    // Lists of single tokens that keep all threads busy are worked through by one thread each: nobody waits in between.
    const bool apart = tile_ == 1 && (n % threads == 0 || n >= 4 * threads);
    kernels::AttentionArgs part = args;
    part.tokens_per_tile = tile_;
    if (!apart) {
        part.runs = near_lists_.data();
        part.lse = lse_.data();
        if (Status status = kernels::attention(part, n_threads); !status.is_ok()) return status;
    }
    std::atomic<bool> failed{false};
    std::vector<Status> errors(static_cast<size_t>(apart ? n : 0));
#pragma omp parallel for schedule(dynamic) num_threads(n_threads) if (n > 1)
    for (int64_t i = 0; i < n; ++i) {
        // Later tiles see more: first come, first served from the end.
        const int64_t list = n - 1 - i;
        try {
            if (apart) {
                errors[static_cast<size_t>(list)] = run_list(args, index, layer, corrects, list);
            } else {
                plan(args, index, layer, corrects, list);
            }
        } catch (const std::bad_alloc&) {
            failed = true;
        }
    }
    if (failed) throw std::bad_alloc();
    for (Status& error : errors) {
        if (!error.is_ok()) return std::move(error);
    }
    if (apart || settings_.mode == Mode::kWindow) return Status::ok();
    part.runs = lists_.data();
    part.lse = selected_lse_.data();
    part.out = selected_out_.data();
    part.out_head_stride = args.d_v * static_cast<int64_t>(sizeof(float));
    part.out_token_stride = args.n_head * part.out_head_stride;
    part.out_stream_stride = args.n_tokens * part.out_token_stride;
    if (Status status = kernels::attention(part, n_threads); !status.is_ok()) return status;
    merge_selected(args, n_threads);
    return Status::ok();
}

void Engine::list_near(const kernels::AttentionArgs& args) {
    const int64_t n = args.n_stream * args.n_head_kv * tiles_;
    near_.resize(static_cast<size_t>(n));
    near_lists_.resize(static_cast<size_t>(n));
    for (int64_t list = 0; list < n; ++list) {
        const int64_t tile = list % tiles_;
        const int64_t stream = list / tiles_ / args.n_head_kv;
        const kernels::HeadRuns& all = args.runs[list / tiles_];
        // In a cell's row all heads lie side by side; caches with a plane per head have runs per head.
        const int64_t first = stream * args.n_head_kv;
        if (list / tiles_ != first && all.runs.data() == args.runs[first].runs.data()) {
            const kernels::HeadRuns& shared = near_lists_[static_cast<size_t>(first * tiles_ + tile)];
            near_lists_[static_cast<size_t>(list)] = {shared.runs, all.k_offset, all.v_offset};
            continue;
        }
        std::vector<kernels::Run>& runs = near_[static_cast<size_t>(list)];
        runs.clear();
        size_t at = 0;
        for (const KeyRange& range : (*views_)[static_cast<size_t>(stream * tiles_ + tile)].exact_keys)
            append_runs(args, all, range.key, range.count, &at, &runs);
        near_lists_[static_cast<size_t>(list)] = {runs, all.k_offset, all.v_offset};
    }
}

void Engine::plan(const kernels::AttentionArgs& args, const KvIndex& index, int layer, bool corrects, int64_t list) {
    const int64_t tile = list % tiles_;
    const int64_t head = list / tiles_ % args.n_head_kv;
    const int64_t stream = list / tiles_ / args.n_head_kv;
    const int64_t group = args.n_head / args.n_head_kv;
    const auto at = static_cast<size_t>(stream * tiles_ + tile);
    const TileView& view = (*views_)[at];
    FarResult& result = results_[static_cast<size_t>(list)];
    result.selected.clear();
    result.far_keys = result.probes = result.probe_ratio = result.probe_log_squared = 0;
    result.grown = false;
    const kernels::HeadRuns& all = args.runs[list / tiles_];
    std::vector<kernels::Run>& runs = runs_[static_cast<size_t>(list)];
    runs.clear();
    if (!view.exact && view.far_pages > 0 && settings_.mode != Mode::kWindow) {
        const int64_t row = ((stream * args.n_head_kv + head) * args.n_tokens + view.token0) * group;
        const NearPart near{lse_.data() + (stream * args.n_tokens + view.token0) * args.n_head + head * group,
                            args.n_head};
        const FarBudget budget = budget_of(view, layer);
        plan_far_field(args, index, settings_, view, head, near,
                       corrects ? budget.times(memory_.budget_factor(at, layer, head)) : budget,
                       &workspaces_[static_cast<size_t>(omp_get_thread_num())], far_lse_.data() + row,
                       far_out_.data() + row * args.d_v, &result);
        // Where the pages lie is in as many places of the list: all of them are on their way before the first is waited for.
        for (const PageCells& page : result.selected) {
            const auto likely = static_cast<size_t>(page.key / kernels::kBlockKeys);
            if (likely < all.runs.size()) __builtin_prefetch(&all.runs[likely]);
        }
        size_t from = 0;
        for (const PageCells& page : result.selected) append_cells(args, all, page, &from, &runs);
    }
    lists_[static_cast<size_t>(list)] = {runs, all.k_offset, all.v_offset};
}

Status Engine::run_list(const kernels::AttentionArgs& args, const KvIndex& index, int layer, bool corrects,
                        int64_t list) {
    const int64_t token = list % tiles_;
    const int64_t head = list / tiles_ % args.n_head_kv;
    const int64_t stream = list / tiles_ / args.n_head_kv;
    const int64_t group = args.n_head / args.n_head_kv;
    const int64_t row = (stream * args.n_tokens + token) * args.n_head + head * group;
    kernels::AttentionArgs one = args;
    one.n_tokens = one.n_head_kv = one.n_stream = one.tokens_per_tile = 1;
    one.n_head = group;
    one.q = query_of(args, stream, token, head * group);
    one.out = output_of(args, stream, token, head * group);
    one.lse = lse_.data() + row;
    one.runs = &near_lists_[static_cast<size_t>(list)];
    if (args.mask.data) {
        const kernels::Mask& mask = args.mask;
        const int64_t mask_stream = stream % mask.n_streams;
        one.mask.data = mask.data + mask_stream * mask.stream_stride + token * mask.token_stride;
        one.mask.summary = mask.summary + (mask_stream * args.n_tokens + token) * mask.summary_blocks;
        one.mask.n_streams = 1;
    }
    if (Status status = kernels::attention(one, 1); !status.is_ok()) return status;
    plan(args, index, layer, corrects, list);
    if (runs_[static_cast<size_t>(list)].empty()) return Status::ok();
    float* out = one.out;
    const int64_t stride = one.out_head_stride;
    one.out = selected_out_.data() + row * args.d_v;
    one.out_head_stride = args.d_v * static_cast<int64_t>(sizeof(float));
    one.lse = selected_lse_.data() + row;
    one.runs = &lists_[static_cast<size_t>(list)];
    // What is selected, every token of its tile sees.
    one.mask = {};
    if (Status status = kernels::attention(one, 1); !status.is_ok()) return status;
    for (int64_t h = 0; h < group; ++h) {
        auto* to = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(out) + h * stride);
        kernels::merge_partial(to, lse_.data() + row + h, one.out + h * args.d_v, one.lse[h], args.d_v);
    }
    return Status::ok();
}

void Engine::merge_selected(const kernels::AttentionArgs& args, int n_threads) {
    const int64_t n = args.n_stream * args.n_tokens * args.n_head;
#pragma omp parallel for schedule(static) num_threads(n_threads) if (n > 256)
    for (int64_t i = 0; i < n; ++i) {
        float* out = output_of(args, i / args.n_head / args.n_tokens, i / args.n_head % args.n_tokens, i % args.n_head);
        kernels::merge_partial(out, &lse_[static_cast<size_t>(i)], selected_out_.data() + i * args.d_v,
                               selected_lse_[static_cast<size_t>(i)], args.d_v);
    }
}

void Engine::merge(const kernels::AttentionArgs& args, int layer, int n_threads) {
    const int64_t group = args.n_head / args.n_head_kv;
    const int64_t n = args.n_stream * args.n_tokens * args.n_head;
    double queries = 0.0;
    double retained = 0.0;
#pragma omp parallel for schedule(static) num_threads(n_threads) if (n > 256) reduction(+ : queries, retained)
    for (int64_t i = 0; i < n; ++i) {
        const int64_t head = i % args.n_head;
        const int64_t token = i / args.n_head % args.n_tokens;
        const int64_t stream = i / args.n_head / args.n_tokens;
        const int64_t row = ((stream * args.n_head_kv + head / group) * args.n_tokens + token) * group + head % group;
        const float far = far_lse_[static_cast<size_t>(row)];
        if (far == kMinusInfinity) continue;
        float* out = output_of(args, stream, token, head);
        const float near = lse_[static_cast<size_t>(i)];
        kernels::merge_partial(out, &lse_[static_cast<size_t>(i)], far_out_.data() + row * args.d_v, far, args.d_v);
        queries += 1.0;
        retained += static_cast<double>(std::exp(near - lse_[static_cast<size_t>(i)]));
    }
    LayerStats stats;
    stats.calls = 1;
    stats.queries = queries;
    stats.retained_mass = retained;
    for (size_t list = 0; list < results_.size(); ++list) {
        const auto at = static_cast<int64_t>(list);
        const TileView& view = (*views_)[static_cast<size_t>(at / tiles_ / args.n_head_kv * tiles_ + at % tiles_)];
        const FarResult& result = results_[list];
        stats.rows += 1.0;
        stats.visible_keys += static_cast<double>(view.visible);
        for (const KeyRange& range : view.exact_keys) stats.exact_keys += static_cast<double>(range.count);
        for (const kernels::Run& run : runs_[list]) stats.exact_keys += static_cast<double>(run.count);
        stats.estimated_keys += result.far_keys;
        stats.probes += result.probes;
        stats.probe_ratio += result.probe_ratio;
        stats.probe_log_squared += result.probe_log_squared;
        stats.grown += result.grown;
    }
    record(layer, stats);
}

void Engine::record(int layer, const LayerStats& part) {
    totals_.add(part);
    Stats::instance().add(layer, part);
}

Status Engine::attend(const kernels::AttentionArgs& args, int64_t n_keys, KvIndex& index, const LayerInfo& info,
                      int n_threads) {
    try {
        find_plan(args, n_keys, index, info);
        const bool plain = std::all_of(views_->begin(), views_->end(),
                                       [](const TileView& view) { return view.exact || view.far_pages == 0; });
        if (plain) {
            LayerStats stats;
            stats.calls = stats.exact_calls = 1;
            record(info.layer, stats);
            return kernels::attention(args, n_threads);
        }
        if (settings_.mode == Mode::kSparse) refresh(args, index, n_threads);
        const bool corrects =
            memory_.corrects() && settings_.mode == Mode::kSparse && settings_.estimate != FarEstimate::kDrop;
        const auto far_call = [&] {
            return FarCall{args,       index,       *views_,         results_,       tiles_,
                           info.layer, lse_.data(), far_lse_.data(), far_out_.data()};
        };
        if (corrects) memory_.find(far_call(), info.layer < settings_.first_layers ? settings_.first_factor : 1.0);
        if (Status status = run(args, index, info.layer, corrects, n_threads); !status.is_ok()) return status;
        const FarCall call = far_call();
        if (corrects) memory_.correct(call, n_threads);
        merge(args, info.layer, n_threads);
        if (memory_.blends()) memory_.blend(call, n_threads);
        LayerStats memory;
        memory.index_bytes = index.bytes();
        record(info.layer, memory);
        return Status::ok();
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory("sparse attention: bookkeeping of layer " + std::to_string(info.layer));
    }
}

}  // namespace atlas::attention
