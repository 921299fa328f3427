#include "attention/plan/visibility.h"

#include <gtest/gtest.h>

#include "fixture.h"

namespace atlas::attention {
namespace {

std::vector<PageUse> classify(Scene& scene, const Settings& settings, int64_t token0, int64_t tokens) {
    const KeyIndex index = scene.make_index();
    TileView view;
    view.token0 = token0;
    view.tokens = tokens;
    classify_pages(scene.call(), settings, index, &view);
    return view.use;
}

TEST(Visibility, SinksWindowAndDiagonalAreExactTheFutureIsSkipped) {
    Scene scene(1024, 100);
    const auto use = classify(scene, bare(), 0, 32);
    EXPECT_EQ(use[0], PageUse::kExact);
    EXPECT_EQ(use[1], PageUse::kFar);
    EXPECT_EQ(use[14], PageUse::kExact);  // keys 896…959 hold the diagonal of tokens 0…31: 924…955
    EXPECT_EQ(use[13], PageUse::kExact);  // window
    EXPECT_EQ(use[15], PageUse::kSkip);
}

TEST(Visibility, APartlyVisiblePageIsSelectedFromKeyByKey) {
    Scene scene(1024, 4);
    scene.mask[2 * 1024 + 300] = 0xFC00;  // hidden to token 2
    scene.mask[1 * 1024 + 400] = 0x2C00;  // a bias for token 1
    for (int64_t key = 512; key < 576; ++key)
        scene.mask[static_cast<size_t>(3 * 1024 + key)] = 0xFC00;  // token 3 sees nothing of page 8
    scene.summarize();
    const KeyIndex index = scene.make_index();
    TileView view;
    view.tokens = 4;
    classify_pages(scene.call(), bare(), index, &view);
    EXPECT_EQ(view.use[300 / 64], PageUse::kFarPart);
    EXPECT_EQ(view.use[400 / 64], PageUse::kFarPart);
    EXPECT_EQ(view.use[8], PageUse::kFarSome);
    EXPECT_EQ(view.use[3], PageUse::kFar);
    constexpr uint64_t kAll = ~uint64_t{0};
    EXPECT_EQ(view.parts, (std::vector<uint64_t>{kAll, kAll, kAll & ~(uint64_t{1} << 300 % 64), kAll, kAll, kAll, kAll, kAll}));
    EXPECT_EQ(view.selected_from, (std::vector<int32_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}));
}

/** Four sequences whose cells alternate: a window of 128 keys of one spans eight pages, and sinks of 32 two. */
TEST(Visibility, WindowAndSinksCountTheKeysThatAreSeen) {
    Scene scene(2048, 1);
    for (int64_t key = 0; key < 2048; ++key) scene.mask[static_cast<size_t>(key)] = key % 4 == 1 ? 0 : 0xFC00;
    scene.summarize();
    Settings settings = bare();
    settings.sinks = 32;
    settings.window = 128;
    const KeyIndex index = scene.make_index();
    TileView view;
    view.tokens = 1;
    classify_pages(scene.call(), settings, index, &view);
    EXPECT_EQ(view.visible, 512);
    EXPECT_EQ(view.far_pages, 0);
    int64_t exact = 0;
    for (const PageUse use : view.use) exact += use == PageUse::kExact;
    EXPECT_EQ(exact, 2 + 8 + 1) << "and the newest page, which is seldom full";
    for (const uint64_t part : view.parts) EXPECT_EQ(part, 0x2222222222222222ULL);
    EXPECT_EQ(view.parts.size(), view.selected_from.size());
}

TEST(Visibility, TheWindowFollowsTheOrderOfWriting) {
    Scene scene(1024, 1);
    scene.clock.advance();
    scene.write_row(5 * 64 + 7, 1.0f);  // a recycled cell
    const auto use = classify(scene, bare(), 0, 1);
    EXPECT_EQ(use[5], PageUse::kExact);
    EXPECT_EQ(use[4], PageUse::kFar);
}

TEST(Visibility, BelowTheThresholdEverythingIsExact) {
    Scene scene(1024, 1);
    Settings settings = bare();
    settings.threshold = 1024;
    for (const PageUse use : classify(scene, settings, 0, 1)) EXPECT_EQ(use, PageUse::kExact);
}

}  // namespace
}  // namespace atlas::attention
