#include "attention/engine.h"

#include <gtest/gtest.h>

#include <cmath>

#include "attention/stats.h"
#include "fixture.h"
#include "kernels/moments.h"

namespace atlas::attention {
namespace {

TEST(Engine, BelowTheThresholdItIsThePlainPathBitForBit) {
    Scene scene(1024, 3);
    KvIndex index = scene.make_index(32);
    std::vector<float> plain(scene.out.size());
    kernels::AttentionArgs args = scene.args;
    args.out = plain.data();
    ASSERT_TRUE(kernels::attention(args, 2).is_ok());
    Settings settings;
    settings.mode = Mode::kSparse;
    const auto out = scene.attend(settings, index);
    EXPECT_EQ(std::memcmp(out.data(), plain.data(), out.size() * 4), 0);
}

struct Case {
    int64_t tokens;
    int64_t streams;
    int block;
};

class EngineTest : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Shapes, EngineTest,
                         testing::Values(Case{1, 1, 32}, Case{1, 2, 16}, Case{4, 1, 64}, Case{70, 1, 32},
                                         Case{33, 2, 32}));

TEST_P(EngineTest, ABudgetThatCoversEverythingIsExact) {
    const Case c = GetParam();
    Scene scene(2048, c.tokens, 4, 2, 16, c.streams);
    KvIndex index = scene.make_index(c.block);
    Settings settings = bare();
    settings.block_keys = c.block;
    settings.floor = settings.cap = 1 << 20;
    EXPECT_LT(nmse(scene.attend(settings, index), scene.exact()), 1e-10);
}

TEST_P(EngineTest, TheEstimateIsCloserThanDropping) {
    const Case c = GetParam();
    Scene scene(2048, c.tokens, 4, 2, 16, c.streams);
    KvIndex index = scene.make_index(c.block);
    const auto exact = scene.exact();
    Settings settings = bare();
    settings.block_keys = c.block;
    settings.floor = settings.cap = 256;
    const double bessel = nmse(scene.attend(settings, index), exact);
    settings.estimate = FarEstimate::kDrop;
    const double drop = nmse(scene.attend(settings, index), exact);
    EXPECT_LT(bessel, 0.5 * drop);
    settings.mode = Mode::kWindow;
    EXPECT_GT(nmse(scene.attend(settings, index), exact), drop);
}

TEST_P(EngineTest, ThreadsDoNotChangeTheResult) {
    const Case c = GetParam();
    Scene scene(2048, c.tokens, 4, 2, 16, c.streams);
    KvIndex first = scene.make_index(c.block);
    KvIndex second = scene.make_index(c.block);
    Settings settings = bare();
    settings.floor = settings.cap = 128;
    settings.probes = 2;
    // The tilts are chosen, and the slopes of the values taken, in one of the later calls.
    for (int call = 0; call < 3; ++call) {
        const auto one = scene.attend(settings, first, 1);
        EXPECT_LT(nmse(scene.attend(settings, second, 3), one), 1e-11) << "call " << call;
    }
}

TEST(Engine, IdenticalKeysInABlockAreEstimatedExactly) {
    // With all keys of a block equal, mean value and first moment are the whole truth: what is left is 8-bit rounding.
    Scene scene(1024, 1);
    std::vector<float> k(32), v(32);
    for (int64_t row = 0; row < 1024; ++row) {
        if (row % 32 == 0) {
            for (float& x : k) x = scene.normal(scene.random);
            for (float& x : v) x = scene.normal(scene.random);
        }
        ASSERT_TRUE(scene.k.write(static_cast<size_t>(row) * 128, k.data(), 128).is_ok());
        ASSERT_TRUE(scene.v.write(static_cast<size_t>(row) * 128, v.data(), 128).is_ok());
    }
    KvIndex index = scene.make_index(32);
    EXPECT_LT(nmse(scene.attend(bare(), index), scene.exact()), 2e-3);
}

TEST(Engine, ProbesReadTheCellsOfTheBlockThatTheyDrew) {
    // Small queries: estimates are nearly exact, and so is the ratio of true to estimated mass, unless other cells are read.
    Scene scene(4096, 1);
    for (float& x : scene.q) x *= 0.1f;
    KvIndex index = scene.make_index(32);
    Settings settings = bare();
    settings.floor = settings.cap = 128;
    settings.probes = 64;
    Engine engine(settings);
    ASSERT_TRUE(engine.attend(scene.args, scene.n_keys, index, {5, scene.base_pages.data()}, 1).is_ok());
    EXPECT_EQ(engine.totals().probes, 2 * 64.0);
    EXPECT_NEAR(engine.totals().probe_ratio / engine.totals().probes, 1.0, 0.02);
    EXPECT_LT(engine.totals().probe_log_squared / engine.totals().probes, 1e-3);
    EXPECT_EQ(engine.totals().grown, 0.0);
}

TEST(Engine, FindsAPlantedKeyByReach) {
    Scene scene(8192, 1, 2, 2);
    std::vector<float> needle(32), value(32);
    for (int64_t head = 0; head < 2; ++head) {
        for (int64_t i = 0; i < 16; ++i) {
            needle[static_cast<size_t>(head * 16 + i)] = 3.0f * scene.q[static_cast<size_t>(head * 16 + i)];
            value[static_cast<size_t>(head * 16 + i)] = 10.0f;
        }
    }
    ASSERT_TRUE(scene.k.write(3333 * 128, needle.data(), 128).is_ok());
    ASSERT_TRUE(scene.v.write(3333 * 128, value.data(), 128).is_ok());
    KvIndex index = scene.make_index(32);
    Settings settings = bare();
    settings.floor = settings.cap = 64;
    settings.reach_share = 0.5;
    EXPECT_LT(nmse(scene.attend(settings, index), scene.exact()), 1e-3);
    settings.beam = 64;  // 16 super-blocks, 4 of which are opened
    EXPECT_LT(nmse(scene.attend(settings, index), scene.exact()), 1e-3);
}

/** Keys selected per list, of at least 64 and at most 512, for queries `factor` times as long and sure that they look at `row`. */
double selected_keys(float factor, int64_t row) {
    Scene scene(4096, 1, 2, 2);
    for (float& x : scene.q) x *= factor;
    if (row >= 0) {
        std::vector<float> key(32);
        for (size_t i = 0; i < 32; ++i) key[i] = 3.0f * scene.q[i];
        EXPECT_TRUE(scene.k.write(static_cast<size_t>(row) * 128, key.data(), 128).is_ok());
    }
    KvIndex index = scene.make_index(32);
    Settings settings = bare();
    settings.floor = 64;
    settings.cap = 512;
    settings.fraction = 1.0;
    settings.block_share = 0.004;
    Engine engine(settings);
    EXPECT_TRUE(engine.attend(scene.args, scene.n_keys, index, {5, scene.base_pages.data()}, 2).is_ok());
    const double all = engine.totals().exact_keys / engine.totals().rows;
    settings.floor = settings.cap = 64;
    Engine least(settings);
    EXPECT_TRUE(least.attend(scene.args, scene.n_keys, index, {5, scene.base_pages.data()}, 2).is_ok());
    return all - least.totals().exact_keys / least.totals().rows + 64;
}

TEST(Engine, ReadsAsManyBlocksAsHoldAShareOfTheAttention) {
    // 124 far blocks seen evenly hold 0.0076 each: below the share once half of the attention is elsewhere.
    EXPECT_EQ(selected_keys(0.01f, -1), 512.0);
    // Some blocks hold nearly everything.
    const double some = selected_keys(4.0f, -1);
    EXPECT_GT(some, 64.0);
    EXPECT_LT(some, 512.0);
    // The last key, which is read in any case, holds nearly everything.
    EXPECT_EQ(selected_keys(4.0f, 4095), 64.0);
}

TEST(Engine, SuperBlocksEstimateTheRest) {
    Scene scene(8192, 1);
    KvIndex index = scene.make_index(32);
    const auto exact = scene.exact();
    Settings settings = bare();
    settings.beam = 64;
    const double supers = nmse(scene.attend(settings, index), exact);
    settings.estimate = FarEstimate::kDrop;
    EXPECT_LT(supers, 0.5 * nmse(scene.attend(settings, index), exact));
}

TEST(Engine, SeesKeysThatWereOverwritten) {
    Scene scene(2048, 1);
    KvIndex index = scene.make_index(32);
    const auto before = scene.attend(bare(), index);
    for (int64_t row = 256; row < 768; ++row) scene.write_row(row, 2.0f);
    scene.build_runs();
    KvIndex fresh = scene.make_index(32);
    const auto expected = scene.attend(bare(), fresh);
    // The offsets of the two indexes come from different keys, so their 8-bit means differ in rounding.
    EXPECT_LT(nmse(scene.attend(bare(), index), expected), 1e-3);
    EXPECT_GT(nmse(before, expected), 1e-2);
}

TEST(Engine, SequencesOfOneCacheDoNotMix) {
    // Two tokens of two sequences in one stream, the cache's halves: each token's answer must not see the other half.
    Scene scene(4096, 2);
    for (int64_t key = 0; key < 4096; ++key) {
        scene.mask[static_cast<size_t>(key)] = key < 2048 ? 0 : 0xFC00;
        scene.mask[static_cast<size_t>(4096 + key)] = key < 2048 ? 0xFC00 : 0;
    }
    scene.summarize();
    KvIndex index = scene.make_index(32);
    const auto before = scene.attend(bare(), index);
    for (int64_t row = 2200; row < 3000; ++row) scene.write_row(row, 5.0f);
    scene.build_runs();
    const auto after = scene.attend(bare(), index);
    const size_t half = before.size() / 2;
    EXPECT_EQ(std::vector<float>(before.begin(), before.begin() + static_cast<std::ptrdiff_t>(half)),
              std::vector<float>(after.begin(), after.begin() + static_cast<std::ptrdiff_t>(half)));
    EXPECT_NE(std::vector<float>(before.begin() + static_cast<std::ptrdiff_t>(half), before.end()),
              std::vector<float>(after.begin() + static_cast<std::ptrdiff_t>(half), after.end()));
}

TEST(Engine, DeclinesWhatHasNoDefinedEstimate) {
    Scene scene(8192, 1);
    Settings settings;
    EXPECT_FALSE(Engine(settings).wants_index(scene.args, 8192)) << "the default mode is exact";
    settings.mode = Mode::kSparse;
    const Engine engine{settings};
    EXPECT_TRUE(engine.wants_index(scene.args, 8192));
    kernels::AttentionArgs args = scene.args;
    args.softcap = 30.0f;
    EXPECT_FALSE(engine.wants_index(args, 8192));
    args = scene.args;
    args.max_bias = 8.0f;
    EXPECT_FALSE(engine.wants_index(args, 8192));
    args = scene.args;
    const float sinks[4] = {};
    args.sinks = sinks;
    EXPECT_FALSE(engine.wants_index(args, 8192));
    EXPECT_FALSE(engine.wants_index(scene.args, 4096));
}

TEST(LogBessel, FollowsTheSeries) {
    for (const double z : {0.0, 0.1, 0.7, 1.5, 3.0, 6.0, 12.0, 18.0}) {
        double term = 1.0;
        double sum = 1.0;
        for (int n = 1; n < 200; ++n) {
            term *= z * z / 4.0 / (static_cast<double>(n) * n);
            sum += term;
        }
        EXPECT_NEAR(static_cast<double>(kernels::log_bessel_i0(static_cast<float>(z))), std::log(sum), 0.01) << z;
    }
}

}  // namespace
}  // namespace atlas::attention
