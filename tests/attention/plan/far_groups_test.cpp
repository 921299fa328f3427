#include "attention/plan/far_groups.h"

#include <gtest/gtest.h>

#include <random>

#include "fixture.h"

namespace atlas::attention {
namespace {

struct Grouped {
    std::vector<TileView> views;
    FarGroups groups;
};

Grouped group(Scene& scene, const Settings& settings, int64_t tile, int64_t max_pages = 8) {
    const KvIndex index = scene.make_index(32);
    Grouped out;
    for (int64_t stream = 0; stream < scene.args.n_stream; ++stream) {
        for (int64_t token = 0; token < scene.args.n_tokens; token += tile) {
            TileView view;
            view.stream = stream;
            view.token0 = token;
            view.tokens = std::min(tile, scene.args.n_tokens - token);
            view.base_page = scene.base_pages[static_cast<size_t>(stream)];
            classify_pages(scene.args, scene.n_keys, settings, index, &view);
            out.views.push_back(view);
        }
    }
    group_far_pages(scene.args, index, max_pages, &out.views, &out.groups);
    return out;
}

std::vector<std::pair<int64_t, int32_t>> pages_of(const Grouped& grouped) {
    std::vector<std::pair<int64_t, int32_t>> out;
    for (const FarGroup& g : grouped.groups.groups) out.emplace_back(g.page, g.count);
    return out;
}

/** Every far page lies in one group, groups are aligned, and a token sees a group whole or not at all. */
void expect_sound(const Scene& scene, const Grouped& grouped) {
    std::vector<int> covered(static_cast<size_t>(scene.args.n_stream * scene.n_keys / 64), 0);
    for (const FarGroup& g : grouped.groups.groups) {
        EXPECT_EQ(g.page % g.count, 0);
        for (int64_t page = g.page; page < g.page + g.count; ++page) {
            ++covered[static_cast<size_t>(page)];
            for (const TileView& view : grouped.views) {
                if (view.stream != g.stream) continue;
                const int64_t first = g.page - view.base_page;
                EXPECT_EQ(view.use[static_cast<size_t>(page - view.base_page)], view.use[static_cast<size_t>(first)]);
                if (!is_far(view.use[static_cast<size_t>(first)])) continue;
                for (int64_t token = view.token0; token < view.token0 + view.tokens; ++token)
                    EXPECT_EQ(visibility_of(scene.args, view.stream, token, page - view.base_page),
                              visibility_of(scene.args, view.stream, token, first));
            }
        }
    }
    for (const TileView& view : grouped.views) {
        int64_t lanes = 0;
        for (const FarPanel& panel : view.panels) {
            for (int64_t lane = 0; lane < 16; ++lane) {
                const int64_t page = panel.panel * 8 + lane / 2 - view.base_page;
                const bool far = page >= 0 && page < static_cast<int64_t>(view.use.size()) &&
                                 is_far(view.use[static_cast<size_t>(page)]);
                EXPECT_EQ((panel.lanes >> lane & 1) != 0, far);
                lanes += far;
                if (panel.whole) {
                    EXPECT_EQ(view.use[static_cast<size_t>(page)], PageUse::kFar);
                }
            }
        }
        EXPECT_EQ(lanes, 2 * view.far_pages);
        for (size_t page = 0; page < view.use.size(); ++page) {
            if (is_far(view.use[page])) {
                EXPECT_EQ(covered[static_cast<size_t>(view.base_page) + page], 1);
            }
        }
    }
    size_t next = 0;
    for (const FarChunk& chunk : grouped.groups.chunks) {
        EXPECT_EQ(chunk.first, next);
        next = chunk.end;
        for (size_t i = chunk.first; i < chunk.end; ++i)
            EXPECT_EQ(grouped.groups.groups[i].page / kv::kChunkPages, chunk.number);
    }
    EXPECT_EQ(next, grouped.groups.groups.size());
}

TEST(FarGroups, AreAsLargeAsAlignmentSinksAndWindowAllow) {
    Scene scene(2048, 1);
    const Grouped grouped = group(scene, bare(), 1);
    expect_sound(scene, grouped);
    // Page 0 is the sink; the window begins at page 30.
    EXPECT_EQ(pages_of(grouped),
              (std::vector<std::pair<int64_t, int32_t>>{{1, 1}, {2, 2}, {4, 4}, {8, 8}, {16, 8}, {24, 4}, {28, 2}}));
    const Grouped single = group(scene, bare(), 1, 1);
    EXPECT_EQ(single.groups.groups.size(), 29u);
}

TEST(FarGroups, TilesThatSeeLessSplitOnlyWhatTheySeeInPart) {
    Scene scene(2048, 128);
    const Grouped grouped = group(scene, bare(), 32);
    expect_sound(scene, grouped);
    EXPECT_EQ(pages_of(grouped)[3], (std::pair<int64_t, int32_t>{8, 8}));
}

TEST(FarGroups, PagesOfDifferentSequencesAreNeverGroupedTogether) {
    Scene scene(1024, 4);
    // Tokens 0 and 1 see the first 5 pages of every 8, tokens 2 and 3 the others.
    for (int64_t token = 0; token < 4; ++token) {
        for (int64_t key = 0; key < 1024 - 128; ++key) {
            if ((key / 64 % 8 < 5) != (token < 2)) scene.mask[static_cast<size_t>(token * 1024 + key)] = 0xFC00;
        }
    }
    scene.summarize();
    for (const int64_t tile : {1, 4}) {
        const Grouped grouped = group(scene, bare(), tile);
        expect_sound(scene, grouped);
        EXPECT_GT(grouped.groups.groups.size(), 4u);
    }
}

TEST(FarGroups, AreSoundForAnyMaskOfWholePages) {
    std::mt19937 random(5);
    for (int round = 0; round < 20; ++round) {
        Scene scene(1024, 12, 4, 2, 16, 2, static_cast<uint32_t>(round));
        for (int64_t row = 0; row < 24; ++row) {
            for (int64_t page = 0; page < 14; ++page) {
                if (random() % 6 != 0) continue;
                for (int64_t key = page * 64; key < page * 64 + 64; ++key)
                    scene.mask[static_cast<size_t>(row * 1024 + key)] = 0xFC00;
            }
        }
        scene.summarize();
        expect_sound(scene, group(scene, bare(), 1 + round % 12));
    }
}

TEST(FarGroups, HashesTellGroupingsApart) {
    Scene one(2048, 1);
    Scene other(2048, 1);
    other.mask[700] = 0xFC00;
    other.summarize();
    const Grouped a = group(one, bare(), 1);
    const Grouped b = group(other, bare(), 1);
    ASSERT_EQ(a.groups.chunks.size(), b.groups.chunks.size());
    EXPECT_NE(a.groups.chunks[0].hash, b.groups.chunks[0].hash);
    EXPECT_EQ(a.groups.chunks[0].hash, group(one, bare(), 1).groups.chunks[0].hash);
}

}  // namespace
}  // namespace atlas::attention
