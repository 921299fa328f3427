#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "attention/correct/far_memory.h"
#include "attention/plan/runs.h"
#include "base/parallel.h"

namespace atlas::attention {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

constexpr int64_t kSerialHeads = 16;

}  // namespace

/** Adds the time that a call took to the layer's counts. */
class FarMemory::Clock {
public:
    /** A call that is timed in parts is counted in one of them. */
    Clock(const FarCall& call, MemoryStats* stats, bool count = true)
        : tokens_(count ? call.attention.args.n_tokens * call.attention.args.n_stream : 0),
          decode_(call.attention.args.n_tokens <= kDecodeTokens),
          stats_(stats) {}
    ~Clock() {
        const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start_;
        (decode_ ? stats_->decode_seconds : stats_->prefill_seconds) += passed.count();
        (decode_ ? stats_->decode_tokens : stats_->prefill_tokens) += static_cast<uint64_t>(tokens_);
    }
    Clock(const Clock&) = delete;
    Clock& operator=(const Clock&) = delete;

private:
    const int64_t tokens_;
    const bool decode_;
    MemoryStats* const stats_;
    const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

void FarMemory::for_each_head(const FarCall& call, int n_threads,
                              void (FarMemory::*run)(const FarCall&, int64_t, int64_t)) {
    const int64_t n = call.attention.args.n_stream * call.attention.args.n_head_kv;
    // A decoded token's corrections take about as long as starting the threads, and few heads are observed at once.
    const bool small = call.attention.args.n_tokens <= kDecodeTokens && n <= kSerialHeads;
    parallel_for(n, small ? 1 : n_threads, Schedule::kDynamic, [&](int64_t i) {
        (this->*run)(call, i / call.attention.args.n_head_kv, i % call.attention.args.n_head_kv);
    });
}

/** Tokens per observation: a memory that knows little asks more often. */
double FarMemory::spacing_of(uint64_t observations) const {
    const double hurry = observations < 128 ? 4.0 : observations < 256 ? 2.0 : 1.0;
    return std::max(1.0, static_cast<double>(options_.probe_every) / hurry);
}

void FarMemory::find(const FarCall& call) {
    const Clock clock(call, &gone_[call.layer], false);
    ++calls_;
    tiles_.assign(call.views.size(), {});
    for (size_t i = 0; i < call.views.size(); ++i) {
        const TileView& view = call.views[i];
        if (view.exact || view.far_pages == 0) continue;
        tiles_[i].sequence = sequence_of(call, i);
    }
}

void FarMemory::correct(const FarCall& call, int n_threads) {
    const Clock clock(call, &gone_[call.layer]);
    for_each_head(call, n_threads, &FarMemory::correct_head);
}

void FarMemory::correct_head(const FarCall& call, int64_t stream, int64_t kv_head) {
    const AttentionCall& attention = call.attention;
    const kernels::AttentionArgs& args = attention.args;
    const int64_t group = args.n_head / args.n_head_kv;
    const auto d_v = static_cast<size_t>(args.d_v);
    const InitialMemory* initial = initial_of(call.layer, kv_head);
    FarProbe probe(options_.probe_keys);
    std::vector<float> queries, residuals, exact_lse;
    std::vector<int64_t> probed;
    for (int64_t tile = 0; tile < call.tiles; ++tile) {
        const auto at = static_cast<size_t>(stream * call.tiles + tile);
        const TileView& view = call.views[at];
        const Selection& result =
            call.results[static_cast<size_t>((stream * args.n_head_kv + kv_head) * call.tiles + tile)];
        const int64_t row0 = attention.far_row(stream, kv_head, view.token0);
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
            return attention.query(stream, view.token0 + row / group, kv_head * group + row % group);
        };
        ProbeRandom random(seed_ + static_cast<uint64_t>(call.layer) * 64 + static_cast<uint64_t>(kv_head), query(0),
                           args.d_k);
        const double spacing = spacing_of(head.corrector->observations());
        const double expected = static_cast<double>(view.tokens) / spacing;
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
            return call.near_lse[attention.row(stream, view.token0 + row / group, kv_head * group + row % group)];
        };
        const auto near_out = [&](int64_t row) -> const float* {
            return attention.output(stream, view.token0 + row / group, kv_head * group + row % group);
        };
        for (size_t i = 0; probe_sink_ && i < probed.size(); ++i) {
            const int64_t row = probed[i];
            probe_sink_->add({call.layer, kv_head, args.d_k, args.d_v, query(row), near_out(row),
                              call.far_out + static_cast<size_t>(row0 + row) * d_v, residuals.data() + i * d_v,
                              near_lse(row), call.far_lse[row0 + row], exact_lse[i], spacing});
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
            head.corrector->observe(query(probed[i]), residuals.data() + i * d_v, share * share, spacing);
        }
    }
}

void FarMemory::blend(const FarCall& call, int n_threads) {
    const Clock clock(call, &gone_[call.layer]);
    ++calls_;
    tiles_.assign(call.views.size(), {});
    for (size_t i = 0; i < call.views.size(); ++i) {
        const TileView& view = call.views[i];
        if (view.exact || view.far_pages == 0) continue;
        Tile& tile = tiles_[i];
        tile.sequence = sequence_of(call, i);
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
    const AttentionCall& attention = call.attention;
    const kernels::AttentionArgs& args = attention.args;
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
            std::copy_n(attention.query(stream, view.token0 + row / group, kv_head * group + row % group), args.d_k,
                        queries.data() + row * args.d_k);
        }
        if (!corrector->correct(queries.data(), static_cast<size_t>(rows), answers.data())) continue;
        for (int64_t token = view.token0; token < view.token0 + view.tokens; ++token) {
            bool far = false;
            for (size_t page = 0; page < view.use.size() && !far; ++page) {
                far = is_far(view.use[page]) && visibility_of(attention, stream, token, static_cast<int64_t>(page)) ==
                                                    kernels::BlockVisibility::kAll;
            }
            if (!far) continue;
            for (int64_t member = 0; member < group; ++member) {
                float* out = attention.output(stream, token, kv_head * group + member);
                const float* answer = answers.data() + ((token - view.token0) * group + member) * args.d_v;
                for (int64_t i = 0; i < args.d_v; ++i) out[i] = keep * out[i] + answer[i];
            }
        }
    }
}

void FarMemory::learn_pages(const FarCall& call, const TileView& view, int64_t kv_head,
                            const std::vector<int64_t>& pages, memory::Corrector* corrector) const {
    const AttentionCall& attention = call.attention;
    const kernels::AttentionArgs& args = attention.args;
    std::vector<float> k(static_cast<size_t>(pages.empty() ? 0 : kv::kPageRows * args.d_k));
    std::vector<float> v(static_cast<size_t>(pages.empty() ? 0 : kv::kPageRows * args.d_v));
    PinnedCells cells;
    for (const int64_t page : pages) {
        const kv::PageRange range{view.base_page + page, 1};
        if (!cells.pin(attention, {&range, 1}, kv::PinMode::kResident).is_ok()) continue;
        cells.decode(attention, view.stream, page, kv_head, k.data(), v.data());
        for (int64_t j = 0; j < kv::kPageRows; ++j)
            corrector->observe(k.data() + j * args.d_k, v.data() + j * args.d_v, 1.0f, 1.0);
    }
}

}  // namespace atlas::attention
