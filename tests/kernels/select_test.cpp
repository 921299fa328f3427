#include "kernels/select.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

namespace atlas::kernels {
namespace {

TEST(Select, OrderKeysOrderLikeTheirValues) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const std::vector<float> ascending = {-kInfinity, -3e38f, -2.0f, -1.0f, -1e-40f,  0.0f,
                                          1e-40f,     1.0f,   2.5f,  3e38f, kInfinity};
    EXPECT_GT(order_key(ascending[0]), 0u);
    for (size_t i = 1; i < ascending.size(); ++i) EXPECT_LT(order_key(ascending[i - 1]), order_key(ascending[i])) << i;
}

TEST(Select, FindsTheNthLargestOfAnyNumber) {
    std::mt19937 random(1);
    for (const size_t n : {1, 2, 15, 16, 17, 100, 256, 1000}) {
        for (const uint32_t different : {1u, 3u, 1000u, UINT32_MAX}) {
            std::vector<uint32_t> keys(n);
            for (uint32_t& key : keys) key = static_cast<uint32_t>(random()) % different;
            std::vector<uint32_t> sorted = keys;
            std::sort(sorted.begin(), sorted.end(), std::greater<>());
            for (size_t count = 1; count <= n; count += 1 + n / 7)
                EXPECT_EQ(nth_largest(keys.data(), n, count), sorted[count - 1])
                    << n << " " << different << " " << count;
        }
    }
}

}  // namespace
}  // namespace atlas::kernels
