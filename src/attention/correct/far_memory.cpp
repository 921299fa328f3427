#include "attention/correct/far_memory.h"

#include <algorithm>

#include "base/log.h"

namespace atlas::attention {
namespace {

// Every layer calls once per graph: what the last 4096 calls used is in use.
constexpr uint64_t kInUse = 4096;
constexpr size_t kMostSequences = 64;  // per layer

}  // namespace

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
    m.omega.bf16 = options.bf16;
    m.seed = m.features.seed = seed;
    // Where mapping costs more than looking up. Queries seldom repeat: what is found again are those of a probe, which is read, tested and learned.
    m.cache_bytes = memory::feature_count(m.features) > 2 * m.features.d ? size_t{256} << 10 : 0;
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
    count(bytes_);
}

bool FarMemory::count(uint64_t bytes) {
    if (!budget_) return true;
    if (bytes > counted_) {
        if (!budget_->reserve_or_relieve(bytes - counted_)) return false;
    } else {
        budget_->release(counted_ - bytes);
    }
    counted_ = bytes;
    return true;
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

bool FarMemory::drop_oldest() {
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
    return true;
}

/** Counts them, too. */
bool FarMemory::make_room(size_t bytes) {
    while (bytes_ + bytes > options_.budget_bytes || !count(bytes_ + bytes)) {
        if (!drop_oldest()) return false;
    }
    return true;
}

void FarMemory::make_head(const FarCall& call, int64_t kv_head, Head* head) {
    const InitialMemory* initial = initial_of(call.layer, kv_head);
    if (initial && !initial->enabled) return;
    const memory::CorrectorConfig config =
        corrector_config(options_, call.attention.args.d_k, call.attention.args.d_v, seed_);
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
                                           std::to_string(options_.budget_bytes) + " bytes" +
                                           (budget_ && budget_->limit() > 0 ? ", or " + budget_->to_string() : ""));
        }
    }
    if (!status.is_ok() && !warned_) {
        log().warn("layer {}, head {} {} (further ones are not named): {}", call.layer, kv_head,
                   head->corrector ? "starts with an empty memory" : "goes without memory", status.to_string());
        warned_ = true;
    }
}

/** Memories of the Omega rule get their workspace when they first learn. */
void FarMemory::measure(int layer, Sequence* sequence) {
    for (Head& head : sequence->heads) {
        if (!head.corrector) continue;
        const size_t bytes = head.corrector->bytes();
        bytes_ += bytes - head.bytes;
        head.bytes = bytes;
        if (bytes_ <= options_.budget_bytes && count(bytes_)) continue;
        forget(layer, head);
        bytes_ -= head.bytes;
        head = {};
        count(bytes_);
        if (!warned_)
            log().warn("layer {}: a memory is given up, all need more than ATLAS_MEMORY_BUDGET, {} bytes{}", layer,
                       options_.budget_bytes,
                       budget_ && budget_->limit() > 0 ? ", or " + budget_->to_string() : std::string());
        warned_ = true;
    }
}

FarMemory::Sequence* FarMemory::make_sequence(const FarCall& call) {
    // Room is made before the new sequence exists, so that it cannot be what goes.
    auto sequence = std::make_unique<Sequence>();
    sequence->heads.resize(static_cast<size_t>(call.attention.args.n_head_kv));
    for (int64_t head = 0; head < call.attention.args.n_head_kv; ++head)
        make_head(call, head, &sequence->heads[static_cast<size_t>(head)]);
    Sequences& sequences = layers_[call.layer];
    if (sequences.size() >= kMostSequences) {
        const auto oldest = std::min_element(sequences.begin(), sequences.end(),
                                             [](const auto& a, const auto& b) { return a->used < b->used; });
        // Tiles of this call point to what it uses.
        if ((*oldest)->used != calls_) drop(call.layer, &sequences, static_cast<size_t>(oldest - sequences.begin()));
    }
    sequences.push_back(std::move(sequence));
    return sequences.back().get();
}

FarMemory::Sequence* FarMemory::sequence_of(const FarCall& call, size_t tile) {
    const TileView& view = call.views[tile];
    Sequence* best = nullptr;
    FarPages::Look look;
    double most = 0.0;
    for (const auto& sequence : layers_[call.layer]) {
        if (sequence->heads.size() != static_cast<size_t>(call.attention.args.n_head_kv)) continue;
        const FarPages::Look one = sequence->pages.look(view, call.index);
        // Tiles of one call do not lose pages: another sequence with the same beginning.
        if (sequence->used == calls_ && one.seen < sequence->pages.known()) continue;
        const double match = sequence->pages.match(one, view);
        if (match > most) {
            most = match;
            best = sequence.get();
            look = one;
        }
        if (most >= 2.0) break;
    }
    if (best == nullptr) {
        // A blend that does not learn knows no pages, by which it would be found again: each call would make another one, for nothing.
        if (options_.mode == MemoryMode::kBlend && !options_.test_time) return nullptr;
        best = make_sequence(call);
    }
    if (best->used != calls_) follow(call, best->pages.change(look), best);
    best->used = calls_;
    if (++best->calls % 32 == 0) measure(call.layer, best);
    if (options_.mode == MemoryMode::kCorrect && !best->pages.exact(look, view)) best->pages.assign(view, call.index);
    return best;
}

/** What was learned may be about keys that are no more. */
void FarMemory::follow(const FarCall& call, FarPages::Change change, Sequence* sequence) {
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

}  // namespace atlas::attention
