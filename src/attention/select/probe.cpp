#include "attention/select/probe.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/block_moments.h"
#include "kernels/moments.h"
#include "kernels/row_codec.h"

namespace atlas::attention {
namespace {

/** SplitMix64's mixer (Steele, Lea, Flood 2014). */
uint64_t mix(uint64_t x) {
    x ^= x >> 30;
    x *= 0xBF58476D1CE4E5B9ULL;
    x ^= x >> 27;
    x *= 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

}  // namespace

ProbeRandom::ProbeRandom(uint64_t seed, const float* query, int64_t d) : state_(mix(seed + 0x9E3779B97F4A7C15ULL)) {
    for (int64_t i = 0; i < d; ++i) {
        uint32_t bits;
        std::memcpy(&bits, query + i, sizeof bits);
        state_ = mix(state_ ^ bits);
    }
}

double ProbeRandom::next() {
    state_ += 0x9E3779B97F4A7C15ULL;
    return (static_cast<double>(mix(state_) >> 11) + 0.5) * 0x1p-53;
}

const kernels::Run* find_run(const kernels::HeadRuns& list, int64_t key, size_t* at) {
    const std::span<const kernels::Run> runs = list.runs;
    // A cache in pages has one run per page.
    if (const auto page = static_cast<size_t>(key / kernels::kBlockKeys);
        page < runs.size() && key >= runs[page].key && key < runs[page].key + runs[page].count) {
        *at = page;
        return &runs[page];
    }
    // A few steps ahead are cheaper than a search.
    constexpr int kSteps = 8;
    size_t i = *at;
    if (i >= runs.size() || key < runs[i].key) i = 0;
    for (int step = 0; step < kSteps && i < runs.size() && key >= runs[i].key + runs[i].count; ++step) ++i;
    if (i < runs.size() && key >= runs[i].key + runs[i].count) {
        // Runs are pages mostly: where they all hold the same number of keys, the place follows from the key.
        const int64_t keys = runs.back().key + runs.back().count;
        const auto guess = static_cast<size_t>(std::min(key, keys - 1) * static_cast<int64_t>(runs.size()) / keys);
        if (key >= runs[guess].key && key < runs[guess].key + runs[guess].count) {
            i = guess;
        } else {
            i = static_cast<size_t>(
                std::lower_bound(runs.begin() + static_cast<std::ptrdiff_t>(i), runs.end(), key,
                                 [](const kernels::Run& run, int64_t k) { return run.key + run.count <= k; }) -
                runs.begin());
        }
    }
    *at = i;
    return i < runs.size() && key >= runs[i].key ? &runs[i] : nullptr;
}

void append_runs(const kernels::AttentionArgs& args, const kernels::HeadRuns& list, int64_t key, int64_t count,
                 size_t* at, std::vector<kernels::Run>* out) {
    while (count > 0) {
        const kernels::Run* run = find_run(list, key, at);
        if (run == nullptr) return;
        const int64_t inside = key - run->key;
        const int64_t taken = std::min<int64_t>(count, run->count - inside);
        const kernels::Run part{run->k + inside * args.k_stride, run->v + inside * args.v_stride,
                                static_cast<int32_t>(key), static_cast<int32_t>(taken)};
        if (!out->empty() && !out->back().has_gaps() && out->back().key + out->back().count == part.key &&
            out->back().k + out->back().count * args.k_stride == part.k &&
            out->back().v + out->back().count * args.v_stride == part.v) {
            out->back().count += part.count;
        } else {
            out->push_back(part);
        }
        key += taken;
        count -= taken;
    }
}

void append_cells(const kernels::AttentionArgs& args, const kernels::HeadRuns& list, const PageCells& page, size_t* at,
                  std::vector<kernels::Run>* out) {
    const kernels::Run* run = find_run(list, page.key, at);
    if (run == nullptr || page.key + kernels::kBlockKeys > run->key + run->count) {
        for_each_range(page, [&](int64_t key, int64_t count) { append_runs(args, list, key, count, at, out); });
        return;
    }
    const int64_t inside = page.key - run->key;
    out->push_back({run->k + inside * args.k_stride, run->v + inside * args.v_stride, static_cast<int32_t>(page.key),
                    std::popcount(page.cells), page.cells});
}

void decode_page(const kernels::AttentionArgs& args, const kernels::HeadRuns& list, int64_t key, float* k, float* v) {
    size_t at = 0;
    for (int64_t j = 0; j < kernels::kBlockKeys;) {
        const kernels::Run* run = find_run(list, key + j, &at);
        const int64_t inside = key + j - run->key;
        const int64_t count = std::min<int64_t>(kernels::kBlockKeys - j, run->count - inside);
        if (k)
            kernels::decode_rows(args.k_type, args.k_decode, run->k + list.k_offset + inside * args.k_stride,
                                 args.k_stride, count, args.d_k, k + j * args.d_k);
        if (v)
            kernels::decode_rows(args.v_type, args.v_decode, run->v + list.v_offset + inside * args.v_stride,
                                 args.v_stride, count, args.d_v, v + j * args.d_v);
        j += count;
    }
}

void decode_pages(const kernels::AttentionArgs& args, const kernels::HeadRuns& list, int64_t key, int64_t pages,
                  float* k, float* v) {
    constexpr int64_t kRows = kernels::kBlockKeys;
    for (int64_t page = 0; page < pages; ++page)
        decode_page(args, list, key + page * kRows, k + page * kRows * args.d_k, v + page * kRows * args.d_v);
}

double log_mass(const kernels::AttentionArgs& args, const kernels::HeadRuns& list, std::span<const PageCells> keys,
                const float* q, std::vector<float>* work) {
    thread_local std::vector<const std::byte*> rows;
    rows.clear();
    const auto bytes = args.k_type == DataType::kOther ? size_t{0} : row_bytes(args.k_type, args.d_k);
    size_t at = 0;
    for (const PageCells& page : keys) {
        for (uint64_t left = page.cells; left != 0; left &= left - 1) {
            const int64_t key = page.key + std::countr_zero(left);
            const kernels::Run* run = find_run(list, key, &at);
            if (run == nullptr) continue;
            rows.push_back(run->k + list.k_offset + (key - run->key) * args.k_stride);
            // They lie anywhere in memory: all are on their way before the first is waited for.
            for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(rows.back() + i);
        }
    }
    const size_t n = rows.size();
    const auto d = static_cast<size_t>(args.d_k);
    work->resize(n * d + n);
    float* logits = work->data() + n * d;
    for (size_t j = 0; j < n; ++j)
        kernels::decode_rows(args.k_type, args.k_decode, rows[j], 0, 1, args.d_k, work->data() + j * d);
    kernels::row_products(work->data(), n, d, q, logits);
    const float max = kernels::max_of(logits, n);
    return static_cast<double>(max) + std::log(static_cast<double>(kernels::exp_sum(logits, n, max)));
}

}  // namespace atlas::attention
