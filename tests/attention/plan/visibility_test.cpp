#include "attention/plan/visibility.h"

#include <gtest/gtest.h>

#include "fixture.h"

namespace atlas::attention {
namespace {

std::vector<PageUse> classify(Scene& scene, const Settings& settings, int64_t token0, int64_t tokens) {
    const KvIndex index = scene.make_index(32);
    TileView view;
    view.token0 = token0;
    view.tokens = tokens;
    classify_pages(scene.args, scene.n_keys, settings, index, &view);
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

TEST(Visibility, APartlyVisiblePageIsNeverFar) {
    Scene scene(1024, 4);
    scene.mask[2 * 1024 + 300] = 0xFC00;  // hidden to token 2
    scene.mask[1 * 1024 + 400] = 0x2C00;  // a bias for token 1
    for (int64_t key = 512; key < 576; ++key)
        scene.mask[static_cast<size_t>(3 * 1024 + key)] = 0xFC00;  // token 3 sees nothing of page 8
    scene.summarize();
    const auto use = classify(scene, bare(), 0, 4);
    EXPECT_EQ(use[300 / 64], PageUse::kExact);
    EXPECT_EQ(use[400 / 64], PageUse::kExact);
    EXPECT_EQ(use[8], PageUse::kFarSome);
    EXPECT_EQ(use[3], PageUse::kFar);
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
