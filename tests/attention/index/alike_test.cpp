#include "attention/index/alike.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace atlas::attention {
namespace {

void expect_permutation(const std::vector<int32_t>& order, int64_t n, int64_t block) {
    ASSERT_EQ(static_cast<int64_t>(order.size()), n);
    for (int64_t i = 0; i < n; i += block) EXPECT_TRUE(std::is_sorted(order.begin() + i, order.begin() + i + block));
    std::vector<int32_t> sorted = order;
    std::sort(sorted.begin(), sorted.end());
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(sorted[static_cast<size_t>(i)], i);
}

/** Σ over groups of the squared distances from their mean, in double. */
double spread(const std::vector<float>& keys, const std::vector<int32_t>& order, int64_t d, int64_t block) {
    double sum = 0.0;
    for (size_t begin = 0; begin < order.size(); begin += static_cast<size_t>(block)) {
        for (int64_t i = 0; i < d; ++i) {
            double mean = 0.0;
            double square = 0.0;
            for (int64_t j = 0; j < block; ++j) {
                const double x = keys[static_cast<size_t>(order[begin + static_cast<size_t>(j)] * d + i)];
                mean += x / static_cast<double>(block);
                square += x * x;
            }
            sum += square - mean * mean * static_cast<double>(block);
        }
    }
    return sum;
}

std::vector<float> normal_keys(int64_t n, int64_t d, uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> keys(static_cast<size_t>(n * d));
    for (float& x : keys) x = normal(random);
    return keys;
}

TEST(GroupAlike, FindsPlantedGroupsWhereverTheirKeysLie) {
    constexpr int64_t kN = 512, kD = 24, kBlock = 32;
    std::vector<float> keys = normal_keys(kN, kD, 1);
    std::vector<int32_t> member(kN);
    for (int64_t j = 0; j < kN; ++j) member[static_cast<size_t>(j)] = static_cast<int32_t>(j % (kN / kBlock));
    std::shuffle(member.begin(), member.end(), std::mt19937(2));
    // Corners of a box with unequal sides: bit b of the group decides the side in dimension 3b.
    for (int64_t j = 0; j < kN; ++j) {
        for (int b = 0; b < 4; ++b)
            keys[static_cast<size_t>(j * kD + 3 * b)] +=
                (member[static_cast<size_t>(j)] >> b & 1) != 0 ? static_cast<float>(40 << b) : 0.0f;
    }
    std::vector<int32_t> order;
    group_alike(keys.data(), kN, kD, kBlock, &order);
    expect_permutation(order, kN, kBlock);
    for (int64_t i = 0; i < kN; ++i)
        EXPECT_EQ(member[static_cast<size_t>(order[static_cast<size_t>(i)])],
                  member[static_cast<size_t>(order[static_cast<size_t>(i / kBlock * kBlock)])]);
}

TEST(GroupAlike, GroupsAreTighterThanConsecutiveKeysForAnyNumberOfGroups) {
    for (const int64_t groups : {2, 3, 7, 14, 16}) {
        constexpr int64_t kD = 16, kBlock = 32;
        const int64_t n = groups * kBlock;
        std::vector<float> keys = normal_keys(n, kD, static_cast<uint32_t>(groups));
        for (int64_t j = 0; j < n; ++j) {
            for (int64_t i = 0; i < kD; ++i) keys[static_cast<size_t>(j * kD + i)] /= static_cast<float>(1 + i);
        }
        std::vector<int32_t> order, in_time(static_cast<size_t>(n));
        std::iota(in_time.begin(), in_time.end(), 0);
        group_alike(keys.data(), n, kD, kBlock, &order);
        expect_permutation(order, n, kBlock);
        EXPECT_LT(spread(keys, order, kD, kBlock), (groups > 3 ? 0.6 : 0.85) * spread(keys, in_time, kD, kBlock))
            << groups;
    }
}

TEST(GroupAlike, KeysThatAreNotFiniteOrAllEqualStillGiveAPermutation) {
    constexpr int64_t kN = 256, kD = 8, kBlock = 16;
    const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e38f};
    for (const float value : bad) {
        std::vector<float> keys = normal_keys(kN, kD, 3);
        for (size_t i = 5; i < keys.size(); i += 97) keys[i] = value;
        std::vector<int32_t> order, again;
        group_alike(keys.data(), kN, kD, kBlock, &order);
        group_alike(keys.data(), kN, kD, kBlock, &again);
        expect_permutation(order, kN, kBlock);
        EXPECT_EQ(order, again);
    }
    std::vector<int32_t> order;
    group_alike(std::vector<float>(kN * kD, 2.5f).data(), kN, kD, kBlock, &order);
    expect_permutation(order, kN, kBlock);
}

TEST(GroupAlike, ReorderedRowsFollowTheOrder) {
    const std::vector<float> rows{0, 1, 10, 11, 20, 21};
    float out[6];
    reorder_rows(rows.data(), {2, 0, 1}, 2, out);
    EXPECT_EQ(std::vector<float>(out, out + 6), (std::vector<float>{20, 21, 0, 1, 10, 11}));
}

}  // namespace
}  // namespace atlas::attention
