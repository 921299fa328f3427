#include "attention/plan/mask_plan.h"

#include <gtest/gtest.h>

#include "fixture.h"

namespace atlas::attention {
namespace {

Settings settings() {
    Settings s = bare();
    s.sinks = 64;
    s.window = 192;
    return s;
}

void expect_equal(const MaskPlan& plan, const MaskPlan& fresh) {
    ASSERT_EQ(plan.views().size(), fresh.views().size());
    for (size_t i = 0; i < fresh.views().size(); ++i) {
        const TileView& a = plan.views()[i];
        const TileView& b = fresh.views()[i];
        EXPECT_EQ(a.use, b.use);
        EXPECT_EQ(a.far_pages, b.far_pages);
        EXPECT_EQ(a.visible, b.visible);
        EXPECT_EQ(a.newest_page, b.newest_page);
        ASSERT_EQ(a.exact_keys.size(), b.exact_keys.size());
        for (size_t j = 0; j < b.exact_keys.size(); ++j) {
            EXPECT_EQ(a.exact_keys[j].key, b.exact_keys[j].key);
            EXPECT_EQ(a.exact_keys[j].count, b.exact_keys[j].count);
        }
        EXPECT_EQ(a.selected_from, b.selected_from);
        EXPECT_EQ(a.parts, b.parts);
    }
}

/** Makes the plan of the scene as it is now; whether the one before was kept. It must equal one made from nothing. */
bool make(Scene& scene, const KeyIndex& index, MaskPlan* plan) {
    const int64_t tile = scene.args.n_tokens <= kDecodeTokens ? 1 : 16;
    const bool kept = plan->make(scene.call(), index, settings(), tile);
    EXPECT_TRUE(plan->is_for(scene.call()));
    MaskPlan fresh;
    EXPECT_FALSE(fresh.make(scene.call(), index, settings(), tile));
    expect_equal(*plan, fresh);
    return kept;
}

/** Writes a row of every stream, later than all before. */
void write(Scene& scene, int64_t row) {
    scene.clock.advance();
    for (const int64_t page : scene.base_pages) scene.write_row(page * kv::kPageRows + row, 1.0f);
}

class MaskPlanTest : public testing::TestWithParam<std::pair<int64_t, int64_t>> {};
INSTANTIATE_TEST_SUITE_P(TokensAndStreams, MaskPlanTest,
                         testing::Values(std::pair{1, 1}, std::pair{3, 1}, std::pair{1, 2}));

TEST_P(MaskPlanTest, IsKeptWhileTheMaskLooksTheSameAndTheNewestPageIsWritten) {
    Scene scene(8192, GetParam().first, 4, 2, 16, GetParam().second);
    const KeyIndex index = scene.make_index();
    MaskPlan plan;
    write(scene, 8191);
    EXPECT_FALSE(make(scene, index, &plan));
    EXPECT_TRUE(make(scene, index, &plan));
    write(scene, 8150);
    EXPECT_TRUE(make(scene, index, &plan));
    write(scene, 8140);
    EXPECT_TRUE(make(scene, index, &plan));
}

TEST_P(MaskPlanTest, FollowsTheOrderOfWrites) {
    Scene scene(8192, GetParam().first, 4, 2, 16, GetParam().second);
    const KeyIndex index = scene.make_index();
    MaskPlan plan;
    write(scene, 8191);
    make(scene, index, &plan);
    // Another page becomes the newest one, and then pushes older ones out of the window.
    for (const int64_t row : {1000, 5000, 1001, 8191, 2000, 3000, 4000}) {
        write(scene, row);
        EXPECT_FALSE(make(scene, index, &plan)) << row;
        write(scene, row);
        EXPECT_TRUE(make(scene, index, &plan)) << row;
    }
}

TEST_P(MaskPlanTest, FollowsTheMask) {
    Scene scene(8192, GetParam().first, 4, 2, 16, GetParam().second);
    const KeyIndex index = scene.make_index();
    MaskPlan plan;
    make(scene, index, &plan);
    scene.mask[4000] = 0xFC00;
    scene.summarize();
    EXPECT_FALSE(make(scene, index, &plan));
    for (size_t key = 1024; key < 2048; ++key) scene.mask[key] = 0xFC00;
    scene.summarize();
    EXPECT_FALSE(make(scene, index, &plan));
    EXPECT_TRUE(make(scene, index, &plan));
    // The summary says that a part of the page is seen; which part is another question.
    scene.mask[4000] = 0;
    scene.mask[4001] = 0xFC00;
    scene.summarize();
    EXPECT_FALSE(make(scene, index, &plan));
    // A page that nobody sees may be written.
    if (GetParam().first == 1) {
        scene.clock.advance();
        scene.write_row(1100, 1.0f);
        EXPECT_TRUE(make(scene, index, &plan));
    }
}

TEST(MaskPlan, IsNotKeptForAnotherIndexOrManyTokens) {
    Scene scene(8192, 1), other(8192, 1), prompt(8192, 80);
    const KeyIndex index = scene.make_index();
    const KeyIndex of_other = other.make_index();
    const KeyIndex of_prompt = prompt.make_index();
    MaskPlan plan;
    make(scene, index, &plan);
    EXPECT_TRUE(plan.is_of(index));
    EXPECT_FALSE(make(other, of_other, &plan));
    EXPECT_FALSE(plan.is_of(index));
    EXPECT_FALSE(make(prompt, of_prompt, &plan));
    EXPECT_FALSE(make(prompt, of_prompt, &plan));
}

/** One engine from token to token, as against one made for each. */
TEST(MaskPlan, DecodingGivesWhatAFreshEngineGives) {
    Scene scene(4096, 1);
    Settings s = settings();
    s.floor = s.budget = 256;
    KeyIndex index = scene.make_index();
    KeyIndex fresh_index = scene.make_index();
    Engine engine(s);
    for (int64_t token = 0; token < 100; ++token) {
        // Written again and again, cell by cell, as a ring would be.
        write(scene, (3900 + 3 * token) % 4096);
        for (float& x : scene.q) x = scene.normal(scene.random);
        engine.begin_graph();
        std::fill(scene.out.begin(), scene.out.end(), NAN);
        ASSERT_TRUE(engine.attend(scene.call(5), index, 2).is_ok());
        const std::vector<float> kept = scene.out;
        ASSERT_LT(nmse(kept, scene.attend(s, fresh_index)), 1e-9) << token;
    }
}

}  // namespace
}  // namespace atlas::attention
