#include <gtest/gtest.h>

#include <cmath>

#include "attention/correct/far_memory.h"
#include "attention/stats.h"
#include "fixture.h"

namespace atlas::attention {
namespace {

constexpr int64_t kTokens = 100000;
constexpr int64_t kCells = 1024;
constexpr int64_t kSegment = 10000;

/**
 * A long generation in a small cache: tokens fill the cells; when all are taken, the older half is given up and the keys of the rest are turned to
 * their new positions (context shift). What keys and queries look like drifts all the way.
 */
class Stream {
public:
    explicit Stream(Scene* scene) : scene_(*scene), content_(kCells), position_(kCells, -1) {
        scene_.mask.assign(kCells, 0xFC00);
    }

    /** Takes the next token in and sets its query. */
    void next() {
        if (used_ == kCells) shift();
        int64_t cell = 0;
        while (position_[static_cast<size_t>(cell)] >= 0) ++cell;
        ++used_;
        auto& content = content_[static_cast<size_t>(cell)];
        content.resize(row() * 2);
        const double drift = static_cast<double>(step_) / 15000.0;
        for (size_t i = 0; i < content.size(); ++i) {
            content[i] =
                scene_.normal(scene_.random) * 0.5f + static_cast<float>(std::sin(drift + static_cast<double>(i % 7)));
        }
        position_[static_cast<size_t>(cell)] = position_now_;
        scene_.clock.advance();
        write_key(cell);
        ASSERT_TRUE(scene_.v.write(static_cast<size_t>(cell) * row() * 4, content.data() + row(), row() * 4).is_ok());
        scene_.mask[static_cast<size_t>(cell)] = 0;
        scene_.summarize();
        std::vector<float> plain(scene_.q.size());
        for (size_t i = 0; i < plain.size(); ++i)
            plain[i] =
                scene_.normal(scene_.random) + 1.5f * static_cast<float>(std::cos(drift + static_cast<double>(i % 5)));
        rotate(plain.data(), scene_.q.data(), scene_.q.size(), position_now_);
        ++position_now_;
        ++step_;
    }

private:
    size_t row() const { return static_cast<size_t>(scene_.args.n_head_kv * scene_.d); }

    void rotate(const float* from, float* to, size_t n, int64_t position) const {
        for (size_t i = 0; i < n; i += 2) {
            const double angle = static_cast<double>(position) *
                                 std::pow(10000.0, -static_cast<double>(i % static_cast<size_t>(scene_.d)) /
                                                       static_cast<double>(scene_.d));
            const auto c = static_cast<float>(std::cos(angle));
            const auto s = static_cast<float>(std::sin(angle));
            to[i] = c * from[i] - s * from[i + 1];
            to[i + 1] = s * from[i] + c * from[i + 1];
        }
    }

    void write_key(int64_t cell) {
        std::vector<float> key(row());
        rotate(content_[static_cast<size_t>(cell)].data(), key.data(), row(), position_[static_cast<size_t>(cell)]);
        ASSERT_TRUE(scene_.k.write(static_cast<size_t>(cell) * row() * 4, key.data(), row() * 4).is_ok());
    }

    void shift() {
        const int64_t gone = kCells / 2;
        for (int64_t cell = 0; cell < kCells; ++cell) {
            int64_t& position = position_[static_cast<size_t>(cell)];
            if (position < gone) {
                position = -1;
                scene_.mask[static_cast<size_t>(cell)] = 0xFC00;
                --used_;
            } else {
                position -= gone;
            }
        }
        scene_.clock.advance();
        // The host turns all cells of K, free ones too.
        for (int64_t cell = 0; cell < kCells; ++cell) write_key(cell);
        position_now_ -= gone;
    }

    Scene& scene_;
    std::vector<std::vector<float>> content_;  // per cell: key before its turn, value
    std::vector<int64_t> position_;            // per cell; −1: free
    int64_t used_ = 0;
    int64_t position_now_ = 0;
    int64_t step_ = 0;
};

class StreamTest : public testing::TestWithParam<MemoryMode> {};
INSTANTIATE_TEST_SUITE_P(Modes, StreamTest, testing::Values(MemoryMode::kCorrect, MemoryMode::kBlend),
                         [](const auto& info) { return info.param == MemoryMode::kCorrect ? "correct" : "blend"; });

/** 100,000 tokens and 194 context shifts: nothing grows, nothing becomes NaN, and in no part of it is the corrected output the worse one. */
TEST_P(StreamTest, HundredThousandTokens) {
    Scene scene(kCells, 1, 2, 1, 16);
    Stream stream(&scene);
    KeyIndex index = scene.make_index();
    MemoryOptions options;
    options.enabled = true;
    options.mode = GetParam();
    options.warm_up = 256;
    options.probe_every = 2;
    options.hidden = 32;
    if (options.mode == MemoryMode::kBlend) {
        options.kind = FarMemoryKind::kDeep;
        options.blend_ratio = 0.1;
        options.chunk = 64;
    }
    Engine with(bare(), options), without(bare());
    double error_with = 0.0, error_without = 0.0;
    double all_with = 0.0, all_without = 0.0;
    size_t bytes = 0;
    for (int64_t i = 0; i < kTokens; ++i) {
        stream.next();
        if (HasFatalFailure()) return;
        ASSERT_TRUE(with.attend(scene.call(3), index, 1).is_ok());
        for (const float x : scene.out) ASSERT_TRUE(std::isfinite(x)) << "token " << i;
        if (i % 100 == 99) {
            const std::vector<float> exact = scene.exact();
            error_with += nmse(scene.out, exact);
            ASSERT_TRUE(without.attend(scene.call(3), index, 1).is_ok());
            error_without += nmse(scene.out, exact);
        }
        if (i == kSegment) bytes = with.memory().bytes();
        if (i % kSegment == kSegment - 1) {
            if (options.mode == MemoryMode::kCorrect) {
                EXPECT_LT(error_with, 1.02 * error_without) << "tokens up to " << i;
            }
            all_with += error_with;
            all_without += error_without;
            error_with = error_without = 0.0;
        }
    }
    const MemoryStats stats = with.memory().stats();
    EXPECT_EQ(stats.memories, 1u);
    EXPECT_EQ(with.memory().bytes(), bytes);
    EXPECT_EQ(stats.skipped_pairs + stats.skipped_updates, 0u);
    if (options.mode == MemoryMode::kCorrect) {
        EXPECT_LT(all_with, 0.97 * all_without);
        EXPECT_GT(stats.doubts, 100u) << "shifts were noticed";
        EXPECT_EQ(stats.resets, 0u);
        EXPECT_GT(stats.observations, 10000u);
    } else {
        EXPECT_GT(stats.resets, 100u) << "learned again after shifts";
        EXPECT_GT(stats.learned, 50000u);
    }
    std::printf("error with memory / without: %.3f, doubts %llu, resets %llu, gate %.2f\n", all_with / all_without,
                static_cast<unsigned long long>(stats.doubts), static_cast<unsigned long long>(stats.resets),
                stats.gate);
}

}  // namespace
}  // namespace atlas::attention
