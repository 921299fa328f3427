#include "attention/plan/kept_keys.h"

#include <gtest/gtest.h>

#include <random>

#include "attention/engine.h"
#include "fixture.h"

namespace atlas::attention {
namespace {

/** Every token sees a random one of `one_of` keys, of the causal ones, and itself; some with a bias. */
void keep_few(Scene& scene, int one_of) {
    std::mt19937 random(7);
    for (size_t i = 0; i < scene.mask.size(); ++i) {
        if (scene.mask[i] == 0xFC00) continue;
        const bool last = (i + 1) % static_cast<size_t>(scene.n_keys) == 0 || scene.mask[i + 1] == 0xFC00;
        if (random() % static_cast<unsigned>(one_of) != 0 && !last)
            scene.mask[i] = 0xFC00;
        else if (random() % 5 == 0)
            scene.mask[i] = 0xBC00;  // −1
    }
    scene.summarize();
}

struct Case {
    int64_t tokens, streams;
};
class KeptKeysTest : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Shapes, KeptKeysTest,
                         testing::Values(Case{1, 1}, Case{1, 2}, Case{7, 1}, Case{7, 2}, Case{64, 1}, Case{150, 1}));

TEST_P(KeptKeysTest, WhatAMaskLeavesIsAllThatIsRead) {
    Scene scene(4096, GetParam().tokens, 4, 2, 16, GetParam().streams);
    scene.set_causal();
    keep_few(scene, 40);
    EXPECT_TRUE(KeptKeys().find(GetParam().tokens <= 64 ? scene.call() : scene.call().tokens(0, 64)));
    std::vector<float> out(scene.out.size(), NAN);
    AttentionCall call = scene.call();
    call.args.out = out.data();
    ASSERT_TRUE(Engine({}).exact(call, 2).is_ok());
    EXPECT_LT(nmse(out, scene.exact()), 1e-10);
    // The first page of K, which a mask hides but for some rows, may hold anything there.
    for (int64_t row = 0; row < 64; ++row) {
        bool hidden = true;
        for (int64_t of = 0; of < scene.args.n_tokens * scene.args.n_stream; ++of)
            hidden = hidden && scene.mask[static_cast<size_t>(of * scene.n_keys + row)] == 0xFC00;
        if (hidden) scene.write_row(row, 1e30f);
    }
    std::vector<float> again(out.size(), NAN);
    call.args.out = again.data();
    ASSERT_TRUE(Engine({}).exact(call, 2).is_ok());
    EXPECT_EQ(out, again);
}

TEST(KeptKeys, OrdinaryMasksAreLeftAlone) {
    Scene scene(4096, 7);
    scene.set_causal();
    EXPECT_FALSE(KeptKeys().find(scene.call()));
    keep_few(scene, 2);  // reading all is sooner done
    EXPECT_FALSE(KeptKeys().find(scene.call()));
    AttentionCall none = scene.call();
    none.args.mask = {};
    EXPECT_FALSE(KeptKeys().find(none));
}

}  // namespace
}  // namespace atlas::attention
