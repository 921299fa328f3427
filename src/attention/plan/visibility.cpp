#include "attention/plan/visibility.h"

#include <algorithm>

#include "base/per_thread.h"

namespace atlas::attention {
namespace {

using kernels::BlockVisibility;
using kernels::kBlockKeys;

constexpr uint16_t kHidden = 0xFC00;  // −inf in f16
constexpr uint64_t kAllKeys = ~uint64_t{0};

int64_t page_keys(int64_t page, int64_t n_keys) { return std::min<int64_t>(kBlockKeys, n_keys - page * kBlockKeys); }

/** Tokens of a tile that have to be looked at: without a mask all see the same. */
int64_t tokens_of(const AttentionCall& call, const TileView& view) { return call.args.mask.data ? view.tokens : 1; }

/** Reads the mask once for the tile: uses (all pages but sinks and window), parts, and visible keys. */
void look(const AttentionCall& call, TileView* view) {
    const kernels::AttentionArgs& args = call.args;
    const int64_t n_keys = call.n_keys;
    const int64_t pages = (n_keys + kBlockKeys - 1) / kBlockKeys;
    const int64_t rows = tokens_of(call, *view);
    // Per page: how many tokens see all of it, and how many see a part. Short counters keep the loops in vector registers.
    thread_local PerThread<std::vector<uint16_t>> of_all, of_some;
    std::vector<uint16_t>& all = of_all.get();
    std::vector<uint16_t>& some = of_some.get();
    all.assign(static_cast<size_t>(pages), 0);
    some.assign(static_cast<size_t>(pages), 0);
    for (int64_t t = 0; t < rows; ++t) {
        if (args.mask.data && args.mask.n_heads == 1) {
            const BlockVisibility* row = call.summary_row(view->stream, view->token0 + t);
            for (int64_t page = 0; page < pages; ++page) {
                all[static_cast<size_t>(page)] += row[page] == BlockVisibility::kAll;
                some[static_cast<size_t>(page)] += row[page] == BlockVisibility::kMixed;
            }
            continue;
        }
        for (int64_t page = 0; page < pages; ++page) {
            const BlockVisibility seen = visibility_of(call, view->stream, view->token0 + t, page);
            all[static_cast<size_t>(page)] += seen == BlockVisibility::kAll;
            some[static_cast<size_t>(page)] += seen == BlockVisibility::kMixed;
        }
    }
    view->use.assign(static_cast<size_t>(pages), PageUse::kSkip);
    view->parts.clear();
    thread_local PerThread<std::vector<int64_t>> of_seen;
    std::vector<int64_t>& seen = of_seen.get();  // keys per token
    seen.assign(static_cast<size_t>(rows), 0);
    int64_t everywhere = 0;  // keys that all tokens see
    for (int64_t page = 0; page < pages; ++page) {
        const auto i = static_cast<size_t>(page);
        const bool whole = page_keys(page, n_keys) == kBlockKeys;
        if (all[i] == 0 && some[i] == 0) continue;
        if (some[i] == 0 && all[i] == rows && whole) {
            view->use[i] = PageUse::kFar;
            everywhere += kBlockKeys;
            continue;
        }
        view->use[i] = some[i] == 0 && whole ? PageUse::kFarSome : PageUse::kFarPart;
        uint64_t any = 0;
        for (int64_t t = 0; t < rows; ++t) {
            uint64_t cells = 0;
            const BlockVisibility sight = visibility_of(call, view->stream, view->token0 + t, page);
            if (view->use[i] == PageUse::kFarSome) {
                cells = sight == BlockVisibility::kAll ? kAllKeys : 0;
            } else {
                cells = visible_cells(call, view->stream, view->token0 + t, page);
                view->parts.push_back(cells);
            }
            seen[static_cast<size_t>(t)] += std::popcount(cells);
            any |= cells;
        }
        if (any == 0) {
            view->use[i] = PageUse::kSkip;
            view->parts.resize(view->parts.size() - static_cast<size_t>(rows));
        }
    }
    view->visible = everywhere + (seen.empty() ? 0 : *std::max_element(seen.begin(), seen.end()));
}

/** Per page, the most of its keys that one token of the tile sees. */
void count_keys(const AttentionCall& call, const TileView& view, std::vector<uint8_t>* keys) {
    const auto rows = static_cast<size_t>(tokens_of(call, view));
    keys->assign(view.use.size(), 0);
    size_t part = 0;
    for (size_t page = 0; page < view.use.size(); ++page) {
        if (view.use[page] == PageUse::kSkip) continue;
        if (view.use[page] != PageUse::kFarPart) {
            (*keys)[page] = kBlockKeys;
            continue;
        }
        int most = 0;
        for (size_t t = 0; t < rows; ++t) most = std::max(most, std::popcount(view.parts[part + t]));
        (*keys)[page] = static_cast<uint8_t>(most);
        part += rows;
    }
}

/** Makes the first visible keys of every token exact, in whole pages. */
void take_sinks(const AttentionCall& call, const Settings& settings, const TileView& view,
                std::vector<uint8_t>* exact) {
    const auto pages = static_cast<int64_t>(view.use.size());
    const int64_t rows = tokens_of(call, view);
    for (int64_t t = 0; t < rows; ++t) {
        int64_t left = settings.sinks;
        size_t part = 0;
        for (int64_t page = 0; page < pages && left > 0; ++page) {
            const PageUse use = view.use[static_cast<size_t>(page)];
            if (use == PageUse::kSkip) continue;
            int64_t sees = kBlockKeys;
            if (use == PageUse::kFarPart) {
                sees = std::popcount(view.parts[part + static_cast<size_t>(t)]);
                part += static_cast<size_t>(rows);
            } else if (use == PageUse::kFarSome &&
                       visibility_of(call, view.stream, view.token0 + t, page) != BlockVisibility::kAll) {
                sees = 0;
            }
            if (sees == 0) continue;
            (*exact)[static_cast<size_t>(page)] = 1;
            left -= sees;
        }
    }
}

/** Makes the most recently written keys exact, in whole pages, those that are exact anyway included in the count. */
void take_window(const Settings& settings, const KeyIndex& index, const std::vector<uint8_t>& keys, TileView* view,
                 std::vector<uint8_t>* exact) {
    thread_local PerThread<std::vector<int64_t>> of_seen;
    std::vector<int64_t>& seen = of_seen.get();
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
    view->newest_page = seen.empty() ? -1 : seen.back();
    // The newest page is seldom full: it does not count.
    int64_t left = settings.window;
    for (auto at = seen.rbegin(); at != seen.rend() && left > 0; ++at) {
        (*exact)[static_cast<size_t>(*at)] = 1;
        if (at != seen.rbegin()) left -= keys[static_cast<size_t>(*at)];
    }
}

}  // namespace

uint64_t visible_cells(const AttentionCall& call, int64_t stream, int64_t token, int64_t page) {
    const int64_t count = page_keys(page, call.n_keys);
    const kernels::Mask& mask = call.args.mask;
    if (!mask.data) return count == kBlockKeys ? kAllKeys : (uint64_t{1} << count) - 1;
    uint64_t cells = 0;
    for (int64_t head = 0; head < mask.n_heads; ++head) {
        const uint16_t* row = call.mask_row(stream, token, head) + page * kBlockKeys;
        for (int64_t i = 0; i < count; ++i) cells |= uint64_t{row[i] != kHidden} << i;
    }
    return cells;
}

int64_t most_visible(const AttentionCall& call) {
    const kernels::Mask& mask = call.args.mask;
    const int64_t n_keys = call.n_keys;
    if (!mask.data) return n_keys;
    const int64_t pages = (n_keys + kBlockKeys - 1) / kBlockKeys;
    int64_t most = 0;
    for (int64_t row = 0; row < mask.n_streams * mask.n_heads * call.args.n_tokens; ++row) {
        const BlockVisibility* seen = mask.summary + row * mask.summary_blocks;
        int64_t count = 0;
        for (int64_t page = 0; page < pages; ++page) count += seen[page] != BlockVisibility::kNone;
        most = std::max(most, std::min(count * kBlockKeys, n_keys));
    }
    return most;
}

void classify_pages(const AttentionCall& call, const Settings& settings, const KeyIndex& index, TileView* view) {
    look(call, view);
    const auto pages = static_cast<int64_t>(view->use.size());
    thread_local PerThread<std::vector<uint8_t>> of_keys, of_exact;
    std::vector<uint8_t>& keys = of_keys.get();
    std::vector<uint8_t>& exact = of_exact.get();
    exact.assign(view->use.size(), 0);
    view->exact = view->visible <= threshold_of(settings, call.args.n_tokens);
    view->newest_page = -1;
    if (view->exact) {
        exact.assign(view->use.size(), 1);
    } else {
        count_keys(call, *view, &keys);
        take_sinks(call, settings, *view, &exact);
        take_window(settings, index, keys, view, &exact);
    }
    view->far_pages = 0;
    view->exact_keys.clear();
    view->selected_from.clear();
    const auto rows = static_cast<size_t>(tokens_of(call, *view));
    size_t from = 0;
    size_t to = 0;
    for (int64_t page = 0; page < pages; ++page) {
        PageUse& use = view->use[static_cast<size_t>(page)];
        if (use == PageUse::kSkip) continue;
        const bool part = use == PageUse::kFarPart;
        const size_t parts = from;
        if (part) from += rows;
        if (exact[static_cast<size_t>(page)] == 0) {
            // Parts of pages that stay, moved together.
            if (part) {
                std::copy_n(view->parts.begin() + static_cast<std::ptrdiff_t>(parts), rows,
                            view->parts.begin() + static_cast<std::ptrdiff_t>(to));
                to += rows;
            }
            view->far_pages += is_far(use);
            view->selected_from.push_back(static_cast<int32_t>(page));
            continue;
        }
        use = PageUse::kExact;
        const int64_t key = page * kBlockKeys;
        std::vector<KeyRange>& ranges = view->exact_keys;
        if (ranges.empty() || ranges.back().key + ranges.back().count != key) ranges.push_back({key, 0});
        ranges.back().count += page_keys(page, call.n_keys);
    }
    view->parts.resize(to);
}

}  // namespace atlas::attention
