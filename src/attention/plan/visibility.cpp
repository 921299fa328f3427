#include "attention/plan/visibility.h"

#include <algorithm>

namespace atlas::attention {
namespace {

using kernels::BlockVisibility;
using kernels::kBlockKeys;

int64_t page_keys(int64_t page, int64_t n_keys) { return std::min<int64_t>(kBlockKeys, n_keys - page * kBlockKeys); }

int64_t visible_keys(const BlockVisibility* row, int64_t pages, int64_t n_keys) {
    int64_t seen = 0;
    for (int64_t page = 0; page < pages; ++page) seen += row[page] != BlockVisibility::kNone;
    return std::min(seen * kBlockKeys, n_keys);
}

/** Makes the first visible pages of every token exact. */
void take_sinks(const kernels::AttentionArgs& args, const Settings& settings, TileView* view) {
    const int64_t wanted = (settings.sinks + kBlockKeys - 1) / kBlockKeys;
    const auto pages = static_cast<int64_t>(view->use.size());
    for (int64_t token = view->token0; token < view->token0 + view->tokens; ++token) {
        int64_t taken = 0;
        for (int64_t page = 0; page < pages && taken < wanted; ++page) {
            if (visibility_of(args, view->stream, token, page) == BlockVisibility::kNone) continue;
            view->use[static_cast<size_t>(page)] = PageUse::kExact;
            ++taken;
        }
        // Without a mask all tokens see the same.
        if (!args.mask.data) break;
    }
}

/** Makes the most recently written pages exact, those that are exact anyway included in the count. */
void take_window(const Settings& settings, const KvIndex& index, TileView* view) {
    const int64_t wanted = (settings.window + kBlockKeys - 1) / kBlockKeys;
    thread_local std::vector<int64_t> seen;
    seen.clear();
    bool ordered = true;
    for (size_t page = 0; page < view->use.size(); ++page) {
        if (view->use[page] == PageUse::kSkip) continue;
        const auto p = static_cast<int64_t>(page);
        if (!seen.empty() && index.epoch(view->base_page + seen.back()) > index.epoch(view->base_page + p))
            ordered = false;
        seen.push_back(p);
    }
    if (!ordered) {
        std::sort(seen.begin(), seen.end(), [&](int64_t a, int64_t b) {
            const uint64_t ea = index.epoch(view->base_page + a);
            const uint64_t eb = index.epoch(view->base_page + b);
            return ea != eb ? ea < eb : a < b;
        });
    }
    const auto n = static_cast<int64_t>(seen.size());
    view->newest_page = n > 0 ? seen.back() : -1;
    // One page more than the window holds: the newest is seldom full.
    for (int64_t i = std::max<int64_t>(0, n - wanted - 1); i < n && settings.window > 0; ++i) {
        view->use[static_cast<size_t>(seen[static_cast<size_t>(i)])] = PageUse::kExact;
    }
}

}  // namespace

int64_t most_visible(const kernels::AttentionArgs& args, int64_t n_keys) {
    const kernels::Mask& mask = args.mask;
    if (!mask.data) return n_keys;
    const int64_t pages = (n_keys + kBlockKeys - 1) / kBlockKeys;
    int64_t most = 0;
    for (int64_t row = 0; row < mask.n_streams * args.n_tokens; ++row) {
        most = std::max(most, visible_keys(mask.summary + row * mask.summary_blocks, pages, n_keys));
    }
    return most;
}

void classify_pages(const kernels::AttentionArgs& args, int64_t n_keys, const Settings& settings, const KvIndex& index,
                    TileView* view) {
    const int64_t pages = (n_keys + kBlockKeys - 1) / kBlockKeys;
    // Per page: how many tokens see all of it, and how many see a part. Short counters keep the loops in vector registers.
    thread_local std::vector<uint16_t> all, some;
    all.assign(static_cast<size_t>(pages), 0);
    some.assign(static_cast<size_t>(pages), 0);
    view->visible = 0;
    const int64_t rows = args.mask.data ? view->tokens : 1;
    for (int64_t t = 0; t < rows; ++t) {
        if (!args.mask.data) {
            std::fill(all.begin(), all.end(), static_cast<uint16_t>(1));
            view->visible = n_keys;
            break;
        }
        const BlockVisibility* row =
            args.mask.summary +
            ((view->stream % args.mask.n_streams) * args.n_tokens + view->token0 + t) * args.mask.summary_blocks;
        for (int64_t page = 0; page < pages; ++page) {
            all[static_cast<size_t>(page)] += row[page] == BlockVisibility::kAll;
            some[static_cast<size_t>(page)] += row[page] == BlockVisibility::kMixed;
        }
        view->visible = std::max(view->visible, visible_keys(row, pages, n_keys));
    }
    view->use.assign(static_cast<size_t>(pages), PageUse::kSkip);
    for (int64_t page = 0; page < pages; ++page) {
        const auto i = static_cast<size_t>(page);
        if (some[i] > 0 || (all[i] > 0 && page_keys(page, n_keys) < kBlockKeys)) {
            view->use[i] = PageUse::kExact;
        } else if (all[i] > 0) {
            view->use[i] = all[i] == rows ? PageUse::kFar : PageUse::kFarSome;
        }
    }
    view->exact = view->visible <= settings.threshold;
    view->newest_page = -1;
    if (view->exact) {
        for (PageUse& use : view->use) use = use == PageUse::kSkip ? PageUse::kSkip : PageUse::kExact;
    } else {
        take_sinks(args, settings, view);
        take_window(settings, index, view);
    }
    view->far_pages = 0;
    view->exact_keys.clear();
    for (int64_t page = 0; page < pages; ++page) {
        const PageUse use = view->use[static_cast<size_t>(page)];
        view->far_pages += is_far(use);
        if (use != PageUse::kExact) continue;
        const int64_t key = page * kBlockKeys;
        std::vector<KeyRange>& ranges = view->exact_keys;
        if (ranges.empty() || ranges.back().key + ranges.back().count != key) ranges.push_back({key, 0});
        ranges.back().count += page_keys(page, n_keys);
    }
}

}  // namespace atlas::attention
