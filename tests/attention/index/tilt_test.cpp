#include "attention/index/tilt.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace atlas::attention {
namespace {

constexpr int64_t kD = 8;
constexpr int64_t kKeys = 256;

struct Data {
    std::vector<float> keys, values, queries, mean;
    TiltSample sample() const {
        return {keys.data(),
                values.data(),
                kKeys,
                queries.data(),
                static_cast<int64_t>(queries.size()) / kD,
                mean.data(),
                kD,
                kD,
                32,
                Pairing::kAdjacent,
                other_keys.data(),
                other_values.data(),
                static_cast<int64_t>(other_keys.size()) / kD};
    }
    std::vector<float> other_keys, other_values;
};

/** Queries that scatter about a mean of the given length; values that follow their keys. */
Data make(float length) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    Data data;
    data.mean.assign(kD, length / std::sqrt(static_cast<float>(kD)));
    for (int64_t j = 0; j < kKeys * kD; ++j) {
        data.keys.push_back(normal(random));
        data.values.push_back(data.keys.back() + 0.1f * normal(random));
    }
    for (int64_t j = 0; j < 16 * kD; ++j)
        data.queries.push_back(data.mean[static_cast<size_t>(j % kD)] + 0.2f * normal(random));
    return data;
}

TEST(Tilt, WeightsAreTheSoftmaxAndItsLogMass) {
    const Data data = make(1.0f);
    std::vector<float> weights(32);
    float log_mass = 0.0f;
    float peak = 0.0f;
    tilted_weights(data.keys.data(), 32, kD, data.mean.data(), weights.data(), &log_mass, &peak);
    double sum = 0.0;
    for (int64_t j = 0; j < 32; ++j) {
        double logit = 0.0;
        for (int64_t i = 0; i < kD; ++i)
            logit +=
                static_cast<double>(data.mean[static_cast<size_t>(i)]) * data.keys[static_cast<size_t>(j * kD + i)];
        EXPECT_LE(logit, peak + 1e-5);
        EXPECT_NEAR(weights[static_cast<size_t>(j)], std::exp(logit - log_mass), 1e-5);
        sum += std::exp(logit);
    }
    EXPECT_NEAR(log_mass, std::log(sum), 1e-5);
}

TEST(Tilt, FollowsQueriesThatAgree) { EXPECT_GE(choose_tilt(make(2.0f).sample()).tilt, 0.5f); }

TEST(Tilt, IsNothingWhereTheMeanMisleads) {
    Data data = make(2.0f);
    for (float& x : data.mean) x = -x;
    EXPECT_EQ(choose_tilt(data.sample()).tilt, 0.0f);
}

TEST(Tilt, WithoutOtherKeysThereIsNoSlope) { EXPECT_EQ(choose_tilt(make(1.0f).sample()).slope, 0.0f); }

TEST(Tilt, UsesTheSlopeOfValuesThatFollowTheirKeys) {
    Data data = make(0.0f);
    const Data other = make(0.0f);
    data.mean.assign(kD, 0.0f);
    data.other_keys = other.keys;
    data.other_values = other.values;
    EXPECT_GT(choose_tilt(data.sample()).slope, 0.0f);
}

TEST(Tilt, LeavesASlopeThatMisleads) {
    Data data = make(0.0f);
    data.mean.assign(kD, 0.0f);
    data.other_keys = data.keys;
    for (const float x : data.values) data.other_values.push_back(-x);
    EXPECT_EQ(choose_tilt(data.sample()).slope, 0.0f);
}

}  // namespace
}  // namespace atlas::attention
