#include "attention/plan/mask_plan.h"

#include <algorithm>
#include <cstring>

namespace atlas::attention {

bool MaskPlan::is_for(const AttentionCall& call) const {
    return mask_ == call.args.mask.data && n_keys_ == call.n_keys && n_tokens_ == call.args.n_tokens && has_pages_of(call);
}

bool MaskPlan::has_pages_of(const AttentionCall& call) const {
    if (static_cast<int64_t>(base_pages_.size()) != call.args.n_stream) return false;
    for (int64_t stream = 0; stream < call.args.n_stream; ++stream) {
        if (base_pages_[static_cast<size_t>(stream)] != call.base_page(stream)) return false;
    }
    return true;
}

bool MaskPlan::make(const AttentionCall& call, const KeyIndex& index, const Settings& settings, int64_t tile) {
    if (looks_the_same(call, index)) {
        mask_ = call.args.mask.data;
        return true;
    }
    // No call has these: an exception below leaves a plan that fits nothing.
    n_keys_ = 0;
    remembered_ = false;
    index_ = &index;
    index_id_ = index.id();
    const int64_t tiles = (call.args.n_tokens + tile - 1) / tile;
    base_pages_.clear();
    for (int64_t stream = 0; stream < call.args.n_stream; ++stream) base_pages_.push_back(call.base_page(stream));
    views_.resize(static_cast<size_t>(call.args.n_stream * tiles));
    for (int64_t i = 0; i < call.args.n_stream * tiles; ++i) {
        TileView& view = views_[static_cast<size_t>(i)];
        view.stream = i / tiles;
        view.token0 = i % tiles * tile;
        view.tokens = std::min(tile, call.args.n_tokens - view.token0);
        view.base_page = base_pages_[static_cast<size_t>(view.stream)];
        classify_pages(call, settings, index, &view);
    }
    if (call.args.n_tokens <= kDecodeTokens) remember(call, index);
    mask_ = call.args.mask.data;
    n_tokens_ = call.args.n_tokens;
    n_keys_ = call.n_keys;
    return false;
}

bool MaskPlan::looks_the_same(const AttentionCall& call, const KeyIndex& index) {
    if (!remembered_ || !is_of(index) || n_keys_ != call.n_keys || n_tokens_ != call.args.n_tokens) return false;
    if (!has_pages_of(call)) return false;
    const size_t n = call.summary_size();
    if (summary_.size() != n || (n > 0 && std::memcmp(summary_.data(), call.args.mask.summary, n) != 0)) return false;
    return same_parts(call) && same_order_of_writes(index);
}

bool MaskPlan::same_parts(const AttentionCall& call) const {
    for (const TileView& view : views_) {
        if (view.parts.empty()) continue;
        size_t part = 0;
        for (const int32_t page : view.selected_from) {
            if (view.use[static_cast<size_t>(page)] != PageUse::kFarPart) continue;
            for (int64_t t = 0; t < (call.args.mask.data ? view.tokens : 1); ++t) {
                if (view.parts[part++] != visible_cells(call, view.stream, view.token0 + t, page)) return false;
            }
        }
    }
    return true;
}

bool MaskPlan::same_order_of_writes(const KeyIndex& index) {
    const int64_t tiles = static_cast<int64_t>(views_.size() / base_pages_.size());
    for (size_t stream = 0; stream < writes_.size(); ++stream) {
        Writes& known = writes_[stream];
        const int64_t base = base_pages_[stream];
        const auto pages = static_cast<int64_t>(known.epochs.size());
        for (size_t i = 0; i < known.versions.size(); ++i) {
            const int64_t chunk = base / kv::kChunkPages + static_cast<int64_t>(i);
            const PageVersion version = index.chunk_version(chunk);
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

void MaskPlan::remember(const AttentionCall& call, const KeyIndex& index) {
    const size_t n = call.summary_size();
    summary_.assign(call.args.mask.summary, call.args.mask.summary + n);
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
