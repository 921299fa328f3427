// Engine: brings the index up to date with the cache before a call reads it.
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <utility>
#include <vector>

#include "attention/engine.h"
#include "attention/probe.h"
#include "attention/tilt.h"

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

}  // namespace

void Engine::calibrate(const kernels::AttentionArgs& args, int64_t stream, KvIndex& index, int n_threads) {
    const TileView* views = views_->data() + stream * tiles_;
    const int64_t base = views->base_page;
    std::vector<int64_t> far;
    bool any_fresh = false;
    for (size_t page = 0; page < views->use.size(); ++page) {
        const bool wanted =
            std::any_of(views, views + tiles_, [&](const TileView& view) { return is_far(view.use[page]); });
        if (!wanted) continue;
        far.push_back(static_cast<int64_t>(page));
        any_fresh = any_fresh || index.page_fresh(base + static_cast<int64_t>(page));
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
            const float* k = keys.data() + head * n * args.d_k;
            const float* v = values.data() + head * n * args.d_v;
            const int64_t judged = std::min(used, kTiltPages) * kv::kPageRows;
            const TiltChoice choice =
                choose_tilt({k, v, judged, c.samples.data() + head * kTiltQueries * args.d_k, kTiltQueries, mean.data(),
                             args.d_k, args.d_v, index.block_keys(), index.pairing(), k + judged * args.d_k,
                             v + judged * args.d_v, n - judged});
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

void Engine::add_slopes(const kernels::AttentionArgs& args, const std::vector<std::pair<int64_t, int64_t>>& pages,
                        KvIndex& index, int n_threads) {
    for (int64_t stream = 0; stream < args.n_stream; ++stream) {
        const TileView* views = views_->data() + stream * tiles_;
        Calibration& c = index.calibration(views->base_page);
        if (!c.tilted) continue;
        std::vector<int64_t> own;
        for (const auto& [page, reader] : pages) {
            if (reader == stream) own.push_back(page);
        }
        if (own.empty()) continue;
        const auto used = std::min(static_cast<int64_t>(own.size()), kSlopePages);
        int64_t far = 1;
        for (int64_t tile = 0; tile < tiles_; ++tile) far = std::max<int64_t>(far, views[tile].far_pages);
        std::atomic<bool> failed{false};
        // One thread per head: a sum's order, and so its rounding, must not depend on the number of threads.
#pragma omp parallel for schedule(dynamic) num_threads(n_threads) if (args.n_head_kv > 1)
        for (int64_t head = 0; head < args.n_head_kv; ++head) {
            if (c.slope_factor[static_cast<size_t>(head)] == 0.0f) continue;
            try {
                std::vector<float> decoded(static_cast<size_t>(kv::kPageRows * (args.d_k + args.d_v)));
                float* k = decoded.data();
                float* v = k + kv::kPageRows * args.d_k;
                ValueSlope& slope = c.slopes[static_cast<size_t>(head)];
                for (int64_t i = 0; i < used; ++i) {
                    const int64_t page = own[static_cast<size_t>(i * static_cast<int64_t>(own.size()) / used)];
                    decode_page(args, args.runs[stream * args.n_head_kv + head],
                                (page - views->base_page) * kv::kPageRows, k, v);
                    // What has been overwritten since fades as pages are read again.
                    if (slope.blocks() >= far * index.blocks_per_page())
                        slope.forget(1.0 / static_cast<double>(far + 1));
                    add_blocks(k, v, kv::kPageRows, index.block_keys(), c.tilt.data() + head * args.d_k, args.d_k,
                               args.d_v, &slope);
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
    // Pages that some tile may estimate and that changed, with the stream through which they are read.
    std::vector<std::pair<int64_t, int64_t>> pages;
    for (const TileView& view : *views_) {
        for (size_t page = 0; page < view.use.size(); ++page) {
            if (!is_far(view.use[page])) continue;
            const int64_t absolute = view.base_page + static_cast<int64_t>(page);
            if (!index.page_fresh(absolute)) pages.emplace_back(absolute, view.stream);
        }
    }
    std::sort(pages.begin(), pages.end());
    pages.erase(
        std::unique(pages.begin(), pages.end(), [](const auto& a, const auto& b) { return a.first == b.first; }),
        pages.end());
    const auto n_pages = static_cast<int64_t>(pages.size());
    const auto key_of = [&](const std::pair<int64_t, int64_t>& page) {
        return (page.first - (*views_)[static_cast<size_t>(page.second * tiles_)].base_page) * kv::kPageRows;
    };
    for (const auto& page : pages) index.reserve(page.first);
    const int64_t n_jobs = n_pages * args.n_head_kv;
    // An exception that left a parallel region would end the host.
    std::atomic<bool> failed{false};
    const auto guarded = [&failed](auto&& work) {
        try {
            work();
        } catch (const std::bad_alloc&) {
            failed = true;
        }
    };
    const auto calibration_of = [&](int64_t stream) {
        return &std::as_const(index).calibration((*views_)[static_cast<size_t>(stream * tiles_)].base_page);
    };
    const auto page_floats = static_cast<size_t>(n_jobs > 0 ? kv::kPageRows * (args.d_k + args.d_v) : 0);
    std::vector<float> decoded(page_floats * static_cast<size_t>(std::max(n_threads, 1)));
#pragma omp parallel for schedule(static) num_threads(n_threads) if (n_jobs > 1)
    for (int64_t job = 0; job < n_jobs; ++job) {
        guarded([&] {
            const auto& page = pages[static_cast<size_t>(job / args.n_head_kv)];
            const int64_t head = job % args.n_head_kv;
            float* k = decoded.data() + static_cast<size_t>(omp_get_thread_num()) * page_floats;
            float* v = k + kv::kPageRows * args.d_k;
            decode_page(args, args.runs[page.second * args.n_head_kv + head], key_of(page), k, v);
            index.update(page.first, head, k, v, *calibration_of(page.second));
        });
    }
    if (failed) throw std::bad_alloc();
    for (const auto& page : pages) index.mark_fresh(page.first);
    add_slopes(args, pages, index, n_threads);

    // Super-blocks are only looked at beyond the beam.
    std::vector<int64_t> supers;
    const int64_t per_super = index.pages_per_super();
    for (const TileView& view : *views_) {
        if (view.far_pages * index.blocks_per_page() <= settings_.beam) continue;
        const auto n = static_cast<int64_t>(view.use.size());
        for (int64_t super = (view.base_page + per_super - 1) / per_super;
             (super + 1) * per_super <= view.base_page + n; ++super) {
            if (index.super_fresh(super)) continue;
            const auto from = view.use.begin() + static_cast<std::ptrdiff_t>(super * per_super - view.base_page);
            if (std::all_of(from, from + static_cast<std::ptrdiff_t>(per_super),
                            [](PageUse use) { return use == PageUse::kFar; }))
                supers.push_back(super);
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
