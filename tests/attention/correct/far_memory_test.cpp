#include "attention/correct/far_memory.h"

#include <gtest/gtest.h>

#include <atomic>

#include "fixture.h"

namespace atlas::attention {
namespace {

MemoryOptions eager() {
    MemoryOptions options;
    options.enabled = true;
    options.blend_ratio = 1.0;
    options.warm_up = 16;
    options.probe_every = 1;
    return options;
}

/** Calls an engine `calls` times with fresh queries; mean NMSE of the last quarter against exact attention. */
double run(Scene* scene, const Settings& settings, const MemoryOptions& options, int calls,
           std::vector<float>* last = nullptr) {
    KeyIndex index = scene->make_index();
    Engine engine(settings, options);
    std::mt19937 random(9);
    std::normal_distribution<float> normal;
    double error = 0.0;
    for (int i = 0; i < calls; ++i) {
        for (float& x : scene->q) x = 2.0f * normal(random);
        EXPECT_TRUE(engine.attend(scene->call(3), index, 2).is_ok());
        if (i >= calls - calls / 4) error += nmse(scene->out, scene->exact());
    }
    if (last) *last = scene->out;
    return error / (calls / 4);
}

class FarMemoryTest : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Tokens, FarMemoryTest, testing::Values(1, 40));

TEST_P(FarMemoryTest, BringsTheEstimateCloserToExactAttention) {
    Scene scene(1024, GetParam());
    Settings settings = bare();
    const int calls = GetParam() == 1 ? 240 : 80;
    const double without = run(&scene, settings, {}, calls);
    const double with = run(&scene, settings, eager(), calls);
    EXPECT_LT(with, 0.9 * without);
    EXPECT_GT(without, 0.0);
}

/** Probes go to who was given to these memories, for as long as it was, and to nobody else. */
TEST(FarMemorySink, IsOfOneEngine) {
    struct Count : ProbeSink {
        void add(const ProbeSample&) override { ++probes; }
        std::atomic<int> probes{0};
    } sink;
    Scene scene(1024, 1);
    KeyIndex index = scene.make_index();
    Engine one(bare(), eager()), other(bare(), eager());
    one.memory().set_probe_sink(&sink);
    const auto attend = [&](Engine& engine) { EXPECT_TRUE(engine.attend(scene.call(3), index, 1).is_ok()); };
    attend(other);
    EXPECT_EQ(sink.probes, 0);
    attend(one);
    const int probes = sink.probes;
    EXPECT_GT(probes, 0);
    one.memory().set_probe_sink(nullptr);
    attend(one);
    EXPECT_EQ(sink.probes, probes);
}

/** While the gate is closed the output is that without memory, bit for bit, although it learns. */
TEST_P(FarMemoryTest, DuringTheWarmUpNothingChanges) {
    Scene scene(1024, GetParam());
    MemoryOptions options = eager();
    options.warm_up = 1 << 30;
    std::vector<float> with, without;
    run(&scene, bare(), options, 20, &with);
    run(&scene, bare(), {}, 20, &without);
    EXPECT_EQ(std::memcmp(with.data(), without.data(), with.size() * 4), 0);
}

/** Nothing outside the exact branch: bit-identical even with an open gate, fixed by hand. */
TEST_P(FarMemoryTest, WithoutAFarPartNothingChanges) {
    Scene scene(1024, GetParam());
    Settings settings = bare();
    settings.window = 1024;
    MemoryOptions options = eager();
    options.dynamic_blend = false;
    options.warm_up = 0;
    std::vector<float> with, without;
    run(&scene, settings, options, 8, &with);
    run(&scene, settings, {}, 8, &without);
    EXPECT_EQ(std::memcmp(with.data(), without.data(), with.size() * 4), 0);
}

/** Switches turn between calls; another feature type means new memories; what was learned can be handed to another engine. */
TEST(FarMemorySwitches, BetweenCalls) {
    Scene scene(1024, 1);
    KeyIndex index = scene.make_index();
    Engine engine(bare(), eager()), plain(bare());
    const auto call = [&](Engine& one, int n) {
        for (int i = 0; i < n; ++i) {
            for (float& x : scene.q) x = 2.0f * scene.normal(scene.random);
            ASSERT_TRUE(one.attend(scene.call(3), index, 1).is_ok());
        }
    };
    const auto same_as_plain = [&](Engine& one) {
        call(one, 1);
        const std::vector<float> mine = scene.out;
        EXPECT_TRUE(plain.attend(scene.call(3), index, 1).is_ok());
        return std::memcmp(mine.data(), scene.out.data(), mine.size() * 4) == 0;
    };
    call(engine, 240);
    const MemoryStats learned = engine.memory().stats();
    EXPECT_EQ(learned.memories, 2u);
    EXPECT_EQ(learned.resets, 0u);
    EXPECT_GT(learned.bytes, 1000u);
    EXPECT_EQ(learned.observations, 480u);
    EXPECT_GT(learned.gate, 0.3);
    EXPECT_LT(learned.error_with, learned.error_without);
    EXPECT_FALSE(same_as_plain(engine));

    const auto initial = std::make_shared<InitialMemories>(engine.memory().learned());
    ASSERT_EQ(initial->size(), 2u);
    Engine pupil(bare(), eager());
    pupil.memory().set_initial(initial);
    EXPECT_FALSE(same_as_plain(pupil)) << "it starts with what it was given";
    for (auto& [place, memory] : *initial) memory.enabled = false;
    pupil.memory().set_initial(initial);
    EXPECT_TRUE(same_as_plain(pupil));
    for (auto& [place, memory] : *initial) memory.mass_bias = 0.5f;
    pupil.memory().set_initial(initial);
    EXPECT_FALSE(same_as_plain(pupil)) << "the mass bias does without a memory";

    MemoryOptions options = eager();
    options.enabled = false;
    engine.memory().set_options(options);
    EXPECT_TRUE(same_as_plain(engine));
    options.enabled = true;
    options.blend_ratio = 0.0;
    engine.memory().set_options(options);
    EXPECT_TRUE(same_as_plain(engine));
    EXPECT_GE(engine.memory().stats().observations, learned.observations) << "kept";
    options.blend_ratio = 1.0;
    options.features = MemoryFeatures::kFourier;
    engine.memory().set_options(options);
    EXPECT_EQ(engine.memory().stats().memories, 0u);
    EXPECT_EQ(engine.memory().stats().resets, 2u);
    call(engine, 40);
    EXPECT_EQ(engine.memory().stats().memories, 2u);
}

/** Features that are dear to map are kept: a probed query is read, tested and learned, and mapped once. */
TEST(FarMemoryCache, FindsProbedQueriesAgain) {
    Scene scene(1024, 1);
    KeyIndex index = scene.make_index();
    MemoryOptions options = eager();
    options.kind = FarMemoryKind::kDeep;
    options.degree = 2;
    options.dynamic_blend = false;
    options.warm_up = 0;
    Engine engine(bare(), options);
    for (int i = 0; i < 64; ++i) {
        for (float& x : scene.q) x = 2.0f * scene.normal(scene.random);
        ASSERT_TRUE(engine.attend(scene.call(3), index, 1).is_ok());
    }
    const MemoryStats stats = engine.memory().stats();
    EXPECT_GT(stats.cache_misses, 0u);
    EXPECT_GT(stats.cache_hits, stats.observations);
    EXPECT_GT(stats.muon_iterations, 0u);
    EXPECT_GT(stats.window_fill, 0.9);
}

TEST(FarMemoryBudget, HeadsBeyondItGoWithout) {
    Scene scene(1024, 1);
    MemoryOptions options = eager();
    options.budget_bytes = 1;
    std::vector<float> with, without;
    run(&scene, bare(), options, 60, &with);
    run(&scene, bare(), {}, 60, &without);
    EXPECT_EQ(std::memcmp(with.data(), without.data(), with.size() * 4), 0);
}

/** What memories need only once they learn counts too. */
TEST(FarMemoryBudget, CountsTheirWorkspace) {
    Scene scene(1024, 1);
    KeyIndex index = scene.make_index();
    MemoryOptions options = eager();
    options.kind = FarMemoryKind::kDeep;
    const auto run = [&](uint64_t budget) {
        options.budget_bytes = budget;
        Engine engine(bare(), options);
        for (int i = 0; i < 200; ++i)
            EXPECT_TRUE(engine.attend(scene.call(3), index, 1).is_ok());
        return engine.memory().stats();
    };
    const MemoryStats free = run(uint64_t{1} << 30);
    EXPECT_EQ(free.memories, 2u);
    const MemoryStats tight = run(free.bytes - 1);
    EXPECT_EQ(tight.memories, 1u);
    EXPECT_LE(tight.bytes, free.bytes / 2);
}

/** A sequence that starts again with fewer keys finds an empty memory: the answer does not depend on the one before. */
TEST(FarMemorySequence, ForgetsWhenTheContextShrinks) {
    Scene longer(1024, 1), shorter(640, 1);
    const MemoryOptions options = eager();
    KeyIndex index = shorter.make_index(), index_long = longer.make_index();
    Engine used(bare(), options), fresh(bare(), options);
    for (int i = 0; i < 100; ++i) {
        for (float& x : longer.q) x = longer.normal(longer.random);
        ASSERT_TRUE(used.attend(longer.call(3), index_long, 1).is_ok());
    }
    ASSERT_TRUE(fresh.attend(shorter.call(3), index, 1).is_ok());
    const std::vector<float> expected = shorter.out;
    ASSERT_TRUE(used.attend(shorter.call(3), index, 1).is_ok());
    EXPECT_EQ(std::memcmp(expected.data(), shorter.out.data(), expected.size() * 4), 0);
}

}  // namespace
}  // namespace atlas::attention
