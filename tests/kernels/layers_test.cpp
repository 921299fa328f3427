#include "kernels/layers.h"

#include <cmath>
#include <limits>
#include <vector>

#include "../numbers.h"
#include "variant_test.h"

namespace atlas::kernels {
namespace {

using memory::Numbers;
using test::kEpsilon;
using test::kLengths;

constexpr float kGuard = -77.0f;

/** run(table, y) writes n elements: those of the chosen table are near the reference's, and what follows them is untouched. */
template <class Run, class Allowed>
void expect_near_reference(const std::vector<float>& before, Run run, Allowed allowed) {
    std::vector<float> got(before), expected(before);
    got.push_back(kGuard);
    run(table(), got.data());
    run(reference_table(), expected.data());
    ASSERT_EQ(got.back(), kGuard);
    for (size_t i = 0; i < expected.size(); ++i)
        ASSERT_NEAR(got[i], expected[i], allowed(i)) << "element " << i << " of " << expected.size();
}

ATLAS_VARIANT_TEST(LayersTest);

TEST_P(LayersTest, NormsEqualFloat64) {
    Numbers numbers(4);
    for (const size_t n : kLengths) {
        for (const float epsilon : {0.0f, 1e-5f, 10.0f}) {
            const std::vector<float> x = numbers.normal(n, 2.0);
            const auto allowed = [&](size_t i) { return 4 * kEpsilon * (1.0 + std::fabs(static_cast<double>(x[i]))); };
            const std::vector<float> nothing(n, 0.0f);
            expect_near_reference(
                nothing, [&](const Table& of, float* y) { of.rms_norm(x.data(), n, epsilon, y); }, allowed);
            expect_near_reference(x, [&](const Table& of, float* y) { of.rms_norm(y, n, epsilon, y); }, allowed);
        }
    }
    // The mean of zeros is 0: epsilon alone decides, and without it the result is no number.
    float zero[2] = {0.0f, 0.0f};
    rms_norm(zero, 2, 1e-6f, zero);
    EXPECT_EQ(zero[1], 0.0f);
    rms_norm(zero, 2, 0.0f, zero);
    EXPECT_TRUE(std::isnan(zero[0]));
}

TEST_P(LayersTest, SumsAndProductsEqualFloat64) {
    Numbers numbers(5);
    for (const size_t n : kLengths) {
        const std::vector<float> a = numbers.normal(n), b = numbers.normal(n);
        const auto allowed = [&](size_t i) {
            return kEpsilon * (std::fabs(static_cast<double>(a[i])) + std::fabs(static_cast<double>(b[i])) +
                               std::fabs(static_cast<double>(a[i]) * static_cast<double>(b[i])));
        };
        expect_near_reference(a, [&](const Table& of, float* y) { of.add(y, b.data(), n, y); }, allowed);
        expect_near_reference(a, [&](const Table& of, float* y) { of.product(b.data(), y, n, y); }, allowed);
    }
}

TEST_P(LayersTest, GatesEqualFloat64) {
    Numbers numbers(6);
    for (const Gate gate : {Gate::kReLU, Gate::kGELU, Gate::kSiLU}) {
        for (const size_t n : kLengths) {
            std::vector<float> x = numbers.normal(n, 4.0);
            const std::vector<float> up = numbers.normal(n);
            if (n > 0) x[0] = n % 2 ? -1e4f : 1e4f;
            const auto allowed = [&](size_t i) {
                return 16 * kEpsilon * (1.0 + std::fabs(static_cast<double>(x[i]) * static_cast<double>(up[i])));
            };
            expect_near_reference(x, [&](const Table& of, float* y) { of.gated(gate, y, up.data(), n, y); }, allowed);
        }
        float nan = std::numeric_limits<float>::quiet_NaN();
        const float one = 1.0f;
        gated(gate, &nan, &one, 1, &nan);
        EXPECT_TRUE(std::isnan(nan)) << static_cast<int>(gate);
    }
}

TEST_P(LayersTest, RotationsEqualFloat64) {
    Numbers numbers(7);
    for (const RopePairs which : {RopePairs::kAdjacent, RopePairs::kHalves}) {
        for (const size_t pairs : kLengths) {
            const std::vector<float> x = numbers.normal(2 * pairs);
            std::vector<float> cosines(pairs), sines(pairs);
            for (size_t i = 0; i < pairs; ++i) {
                cosines[i] = std::cos(static_cast<float>(i));
                sines[i] = std::sin(static_cast<float>(i));
            }
            expect_near_reference(
                x,
                [&](const Table& of, float* y) { of.rotate_pairs(which, y, cosines.data(), sines.data(), pairs, y); },
                [](size_t) { return 8 * kEpsilon; });
        }
    }
}

}  // namespace
}  // namespace atlas::kernels
