#include "attention/engine.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <utility>

#include "attention/absence.h"
#include "attention/select/rest.h"
#include "base/parallel.h"
#include "base/per_thread.h"
#include "kernels/merge.h"

namespace atlas::attention {
namespace {

using kernels::kAllCells;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
// Plans kept for later graphs, one per layer where each layer is a graph of its own.
constexpr size_t kMostPlans = 1024;
// Up to this many rows are merged sooner than threads are started.
constexpr int64_t kSerialRows = 256;
// A tile of several tokens selects at most one of so many far keys above its floor.
constexpr int64_t kMostOfTile = 4;

/** Calls body(i, thread) for i < n on some threads, the last ones first: later tiles see more. Throws what one of them throws. */
template <typename Body>
Status for_lists(int64_t n, int n_threads, Body body) {
    std::vector<Status> errors(static_cast<size_t>(n));
    parallel_for(n, n_threads, Schedule::kDynamic, [&](int64_t i, int thread) {
        const int64_t list = n - 1 - i;
        errors[static_cast<size_t>(list)] = body(list, thread);
    });
    for (Status& error : errors) {
        if (!error.is_ok()) return std::move(error);
    }
    return Status::ok();
}

}  // namespace

bool can_select(const AttentionCall& call) {
    return call.in_cells() && (call.args.mask.data == nullptr || call.args.mask.summary != nullptr) &&
           call.args.n_tokens <= kMostTokens;
}

bool memory_applies(const kernels::AttentionArgs& args) { return memory_absence_of(args) == Absence::kNone; }

void Engine::set_settings(const Settings& settings) {
    settings_ = settings;
    memory_.set_seed(static_cast<uint64_t>(settings.seed));
    views_ = nullptr;
    plans_.clear();
    plans_in_use_ = 0;
}

size_t Engine::scratch_bytes() const {
    const auto of = [](const auto&... buffer) { return (... + (buffer.capacity() * sizeof(buffer[0]))); };
    return of(far_lse_, far_out_, lse_, selected_lse_, selected_out_, near_lists_, stale_);
}

bool Engine::wants_index(const AttentionCall& call) const {
    return settings_.mode != Mode::kExact && call.n_keys > settings_.threshold && can_select(call) &&
           most_visible(call) > settings_.threshold;
}

Status Engine::exact(const AttentionCall& call, int n_threads) {
    try {
        LayerStats stats;
        stats.calls = stats.exact_calls = 1;
        record(call.layer, stats);
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory("attention: statistics of layer " + std::to_string(call.layer));
    }
    return attend_to_all(call, n_threads);
}

Status Engine::attend_to_all(const AttentionCall& call, int n_threads) {
    try {
        kernels::AttentionArgs args = call.args;
        if (args.n_tokens > KeptKeys::kMostTokens && args.n_stream == 1 && args.mask.n_heads == 1 &&
            kept_keys_.find(call.tokens(0, KeptKeys::kMostTokens))) {
            for (int64_t first = 0; first < args.n_tokens; first += KeptKeys::kMostTokens) {
                const int64_t count = std::min(KeptKeys::kMostTokens, args.n_tokens - first);
                if (Status status = attend_to_all(call.tokens(first, count), n_threads); !status.is_ok()) return status;
            }
            return Status::ok();
        }
        if (kept_keys_.find(call)) {
            if (Status status = kept_keys_.pin(call, &args.runs); !status.is_ok()) return status;
            args.tokens_per_tile = 1;
            const Status status = kernels::attention(args, n_threads);
            kept_keys_.unpin();
            return status;
        }
        Status status = all_keys_.find(call, &args.runs);
        if (status.code() == StatusCode::kOutOfMemory && call.in_cells() && call.k.pages->is_paged())
            return exact_in_pieces(call, n_threads);
        if (!status.is_ok()) return status;
        status = kernels::attention(args, n_threads);
        all_keys_.unpin();
        return status;
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory("attention: list of " + std::to_string(call.n_keys) + " keys");
    }
}

void Engine::find_plan(const AttentionCall& call, const KeyIndex& index) {
    tiling_ = Tiling(call, call.args.n_tokens <= kDecodeTokens ? 1 : settings_.tile);
    if (!in_graph_) plans_in_use_ = 0;
    size_t at = 0;
    while (at < plans_in_use_ && !plans_[at].is_for(call)) ++at;
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
        plans_[at].make(call, index, settings_, tiling_.tokens);
        // Only now: an allocation may have failed.
        if (in_graph_) ++plans_in_use_;
    }
    views_ = &plans_[at].views();
}

Status Engine::refresh(const AttentionCall& call, KeyIndex& index, int n_threads) {
    stale_.clear();
    index.begin_call();
    for (const TileView& view : *views_) {
        if (view.exact) continue;
        size_t part = 0;
        for (const int32_t page : view.selected_from) {
            const int64_t number = view.base_page + page;
            const bool fresh = index.fresh(number);
            if (!fresh) stale_.push_back({number, view.stream, page, kAllCells});
            if (view.use[static_cast<size_t>(page)] != PageUse::kFarPart) continue;
            for (int64_t t = 0; t < (call.args.mask.data ? view.tokens : 1); ++t) {
                const uint64_t cells = view.parts[part++];
                if (cells != 0 && cells != kAllCells && (!fresh || !index.has_part(number, cells)))
                    stale_.push_back({number, view.stream, page, cells});
            }
        }
    }
    indexed_ = std::all_of(stale_.begin(), stale_.end(), [&](const Stale& stale) { return index.reserve(stale.page); });
    if (stale_.empty() || !indexed_) return Status::ok();
    // Of a page its codes come first: all cells are the largest number.
    std::sort(stale_.begin(), stale_.end(), std::greater<>());
    stale_.erase(std::unique(stale_.begin(), stale_.end()), stale_.end());
    // As many at a time as memory has room for.
    const auto most = static_cast<size_t>(call.k.pages->pages_at_once());
    Status status;
    for (size_t first = 0; first < stale_.size() && status.is_ok(); first += most)
        status = encode(call, index, {stale_.data() + first, std::min(most, stale_.size() - first)}, n_threads);
    return status;
}

Status Engine::encode(const AttentionCall& call, KeyIndex& index, std::span<const Stale> stale_pages, int n_threads) {
    pages_.clear();
    for (const Stale& stale : stale_pages) pages_.add(stale.page);
    // What a cold page is encoded for may never select it.
    if (Status status = stale_cells_.pin(call, pages_.ranges(), kv::PinMode::kThrough); !status.is_ok()) return status;
    for (const Stale& stale : stale_pages) {
        if (stale.cells == kAllCells) {
            index.begin(stale.page);
        } else {
            index.begin_part(stale.page, stale.cells);
        }
    }
    const int64_t heads = call.args.n_head_kv;
    const auto n = static_cast<int64_t>(stale_pages.size()) * heads;
    const Status status = for_lists(n, n_threads, [&](int64_t i, int) {
        thread_local PerThread<std::vector<float>> of_rows, of_work;
        std::vector<float>& rows = of_rows.get();
        const Stale& stale = stale_pages[static_cast<size_t>(i / heads)];
        rows.resize(static_cast<size_t>(kv::kPageRows * (call.args.d_k + call.args.d_v)));
        float* values = rows.data() + kv::kPageRows * call.args.d_k;
        stale_cells_.decode(call, stale.stream, stale.first, i % heads,
                            stale.cells == kAllCells ? rows.data() : nullptr, values);
        if (stale.cells == kAllCells) {
            index.update(stale.page, i % heads, rows.data(), values, &of_work.get());
        } else {
            index.update_part(stale.page, stale.cells, i % heads, values);
        }
        return Status::ok();
    });
    stale_cells_.unpin();
    for (const Stale& stale : stale_pages) {
        if (stale.cells == kAllCells) index.end(stale.page);
    }
    return status;
}

FarBudget Engine::budget_of(const TileView& view, int64_t group) const {
    // A tile of tokens shares its selection: it is larger by the square root of their number.
    const double tokens = std::sqrt(static_cast<double>(view.tokens));
    const auto keys = [&](int count) { return static_cast<int64_t>(tokens * count); };
    FarBudget budget{keys(std::min(settings_.floor, settings_.budget)), keys(settings_.budget),
                     settings_.share * static_cast<double>(group)};
    if (view.tokens > 1) {
        // Scattered rows cost a tile about twice what rows in order do, so beyond some part of the keys reading all would be sooner done.
        const auto far = static_cast<int64_t>(view.selected_from.size()) * kv::kPageRows;
        budget.most = std::clamp(far / kMostOfTile, budget.least, budget.most);
    }
    return budget;
}

Status Engine::run(const AttentionCall& call, const KeyIndex& index, int n_threads) {
    const int64_t n = call.args.n_stream * call.args.n_head_kv * tiling_.tiles;
    const auto threads = static_cast<int64_t>(std::max(n_threads, 1));
    selections_.resize(static_cast<size_t>(n));
    workspaces_.resize(static_cast<size_t>(threads));
    const auto rows = static_cast<size_t>(call.n_rows());
    const auto d_v = static_cast<size_t>(call.args.d_v);
    lse_.resize(rows);
    selected_lse_.resize(rows);
    selected_out_.resize(rows * d_v);
    far_lse_.assign(rows, kMinusInfinity);
    far_out_.resize(rows * d_v);
    if (Status status = pin_near(call); !status.is_ok()) return status;
    // Lists of single tokens that keep all threads busy are worked through by one thread each: nobody waits in between. What depends on the
    // number of a head is left to the kernels' own loop over heads.
    const bool apart = tiling_.tokens == 1 && (n % threads == 0 || n >= 4 * threads) && call.args.max_bias == 0.0f &&
                       call.args.mask.n_heads == 1;
    if (!apart) {
        kernels::AttentionArgs near = call.args;
        near.tokens_per_tile = tiling_.tokens;
        near.runs = near_lists_.data();
        near.lse = lse_.data();
        if (Status status = kernels::attention(near, n_threads); !status.is_ok()) return status;
    }
    Status status = for_lists(n, n_threads, [&](int64_t list, int thread) {
        if (apart) {
            if (Status failed = attend_list(call, list, false); !failed.is_ok()) return failed;
        }
        select(call, index, list, &workspaces_[static_cast<size_t>(thread)]);
        return Status::ok();
    });
    near_cells_.unpin();
    if (!status.is_ok() || settings_.mode == Mode::kWindow) return status;
    status = selected_.pin(call, tiling_, selections_, 0, INT64_MAX);
    if (status.code() == StatusCode::kOutOfMemory && call.k.pages->is_paged())
        return selected_in_pieces(call, apart, n_threads);
    if (!status.is_ok()) return status;
    return attend_selected(call, apart, n_threads);
}

Status Engine::attend_selected(const AttentionCall& call, bool apart, int n_threads) {
    Status status;
    if (apart) {
        status = for_lists(static_cast<int64_t>(selections_.size()), n_threads,
                           [&](int64_t list, int) { return attend_list(call, list, true); });
    } else {
        status = kernels::attention(selected_args(call), n_threads);
        if (status.is_ok()) merge(call, true, n_threads);
    }
    selected_.unpin();
    return status;
}

Status Engine::pin_near(const AttentionCall& call) {
    pages_.clear();
    for (const TileView& view : *views_) {
        for (const KeyRange& range : view.exact_keys)
            pages_.add(view.base_page + range.key / kv::kPageRows, (range.count + kv::kPageRows - 1) / kv::kPageRows);
    }
    if (Status status = near_cells_.pin(call, pages_.ranges()); !status.is_ok()) return status;
    near_runs_.resize(views_->size());
    for (size_t i = 0; i < views_->size(); ++i) {
        near_runs_[i].clear();
        for (const KeyRange& range : (*views_)[i].exact_keys)
            near_cells_.append(call, (*views_)[i].stream, range, &near_runs_[i]);
    }
    near_lists_.resize(selections_.size());
    for (size_t list = 0; list < near_lists_.size(); ++list) {
        const auto at = static_cast<int64_t>(list);
        near_lists_[list] = list_of(call, tiling_.head(at), near_runs_[tiling_.view(at)]);
    }
    return Status::ok();
}

void Engine::select(const AttentionCall& call, const KeyIndex& index, int64_t list, Workspace* work) {
    const int64_t head = tiling_.head(list);
    const int64_t stream = tiling_.stream(list);
    const TileView& view = (*views_)[tiling_.view(list)];
    Selection& selection = selections_[static_cast<size_t>(list)];
    selection.selected.clear();
    selection.far_keys = 0;
    if (view.exact || view.selected_from.empty() || settings_.mode == Mode::kWindow) return;
    const NearPart near{lse_.data() + call.row(stream, view.token0, head * call.group()), call.args.n_head};
    work->scores.score(call, index, view, head, near);
    work->selector.select(work->scores, budget_of(view, work->scores.group()), &selection.selected);
    const int64_t row = call.far_row(stream, head, view.token0);
    if (settings_.rest != Rest::kDrop)
        selection.far_keys = estimate_rest(work->scores, selection.selected, far_lse_.data() + row,
                                           far_out_.data() + row * call.args.d_v);
}

Status Engine::attend_list(const AttentionCall& call, int64_t list, bool selected) {
    if (selected && selected_.is_empty(list)) return Status::ok();
    const int64_t token = tiling_.tile(list);
    const int64_t stream = tiling_.stream(list);
    const int64_t first_head = tiling_.head(list) * call.group();
    const int64_t row = call.row(stream, token, first_head);
    kernels::AttentionArgs one = call.args;
    one.n_tokens = one.n_head_kv = one.n_stream = one.tokens_per_tile = 1;
    one.n_head = call.group();
    one.q = call.query(stream, token, first_head);
    one.out = call.output(stream, token, first_head);
    one.lse = (selected ? selected_lse_ : lse_).data() + row;
    one.runs = (selected ? selected_.lists() : near_lists_.data()) + list;
    // A sink is part of what is read in any case, and counted once.
    one.sinks = call.args.sinks && !selected ? call.args.sinks + first_head : nullptr;
    if (call.args.mask.data) {
        one.mask.data = call.mask_row(stream, token, first_head);
        one.mask.summary = call.summary_row(stream, token);
        one.mask.n_streams = 1;
    }
    if (!selected) return kernels::attention(one, 1);
    one.out = selected_out_.data() + row * call.args.d_v;
    one.out_head_stride = call.args.d_v * static_cast<int64_t>(sizeof(float));
    if (Status status = kernels::attention(one, 1); !status.is_ok()) return status;
    for (int64_t h = 0; h < call.group(); ++h)
        kernels::merge_partial(call.output(stream, token, first_head + h), lse_.data() + row + h,
                               one.out + h * call.args.d_v, one.lse[h], call.args.d_v);
    return Status::ok();
}

/** The call over the selected keys, into selected_out_ and selected_lse_. */
kernels::AttentionArgs Engine::selected_args(const AttentionCall& call) {
    kernels::AttentionArgs args = call.args;
    args.tokens_per_tile = tiling_.tokens;
    args.runs = selected_.lists();
    args.sinks = nullptr;
    args.lse = selected_lse_.data();
    args.out = selected_out_.data();
    args.out_head_stride = args.d_v * static_cast<int64_t>(sizeof(float));
    args.out_token_stride = args.n_head * args.out_head_stride;
    args.out_stream_stride = args.n_tokens * args.out_token_stride;
    return args;
}

/** Adds what was selected, or else the estimate of the rest, to out and lse_. */
void Engine::merge(const AttentionCall& call, bool with_selected, int n_threads) {
    const int64_t n = call.n_rows();
    const int64_t heads = call.args.n_head;
    const int64_t group = call.group();
    struct Counts {
        double queries = 0.0;
        double retained = 0.0;
        Counts& operator+=(const Counts& other) {
            queries += other.queries;
            retained += other.retained;
            return *this;
        }
    };
    const Counts counts = parallel_sum<Counts>(n, n > kSerialRows ? n_threads : 1, [&](int64_t i, Counts& sum) {
        const int64_t head = i % heads;
        const int64_t token = i / heads % call.args.n_tokens;
        const int64_t stream = i / heads / call.args.n_tokens;
        float* out = call.output(stream, token, head);
        float* lse = &lse_[static_cast<size_t>(i)];
        if (with_selected) {
            kernels::merge_partial(out, lse, selected_out_.data() + i * call.args.d_v,
                                   selected_lse_[static_cast<size_t>(i)], call.args.d_v);
            return;
        }
        const int64_t row = call.far_row(stream, head / group, token) + head % group;
        const float far = far_lse_[static_cast<size_t>(row)];
        if (far == kMinusInfinity) return;
        const float read = *lse;
        kernels::merge_partial(out, lse, far_out_.data() + row * call.args.d_v, far, call.args.d_v);
        sum.queries += 1.0;
        sum.retained += static_cast<double>(std::exp(read - *lse));
    });
    if (!with_selected) record_call(call, counts.queries, counts.retained);
}

void Engine::record_call(const AttentionCall& call, double queries, double retained) {
    LayerStats stats;
    stats.calls = 1;
    stats.queries = queries;
    stats.retained_mass = retained;
    for (size_t list = 0; list < selections_.size(); ++list) {
        const TileView& view = (*views_)[tiling_.view(static_cast<int64_t>(list))];
        stats.rows += 1.0;
        stats.visible_keys += static_cast<double>(view.visible);
        for (const KeyRange& range : view.exact_keys) stats.exact_keys += static_cast<double>(range.count);
        for (const PageCells& page : selections_[list].selected)
            stats.exact_keys += static_cast<double>(std::popcount(page.cells));
        stats.estimated_keys += selections_[list].far_keys;
    }
    record(call.layer, stats);
}

void Engine::record(int layer, const LayerStats& part) {
    totals_.add(part);
    if (stats_) stats_->add(layer, part);
}

Status Engine::attend(const AttentionCall& call, KeyIndex& index, int n_threads) {
    try {
        indexed_ = true;
        find_plan(call, index);
        const bool plain = std::all_of(views_->begin(), views_->end(),
                                       [](const TileView& view) { return view.exact || view.selected_from.empty(); });
        if (plain) return exact(call, n_threads);
        if (settings_.mode == Mode::kSparse) {
            if (Status status = refresh(call, index, n_threads); !status.is_ok()) return status;
            if (!indexed_) return exact(call, n_threads);
        }
        const bool corrects = memory_.corrects() && settings_.mode == Mode::kSparse && settings_.rest != Rest::kDrop &&
                              memory_applies(call.args);
        const auto far_call = [&] {
            return FarCall{call,       index,       *views_,         selections_,    tiling_.tiles,
                           call.layer, lse_.data(), far_lse_.data(), far_out_.data()};
        };
        if (corrects) memory_.find(far_call());
        if (Status status = run(call, index, n_threads); !status.is_ok()) return status;
        const FarCall far = far_call();
        if (corrects) memory_.correct(far, n_threads);
        merge(call, false, n_threads);
        if (memory_.blends()) memory_.blend(far, n_threads);
        LayerStats memory;
        memory.index_bytes = index.bytes();
        record(call.layer, memory);
        return Status::ok();
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory("sparse attention: bookkeeping of layer " + std::to_string(call.layer));
    }
}

}  // namespace atlas::attention
