// Engine: brings the index up to date with the cache before a call reads it.
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <utility>
#include <vector>

#include "attention/index/alike.h"
#include "attention/engine.h"
#include "attention/select/probe.h"
#include "attention/index/tilt.h"

namespace atlas::attention {
namespace {

// Pages that calibrate a stream of the index, and those of them on which its tilts are judged.
constexpr int64_t kCalibrationPages = 16;
constexpr int64_t kTiltPages = 8;
// Pages of a call that the slopes of values are taken from, at most: evenly spread over what was read.
constexpr int64_t kSlopePages = 64;
// Tokens whose mean query a tilt follows, at least; queries kept to judge it, one of every few tokens.
constexpr int64_t kTiltTokens = 64;
constexpr int64_t kTiltQueries = 32;
constexpr int64_t kTokensPerQuery = kTiltTokens / kTiltQueries;

/** Adds the call's queries of a stream to what its tilts will be chosen by. */
void gather_queries(const kernels::AttentionArgs& args, int64_t stream, Calibration* c) {
    const int64_t group = args.n_head / args.n_head_kv;
    const auto row = static_cast<size_t>(args.n_head_kv * args.d_k);
    c->query_sum.resize(row);
    c->samples.resize(row * kTiltQueries);
    for (int64_t token = 0; token < args.n_tokens; ++token, ++c->queries) {
        const int64_t slot = c->queries / kTokensPerQuery % kTiltQueries;
        for (int64_t head = 0; head < args.n_head; ++head) {
            const float* q = query_of(args, stream, token, head);
            double* sum = c->query_sum.data() + head / group * args.d_k;
            for (int64_t i = 0; i < args.d_k; ++i) sum[i] += static_cast<double>(q[i] * args.scale);
            if (c->queries % kTokensPerQuery != 0 || head % group != slot % group) continue;
            float* sample = c->samples.data() + (head / group * kTiltQueries + slot) * args.d_k;
            for (int64_t i = 0; i < args.d_k; ++i) sample[i] = q[i] * args.scale;
        }
    }
}

/** Puts alike keys, and their values, side by side. Throws std::bad_alloc. */
void group_rows(float* keys, float* values, int64_t n, int64_t d_k, int64_t d_v, int64_t block) {
    std::vector<int32_t> order;
    group_alike(keys, n, d_k, block, &order);
    const std::vector<float> k(keys, keys + n * d_k);
    const std::vector<float> v(values, values + n * d_v);
    reorder_rows(k.data(), order, d_k, keys);
    reorder_rows(v.data(), order, d_v, values);
}

}  // namespace

void Engine::calibrate(const kernels::AttentionArgs& args, int64_t stream, KvIndex& index, int n_threads) {
    const TileView* views = views_->data() + stream * tiles_;
    const int64_t base = views->base_page;
    std::vector<int64_t> far;
    bool any_fresh = false;
    for (const FarGroup& group : groups_->groups) {
        if (group.stream != stream) continue;
        for (int64_t page = group.page; page < group.page + group.count; ++page) {
            far.push_back(page - base);
            any_fresh = any_fresh || index.page_fresh(page);
        }
        if (any_fresh && index.calibration(base).tilted) return;
    }
    if (far.empty()) return;
    Calibration& c = index.calibration(base);
    // Nothing known of what is there: a new sequence, unless decoding goes on where a saved one was put back.
    if (!any_fresh && (c.offset.empty() || args.n_tokens >= kTiltTokens)) c = Calibration{};
    if (!c.tilted) gather_queries(args, stream, &c);
    const bool tilt = !c.tilted && c.queries >= kTiltTokens;
    if (!c.offset.empty() && !tilt) return;

    const auto used = std::min(static_cast<int64_t>(far.size()), kCalibrationPages);
    const int64_t n = used * kv::kPageRows;
    std::vector<float> keys(static_cast<size_t>(args.n_head_kv * n * args.d_k));
    std::vector<float> values(static_cast<size_t>(args.n_head_kv * n * args.d_v));
    for (int64_t head = 0; head < args.n_head_kv; ++head) {
        for (int64_t i = 0; i < used; ++i) {
            const int64_t page = far[static_cast<size_t>(i * static_cast<int64_t>(far.size()) / used)];
            decode_page(args, args.runs[stream * args.n_head_kv + head], page * kv::kPageRows,
                        keys.data() + (head * n + i * kv::kPageRows) * args.d_k,
                        values.data() + (head * n + i * kv::kPageRows) * args.d_v);
        }
    }
    index.calibrate(keys.data(), n, &c);
    index.forget(base, static_cast<int64_t>(views->use.size()));
    if (!tilt || settings_.estimate == FarEstimate::kDrop) return;
    const int64_t group = args.n_head / args.n_head_kv;
    const double each = 1.0 / static_cast<double>(c.queries * group);
    std::atomic<bool> failed{false};
#pragma omp parallel for schedule(dynamic) num_threads(n_threads) if (args.n_head_kv > 1)
    for (int64_t head = 0; head < args.n_head_kv; ++head) {
        try {
            float* tilts = c.tilt.data() + head * args.d_k;
            std::vector<float> mean(static_cast<size_t>(args.d_k));
            for (int64_t i = 0; i < args.d_k; ++i)
                mean[static_cast<size_t>(i)] =
                    static_cast<float>(c.query_sum[static_cast<size_t>(head * args.d_k + i)] * each);
            float* k = keys.data() + head * n * args.d_k;
            float* v = values.data() + head * n * args.d_v;
            const int64_t judged = std::min(used, kTiltPages) * kv::kPageRows;
            if (settings_.alike) {
                group_rows(k, v, judged, args.d_k, args.d_v, index.block_keys());
                group_rows(k + judged * args.d_k, v + judged * args.d_v, n - judged, args.d_k, args.d_v,
                           index.block_keys());
            }
            const TiltChoice choice =
                choose_tilt({k, v, judged, c.samples.data() + head * kTiltQueries * args.d_k, kTiltQueries, mean.data(),
                             args.d_k, args.d_v, index.block_keys(), index.pairing(), k + judged * args.d_k,
                             v + judged * args.d_v, n - judged, settings_.alike});
            for (int64_t i = 0; i < args.d_k; ++i) tilts[i] = choice.tilt * mean[static_cast<size_t>(i)];
            c.slope_factor[static_cast<size_t>(head)] = settings_.value_slope ? choice.slope : 0.0f;
        } catch (const std::bad_alloc&) {
            failed = true;
        }
    }
    if (failed) throw std::bad_alloc();
    c.tilted = true;
    c.query_sum = {};
    c.samples = {};
}

void Engine::add_slopes(const kernels::AttentionArgs& args, const std::vector<FarGroup>& groups, KvIndex& index,
                        int n_threads) {
    const int64_t whole = largest_group(settings_, index);
    const int64_t rows = whole * kv::kPageRows;
    for (int64_t stream = 0; stream < args.n_stream; ++stream) {
        const TileView* views = views_->data() + stream * tiles_;
        Calibration& c = index.calibration(views->base_page);
        if (!c.tilted) continue;
        // Blocks out of few pages are wider, and will be made anew when more pages are far.
        std::vector<int64_t> own;
        for (const FarGroup& group : groups) {
            if (group.stream == stream && group.count == whole) own.push_back(group.page);
        }
        if (own.empty()) continue;
        const auto used = std::min(static_cast<int64_t>(own.size()), std::max<int64_t>(1, kSlopePages / whole));
        int64_t far = whole;
        for (int64_t tile = 0; tile < tiles_; ++tile) far = std::max<int64_t>(far, views[tile].far_pages);
        std::atomic<bool> failed{false};
        // One thread per head: a sum's order, and so its rounding, must not depend on the number of threads.
#pragma omp parallel for schedule(dynamic) num_threads(n_threads) if (args.n_head_kv > 1)
        for (int64_t head = 0; head < args.n_head_kv; ++head) {
            if (c.slope_factor[static_cast<size_t>(head)] == 0.0f) continue;
            try {
                std::vector<float> decoded(static_cast<size_t>(2 * rows * (args.d_k + args.d_v)));
                std::vector<int32_t> order;
                float* k = decoded.data();
                float* v = k + rows * args.d_k;
                float* ordered_k = v + rows * args.d_v;
                float* ordered_v = ordered_k + rows * args.d_k;
                ValueSlope& slope = c.slopes[static_cast<size_t>(head)];
                for (int64_t i = 0; i < used; ++i) {
                    const int64_t page = own[static_cast<size_t>(i * static_cast<int64_t>(own.size()) / used)];
                    decode_pages(args, args.runs[stream * args.n_head_kv + head],
                                 (page - views->base_page) * kv::kPageRows, whole, k, v);
                    index.order_of(page, whole, head, &order);
                    reorder_rows(k, order, args.d_k, ordered_k);
                    reorder_rows(v, order, args.d_v, ordered_v);
                    // What has been overwritten since fades as pages are read again.
                    if (slope.blocks() >= far * index.blocks_per_page())
                        slope.forget(static_cast<double>(whole) / static_cast<double>(far + whole));
                    add_blocks(ordered_k, ordered_v, rows, index.block_keys(), c.tilt.data() + head * args.d_k,
                               args.d_k, args.d_v, &slope);
                }
            } catch (const std::bad_alloc&) {
                failed = true;
            }
        }
        if (failed) throw std::bad_alloc();
    }
}

void Engine::add_super_slopes(const kernels::AttentionArgs& args, const std::vector<int64_t>& supers, KvIndex& index,
                              int n_threads) {
    for (int64_t stream = 0; stream < args.n_stream && !supers.empty(); ++stream) {
        const TileView* views = views_->data() + stream * tiles_;
        Calibration& c = index.calibration(views->base_page);
        if (!c.tilted) continue;
        const int64_t per_super = index.pages_per_super();
        const auto begin = (views->base_page + per_super - 1) / per_super;
        const auto end = (views->base_page + static_cast<int64_t>(views->use.size())) / per_super;
        std::atomic<bool> failed{false};
#pragma omp parallel for schedule(dynamic) num_threads(n_threads) if (args.n_head_kv > 1)
        for (int64_t head = 0; head < args.n_head_kv; ++head) {
            if (c.slope_factor[static_cast<size_t>(head)] == 0.0f) continue;
            try {
                ValueSlope& slope = c.super_slopes[static_cast<size_t>(head)];
                for (const int64_t super : supers) {
                    if (super < begin || super >= end) continue;
                    if (slope.blocks() >= end - begin) slope.forget(1.0 / static_cast<double>(end - begin + 1));
                    index.add_super_slope(super, head, &slope);
                }
            } catch (const std::bad_alloc&) {
                failed = true;
            }
        }
        if (failed) throw std::bad_alloc();
    }
}

void Engine::refresh(const kernels::AttentionArgs& args, KvIndex& index, int n_threads) {
    for (int64_t stream = 0; stream < args.n_stream; ++stream) calibrate(args, stream, index, n_threads);
    std::vector<FarGroup> stale;
    for (const FarChunk& chunk : groups_->chunks) {
        if (index.chunk_checked(chunk.number, chunk.hash)) continue;
        for (size_t i = chunk.first; i < chunk.end; ++i) {
            const FarGroup& group = groups_->groups[i];
            if (!index.group_fresh(group.page, group.count)) stale.push_back(group);
        }
    }
    for (const FarGroup& group : stale) index.reserve(group.page, group.count);
    const int64_t n_jobs = static_cast<int64_t>(stale.size()) * args.n_head_kv;
    // An exception that left a parallel region would end the host.
    std::atomic<bool> failed{false};
    const auto guarded = [&failed](auto&& work) {
        try {
            work();
        } catch (const std::bad_alloc&) {
            failed = true;
        }
    };
    const auto base_of = [&](int64_t stream) { return (*views_)[static_cast<size_t>(stream * tiles_)].base_page; };
    const auto group_floats =
        static_cast<size_t>(n_jobs > 0 ? largest_group(settings_, index) * kv::kPageRows * (args.d_k + args.d_v) : 0);
    std::vector<float> decoded(group_floats * static_cast<size_t>(std::max(n_threads, 1)));
#pragma omp parallel for schedule(dynamic) num_threads(n_threads) if (n_jobs > 1)
    for (int64_t job = 0; job < n_jobs; ++job) {
        guarded([&] {
            const FarGroup& group = stale[static_cast<size_t>(job / args.n_head_kv)];
            const int64_t head = job % args.n_head_kv;
            const int64_t base = base_of(group.stream);
            float* k = decoded.data() + static_cast<size_t>(omp_get_thread_num()) * group_floats;
            float* v = k + group.count * kv::kPageRows * args.d_k;
            decode_pages(args, args.runs[group.stream * args.n_head_kv + head], (group.page - base) * kv::kPageRows,
                         group.count, k, v);
            index.update(group.page, group.count, head, k, v, std::as_const(index).calibration(base), settings_.alike);
        });
    }
    if (failed) throw std::bad_alloc();
    for (const FarGroup& group : stale) index.mark_fresh(group.page, group.count);
    for (const FarChunk& chunk : groups_->chunks) index.set_chunk_checked(chunk.number, chunk.hash);
    add_slopes(args, stale, index, n_threads);

    // Super-blocks are only looked at beyond the beam.
    std::vector<int64_t> supers;
    for (const TileView& view : *views_) {
        if (view.far_pages * index.blocks_per_page() <= settings_.beam) continue;
        for (const FarPanel& panel : view.panels) {
            if (panel.whole && !index.super_fresh(panel.panel)) supers.push_back(panel.panel);
        }
    }
    std::sort(supers.begin(), supers.end());
    supers.erase(std::unique(supers.begin(), supers.end()), supers.end());
    const auto n_super_jobs = static_cast<int64_t>(supers.size()) * args.n_head_kv;
#pragma omp parallel for schedule(static) num_threads(n_threads) if (n_super_jobs > 1)
    for (int64_t job = 0; job < n_super_jobs; ++job)
        guarded([&] { index.update_super(supers[static_cast<size_t>(job / args.n_head_kv)], job % args.n_head_kv); });
    if (failed) throw std::bad_alloc();
    for (const int64_t super : supers) index.mark_super_fresh(super);
    add_super_slopes(args, supers, index, n_threads);
}

}  // namespace atlas::attention
