#include "attention/far_memory.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <new>

#include "attention/probe.h"
#include "base/log.h"

namespace atlas::attention {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

const float* query_of(const kernels::AttentionArgs& args, int64_t stream, int64_t token, int64_t head) {
    return reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(args.q) + stream * args.q_stream_stride +
                                          token * args.q_token_stride + head * args.q_head_stride);
}

std::atomic<ProbeSink*> g_probe_sink{nullptr};

}  // namespace

void set_probe_sink(ProbeSink* sink) { g_probe_sink = sink; }

memory::CorrectorConfig corrector_config(const MemoryOptions& options, int64_t d_k, int64_t d_v, uint64_t seed) {
    memory::CorrectorConfig config;
    memory::MemoryConfig& m = config.memory;
    m.features.type = static_cast<memory::FeatureType>(options.features);
    m.features.d = static_cast<size_t>(d_k);
    m.features.degree = options.degree;
    m.features.normalize = true;
    config.least_squares = options.kind == FarMemoryKind::kLeastSquares;
    m.kind = options.kind == FarMemoryKind::kDeep    ? memory::MemoryKind::kDeep
             : options.kind == FarMemoryKind::kGated ? memory::MemoryKind::kGated
                                                     : memory::MemoryKind::kLinear;
    m.d_out = static_cast<size_t>(d_v);
    m.hidden = static_cast<size_t>(options.hidden);
    m.bias = true;
    m.chunk = static_cast<size_t>(options.chunk);
    m.omega.window = options.omega_window;
    m.omega.decay = options.omega_alpha;
    m.omega.momentum = 0.9;
    m.omega.step = options.step;
    m.omega.orthogonalize = options.muon_iterations > 0 ? memory::NewtonSchulz::kStandard : memory::NewtonSchulz::kNone;
    m.omega.iterations = options.muon_iterations;
    m.seed = m.features.seed = seed;
    config.gate_limit = options.blend_ratio;
    config.dynamic_gate = options.dynamic_blend;
    config.warm_up = options.warm_up;
    config.learn = options.test_time;
    return config;
}

namespace {

/** Options that a memory in use can take over. */
MemoryOptions with_switches_of(MemoryOptions options, const MemoryOptions& from) {
    options.enabled = from.enabled;
    options.blend_ratio = from.blend_ratio;
    options.dynamic_blend = from.dynamic_blend;
    options.warm_up = from.warm_up;
    options.test_time = from.test_time;
    options.budget_bytes = from.budget_bytes;
    options.probe_every = from.probe_every;
    return options;
}

}  // namespace

void MemoryStats::add(const memory::CorrectorStats& head, uint64_t iterations_per_step) {
    observations += head.observations;
    learned += head.learned;
    skipped_pairs += head.skipped_pairs;
    skipped_updates += head.skipped_updates;
    muon_steps += head.muon_steps;
    muon_iterations += head.muon_steps * iterations_per_step;
    cache_hits += head.cache.hits;
    cache_misses += head.cache.misses;
    window_fill += head.window_fill;
    gate += head.gate;
    error_without += head.error_without;
    error_with += head.error_with;
}

void FarMemory::set_options(const MemoryOptions& options) {
    if (options == options_) return;
    const bool keep = with_switches_of(options_, options) == options;
    options_ = options;
    if (!keep || bytes_ > options.budget_bytes) drop_all();
    for (auto& [key, head] : heads_) {
        head.corrector->set_gate(options.blend_ratio, options.dynamic_blend, options.warm_up);
        head.corrector->set_learning(options.test_time);
    }
    warned_ = false;
}

void FarMemory::set_initial(std::shared_ptr<const InitialMemories> initial) {
    drop_all();
    initial_ = std::move(initial);
    warned_ = false;
}

const InitialMemory* FarMemory::initial_of(int layer, int64_t kv_head) const {
    if (!initial_) return nullptr;
    const auto found = initial_->find({layer, kv_head});
    return found == initial_->end() ? nullptr : &found->second;
}

InitialMemories FarMemory::learned() {
    InitialMemories out;
    std::map<std::pair<int, int64_t>, uint64_t> used;
    for (auto& [key, head] : heads_) {
        const std::pair<int, int64_t> place{std::get<0>(key), std::get<2>(key)};
        if (head.corrector->stats().learned == 0 || head.used < used[place]) continue;
        used[place] = head.used;
        const InitialMemory* initial = initial_of(place.first, place.second);
        InitialMemory& entry = out[place];
        if (initial) entry = *initial;
        entry.state = std::make_shared<memory::CorrectorState>(head.corrector->state());
    }
    return out;
}

void FarMemory::forget(const Head& head) {
    memory::CorrectorStats counts = head.corrector->stats();
    counts.window_fill = counts.gate = counts.error_without = counts.error_with = 0.0;
    gone_.add(counts, static_cast<uint64_t>(options_.muon_iterations));
    ++gone_.resets;
}

void FarMemory::reset() {
    for (auto& [key, head] : heads_) {
        forget(head);
        head.corrector->reset();
        head.visible = 0;
    }
}

void FarMemory::drop_all() {
    for (const auto& [key, head] : heads_) forget(head);
    heads_.clear();
    bytes_ = 0;
}

MemoryStats FarMemory::stats() const {
    MemoryStats out = gone_;
    for (const auto& [key, head] : heads_)
        out.add(head.corrector->stats(), static_cast<uint64_t>(options_.muon_iterations));
    out.memories = heads_.size();
    out.bytes = bytes_;
    if (out.memories > 0) {
        const auto n = static_cast<double>(out.memories);
        for (double* mean : {&out.window_fill, &out.gate, &out.error_without, &out.error_with}) *mean /= n;
    }
    return out;
}

FarMemory::Head* FarMemory::head_of(const FarCall& call, const TileView& view, int64_t kv_head) {
    const auto seen = std::find_if(view.use.begin(), view.use.end(), [](PageUse use) { return use != PageUse::kSkip; });
    const Key key{call.layer, view.base_page + (seen - view.use.begin()), kv_head};
    if (const auto found = heads_.find(key); found != heads_.end()) {
        found->second.used = calls_;
        return &found->second;
    }
    const InitialMemory* initial = initial_of(call.layer, kv_head);
    if (initial && !initial->enabled) return nullptr;
    const memory::CorrectorConfig config = corrector_config(options_, call.args.d_k, call.args.d_v, seed_);
    Status status = check_corrector(config);
    if (status.is_ok()) {
        Head head;
        head.corrector = std::make_unique<memory::Corrector>(config);
        head.used = calls_;
        if (initial && initial->state) {
            status = head.corrector->start_from(initial->state);
            if (!status.is_ok() && !warned_) {
                log().warn("layer {}, head {} starts empty (further ones are not named): {}", call.layer, kv_head,
                           status.to_string());
                warned_ = true;
            }
        }
        const size_t needed = head.corrector->bytes();
        while (bytes_ + needed > options_.budget_bytes && !heads_.empty()) {
            const auto oldest = std::min_element(heads_.begin(), heads_.end(), [](const auto& a, const auto& b) {
                return a.second.used < b.second.used;
            });
            // Every layer calls once per token: what the last 4096 calls used is in use.
            if (oldest->second.used + 4096 > calls_) break;
            bytes_ -= oldest->second.bytes;
            forget(oldest->second);
            heads_.erase(oldest);
        }
        if (bytes_ + needed <= options_.budget_bytes) {
            bytes_ += needed;
            head.bytes = needed;
            return &heads_.emplace(key, std::move(head)).first->second;
        }
        status = Status::out_of_memory("memories of a context need more than ATLAS_MEMORY_BUDGET, " +
                                       std::to_string(options_.budget_bytes) + " bytes");
    }
    if (!warned_)
        log().warn("layer {}, head {} goes without memory (further ones are not named): {}", call.layer, kv_head,
                   status.to_string());
    warned_ = true;
    return nullptr;
}

/** Exact output of one query over the keys that the estimate stands for; false if there are none. */
bool FarMemory::probe(const FarCall& call, const TileView& view, const FarResult& result, int64_t kv_head,
                      int64_t token, int64_t member, float* out, float* lse) const {
    const kernels::AttentionArgs& args = call.args;
    const kernels::HeadRuns& all = args.runs[view.stream * args.n_head_kv + kv_head];
    std::vector<kernels::Run> runs;
    size_t next = 0;
    for (size_t page = 0; page < view.use.size(); ++page) {
        const auto first = static_cast<int64_t>(page) * kernels::kBlockKeys;
        int64_t key = first;
        while (next < result.selected.size() && result.selected[next].key < first) ++next;
        const bool far =
            (view.use[page] == PageUse::kFar || view.use[page] == PageUse::kFarSome) &&
            visibility_of(args, view.stream, token, static_cast<int64_t>(page)) == kernels::BlockVisibility::kAll;
        if (!far) continue;
        for (; next < result.selected.size() && result.selected[next].key < first + kernels::kBlockKeys; ++next) {
            append_runs(args, all, key, result.selected[next].key - key, &runs);
            key = result.selected[next].key + result.selected[next].count;
        }
        append_runs(args, all, key, first + kernels::kBlockKeys - key, &runs);
    }
    if (runs.empty()) return false;
    const kernels::HeadRuns list{runs, all.k_offset, all.v_offset};
    kernels::AttentionArgs one = args;
    one.n_tokens = one.n_head = one.n_head_kv = one.n_stream = 1;
    one.q = query_of(args, view.stream, token, kv_head * (args.n_head / args.n_head_kv) + member);
    one.out = out;
    one.lse = lse;
    one.runs = &list;
    one.tokens_per_tile = 1;
    one.mask = {};
    return kernels::attention(one, 1).is_ok();
}

void FarMemory::run_head(const FarCall& call, int64_t stream, int64_t kv_head, Head* const* tiles) const {
    const kernels::AttentionArgs& args = call.args;
    const int64_t group = args.n_head / args.n_head_kv;
    const auto d_v = static_cast<size_t>(args.d_v);
    const InitialMemory* initial = initial_of(call.layer, kv_head);
    const float mass_bias = initial ? initial->mass_bias : 0.0f;
    const bool far = initial == nullptr || initial->far;
    ProbeSink* const sink = g_probe_sink;
    std::vector<float> queries, exact, exact_lse;
    std::vector<int64_t> probed;
    for (int64_t tile = 0; tile < call.tiles; ++tile) {
        const TileView& view = call.views[static_cast<size_t>(stream * call.tiles + tile)];
        const FarResult& result =
            call.results[static_cast<size_t>((stream * args.n_head_kv + kv_head) * call.tiles + tile)];
        const int64_t row0 = ((stream * args.n_head_kv + kv_head) * args.n_tokens + view.token0) * group;
        const int64_t rows = view.tokens * group;
        if (!far) {
            std::fill_n(call.far_lse + row0, rows, kMinusInfinity);
            continue;
        }
        if (mass_bias != 0.0f) {
            // −inf, where nothing is estimated, stays.
            for (int64_t row = 0; row < rows; ++row) call.far_lse[row0 + row] += mass_bias;
        }
        Head* head = tiles[tile];
        if (head == nullptr) continue;
        if (view.visible < head->visible) head->corrector->reset();
        head->visible = view.visible;
        const auto query = [&](int64_t row) {
            return query_of(args, stream, view.token0 + row / group, kv_head * group + row % group);
        };
        ProbeRandom random(seed_ + static_cast<uint64_t>(call.layer) * 64 + static_cast<uint64_t>(kv_head), query(0),
                           args.d_k);
        const double expected = static_cast<double>(view.tokens) / options_.probe_every;
        const auto wanted = static_cast<int64_t>(expected + random.next());
        probed.clear();
        for (int64_t i = 0; i < wanted; ++i) {
            const auto row = static_cast<int64_t>(random.next() * static_cast<double>(rows));
            // Measured as the estimate leaves it, before the correction.
            exact.resize((probed.size() + 1) * d_v);
            exact_lse.resize(probed.size() + 1);
            float* residual = exact.data() + probed.size() * d_v;
            if (call.far_lse[row0 + row] == kMinusInfinity ||
                !probe(call, view, result, kv_head, view.token0 + row / group, row % group, residual,
                       &exact_lse.back())) {
                continue;
            }
            for (size_t x = 0; x < d_v; ++x) residual[x] -= call.far_out[static_cast<size_t>(row0 + row) * d_v + x];
            probed.push_back(row);
        }
        const auto near_lse = [&](int64_t row) {
            return call.near_lse[(stream * args.n_tokens + view.token0 + row / group) * args.n_head + kv_head * group +
                                 row % group];
        };
        for (size_t i = 0; sink && i < probed.size(); ++i) {
            const int64_t row = probed[i];
            const auto* near_out = reinterpret_cast<const float*>(
                reinterpret_cast<const std::byte*>(args.out) + stream * args.out_stream_stride +
                (view.token0 + row / group) * args.out_token_stride +
                (kv_head * group + row % group) * args.out_head_stride);
            sink->add({call.layer, kv_head, args.d_k, args.d_v, query(row), near_out,
                       call.far_out + static_cast<size_t>(row0 + row) * d_v, exact.data() + i * d_v, near_lse(row),
                       call.far_lse[row0 + row], exact_lse[i], static_cast<double>(options_.probe_every)});
        }
        if (head->corrector->gate() > 0.0) {
            queries.resize(static_cast<size_t>(rows * args.d_k));
            for (int64_t row = 0; row < rows; ++row) std::copy_n(query(row), args.d_k, queries.data() + row * args.d_k);
            head->corrector->correct(queries.data(), static_cast<size_t>(rows),
                                     call.far_out + static_cast<size_t>(row0) * d_v);
        }
        for (size_t i = 0; i < probed.size(); ++i) {
            // An error counts by the square of the far part's share of the softmax.
            const float share = 1.0f / (1.0f + std::exp(near_lse(probed[i]) - call.far_lse[row0 + probed[i]]));
            head->corrector->observe(query(probed[i]), exact.data() + i * d_v, share * share,
                                     std::max<double>(options_.probe_every, 1.0));
        }
    }
}

void FarMemory::apply(const FarCall& call, int n_threads) {
    ++calls_;
    const int64_t n = call.args.n_stream * call.args.n_head_kv;
    std::vector<Head*> heads(static_cast<size_t>(n * call.tiles), nullptr);
    for (int64_t i = 0; i < n * call.tiles; ++i) {
        const TileView& view =
            call.views[static_cast<size_t>(i / call.tiles / call.args.n_head_kv * call.tiles + i % call.tiles)];
        if (view.exact || view.far_pages == 0) continue;
        heads[static_cast<size_t>(i)] = head_of(call, view, i / call.tiles % call.args.n_head_kv);
    }
    std::atomic<bool> failed{false};
#pragma omp parallel for schedule(dynamic) num_threads(n_threads) if (n > 1)
    for (int64_t i = 0; i < n; ++i) {
        try {
            run_head(call, i / call.args.n_head_kv, i % call.args.n_head_kv, heads.data() + i * call.tiles);
        } catch (const std::bad_alloc&) {
            failed = true;
        }
    }
    if (failed) throw std::bad_alloc();
}

}  // namespace atlas::attention
