#include <gtest/gtest.h>

#include "attention/correct/far_memory.h"
#include "attention/stats.h"
#include "fixture.h"

namespace atlas::attention {
namespace {

MemoryOptions blend(double ratio) {
    MemoryOptions options;
    options.enabled = true;
    options.mode = MemoryMode::kBlend;
    options.blend_ratio = ratio;
    options.warm_up = 64;
    options.chunk = 64;
    return options;
}

std::vector<float> attend(Scene& scene, KeyIndex& index, Engine& engine, int calls = 1) {
    for (int i = 0; i < calls; ++i)
        EXPECT_TRUE(engine.attend(scene.call(3), index, 1).is_ok());
    return scene.out;
}

class BlendTest : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Tokens, BlendTest, testing::Values(1, 40));

/** out(r) = (1 − r)·attention + r·M(q), and out(1) is M(q). */
TEST_P(BlendTest, MixesInTheGivenRatio) {
    for (const Mode mode : {Mode::kSparse, Mode::kWindow}) {
        for (const FarMemoryKind kind : {FarMemoryKind::kLeastSquares, FarMemoryKind::kDeep}) {
            Scene scene(1024, GetParam());
            Settings settings = bare();
            settings.mode = mode;
            KeyIndex index = scene.make_index();
            const auto with = [&](double ratio) {
                MemoryOptions options = blend(ratio);
                options.kind = kind;
                Engine engine(settings, options);
                return attend(scene, index, engine, 10);
            };
            Engine without(settings);
            // Enough queries first for the tilts to be chosen: the estimate stays the same from then on.
            const std::vector<float> attention = attend(scene, index, without, 64);
            const std::vector<float> memory = with(1.0);
            const std::vector<float> tenth = with(0.1);
            EXPECT_EQ(with(0.0), attention);
            EXPECT_GT(nmse(memory, attention), 1e-3);
            for (size_t i = 0; i < tenth.size(); ++i)
                ASSERT_NEAR(tenth[i], 0.9f * attention[i] + 0.1f * memory[i], 1e-5f) << i;
        }
    }
}

TEST_P(BlendTest, WithoutAFarPartNothingChanges) {
    Scene scene(1024, GetParam());
    Settings settings = bare();
    settings.window = 1024;
    KeyIndex index = scene.make_index();
    Engine with(settings, blend(0.1)), without(settings);
    const std::vector<float> expected = attend(scene, index, without);
    EXPECT_EQ(attend(scene, index, with, 10), expected);
    EXPECT_EQ(with.memory().stats().memories, 0u);
}

/** Values that follow their keys: asked with a key, the memory answers with its value, from cells that were never probed. */
TEST(Blend, LearnsWhatLeftTheWindow) {
    Scene scene(1024, 1, 2, 1);
    std::vector<float> row(static_cast<size_t>(scene.d));
    for (int64_t key = 0; key < 1024; ++key) {
        const size_t offset = static_cast<size_t>(key * scene.d) * 4;
        EXPECT_TRUE(scene.k.read(offset, row.data(), row.size() * 4).is_ok());
        double length = 0.0;
        for (const float x : row) length += static_cast<double>(x) * static_cast<double>(x);
        for (float& x : row) x *= 2.0f / static_cast<float>(std::sqrt(length));
        std::reverse(row.begin(), row.end());
        ASSERT_TRUE(scene.v.write(offset, row.data(), row.size() * 4).is_ok());
    }
    KeyIndex index = scene.make_index();
    MemoryOptions options = blend(1.0);
    options.kind = FarMemoryKind::kLeastSquares;
    Engine engine(bare(), options);
    attend(scene, index, engine, 10);
    const MemoryStats learned = engine.memory().stats();
    EXPECT_EQ(learned.learned % 64, 0u);
    EXPECT_GE(learned.learned, 12u * 64) << "all but sink and window";
    EXPECT_LT(learned.error_with, 0.1 * learned.error_without);
    double worst = 0.0;
    for (int64_t key = 100; key < 800; key += 50) {
        EXPECT_TRUE(scene.k.read(static_cast<size_t>(key * scene.d) * 4, row.data(), row.size() * 4).is_ok());
        std::copy(row.begin(), row.end(), scene.q.begin());
        const std::vector<float> out = attend(scene, index, engine);
        std::vector<float> value(row.size());
        EXPECT_TRUE(scene.v.read(static_cast<size_t>(key * scene.d) * 4, value.data(), value.size() * 4).is_ok());
        worst = std::max(worst, nmse({out.begin(), out.begin() + scene.d}, value));
    }
    EXPECT_LT(worst, 0.05);
    EXPECT_EQ(engine.memory().stats().learned, learned.learned) << "each cell once";
}

/** What was learned about keys that have turned is learned again from the cache. */
TEST(Blend, IsRebuiltAfterAContextShift) {
    Scene scene(1024, 1);
    KeyIndex index = scene.make_index();
    MemoryOptions options = blend(1.0);
    options.kind = FarMemoryKind::kLeastSquares;
    Engine shifted(bare(), options), fresh(bare(), options);
    attend(scene, index, shifted, 10);
    const uint64_t pages = shifted.memory().stats().learned;
    for (int64_t row = 0; row < 1024; ++row) {
        std::vector<float> values(static_cast<size_t>(2 * scene.d));
        for (float& x : values) x = scene.normal(scene.random);
        ASSERT_TRUE(
            scene.k.write(static_cast<size_t>(row) * values.size() * 4, values.data(), values.size() * 4).is_ok());
    }
    const std::vector<float> after = attend(scene, index, shifted, 10);
    EXPECT_EQ(shifted.memory().stats().resets, 2u);
    EXPECT_EQ(shifted.memory().stats().learned, 2 * pages);
    const std::vector<float> expected = attend(scene, index, fresh, 10);
    EXPECT_EQ(std::memcmp(after.data(), expected.data(), after.size() * 4), 0) << "as if it had never known the others";
}

/** Without learning there is nothing that a new memory could know; one that has learned is still used. */
TEST(Blend, WithoutLearningMakesNoMemories) {
    Scene scene(1024, 1);
    KeyIndex index = scene.make_index();
    MemoryOptions options = blend(0.5);
    options.kind = FarMemoryKind::kLeastSquares;
    options.test_time = false;
    Engine resting(bare(), options), plain(bare());
    const std::vector<float> expected = attend(scene, index, plain, 64);
    EXPECT_EQ(attend(scene, index, resting, 10), expected);
    EXPECT_EQ(resting.memory().stats().memories, 0u);
    EXPECT_EQ(resting.memory().bytes(), 0u);

    options.test_time = true;
    resting.memory().set_options(options);
    const std::vector<float> learned = attend(scene, index, resting, 10);
    EXPECT_NE(learned, expected);
    const MemoryStats before = resting.memory().stats();
    EXPECT_EQ(before.memories, 2u);
    options.test_time = false;
    resting.memory().set_options(options);
    EXPECT_EQ(attend(scene, index, resting, 10), learned);
    EXPECT_EQ(resting.memory().stats().memories, before.memories);
    EXPECT_EQ(resting.memory().stats().learned, before.learned);
}

/** Whatever the number of keys, an observation reads no more than it may, and the sample's mean is that of all keys. */
TEST(Probe, ReadsNoMoreThanItMay) {
    Scene scene(4096, 1);
    KeyIndex index = scene.make_index();
    std::vector<TileView> views(1);
    Settings settings = bare();
    views[0].tokens = 1;
    const AttentionCall attention = scene.call();
    classify_pages(attention, settings, index, &views[0]);
    const std::vector<Selection> results(2);
    const FarCall call{attention, index, views, results, 1, 0, nullptr, nullptr, nullptr};
    const auto d = static_cast<size_t>(scene.d);
    std::vector<float> exact(d), one(d), mean(d, 0.0f);
    float exact_lse = 0.0f, lse = 0.0f;
    double mass = 0.0;
    ProbeRandom random(1, scene.q.data(), scene.d);
    FarProbe all(0);
    ASSERT_TRUE(all.run(call, views[0], results[1], 1, 0, 1, &random, exact.data(), &exact_lse));
    EXPECT_EQ(all.keys(), static_cast<uint64_t>(views[0].far_pages * 64));
    constexpr int kSamples = 400;
    FarProbe sampled(512);
    double single = 0.0;
    for (int i = 0; i < kSamples; ++i) {
        ASSERT_TRUE(sampled.run(call, views[0], results[1], 1, 0, 1, &random, one.data(), &lse));
        single += nmse(one, exact) / kSamples;
        mass += std::exp(static_cast<double>(lse - exact_lse)) / kSamples;
        for (size_t x = 0; x < d; ++x) mean[x] += one[x] / kSamples;
    }
    EXPECT_LE(sampled.keys(), 512u * kSamples);
    EXPECT_GE(sampled.keys(), 500u * kSamples);
    EXPECT_GT(single, 1e-4) << "it is a sample";
    EXPECT_LT(nmse(mean, exact), 0.03 * single) << "noise, not bias";
    EXPECT_NEAR(mass, 1.0, 0.03);
}

/** A page outside the far part and a selected block are not read by a probe. */
TEST(Probe, LeavesOutWhatIsReadAnyway) {
    Scene scene(1024, 1);
    KeyIndex index = scene.make_index();
    std::vector<TileView> views(1);
    views[0].tokens = 1;
    const AttentionCall attention = scene.call();
    classify_pages(attention, bare(), index, &views[0]);
    std::vector<Selection> results(2);
    results[0].selected = {{128, 0xFFFFFFFF}, {256, kernels::kAllCells}};
    const FarCall call{attention, index, views, results, 1, 0, nullptr, nullptr, nullptr};
    std::vector<float> out(static_cast<size_t>(scene.d));
    float lse = 0.0f;
    ProbeRandom random(1, scene.q.data(), scene.d);
    FarProbe probe(0);
    ASSERT_TRUE(probe.run(call, views[0], results[0], 0, 0, 0, &random, out.data(), &lse));
    EXPECT_EQ(probe.keys(), static_cast<uint64_t>(views[0].far_pages * 64 - 96));
}

TEST(Probe, SampledObservationsTeachToo) {
    Scene scene(1024, 1);
    KeyIndex index = scene.make_index();
    MemoryOptions options = blend(1.0);
    options.mode = MemoryMode::kCorrect;
    options.warm_up = 16;
    options.probe_every = 1;
    options.probe_keys = 256;
    Settings settings = bare();
    Engine engine(settings, options), plain(settings);
    double with = 0.0, without = 0.0;
    for (int i = 0; i < 500; ++i) {
        for (float& x : scene.q) x = 2.0f * scene.normal(scene.random);
        const std::vector<float> a = attend(scene, index, plain);
        const std::vector<float> b = attend(scene, index, engine);
        if (i < 400) continue;
        const std::vector<float> exact = scene.exact();
        without += nmse(a, exact);
        with += nmse(b, exact);
    }
    EXPECT_LT(with, 0.95 * without);
    const MemoryStats stats = engine.memory().stats();
    EXPECT_LE(stats.probe_keys, 256 * stats.observations);
}

/** A memory that knows little asks more often. */
TEST(Probe, AreMoreFrequentAtFirst) {
    Scene scene(1024, 1);
    KeyIndex index = scene.make_index();
    MemoryOptions options = blend(1.0);
    options.mode = MemoryMode::kCorrect;
    options.probe_every = 16;
    Engine engine(bare(), options);
    const auto observed = [&](int calls) {
        const uint64_t before = engine.memory().stats().observations;
        for (int i = 0; i < calls; ++i) {
            for (float& x : scene.q) x = 2.0f * scene.normal(scene.random);
            attend(scene, index, engine);
        }
        return static_cast<double>(engine.memory().stats().observations - before) / 2.0;
    };
    EXPECT_NEAR(observed(480), 120.0, 25.0);
    observed(1600);
    EXPECT_NEAR(observed(1600), 100.0, 25.0);
}

TEST(MemoryStatistics, AreInTheJson) {
    Stats stats;
    stats.add(2, LayerStats{.calls = 1});
    stats.add(4, LayerStats{.calls = 1});
    MemoryStats memory;
    memory.memories = 1;
    memory.gate = 0.5;
    memory.cache_hits = 1;
    memory.cache_misses = 3;
    stats.add(4, memory);
    memory.memories = 3;
    memory.gate = 1.0;
    stats.add(4, memory);
    const std::string json = stats.json();
    EXPECT_EQ(json.find("\"memory\""), json.rfind("\"memory\"")) << "layer 4 only";
    EXPECT_NE(json.find("\"memories\": 4,"), std::string::npos) << json;
    EXPECT_NE(json.find("\"gate\": 0.875,"), std::string::npos) << json;
    EXPECT_NE(json.find("\"cache_hit_ratio\": 0.25}}"), std::string::npos) << json;
}

}  // namespace
}  // namespace atlas::attention
