#include "kernels/cpu/elementwise/softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../numbers.h"
#include "variant_test.h"

// No entries of the table: what the CPU's attention makes of a row of scores.

namespace atlas::kernels::cpu {
namespace {

using memory::Numbers;
using test::kEpsilon;
using test::kLengths;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

ATLAS_VARIANT_TEST(SoftmaxTest);

float max_without_nan(const std::vector<float>& values, size_t begin, size_t n) {
    float best = -kInfinity;
    for (size_t i = begin; i < begin + n; ++i) best = values[i] > best ? values[i] : best;
    return best;
}

/** Before, a NaN among the last few hid what came before it. */
TEST_P(SoftmaxTest, MaximumPassesOverNan) {
    Numbers numbers(8);
    const SoftmaxOps& ops = softmax_ops();
    for (const size_t n : kLengths) {
        std::vector<float> values = numbers.normal(n + 1);
        EXPECT_EQ(ops.max(values.data() + 1, n), max_without_nan(values, 1, n)) << n;
        for (size_t i = 1; i <= n; i += 1 + n / 9) values[i] = kNan;
        EXPECT_EQ(ops.max(values.data() + 1, n), max_without_nan(values, 1, n)) << n << " with NaN";
    }
    for (size_t n = 1; n < 40; ++n) {
        for (size_t at = 0; at < n; ++at) {
            std::vector<float> values(n, -1.0f);
            values[at] = kNan;
            EXPECT_EQ(ops.max(values.data(), n), n == 1 ? -kInfinity : -1.0f) << n << " " << at;
        }
    }
}

TEST_P(SoftmaxTest, WeightsAndTheirSumEqualFloat64) {
    Numbers numbers(9);
    const SoftmaxOps& ops = softmax_ops();
    for (const size_t n : kLengths) {
        std::vector<float> got = numbers.normal(n + 2, 10.0);
        if (n > 2) got[2] = -kInfinity;
        if (n > 3) got[3] = -1e30f;
        const std::vector<float> before = got;
        const float shift = n == 0 ? 0.0f : max_without_nan(got, 1, n);
        const float sum = ops.exp_sum(got.data() + 1, n, shift);
        EXPECT_EQ(got.front(), before.front());
        EXPECT_EQ(got.back(), before.back());
        double expected_sum = 0.0;
        for (size_t i = 1; i <= n; ++i) {
            const double x = static_cast<double>(before[i]) - static_cast<double>(shift);
            const double expected = x < -87.3 ? 0.0 : std::exp(x);
            expected_sum += expected;
            // Differences of logits up to 87 are rounded before the exponential is taken.
            ASSERT_NEAR(got[i], expected, 64 * kEpsilon * expected) << n << " " << i;
        }
        EXPECT_NEAR(sum, expected_sum, 64 * kEpsilon * expected_sum) << n;
        if (n > 3) {
            EXPECT_EQ(got[2], 0.0f);
            EXPECT_EQ(got[3], 0.0f);
        }
    }
    float nan = kNan;
    EXPECT_TRUE(std::isnan(ops.exp_sum(&nan, 1, 0.0f)));
    EXPECT_TRUE(std::isnan(nan));
}

TEST_P(SoftmaxTest, CappingAndScalingEqualFloat64) {
    Numbers numbers(10);
    const SoftmaxOps& ops = softmax_ops();
    for (const size_t n : kLengths) {
        // Around 0.15, where a series takes over.
        std::vector<float> got = numbers.normal(n + 2, n % 2 ? 0.15 : 3.0);
        const std::vector<float> before = got;
        ops.soft_cap(got.data() + 1, n, 30.0f);
        for (size_t i = 1; i <= n; ++i) {
            const double expected = 30.0 * std::tanh(static_cast<double>(before[i]));
            ASSERT_NEAR(got[i], expected, 32 * kEpsilon * std::fabs(expected)) << n << " " << before[i];
        }
        ops.scale(got.data() + 1, n, 0.5f);
        for (size_t i = 1; i <= n; ++i)
            ASSERT_NEAR(got[i], 15.0 * std::tanh(static_cast<double>(before[i])), 32 * kEpsilon * 15.0);
        EXPECT_EQ(got.front(), before.front());
        EXPECT_EQ(got.back(), before.back());
    }
}

TEST_P(SoftmaxTest, FindsWhatIsNotFinite) {
    const SoftmaxOps& ops = softmax_ops();
    for (size_t n = 0; n < 70; ++n) {
        std::vector<float> values(n, -3e38f);
        EXPECT_TRUE(ops.finite(values.data(), n));
        for (size_t i = 0; i < n; ++i) {
            for (const float bad : {kNan, kInfinity, -kInfinity}) {
                values[i] = bad;
                EXPECT_FALSE(ops.finite(values.data(), n)) << n << " " << i;
            }
            values[i] = -3e38f;
        }
    }
}

}  // namespace
}  // namespace atlas::kernels::cpu
