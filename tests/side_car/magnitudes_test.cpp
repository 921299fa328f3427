#include "side_car/magnitudes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace atlas::side_car {
namespace {

constexpr int64_t kInputs = 256;

/** Tokens whose inputs are normal, of a standard deviation. */
std::vector<float> tokens(int64_t inputs, int64_t n, double deviation, uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0f, static_cast<float>(deviation));
    std::vector<float> x(static_cast<size_t>(inputs * n));
    for (float& value : x) value = normal(random);
    return x;
}

double share_below(const std::vector<float>& x, double threshold) {
    double n = 0;
    for (const float value : x) n += static_cast<double>(std::abs(value)) < threshold ? 1 : 0;
    return n / static_cast<double>(x.size());
}

TEST(MagnitudesTest, SharesAreKeptOverAllMatrices) {
    Magnitudes seen;
    // The second has inputs a tenth as large and is three times as wide.
    std::vector<std::vector<float>> all(2);
    for (uint32_t batch = 0; batch < 200; ++batch) {
        for (size_t m = 0; m < 2; ++m) {
            const std::vector<float> x = tokens(kInputs, 4, m == 0 ? 1.0 : 0.1, 2 * batch + static_cast<uint32_t>(m));
            seen.add(m == 0 ? "blk.0.attn_q.weight" : "blk.0.ffn_up.weight", kInputs, m == 0 ? 100 : 300, x.data(), 4);
            all[m].insert(all[m].end(), x.begin(), x.end());
        }
    }
    const Thresholds thresholds = seen.thresholds();
    ASSERT_EQ(thresholds.weights.size(), 2u);
    for (const int percent : kShares) {
        const double share = 0.01 * percent;
        const double q = share_below(all[0], static_cast<double>(thresholds.of("blk.0.attn_q.weight", kInputs, 100, share)));
        const double up = share_below(all[1], static_cast<double>(thresholds.of("blk.0.ffn_up.weight", kInputs, 300, share)));
        EXPECT_NEAR(0.25 * q + 0.75 * up, share, 0.01) << percent;
    }
}

TEST(MagnitudesTest, WhatIsNoNumberDoesNotCount) {
    Magnitudes seen;
    std::vector<float> x = tokens(kInputs, 16, 1.0, 1);
    for (size_t i = 0; i < x.size(); i += 2)
        x[i] = i % 4 == 0 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    seen.add("blk.0.attn_q.weight", kInputs, 8, x.data(), 16);
    seen.add("blk.1.attn_q.weight", 4, 8, std::vector<float>(4, 0.0f).data(), 1);
    const Thresholds thresholds = seen.thresholds();
    ASSERT_EQ(thresholds.weights.size(), 1u) << "inputs that are all 0 have no threshold";
    EXPECT_NEAR(thresholds.of("blk.0.attn_q.weight", kInputs, 8, 0.5), 0.674, 0.06);
    EXPECT_TRUE(Magnitudes().thresholds().empty());
}

TEST(ThresholdsTest, BetweenSharesAndBeyond) {
    Thresholds thresholds;
    thresholds.weights["blk.0.ffn_down.weight"] = {8, 4, {1, 2, 3, 4, 5, 6, 7}};
    const auto of = [&](double share) { return thresholds.of("blk.0.ffn_down.weight", 8, 4, share); };
    EXPECT_EQ(of(0.0), 0.0f);
    EXPECT_FLOAT_EQ(of(0.05), 0.5f);
    EXPECT_FLOAT_EQ(of(0.10), 1.0f);
    EXPECT_FLOAT_EQ(of(0.45), 3.5f);
    EXPECT_FLOAT_EQ(of(0.80), 7.0f);
    EXPECT_EQ(of(1.0), 7.0f);
    EXPECT_EQ(thresholds.of("blk.0.ffn_down.weight", 8, 5, 0.5), 0.0f);
    EXPECT_EQ(thresholds.of("blk.1.ffn_down.weight", 8, 4, 0.5), 0.0f);
}

TEST(ThresholdsTest, NamesOfMatrices) {
    for (const char* name : {"blk.0.attn_q.weight", "blk.11.ffn_down.weight", "blk.3.attn_output.weight"})
        EXPECT_TRUE(has_sparse_inputs(name)) << name;
    for (const char* name : {"output.weight", "token_embd.weight", "blk.0.ffn_gate_inp.weight", "blk.0.attn_q.bias",
                             "blk.0.ffn_down_exps.weight", "ffn_down.weight", ""})
        EXPECT_FALSE(has_sparse_inputs(name)) << name;
}

}  // namespace
}  // namespace atlas::side_car
