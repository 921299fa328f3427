#include "attention/plan/far_groups.h"

#include <algorithm>

namespace atlas::attention {
namespace {

uint64_t fold(uint64_t hash, uint64_t x) {
    hash = (hash ^ x) * 0x9E3779B97F4A7C15ULL;
    return hash ^ hash >> 32;
}

/** How the tokens of all tiles see one page; 0: nobody as a far one. */
struct Pattern {
    uint64_t hash = 0;
    int64_t stream = 0;
};

void add_view(const kernels::AttentionArgs& args, const TileView& view, uint64_t number, Pattern* patterns) {
    for (size_t page = 0; page < view.use.size(); ++page) {
        const PageUse use = view.use[page];
        if (!is_far(use)) continue;
        Pattern& pattern = patterns[page];
        pattern.stream = view.stream;
        pattern.hash = fold(pattern.hash, 2 * number + 1) | 1;
        if (use == PageUse::kFar) continue;
        for (int64_t token = view.token0; token < view.token0 + view.tokens; ++token) {
            if (visibility_of(args, view.stream, token, static_cast<int64_t>(page)) == kernels::BlockVisibility::kAll)
                pattern.hash = fold(pattern.hash, 2 * static_cast<uint64_t>(token)) | 1;
        }
    }
}

void list_panels(const KvIndex& index, TileView* view) {
    const int64_t bpp = index.blocks_per_page();
    const int64_t per_panel = index.pages_per_super();
    view->panels.clear();
    for (size_t page = 0; page < view->use.size(); ++page) {
        const PageUse use = view->use[page];
        if (!is_far(use)) continue;
        const int64_t absolute = view->base_page + static_cast<int64_t>(page);
        const int64_t panel = absolute / per_panel;
        if (view->panels.empty() || view->panels.back().panel != panel) view->panels.push_back({panel, 0, true, false});
        FarPanel& last = view->panels.back();
        last.lanes = static_cast<uint16_t>(last.lanes | ((1u << bpp) - 1) << absolute % per_panel * bpp);
        last.all_tokens = last.all_tokens && use == PageUse::kFar;
        last.whole = last.all_tokens && last.lanes == 0xFFFF;
    }
}

void add_group(const FarGroup& group, FarGroups* out) {
    const int64_t number = group.page / kv::kChunkPages;
    if (out->chunks.empty() || out->chunks.back().number != number)
        out->chunks.push_back({number, out->groups.size(), out->groups.size(), 1});
    FarChunk& chunk = out->chunks.back();
    out->groups.push_back(group);
    chunk.end = out->groups.size();
    for (const int64_t x : {group.page, group.stream, int64_t{group.count}})
        chunk.hash = fold(chunk.hash, static_cast<uint64_t>(x));
}

}  // namespace

void group_far_pages(const kernels::AttentionArgs& args, const KvIndex& index, int64_t max_pages,
                     std::vector<TileView>* views, FarGroups* out) {
    out->groups.clear();
    out->chunks.clear();
    if (views->empty()) return;
    int64_t begin = INT64_MAX;
    int64_t end = 0;
    for (const TileView& view : *views) {
        begin = std::min(begin, view.base_page);
        end = std::max(end, view.base_page + static_cast<int64_t>(view.use.size()));
    }
    begin -= begin % max_pages;
    end = (end + max_pages - 1) / max_pages * max_pages;
    std::vector<Pattern> patterns(static_cast<size_t>(end - begin));
    for (size_t i = 0; i < views->size(); ++i) {
        TileView& view = (*views)[i];
        add_view(args, view, i, patterns.data() + (view.base_page - begin));
        list_panels(index, &view);
    }
    for (int64_t page = begin; page < end;) {
        const Pattern& first = patterns[static_cast<size_t>(page - begin)];
        int64_t count = 1;
        const auto alike = [&](int64_t from, int64_t to) {
            return std::all_of(patterns.begin() + (from - begin), patterns.begin() + (to - begin),
                               [&](const Pattern& other) { return other.hash == first.hash; });
        };
        while (count < max_pages && page % (2 * count) == 0 && alike(page + count, page + 2 * count)) count *= 2;
        if (first.hash != 0) add_group({page, first.stream, static_cast<int32_t>(count)}, out);
        page += count;
    }
}

}  // namespace atlas::attention
