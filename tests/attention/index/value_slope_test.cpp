#include "attention/index/value_slope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "attention/index/tilt.h"

namespace atlas::attention {
namespace {

constexpr int64_t kKeys = 64;
constexpr int64_t kDk = 6;
constexpr int64_t kDv = 5;

struct Block {
    std::vector<float> keys, values;
};

Block draw(unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    Block block;
    for (int64_t i = 0; i < kKeys * kDk; ++i) block.keys.push_back(normal(random) + 0.5f);
    for (int64_t i = 0; i < kKeys * kDv; ++i)
        block.values.push_back(normal(random) + block.keys[static_cast<size_t>(i)]);
    return block;
}

/** The output of attention over one block, float64. */
std::vector<double> attend(const Block& block, const std::vector<double>& q) {
    std::vector<double> out(kDv);
    double sum = 0.0;
    for (int64_t j = 0; j < kKeys; ++j) {
        double logit = 0.0;
        for (int64_t i = 0; i < kDk; ++i)
            logit += q[static_cast<size_t>(i)] * static_cast<double>(block.keys[static_cast<size_t>(j * kDk + i)]);
        sum += std::exp(logit);
        for (int64_t i = 0; i < kDv; ++i)
            out[static_cast<size_t>(i)] +=
                std::exp(logit) * static_cast<double>(block.values[static_cast<size_t>(j * kDv + i)]);
    }
    for (double& x : out) x /= sum;
    return out;
}

std::vector<float> step_of(const ValueSlope& slope, const std::vector<float>& p, float factor = 1.0f) {
    std::vector<float> out(kDv), scratch(kDk);
    slope.apply(p.data(), 1, kDk, kDv, &factor, scratch.data(), out.data());
    return out;
}

TEST(ValueSlope, IsTheDerivativeOfABlocksOutput) {
    const Block block = draw(1);
    const std::vector<float> tilt = {0.3f, -0.2f, 0.5f, 0.1f, 0.0f, -0.4f};
    ValueSlope slope;
    add_blocks(block.keys.data(), block.values.data(), kKeys, kKeys, tilt.data(), kDk, kDv, &slope);
    ASSERT_EQ(slope.blocks(), 1);
    for (size_t i = 0; i < kDk; ++i) {
        std::vector<double> up(tilt.begin(), tilt.end()), down(up);
        up[i] += 1e-5;
        down[i] -= 1e-5;
        std::vector<float> p(kDk);
        p[i] = 1.0f;
        const std::vector<double> above = attend(block, up), below = attend(block, down);
        const std::vector<float> step = step_of(slope, p);
        for (size_t x = 0; x < kDv; ++x)
            EXPECT_NEAR(static_cast<double>(step[x]), (above[x] - below[x]) / 2e-5, 1e-5) << i << ", " << x;
    }
}

TEST(ValueSlope, BlocksCountByTheirMassAndWhatIsForgottenLess) {
    const std::vector<float> tilt(kDk, 0.2f), p = {1.0f, -1.0f, 0.5f, 0.0f, 2.0f, 0.3f};
    const auto single = [&](unsigned seed, float raise) {
        Block block = draw(seed);
        for (float& x : block.keys) x += raise;  // every logit, and so the log mass, by 0.2 · 6 · raise
        ValueSlope slope;
        add_blocks(block.keys.data(), block.values.data(), kKeys, kKeys, tilt.data(), kDk, kDv, &slope);
        return std::pair(block, step_of(slope, p));
    };
    // The second block outweighs the first a little, then beyond the point where it becomes the reference.
    for (const float raise : {1.0f, 30.0f}) {
        const auto [first, step1] = single(1, 0.0f);
        const auto [second, step2] = single(1, raise);
        Block third = draw(2);
        ValueSlope slope;
        add_blocks(third.keys.data(), third.values.data(), kKeys, kKeys, tilt.data(), kDk, kDv, &slope);
        const std::vector<float> third_step = step_of(slope, p);
        add_blocks(second.keys.data(), second.values.data(), kKeys, kKeys, tilt.data(), kDk, kDv, &slope);
        std::vector<float> w(kKeys);
        float mass2 = 0.0f, mass3 = 0.0f, peak = 0.0f;
        tilted_weights(second.keys.data(), kKeys, kDk, tilt.data(), w.data(), &mass2, &peak);
        tilted_weights(third.keys.data(), kKeys, kDk, tilt.data(), w.data(), &mass3, &peak);
        const double share = 1.0 / (1.0 + std::exp(static_cast<double>(mass3 - mass2)));
        const std::vector<float> both = step_of(slope, p);
        for (size_t i = 0; i < kDv; ++i) {
            EXPECT_NEAR(both[i], share * step2[i] + (1.0 - share) * third_step[i], 1e-4) << raise;
            EXPECT_NEAR(step1[i], step2[i], 1e-3) << "moving all keys changes no covariance";
        }
    }
    // The same block twice, forgotten by three quarters in between: 1 part old, 4 parts new.
    const auto [a, step_a] = single(3, 0.0f);
    Block b = a;
    for (float& x : b.values) x = -x;
    ValueSlope slope;
    add_blocks(a.keys.data(), a.values.data(), kKeys, kKeys, tilt.data(), kDk, kDv, &slope);
    slope.forget(0.75);
    add_blocks(b.keys.data(), b.values.data(), kKeys, kKeys, tilt.data(), kDk, kDv, &slope);
    const std::vector<float> step = step_of(slope, p);
    for (size_t i = 0; i < kDv; ++i) EXPECT_NEAR(step[i], -0.6f * step_a[i], 1e-5f);
}

TEST(ValueSlope, LeavesOutWhatIsNotFinite) {
    const std::vector<float> tilt(kDk, 0.1f), p(kDk, 1.0f);
    Block good = draw(4);
    ValueSlope slope;
    EXPECT_EQ(step_of(slope, p), std::vector<float>(kDv)) << "nothing before the first block";
    add_blocks(good.keys.data(), good.values.data(), kKeys, kKeys, tilt.data(), kDk, kDv, &slope);
    const std::vector<float> before = step_of(slope, p);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        Block keys = good, values = good;
        keys.keys[7] = bad;
        values.values[11] = bad;
        for (const Block& block : {keys, values})
            add_blocks(block.keys.data(), block.values.data(), kKeys, kKeys, tilt.data(), kDk, kDv, &slope);
    }
    EXPECT_EQ(slope.blocks(), 1);
    EXPECT_EQ(step_of(slope, p), before);
    EXPECT_EQ(step_of(slope, p, 0.0f), std::vector<float>(kDv));
}

}  // namespace
}  // namespace atlas::attention
