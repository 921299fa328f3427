#include "memory/test_time_memory.h"

#include <gtest/gtest.h>

#include "../numbers.h"

namespace atlas::memory {
namespace {

MemoryConfig small() {
    MemoryConfig config;
    config.features = {FeatureType::kPolynomial, 16, 2};
    config.features.normalize = true;
    config.kind = MemoryKind::kLinear;
    config.d_out = 16;
    config.chunk = 8;
    config.omega.window = 4;
    config.omega.step = 0.01;
    config.cache_bytes = 1 << 18;
    return config;
}

TEST(TestTimeMemoryTest, LearnsWhatItIsShown) {
    MemoryConfig config = small();
    config.omega.momentum = 0.5;
    config.omega.step = 0.005;
    ASSERT_TRUE(check_memory(config).is_ok());
    TestTimeMemory memory(config);
    Numbers numbers(61);
    const std::vector<float> keys = numbers.normal(24 * 16), values = numbers.normal(24 * 16);
    std::vector<float> out(values.size());
    for (int pass = 0; pass < 400; ++pass) memory.learn(keys.data(), values.data(), nullptr, 24);
    memory.read(keys.data(), 24, out.data());
    EXPECT_LT(relative_error(out, values), 0.1);
    EXPECT_GT(memory.cache_stats().hit_ratio(), 0.9) << "the same keys again and again";
    EXPECT_EQ(memory.learner().stats().pairs, 24u * 400u);
}

/** How pairs arrive does not matter, only their order. */
TEST(TestTimeMemoryTest, ChunksFormWhateverTheCalls) {
    TestTimeMemory one(small()), many(small());
    Numbers numbers(62);
    const std::vector<float> keys = numbers.normal(50 * 16), values = numbers.normal(50 * 16);
    one.learn(keys.data(), values.data(), nullptr, 50);
    for (size_t i = 0; i < 50; ++i) many.learn(keys.data() + i * 16, values.data() + i * 16, nullptr, 1);
    EXPECT_EQ(one.pending(), 2u);
    EXPECT_EQ(many.pending(), 2u);
    std::vector<float> a(50 * 16), b(a.size());
    one.read(keys.data(), 50, a.data());
    many.read(keys.data(), 50, b.data());
    EXPECT_EQ(a, b);
}

TEST(TestTimeMemoryTest, StateGoesRoundAndResetForgets) {
    MemoryConfig config = small();
    config.coefficient_step = 1e-3;
    TestTimeMemory a(config), b(config);
    Numbers numbers(63);
    const std::vector<float> keys = numbers.normal(40 * 16), values = numbers.normal(40 * 16);
    a.learn(keys.data(), values.data(), nullptr, 40);
    EXPECT_NE(a.features().coefficients()[2], 1.0) << "coefficients learn";
    const std::vector<std::byte> state = a.save();
    ASSERT_TRUE(b.restore(state).is_ok());
    a.learn(keys.data(), values.data(), nullptr, 16);
    b.learn(keys.data(), values.data(), nullptr, 16);
    std::vector<float> x(40 * 16), y(x.size());
    a.read(keys.data(), 40, x.data());
    b.read(keys.data(), 40, y.data());
    EXPECT_EQ(x, y);
    a.reset();
    a.read(keys.data(), 40, x.data());
    EXPECT_EQ(x, std::vector<float>(x.size(), 0.0f));
    EXPECT_EQ(a.features().coefficients()[2], 1.0);
    EXPECT_FALSE(b.restore({state.data(), 10}).is_ok());
}

/** 100,000 tokens: no drift, nothing that is not finite, no growth. */
TEST(TestTimeMemoryTest, StreamsWithoutGrowthOrDrift) {
    MemoryConfig config = small();
    config.features.type = FeatureType::kIdentity;
    config.kind = MemoryKind::kDeep;
    config.hidden = 32;
    config.chunk = 64;
    config.omega.window = 16;
    config.omega.decay = 0.9;
    config.omega.retention = 0.9999;
    config.omega.step = 0.01;
    config.omega.orthogonalize = NewtonSchulz::kStandard;
    TestTimeMemory memory(config);
    Numbers numbers(64);
    size_t bytes = 0;
    double early = 0.0, late = 0.0;
    for (int round = 0; round < 200; ++round) {
        const std::vector<float> keys = numbers.normal(500 * 16);
        std::vector<float> values = keys;  // v = a rotation of k: something that can be learned for ever
        for (size_t i = 0; i < values.size(); i += 2) {
            values[i] = 0.3f * keys[i + 1];
            values[i + 1] = -0.3f * keys[i];
        }
        memory.learn(keys.data(), values.data(), nullptr, 500);
        if (round == 10) bytes = memory.bytes();
        if (round >= 20 && round < 40) early += memory.learner().stats().loss;
        if (round >= 180) late += memory.learner().stats().loss;
    }
    EXPECT_EQ(memory.bytes(), bytes);
    EXPECT_EQ(memory.learner().stats().skipped_pairs + memory.learner().stats().skipped_updates, 0u);
    EXPECT_LT(late, 1.3 * early);
    EXPECT_LT(late, 20.0 * 0.09 * 16.0) << "better than answering 0";
}

TEST(TestTimeMemoryTest, RefusesWhatCannotWork) {
    MemoryConfig config = small();
    config.residual = 1.0f;
    EXPECT_FALSE(check_memory(config).is_ok()) << "a residual from 153 features to 16 values";
    config = small();
    config.chunk = 0;
    EXPECT_FALSE(check_memory(config).is_ok());
    config = small();
    config.features.d = 0;
    EXPECT_FALSE(check_memory(config).is_ok());
}

}  // namespace
}  // namespace atlas::memory
