#include "attention/far_memory.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <new>

#include "base/log.h"

namespace atlas::attention {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
// Every layer calls once per graph: what the last 4096 calls used is in use.
constexpr uint64_t kInUse = 4096;
constexpr size_t kMostSequences = 64;  // per layer

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
    config.dynamic_gate = options.dynamic_blend && options.mode == MemoryMode::kCorrect;
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
    options.probe_keys = from.probe_keys;
    return options;
}

MemoryStats stats_of(const memory::CorrectorStats& head, const MemoryOptions& options) {
    MemoryStats out;
    out.observations = head.observations;
    out.learned = head.learned;
    out.skipped_pairs = head.skipped_pairs;
    out.skipped_updates = head.skipped_updates;
    out.muon_steps = head.muon_steps;
    out.muon_iterations = head.muon_steps * static_cast<uint64_t>(options.muon_iterations);
    out.cache_hits = head.cache.hits;
    out.cache_misses = head.cache.misses;
    return out;
}

}  // namespace

void FarMemory::set_options(const MemoryOptions& options) {
    if (options == options_) return;
    const bool keep = with_switches_of(options_, options) == options && bytes_ <= options.budget_bytes;
    // What is dropped was counted under the old options.
    if (!keep) drop_all();
    options_ = options;
    for (auto& [layer, sequences] : layers_) {
        for (auto& sequence : sequences) {
            for (Head& head : sequence->heads) {
                if (!head.corrector) continue;
                head.corrector->set_gate(options.blend_ratio,
                                         options.dynamic_blend && options.mode == MemoryMode::kCorrect,
                                         options.warm_up);
                head.corrector->set_learning(options.test_time);
            }
        }
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
    for (auto& [layer, sequences] : layers_) {
        if (sequences.empty()) continue;
        const auto& last = *std::max_element(sequences.begin(), sequences.end(),
                                             [](const auto& a, const auto& b) { return a->used < b->used; });
        for (size_t i = 0; i < last->heads.size(); ++i) {
            const Head& head = last->heads[i];
            if (!head.corrector || head.corrector->stats().learned == 0) continue;
            const auto kv_head = static_cast<int64_t>(i);
            const InitialMemory* initial = initial_of(layer, kv_head);
            InitialMemory& entry = out[{layer, kv_head}];
            if (initial) entry = *initial;
            entry.state = std::make_shared<memory::CorrectorState>(head.corrector->state());
        }
    }
    return out;
}

void FarMemory::forget(int layer, const Head& head) {
    if (!head.corrector) return;
    MemoryStats counts = stats_of(head.corrector->stats(), options_);
    counts.probe_keys = head.probe_keys;
    counts.resets = 1;
    gone_[layer].add(counts);
}

void FarMemory::reset() {
    for (auto& [layer, sequences] : layers_) {
        for (auto& sequence : sequences) {
            for (Head& head : sequence->heads) {
                if (!head.corrector) continue;
                forget(layer, head);
                head.corrector->reset();
                head.probe_keys = 0;
            }
            sequence->pages.clear();
        }
    }
}

void FarMemory::drop(int layer, Sequences* from, size_t at) {
    for (const Head& head : (*from)[at]->heads) {
        forget(layer, head);
        bytes_ -= head.bytes;
    }
    from->erase(from->begin() + static_cast<std::ptrdiff_t>(at));
}

void FarMemory::drop_all() {
    for (auto& [layer, sequences] : layers_) {
        while (!sequences.empty()) drop(layer, &sequences, sequences.size() - 1);
    }
}

std::map<int, MemoryStats> FarMemory::layer_stats() const {
    std::map<int, MemoryStats> out = gone_;
    for (const auto& [layer, sequences] : layers_) {
        for (const auto& sequence : sequences) {
            for (const Head& head : sequence->heads) {
                if (!head.corrector) continue;
                const memory::CorrectorStats stats = head.corrector->stats();
                MemoryStats one = stats_of(stats, options_);
                one.memories = 1;
                one.bytes = head.bytes;
                one.probe_keys = head.probe_keys;
                one.window_fill = stats.window_fill;
                one.gate = stats.gate;
                one.error_without = stats.error_without;
                one.error_with = stats.error_with;
                out[layer].add(one);
            }
        }
    }
    return out;
}

MemoryStats FarMemory::stats() const {
    MemoryStats out;
    for (const auto& [layer, stats] : layer_stats()) out.add(stats);
    return out;
}

bool FarMemory::make_room(size_t bytes) {
    while (bytes_ + bytes > options_.budget_bytes) {
        int layer = 0;
        Sequences* from = nullptr;
        size_t at = 0;
        uint64_t oldest = calls_ > kInUse ? calls_ - kInUse : 0;
        for (auto& [number, sequences] : layers_) {
            for (size_t i = 0; i < sequences.size(); ++i) {
                if (sequences[i]->used >= oldest) continue;
                oldest = sequences[i]->used;
                layer = number;
                from = &sequences;
                at = i;
            }
        }
        if (from == nullptr) return false;
        drop(layer, from, at);
    }
    return true;
}

void FarMemory::make_head(const FarCall& call, int64_t kv_head, Head* head) {
    const InitialMemory* initial = initial_of(call.layer, kv_head);
    if (initial && !initial->enabled) return;
    const memory::CorrectorConfig config = corrector_config(options_, call.args.d_k, call.args.d_v, seed_);
    Status status = check_corrector(config);
    if (status.is_ok()) {
        auto corrector = std::make_unique<memory::Corrector>(config);
        const size_t bytes = corrector->bytes();
        if (make_room(bytes)) {
            head->corrector = std::move(corrector);
            head->bytes = bytes;
            bytes_ += bytes;
            if (initial && initial->state) status = head->corrector->start_from(initial->state);
        } else {
            status = Status::out_of_memory("memories of a context need more than ATLAS_MEMORY_BUDGET, " +
                                           std::to_string(options_.budget_bytes) + " bytes");
        }
    }
    if (!status.is_ok() && !warned_) {
        log().warn("layer {}, head {} {} (further ones are not named): {}", call.layer, kv_head,
                   head->corrector ? "starts with an empty memory" : "goes without memory", status.to_string());
        warned_ = true;
    }
}

FarMemory::Sequence* FarMemory::make_sequence(const FarCall& call) {
    // Room is made before the new sequence exists, so that it cannot be what goes.
    auto sequence = std::make_unique<Sequence>();
    sequence->heads.resize(static_cast<size_t>(call.args.n_head_kv));
    for (int64_t head = 0; head < call.args.n_head_kv; ++head)
        make_head(call, head, &sequence->heads[static_cast<size_t>(head)]);
    Sequences& sequences = layers_[call.layer];
    if (sequences.size() >= kMostSequences) {
        const auto oldest = std::min_element(sequences.begin(), sequences.end(),
                                             [](const auto& a, const auto& b) { return a->used < b->used; });
        drop(call.layer, &sequences, static_cast<size_t>(oldest - sequences.begin()));
    }
    sequences.push_back(std::move(sequence));
    return sequences.back().get();
}

FarMemory::Sequence* FarMemory::sequence_of(const FarCall& call, const TileView& view) {
    Sequence* best = nullptr;
    double most = 0.0;
    for (const auto& sequence : layers_[call.layer]) {
        if (sequence->heads.size() != static_cast<size_t>(call.args.n_head_kv)) continue;
        const double match = sequence->pages.match(view);
        // Tiles of one call do not lose pages: another sequence with the same beginning.
        if (sequence->used == calls_ && sequence->pages.seen(view) < sequence->pages.known()) continue;
        if (match > most) {
            most = match;
            best = sequence.get();
        }
        if (most >= 2.0) break;
    }
    if (best == nullptr) best = make_sequence(call);
    if (best->used != calls_) follow(call, view, best);
    best->used = calls_;
    return best;
}

/** What was learned may be about keys that are no more. */
void FarMemory::follow(const FarCall& call, const TileView& view, Sequence* sequence) {
    const FarPages::Change change = sequence->pages.compare(view, call.index);
    if (change == FarPages::Change::kNone) return;
    const bool again = change == FarPages::Change::kReplaced || options_.mode == MemoryMode::kBlend;
    if (again) sequence->pages.clear();
    for (Head& head : sequence->heads) {
        if (!head.corrector) continue;
        if (again) {
            forget(call.layer, head);
            head.corrector->reset();
            head.probe_keys = 0;
        } else {
            head.corrector->doubt();
            ++gone_[call.layer].doubts;
        }
    }
}

void FarMemory::for_each_head(const FarCall& call, int n_threads,
                              void (FarMemory::*run)(const FarCall&, int64_t, int64_t)) {
    const int64_t n = call.args.n_stream * call.args.n_head_kv;
    std::atomic<bool> failed{false};
#pragma omp parallel for schedule(dynamic) num_threads(n_threads) if (n > 1)
    for (int64_t i = 0; i < n; ++i) {
        try {
            (this->*run)(call, i / call.args.n_head_kv, i % call.args.n_head_kv);
        } catch (const std::bad_alloc&) {
            failed = true;
        }
    }
    if (failed) throw std::bad_alloc();
}

void FarMemory::correct(const FarCall& call, int n_threads) {
    ++calls_;
    tiles_.assign(call.views.size(), {});
    for (size_t i = 0; i < call.views.size(); ++i) {
        const TileView& view = call.views[i];
        if (view.exact || view.far_pages == 0) continue;
        tiles_[i].sequence = sequence_of(call, view);
        tiles_[i].sequence->pages.assign(view, call.index);
    }
    for_each_head(call, n_threads, &FarMemory::correct_head);
}

void FarMemory::correct_head(const FarCall& call, int64_t stream, int64_t kv_head) {
    const kernels::AttentionArgs& args = call.args;
    const int64_t group = args.n_head / args.n_head_kv;
    const auto d_v = static_cast<size_t>(args.d_v);
    const InitialMemory* initial = initial_of(call.layer, kv_head);
    ProbeSink* const sink = g_probe_sink;
    FarProbe probe(options_.probe_keys);
    std::vector<float> queries, residuals, exact_lse;
    std::vector<int64_t> probed;
    for (int64_t tile = 0; tile < call.tiles; ++tile) {
        const auto at = static_cast<size_t>(stream * call.tiles + tile);
        const TileView& view = call.views[at];
        const FarResult& result =
            call.results[static_cast<size_t>((stream * args.n_head_kv + kv_head) * call.tiles + tile)];
        const int64_t row0 = ((stream * args.n_head_kv + kv_head) * args.n_tokens + view.token0) * group;
        const int64_t rows = view.tokens * group;
        if (initial && !initial->far) {
            std::fill_n(call.far_lse + row0, rows, kMinusInfinity);
            continue;
        }
        if (initial && initial->mass_bias != 0.0f) {
            // −inf, where nothing is estimated, stays.
            for (int64_t row = 0; row < rows; ++row) call.far_lse[row0 + row] += initial->mass_bias;
        }
        Sequence* sequence = tiles_[at].sequence;
        if (sequence == nullptr || !sequence->heads[static_cast<size_t>(kv_head)].corrector) continue;
        Head& head = sequence->heads[static_cast<size_t>(kv_head)];
        const auto query = [&](int64_t row) {
            return query_of(args, stream, view.token0 + row / group, kv_head * group + row % group);
        };
        ProbeRandom random(seed_ + static_cast<uint64_t>(call.layer) * 64 + static_cast<uint64_t>(kv_head), query(0),
                           args.d_k);
        const double expected = static_cast<double>(view.tokens) / options_.probe_every;
        const auto wanted = static_cast<int64_t>(expected + random.next());
        const uint64_t before = probe.keys();
        probed.clear();
        for (int64_t i = 0; i < wanted; ++i) {
            const auto row = static_cast<int64_t>(random.next() * static_cast<double>(rows));
            // Measured as the estimate leaves it, before the correction.
            residuals.resize((probed.size() + 1) * d_v);
            exact_lse.resize(probed.size() + 1);
            float* residual = residuals.data() + probed.size() * d_v;
            if (call.far_lse[row0 + row] == kMinusInfinity ||
                !probe.run(call, view, result, kv_head, view.token0 + row / group, row % group, &random, residual,
                           &exact_lse.back())) {
                continue;
            }
            for (size_t x = 0; x < d_v; ++x) residual[x] -= call.far_out[static_cast<size_t>(row0 + row) * d_v + x];
            probed.push_back(row);
        }
        head.probe_keys += probe.keys() - before;
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
                       call.far_out + static_cast<size_t>(row0 + row) * d_v, residuals.data() + i * d_v, near_lse(row),
                       call.far_lse[row0 + row], exact_lse[i], static_cast<double>(options_.probe_every)});
        }
        if (head.corrector->gate() > 0.0) {
            queries.resize(static_cast<size_t>(rows * args.d_k));
            for (int64_t row = 0; row < rows; ++row) std::copy_n(query(row), args.d_k, queries.data() + row * args.d_k);
            head.corrector->correct(queries.data(), static_cast<size_t>(rows),
                                    call.far_out + static_cast<size_t>(row0) * d_v);
        }
        for (size_t i = 0; i < probed.size(); ++i) {
            // An error counts by the square of the far part's share of the softmax.
            const float share = 1.0f / (1.0f + std::exp(near_lse(probed[i]) - call.far_lse[row0 + probed[i]]));
            head.corrector->observe(query(probed[i]), residuals.data() + i * d_v, share * share,
                                    std::max<double>(options_.probe_every, 1.0));
        }
    }
}

void FarMemory::blend(const FarCall& call, int n_threads) {
    ++calls_;
    tiles_.assign(call.views.size(), {});
    for (size_t i = 0; i < call.views.size(); ++i) {
        const TileView& view = call.views[i];
        if (view.exact || view.far_pages == 0) continue;
        Tile& tile = tiles_[i];
        tile.sequence = sequence_of(call, view);
        if (!options_.test_time) continue;
        // Twice as many as a growing sequence needs, so that what came into the cache by another way is caught up with.
        int64_t left = 2 + view.tokens / 16;
        for (size_t page = 0; page < view.use.size() && left > 0; ++page) {
            const int64_t absolute = view.base_page + static_cast<int64_t>(page);
            if (view.use[page] != PageUse::kFar || tile.sequence->pages.knows(absolute, call.index)) continue;
            tile.pages.push_back(static_cast<int64_t>(page));
            tile.sequence->pages.add(absolute, call.index);
            --left;
        }
    }
    for_each_head(call, n_threads, &FarMemory::blend_head);
}

void FarMemory::blend_head(const FarCall& call, int64_t stream, int64_t kv_head) {
    const kernels::AttentionArgs& args = call.args;
    const int64_t group = args.n_head / args.n_head_kv;
    std::vector<float> queries, answers;
    for (int64_t tile = 0; tile < call.tiles; ++tile) {
        const auto at = static_cast<size_t>(stream * call.tiles + tile);
        const TileView& view = call.views[at];
        Sequence* sequence = tiles_[at].sequence;
        if (sequence == nullptr) continue;
        memory::Corrector* corrector = sequence->heads[static_cast<size_t>(kv_head)].corrector.get();
        if (corrector == nullptr) continue;
        learn_pages(call, view, kv_head, tiles_[at].pages, corrector);
        const auto keep = static_cast<float>(1.0 - corrector->gate());
        if (keep == 1.0f) continue;
        const int64_t rows = view.tokens * group;
        queries.resize(static_cast<size_t>(rows * args.d_k));
        answers.assign(static_cast<size_t>(rows * args.d_v), 0.0f);
        for (int64_t row = 0; row < rows; ++row) {
            std::copy_n(query_of(args, stream, view.token0 + row / group, kv_head * group + row % group), args.d_k,
                        queries.data() + row * args.d_k);
        }
        if (!corrector->correct(queries.data(), static_cast<size_t>(rows), answers.data())) continue;
        for (int64_t token = view.token0; token < view.token0 + view.tokens; ++token) {
            bool far = false;
            for (size_t page = 0; page < view.use.size() && !far; ++page) {
                far = is_far(view.use[page]) &&
                      visibility_of(args, stream, token, static_cast<int64_t>(page)) == kernels::BlockVisibility::kAll;
            }
            if (!far) continue;
            for (int64_t member = 0; member < group; ++member) {
                auto* out = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(args.out) +
                                                     stream * args.out_stream_stride + token * args.out_token_stride +
                                                     (kv_head * group + member) * args.out_head_stride);
                const float* answer = answers.data() + ((token - view.token0) * group + member) * args.d_v;
                for (int64_t i = 0; i < args.d_v; ++i) out[i] = keep * out[i] + answer[i];
            }
        }
    }
}

void FarMemory::learn_pages(const FarCall& call, const TileView& view, int64_t kv_head,
                            const std::vector<int64_t>& pages, memory::Corrector* corrector) const {
    const kernels::AttentionArgs& args = call.args;
    std::vector<float> k(static_cast<size_t>(pages.empty() ? 0 : kv::kPageRows * args.d_k));
    std::vector<float> v(static_cast<size_t>(pages.empty() ? 0 : kv::kPageRows * args.d_v));
    for (const int64_t page : pages) {
        decode_page(args, args.runs[view.stream * args.n_head_kv + kv_head], page * kv::kPageRows, k.data(), v.data());
        for (int64_t j = 0; j < kv::kPageRows; ++j)
            corrector->observe(k.data() + j * args.d_k, v.data() + j * args.d_v, 1.0f, 1.0);
    }
}

}  // namespace atlas::attention
