#include "kernels/block_moments.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "variant_test.h"

namespace atlas::kernels::test {
namespace {

class BlockMomentsTest : public VariantTest {
protected:
    std::vector<float> draw(size_t n, float mean = 0.0f) {
        std::normal_distribution<float> normal(mean, 1.0f);
        std::vector<float> values(n);
        for (float& x : values) x = normal(rng_);
        return values;
    }

private:
    std::mt19937 rng_{11};
};

INSTANTIATE_TEST_SUITE_P(Variants, BlockMomentsTest, testing::Values("avx2", "avx512", "avx512_bf16", "neon"),
                         [](const auto& info) { return info.param; });

TEST_P(BlockMomentsTest, EqualTheirDefinitions) {
    for (const size_t d : {2, 6, 16, 18, 40, 64, 80, 96, 128, 200, 256}) {
        for (const size_t n : {1, 3, 16, 32, 64}) {
            const std::string what = "d " + std::to_string(d) + ", n " + std::to_string(n);
            const std::vector<float> rows = draw(n * d, 2.0f);
            const std::vector<float> mean = draw(d, 2.0f);
            std::vector<float> weights = draw(n);
            for (float& x : weights) x = x * x;
            std::vector<float> products(n), sum(d), plain(d), spread(d / 2), reach(d / 2);
            row_products(rows.data(), n, d, mean.data(), products.data());
            weighted_sum(rows.data(), n, d, weights.data(), mean.data(), sum.data());
            weighted_sum(rows.data(), n, d, weights.data(), nullptr, plain.data());
            for (size_t j = 0; j < n; ++j) {
                double expected = 0;
                double size = 0;
                for (size_t i = 0; i < d; ++i) {
                    expected += static_cast<double>(rows[j * d + i]) * mean[i];
                    size += std::fabs(static_cast<double>(rows[j * d + i]) * mean[i]);
                }
                EXPECT_NEAR(products[j], expected, 1e-6 * size) << what;
            }
            for (size_t i = 0; i < d; ++i) {
                double expected = 0;
                double without = 0;
                double size = 0;
                for (size_t j = 0; j < n; ++j) {
                    expected += static_cast<double>(weights[j]) * (static_cast<double>(rows[j * d + i]) - mean[i]);
                    without += static_cast<double>(weights[j]) * rows[j * d + i];
                    size += weights[j] * (std::fabs(rows[j * d + i]) + std::fabs(mean[i]));
                }
                EXPECT_NEAR(sum[i], expected, 1e-6 * size) << what;
                EXPECT_NEAR(plain[i], without, 1e-6 * size) << what;
            }
            for (const bool adjacent : {false, true}) {
                pair_distances(rows.data(), n, d, adjacent, weights.data(), mean.data(), spread.data(), reach.data());
                for (size_t p = 0; p < d / 2; ++p) {
                    const size_t a = adjacent ? 2 * p : p;
                    const size_t b = adjacent ? 2 * p + 1 : p + d / 2;
                    double total = 0;
                    double largest = 0;
                    for (size_t j = 0; j < n; ++j) {
                        const double x = static_cast<double>(rows[j * d + a]) - mean[a];
                        const double y = static_cast<double>(rows[j * d + b]) - mean[b];
                        total += weights[j] * (x * x + y * y);
                        largest = std::max(largest, x * x + y * y);
                    }
                    EXPECT_NEAR(spread[p], std::sqrt(total), 1e-6 * std::sqrt(total) + 1e-6) << what;
                    EXPECT_NEAR(reach[p], std::sqrt(largest), 1e-6 * std::sqrt(largest) + 1e-6) << what;
                }
            }
        }
    }
}

}  // namespace
}  // namespace atlas::kernels::test
