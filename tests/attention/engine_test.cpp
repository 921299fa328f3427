#include "attention/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <tuple>

#include "attention/stats.h"
#include "fixture.h"

namespace atlas::attention {
namespace {

TEST(Engine, BelowTheThresholdItIsThePlainPathBitForBit) {
    Scene scene(1024, 3);
    KeyIndex index = scene.make_index();
    AttentionCall call = scene.call();
    std::vector<float> plain(scene.out.size());
    call.args.out = plain.data();
    ASSERT_TRUE(Engine({}).exact(call, 2).is_ok());
    Settings settings;
    settings.mode = Mode::kSparse;
    const auto out = scene.attend(settings, index);
    EXPECT_EQ(std::memcmp(out.data(), plain.data(), out.size() * 4), 0);
}

struct Case {
    int64_t tokens;
    int64_t streams;
};

class EngineTest : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Shapes, EngineTest,
                         testing::Values(Case{1, 1}, Case{1, 2}, Case{4, 1}, Case{70, 1}, Case{133, 2}));

TEST_P(EngineTest, ABudgetThatCoversEverythingIsExact) {
    const Case c = GetParam();
    Scene scene(2048, c.tokens, 4, 2, 16, c.streams);
    KeyIndex index = scene.make_index();
    Settings settings = bare();
    settings.floor = settings.budget = 1 << 20;
    EXPECT_LT(nmse(scene.attend(settings, index), scene.exact()), 1e-10);
}

/** Without room for the index attention is exact, and says so; what it took goes back with it. */
TEST(Engine, WithoutRoomForTheIndexItIsExact) {
    Scene scene(2048, 3);
    kv::Budget budget(1000);
    {
        KeyIndex index = scene.make_index(&budget);
        Engine engine(bare());
        ASSERT_TRUE(engine.attend(scene.call(), index, 2).is_ok());
        EXPECT_FALSE(engine.indexed());
        EXPECT_LT(nmse(scene.out, scene.exact()), 1e-10);
        EXPECT_EQ(engine.totals().exact_calls, 1u);
        budget.set_limit(1 << 20);
        ASSERT_TRUE(engine.attend(scene.call(), index, 2).is_ok());
        EXPECT_TRUE(engine.indexed());
        EXPECT_EQ(engine.totals().exact_calls, 1u);
        EXPECT_GT(budget.in_use(), 2048u / 64 * 2 * 300);
        EXPECT_LE(budget.in_use(), index.bytes());
    }
    EXPECT_EQ(budget.in_use(), 0u);
}

TEST_P(EngineTest, TheEstimateIsCloserThanDropping) {
    const Case c = GetParam();
    Scene scene(2048, c.tokens, 4, 2, 16, c.streams);
    KeyIndex index = scene.make_index();
    const auto exact = scene.exact();
    Settings settings = bare();
    settings.floor = settings.budget = 256;
    const double estimate = nmse(scene.attend(settings, index), exact);
    settings.rest = Rest::kDrop;
    const double drop = nmse(scene.attend(settings, index), exact);
    EXPECT_LT(estimate, 0.5 * drop);
    settings.mode = Mode::kWindow;
    EXPECT_GT(nmse(scene.attend(settings, index), exact), drop);
}

/** Leaving the rest out is less work than estimating it; once it had been calibrated anew for every token. */
TEST(Engine, DroppingCostsNoMoreThanTheEstimate) {
    Scene scene(4096, 1);
    KeyIndex index = scene.make_index();
    Settings settings = bare();
    settings.floor = settings.budget = 64;
    const auto best_of = [&](Rest rest) {
        settings.rest = rest;
        Engine engine(settings);
        double best = std::numeric_limits<double>::infinity();
        for (int run = 0; run < 50; ++run) {
            const auto start = std::chrono::steady_clock::now();
            EXPECT_TRUE(engine.attend(scene.call(), index, 1).is_ok());
            if (run > 0)
                best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
        }
        return best;
    };
    const double estimate = best_of(Rest::kEstimate);
    EXPECT_LT(best_of(Rest::kDrop), 1.5 * estimate);
}

TEST_P(EngineTest, ThreadsDoNotChangeTheResult) {
    const Case c = GetParam();
    Scene scene(2048, c.tokens, 4, 2, 16, c.streams);
    KeyIndex first = scene.make_index();
    KeyIndex second = scene.make_index();
    Settings settings = bare();
    settings.floor = settings.budget = 128;
    for (int call = 0; call < 3; ++call) {
        const auto one = scene.attend(settings, first, 1);
        EXPECT_LT(nmse(scene.attend(settings, second, 3), one), 1e-11) << "call " << call;
    }
}

TEST(Engine, FindsAPlantedKey) {
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
    KeyIndex index = scene.make_index();
    Settings settings = bare();
    settings.floor = settings.budget = 64;
    EXPECT_LT(nmse(scene.attend(settings, index), scene.exact()), 1e-3);
}

/** Exact attention reads a key once for all tokens of a batch, which pays up to twice the threshold. */
TEST(Engine, BatchesAreExactUpToTwiceTheThreshold) {
    Settings settings = bare();
    settings.threshold = 1024;
    for (const auto& [keys, tokens, exact] : {std::tuple{2048, 16, true},
                                              {2048, 64, true},
                                              {2176, 16, false},
                                              {1024, 1, true},
                                              {1088, 1, false},
                                              {1536, 8, true},
                                              {1600, 8, false},
                                              {1408, 200, true},
                                              {2176, 200, false}}) {
        Scene scene(keys, tokens);
        KeyIndex index = scene.make_index();
        AttentionCall call = scene.call();
        std::vector<float> plain(scene.out.size());
        call.args.out = plain.data();
        ASSERT_TRUE(Engine({}).exact(call, 2).is_ok());
        const auto out = scene.attend(settings, index);
        EXPECT_EQ(std::memcmp(out.data(), plain.data(), out.size() * 4) == 0, exact) << keys << " keys, " << tokens;
    }
}

/** A key that is not finite must show, as it does in exact attention, and only to those who see it. */
TEST(Engine, ReadsPagesThatAreNotFinite) {
    Scene scene(4096, 1, 2, 2);
    const float bad = NAN;
    ASSERT_TRUE(scene.v.write(1000 * 128, &bad, sizeof bad).is_ok());  // the first head's
    KeyIndex index = scene.make_index();
    const auto out = scene.attend(bare(), index);
    EXPECT_TRUE(std::isnan(out[0]));
    EXPECT_TRUE(std::isfinite(out[16]));
}

/** Sequences whose cells alternate, as parallel slots of one cache: selected key by key. */
TEST(Engine, AlternatingCellsAreSparseToo) {
    Scene scene(8192, 4);
    for (int64_t token = 0; token < 4; ++token) {
        for (int64_t key = 0; key < 8192; ++key)
            scene.mask[static_cast<size_t>(token * 8192 + key)] = key % 4 == token ? 0 : 0xFC00;
    }
    scene.summarize();
    KeyIndex index = scene.make_index();
    Settings settings = bare();
    settings.floor = settings.budget = 1 << 20;
    EXPECT_LT(nmse(scene.attend(settings, index), scene.exact()), 1e-10);
    settings.floor = settings.budget = 256;
    Engine engine(settings);
    ASSERT_TRUE(engine.attend(scene.call(5), index, 2).is_ok());
    EXPECT_EQ(engine.totals().exact_calls, 0u);
    EXPECT_LT(engine.totals().exact_keys, 0.5 * engine.totals().visible_keys);
    EXPECT_LT(nmse(scene.out, scene.exact()), 0.1);
}

/** More parts of a page in one call than the index keeps from call to call: many sequences, and tokens of a batch that no window makes exact. */
TEST(Engine, EveryTokenMaySeeAnotherPartOfAPage) {
    constexpr int64_t kTokens = 40, kKeys = 1024;
    Scene scene(kKeys, kTokens);
    const auto set_sequences = [&](int64_t first) {
        for (int64_t token = 0; token < kTokens; ++token) {
            for (int64_t key = 0; key < kKeys; ++key)
                scene.mask[static_cast<size_t>(token * kKeys + key)] = (key + first) % 64 <= token ? 0 : 0xFC00;
        }
        scene.summarize();
    };
    KeyIndex index = scene.make_index();
    Settings settings = bare();
    const auto expect_better_than_dropping = [&](const std::vector<float>& estimated) {
        Settings dropping = settings;
        dropping.rest = Rest::kDrop;
        const std::vector<float> exact = scene.exact();
        EXPECT_LT(nmse(estimated, exact), nmse(scene.attend(dropping, index), exact));
    };
    for (const int64_t first : {0, 7, 0}) {
        set_sequences(first);
        KeyIndex fresh = scene.make_index();
        const auto expected = scene.attend(settings, fresh);
        expect_better_than_dropping(expected);
        EXPECT_EQ(scene.attend(settings, index), expected) << first;
    }
    scene.set_causal();
    settings.sinks = settings.window = 0;
    expect_better_than_dropping(scene.attend(settings, index));
}

/** Features of models: with all keys selected they give what exact attention gives, and with few, something close. */
struct Feature {
    const char* name;
    void (*set)(Scene& scene);
};
class EngineFeatureTest : public testing::TestWithParam<Feature> {};
INSTANTIATE_TEST_SUITE_P(
    Features, EngineFeatureTest,
    testing::Values(Feature{"sinks",
                            [](Scene& scene) {
                                static const float sinks[] = {1.0f, 4.0f, -2.0f, 7.0f};
                                scene.args.sinks = sinks;
                            }},
                    Feature{"softcap", [](Scene& scene) { scene.args.softcap = 3.0f; }},
                    Feature{"alibi",
                            [](Scene& scene) {
                                scene.args.max_bias = 8.0f;
                                for (int64_t row = 0; row < scene.args.n_tokens; ++row) {
                                    for (int64_t key = 0; key < scene.n_keys; ++key) {
                                        uint16_t& at = scene.mask[static_cast<size_t>(row * scene.n_keys + key)];
                                        if (at != 0xFC00)
                                            at = kernels::f32_to_f16(
                                                -0.01f *
                                                static_cast<float>(scene.n_keys - scene.args.n_tokens + row - key));
                                    }
                                }
                                scene.summarize();
                            }}),
    [](const auto& feature) { return feature.param.name; });

TEST_P(EngineFeatureTest, IsSparseAndRight) {
    for (const int64_t tokens : {1, 70}) {
        Scene scene(4096, tokens);
        GetParam().set(scene);
        KeyIndex index = scene.make_index();
        Settings settings = bare();
        settings.floor = settings.budget = 1 << 20;
        EXPECT_LT(nmse(scene.attend(settings, index), scene.exact()), 1e-10) << tokens;
        settings.floor = settings.budget = 256;
        Engine engine(settings);
        ASSERT_TRUE(engine.attend(scene.call(5), index, 2).is_ok());
        EXPECT_LT(engine.totals().exact_keys, 0.5 * engine.totals().visible_keys) << tokens;
        const std::vector<float> exact = scene.exact();
        const double estimated = nmse(scene.out, exact);
        settings.rest = Rest::kDrop;
        EXPECT_LT(estimated, 0.5 * nmse(scene.attend(settings, index), exact)) << tokens;
    }
}

TEST(Engine, SeesKeysThatWereOverwritten) {
    Scene scene(2048, 1);
    KeyIndex index = scene.make_index();
    const auto before = scene.attend(bare(), index);
    for (int64_t row = 256; row < 768; ++row) scene.write_row(row, 2.0f);
    KeyIndex fresh = scene.make_index();
    const auto expected = scene.attend(bare(), fresh);
    EXPECT_EQ(scene.attend(bare(), index), expected);
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
    KeyIndex index = scene.make_index();
    const auto before = scene.attend(bare(), index);
    for (int64_t row = 2200; row < 3000; ++row) scene.write_row(row, 5.0f);
    const auto after = scene.attend(bare(), index);
    const size_t half = before.size() / 2;
    EXPECT_EQ(std::vector<float>(before.begin(), before.begin() + static_cast<std::ptrdiff_t>(half)),
              std::vector<float>(after.begin(), after.begin() + static_cast<std::ptrdiff_t>(half)));
    EXPECT_NE(std::vector<float>(before.begin() + static_cast<std::ptrdiff_t>(half), before.end()),
              std::vector<float>(after.begin() + static_cast<std::ptrdiff_t>(half), after.end()));
}

TEST(Engine, IsExactByDefaultAndBelowTheThreshold) {
    Scene scene(8192, 1);
    Settings settings;
    EXPECT_FALSE(Engine(settings).wants_index(scene.call())) << "the default mode is exact";
    settings.mode = Mode::kSparse;
    const Engine engine{settings};
    EXPECT_TRUE(engine.wants_index(scene.call()));
    EXPECT_FALSE(engine.wants_index(Scene(4096, 1).call()));
    AttentionCall elsewhere = scene.call();
    elsewhere.k.pages = nullptr;
    EXPECT_FALSE(engine.wants_index(elsewhere)) << "keys can only be selected from pages";
}

}  // namespace
}  // namespace atlas::attention
