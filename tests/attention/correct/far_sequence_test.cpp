#include <gtest/gtest.h>

#include <thread>

#include "attention/correct/far_memory.h"
#include "attention/stats.h"
#include "fixture.h"

namespace atlas::attention {
namespace {

MemoryOptions eager() {
    MemoryOptions options;
    options.enabled = true;
    options.warm_up = 16;
    options.probe_every = 1;
    return options;
}

/** A scene, its index, an engine that learned something, and one without memory that reads the same. */
class FollowTest : public testing::Test {
protected:
    void attend(Engine& engine) {
        ASSERT_TRUE(engine.attend(scene.call(3), index, 1).is_ok());
    }
    /** Fresh queries; whether the output with memory is that without, bit for bit. */
    bool untouched() {
        for (float& x : scene.q) x = 2.0f * scene.normal(scene.random);
        attend(plain);
        const std::vector<float> without = scene.out;
        attend(engine);
        return std::memcmp(without.data(), scene.out.data(), without.size() * 4) == 0;
    }
    void learn(int calls) {
        for (int i = 0; i < calls; ++i) untouched();
    }
    void rewrite(kv::PageTable& tensor, int64_t first_page, int64_t end_page) {
        std::vector<std::byte> page(tensor.page_bytes());
        for (int64_t i = first_page; i < end_page; ++i) {
            EXPECT_TRUE(tensor.read(static_cast<size_t>(i) * page.size(), page.data(), page.size()).is_ok());
            ASSERT_TRUE(tensor.write(static_cast<size_t>(i) * page.size(), page.data(), page.size()).is_ok());
        }
    }
    MemoryStats stats() const { return engine.memory().stats(); }
    /** Hides keys [begin, end) from all tokens. */
    void hide(int64_t begin, int64_t end) {
        for (int64_t row = 0; row < scene.args.n_stream * scene.args.n_tokens; ++row) {
            for (int64_t key = begin; key < end; ++key)
                scene.mask[static_cast<size_t>(row * scene.n_keys + key)] = 0xFC00;
        }
        scene.summarize();
    }

    Scene scene{1024, 1};
    KeyIndex index = scene.make_index();
    Engine engine{bare(), eager()};
    Engine plain{bare()};
};

TEST_F(FollowTest, AnotherTextInTheSameCellsFindsEmptyMemories) {
    learn(200);
    ASSERT_FALSE(untouched());
    ASSERT_EQ(stats().resets, 0u);
    // As a restored session does: all cells of K and V, be they the same values.
    rewrite(scene.k, 0, 16);
    rewrite(scene.v, 0, 16);
    EXPECT_TRUE(untouched());
    EXPECT_EQ(stats().resets, 2u);
    EXPECT_EQ(stats().memories, 2u);
    learn(200);
    EXPECT_FALSE(untouched()) << "learned anew";
    EXPECT_EQ(stats().resets, 2u);
}

TEST_F(FollowTest, AfterAContextShiftTheGateHasToOpenAgain) {
    learn(200);
    const MemoryStats before = stats();
    ASSERT_GT(before.gate, 0.3);
    rewrite(scene.k, 0, 16);
    EXPECT_TRUE(untouched()) << "gate closed";
    EXPECT_EQ(stats().doubts, 2u);
    EXPECT_EQ(stats().resets, 0u);
    learn(60);
    EXPECT_FALSE(untouched()) << "what it knew is still right: sooner open than the first time";
    EXPECT_GT(stats().observations, before.observations);
}

TEST_F(FollowTest, AnOverwrittenPageIsLeftToForgetting) {
    learn(200);
    rewrite(scene.k, 4, 6);
    rewrite(scene.v, 4, 6);
    EXPECT_FALSE(untouched());
    EXPECT_EQ(stats().resets + stats().doubts, 0u);
}

TEST_F(FollowTest, ACutSequenceIsDoubted) {
    learn(200);
    hide(512, 1024);
    EXPECT_TRUE(untouched());
    EXPECT_EQ(stats().doubts, 2u);
    EXPECT_EQ(stats().memories, 2u) << "the same sequence";
}

TEST_F(FollowTest, OtherCellsAreAnotherSequence) {
    learn(200);
    hide(0, 1024);
    // Keys 512 … 1023 only, of which three pages were known as far ones.
    scene.set_causal();
    for (int64_t key = 0; key < 832; ++key) scene.mask[static_cast<size_t>(key)] = 0xFC00;
    scene.summarize();
    EXPECT_TRUE(untouched());
    scene.set_causal();
    EXPECT_FALSE(untouched()) << "the first one's memory is still there";
}

/** A cache that several sequences share: two tokens of one call that have the beginning in common. */
TEST(FarSequences, SharedBeginningDoesNotMixThemUp) {
    Scene scene(1024, 2);
    // Token 0 sees pages 0–3 and 4–8, token 1 pages 0–3 and 9–14.
    const auto only = [&](int64_t token, int64_t begin, int64_t end) {
        for (int64_t key = begin * 64; key < end * 64; ++key) scene.mask[static_cast<size_t>(token * 1024 + key)] = 0;
    };
    std::fill(scene.mask.begin(), scene.mask.end(), static_cast<uint16_t>(0xFC00));
    only(0, 0, 9);
    only(1, 0, 4);
    only(1, 9, 15);
    scene.summarize();
    KeyIndex index = scene.make_index();
    Engine engine(bare(), eager());
    for (int i = 0; i < 100; ++i) {
        for (float& x : scene.q) x = 2.0f * scene.normal(scene.random);
        ASSERT_TRUE(engine.attend(scene.call(3), index, 2).is_ok());
    }
    const MemoryStats stats = engine.memory().stats();
    EXPECT_EQ(stats.memories, 4u) << "two sequences of two heads";
    EXPECT_EQ(stats.resets, 0u);
    EXPECT_EQ(stats.doubts, 0u);
    EXPECT_EQ(stats.observations, 400u);
}

TEST(FarSequences, StreamsHaveMemoriesOfTheirOwn) {
    Scene scene(1024, 1, 4, 2, 16, 3);
    KeyIndex index = scene.make_index();
    Engine engine(bare(), eager());
    for (int i = 0; i < 10; ++i)
        ASSERT_TRUE(engine.attend(scene.call(3), index, 2).is_ok());
    EXPECT_EQ(engine.memory().stats().memories, 6u);
    EXPECT_EQ(engine.memory().stats().observations, 60u);
    EXPECT_LE(engine.memory().stats().bytes, MemoryOptions{}.budget_bytes);
}

/** K alone is rewritten by a context shift: that does not make a page recent. */
TEST(FarSequences, AShiftDoesNotMoveTheWindow) {
    Scene scene(512, 1);
    const KeyIndex index = scene.make_index();
    scene.clock.advance();
    scene.write_row(64, 1.0f);
    const uint64_t recent = index.epoch(1);
    EXPECT_GT(recent, index.epoch(7));
    scene.clock.advance();
    std::vector<std::byte> page(scene.k.page_bytes());
    ASSERT_TRUE(scene.k.write(7 * page.size(), page.data(), page.size()).is_ok());
    EXPECT_GT(recent, index.epoch(7));
}

/** Four contexts at once, each on two threads: the same as one after another. Run under ThreadSanitizer too. */
TEST(FarSequences, ContextsInParallel) {
    constexpr int kContexts = 4;
    std::vector<std::vector<float>> results(2 * kContexts);
    const auto run = [&](int context, std::vector<float>* out) {
        Scene scene(1024, 8, 4, 2, 16, 1, static_cast<uint32_t>(context + 1));
        KeyIndex index = scene.make_index();
        MemoryOptions options = eager();
        if (context == 1) options.kind = FarMemoryKind::kDeep;
        if (context == 2) options.mode = MemoryMode::kBlend;
        Engine engine(bare(), options);
        for (int i = 0; i < 25; ++i) {
            for (float& x : scene.q) x = 2.0f * scene.normal(scene.random);
            if (!engine.attend(scene.call(context % 2), index, 2).is_ok()) return;
            // What a status reader does between calls of the same context.
            if (engine.memory().stats().memories != 2) return;
        }
        *out = scene.out;
    };
    for (int i = 0; i < kContexts; ++i) run(i, &results[static_cast<size_t>(i)]);
    std::vector<std::thread> threads;
    for (int i = 0; i < kContexts; ++i) threads.emplace_back(run, i, &results[static_cast<size_t>(kContexts + i)]);
    for (std::thread& thread : threads) thread.join();
    for (size_t i = 0; i < kContexts; ++i) {
        ASSERT_FALSE(results[i].empty());
        EXPECT_EQ(results[i], results[kContexts + i]) << "context " << i;
    }
}

}  // namespace
}  // namespace atlas::attention
