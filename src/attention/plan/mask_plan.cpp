#include "attention/plan/mask_plan.h"

#include <algorithm>
#include <cstring>

namespace atlas::attention {
namespace {

/** Entries of the mask's summary. */
size_t summary_size(const kernels::AttentionArgs& args) {
    const kernels::Mask& mask = args.mask;
    return mask.data ? static_cast<size_t>(mask.n_streams * args.n_tokens * mask.summary_blocks) : 0;
}

}  // namespace

bool MaskPlan::is_for(const kernels::AttentionArgs& args, int64_t n_keys, const int64_t* base_pages) const {
    return mask_ == args.mask.data && n_keys_ == n_keys && n_tokens_ == args.n_tokens &&
           static_cast<int64_t>(base_pages_.size()) == args.n_stream &&
           std::equal(base_pages_.begin(), base_pages_.end(), base_pages);
}

bool MaskPlan::make(const kernels::AttentionArgs& args, int64_t n_keys, const KvIndex& index, const Settings& settings,
                    int64_t tile, const int64_t* base_pages) {
    if (looks_the_same(args, n_keys, index, base_pages)) {
        mask_ = args.mask.data;
        return true;
    }
    // No call has these: an exception below leaves a plan that fits nothing.
    n_keys_ = 0;
    remembered_ = false;
    index_id_ = index.id();
    const int64_t tiles = (args.n_tokens + tile - 1) / tile;
    base_pages_.assign(base_pages, base_pages + args.n_stream);
    views_.resize(static_cast<size_t>(args.n_stream * tiles));
    for (int64_t i = 0; i < args.n_stream * tiles; ++i) {
        TileView& view = views_[static_cast<size_t>(i)];
        view.stream = i / tiles;
        view.token0 = i % tiles * tile;
        view.tokens = std::min(tile, args.n_tokens - view.token0);
        view.base_page = base_pages[view.stream];
        classify_pages(args, n_keys, settings, index, &view);
    }
    group_far_pages(args, index, largest_group(settings, index), &views_, &groups_);
    if (args.n_tokens <= kDecodeTokens) remember(args, index);
    mask_ = args.mask.data;
    n_tokens_ = args.n_tokens;
    n_keys_ = n_keys;
    return false;
}

bool MaskPlan::looks_the_same(const kernels::AttentionArgs& args, int64_t n_keys, const KvIndex& index,
                              const int64_t* base_pages) {
    if (!remembered_ || !is_of(index) || n_keys_ != n_keys || n_tokens_ != args.n_tokens) return false;
    if (static_cast<int64_t>(base_pages_.size()) != args.n_stream ||
        !std::equal(base_pages_.begin(), base_pages_.end(), base_pages))
        return false;
    const size_t n = summary_size(args);
    if (summary_.size() != n || (n > 0 && std::memcmp(summary_.data(), args.mask.summary, n) != 0)) return false;
    return same_order_of_writes(index);
}

bool MaskPlan::same_order_of_writes(const KvIndex& index) {
    const int64_t tiles = static_cast<int64_t>(views_.size() / base_pages_.size());
    for (size_t stream = 0; stream < writes_.size(); ++stream) {
        Writes& known = writes_[stream];
        const int64_t base = base_pages_[stream];
        const auto pages = static_cast<int64_t>(known.epochs.size());
        for (size_t i = 0; i < known.versions.size(); ++i) {
            const int64_t chunk = base / kv::kChunkPages + static_cast<int64_t>(i);
            const uint64_t version = index.chunk_version(chunk);
            if (known.versions[i] == version) continue;
            const int64_t begin = std::max<int64_t>(chunk * kv::kChunkPages - base, 0);
            const int64_t end = std::min<int64_t>((chunk + 1) * kv::kChunkPages - base, pages);
            for (int64_t page = begin; page < end; ++page) {
                const uint64_t epoch = index.epoch(base + page);
                uint64_t& last = known.epochs[static_cast<size_t>(page)];
                if (last == epoch) continue;
                // The page that was written last may be written again without any change in the order.
                for (int64_t tile = 0; tile < tiles; ++tile) {
                    const TileView& view = views_[static_cast<size_t>(static_cast<int64_t>(stream) * tiles + tile)];
                    const bool seen = view.use[static_cast<size_t>(page)] != PageUse::kSkip;
                    if (seen && !view.exact && page != view.newest_page) return false;
                }
                last = epoch;
            }
            known.versions[i] = version;
        }
    }
    return true;
}

void MaskPlan::remember(const kernels::AttentionArgs& args, const KvIndex& index) {
    const size_t n = summary_size(args);
    summary_.assign(args.mask.summary, args.mask.summary + n);
    const size_t tiles = views_.size() / base_pages_.size();
    writes_.resize(base_pages_.size());
    for (size_t stream = 0; stream < writes_.size(); ++stream) {
        Writes& now = writes_[stream];
        const int64_t base = base_pages_[stream];
        const auto pages = static_cast<int64_t>(views_[stream * tiles].use.size());
        now.versions.clear();
        for (int64_t chunk = base / kv::kChunkPages; chunk * kv::kChunkPages < base + pages; ++chunk)
            now.versions.push_back(index.chunk_version(chunk));
        now.epochs.resize(static_cast<size_t>(pages));
        for (int64_t page = 0; page < pages; ++page) now.epochs[static_cast<size_t>(page)] = index.epoch(base + page);
    }
    remembered_ = true;
}

}  // namespace atlas::attention
