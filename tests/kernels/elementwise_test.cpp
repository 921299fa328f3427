#include "kernels/elementwise.h"

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

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kGuard = -77.0f;

/** n numbers, one element off alignment, with a guard on either side. */
class Guarded {
public:
    explicit Guarded(std::vector<float> values) : values_(std::move(values)) {
        values_.insert(values_.begin(), kGuard);
        values_.push_back(kGuard);
    }
    float* data() { return values_.data() + 1; }
    size_t size() const { return values_.size() - 2; }
    float operator[](size_t i) const { return values_[i + 1]; }
    bool intact() const { return values_.front() == kGuard && values_.back() == kGuard; }

private:
    std::vector<float> values_;
};

/** Each |got − expected| ≤ allowed(i). */
template <class Allowed>
void expect_near(const Guarded& got, const Guarded& expected, Allowed allowed) {
    ASSERT_TRUE(got.intact()) << got.size();
    for (size_t i = 0; i < got.size(); ++i)
        ASSERT_NEAR(got[i], expected[i], allowed(i)) << "element " << i << " of " << got.size();
}

ATLAS_VARIANT_TEST(ElementwiseTest);

TEST_P(ElementwiseTest, GeluAndItsSlopeEqualFloat64) {
    Numbers numbers(2);
    for (const size_t n : kLengths) {
        std::vector<float> values = numbers.normal(n, 3.0);
        if (n > 0) values[0] = n % 2 ? -60.0f : 60.0f;
        if (n > 1) values[n - 1] = 0.0f;
        Guarded z(values), got(values), slope(values), expected(values), expected_slope(values);
        gelu(z.data(), n, got.data(), slope.data());
        reference_table().gelu(z.data(), n, expected.data(), expected_slope.data());
        const auto allowed = [&](size_t i) { return 8 * kEpsilon * std::fmax(1.0, std::fabs(z[i])); };
        expect_near(got, expected, allowed);
        expect_near(slope, expected_slope, [](size_t) { return 16 * kEpsilon; });
        Guarded alone(values);  // in place, without a slope
        gelu(alone.data(), n, alone.data(), nullptr);
        expect_near(alone, got, [](size_t) { return 0.0; });
    }
}

TEST_P(ElementwiseTest, ScalingsAndProductsEqualFloat64) {
    Numbers numbers(6);
    for (const size_t n : kLengths) {
        const std::vector<float> x_values = numbers.normal(n), y_values = numbers.normal(n);
        Guarded x(x_values);
        const auto size = [&](size_t i) {
            return kEpsilon *
                   (std::fabs(static_cast<double>(x_values[i])) + std::fabs(static_cast<double>(y_values[i])) +
                    std::fabs(static_cast<double>(x_values[i]) * static_cast<double>(y_values[i])));
        };
        const auto compare = [&](auto&& run) {
            Guarded got(y_values), expected(y_values);
            run(table(), got.data());
            run(reference_table(), expected.data());
            expect_near(got, expected, size);
        };
        compare([&](const Table& of, float* y) { of.scaled_copy(-1.5f, x.data(), n, y); });
        compare([&](const Table& of, float* y) { of.scaled_copy(0.3f, y, n, y); });
        compare([&](const Table& of, float* y) { of.scaled_add(0.7f, x.data(), -0.9f, n, y); });
        compare([&](const Table& of, float* y) { of.scaled_add(1.0f, x.data(), 1.0f, n, y); });
    }
}

TEST_P(ElementwiseTest, CosineAndExponentialEqualFloat64) {
    Numbers numbers(3);
    for (const size_t n : kLengths) {
        const std::vector<float> values = numbers.normal(n, 8.0);
        Guarded x(values), got(values), expected(values);
        cosine(x.data(), n, 0.5f, got.data());
        reference_table().cosine(x.data(), n, 0.5f, expected.data());
        expect_near(got, expected, [](size_t) { return 4 * kEpsilon; });
        Guarded in_place(values);
        cosine(in_place.data(), n, 0.5f, in_place.data());
        expect_near(in_place, got, [](size_t) { return 0.0; });
        exponential(x.data(), n, got.data());
        reference_table().exponential(x.data(), n, expected.data());
        expect_near(got, expected, [&](size_t i) { return 8 * kEpsilon * static_cast<double>(expected[i]); });
        exponential(x.data(), n, x.data());
        expect_near(x, got, [](size_t) { return 0.0; });
    }
}

TEST_P(ElementwiseTest, SumsOfSquaresDoNotDriftWithLength) {
    Numbers numbers(7);
    for (const size_t n : {0u, 1u, 7u, 8u, 17u, 1023u, 1024u, 1025u, 100000u}) {
        Guarded x(numbers.normal(n, 100.0));
        const double expected = reference_table().square_sum(x.data(), n);
        // At most 1024 in f32, spread over the lanes; the rest is in double.
        EXPECT_NEAR(square_sum(x.data(), n), expected, 16 * kEpsilon * expected) << n;
    }
}

TEST_P(ElementwiseTest, FindNonFiniteAnywhere) {
    EXPECT_TRUE(all_finite(nullptr, 0));
    for (size_t n = 1; n < 70; ++n) {
        Guarded x(std::vector<float>(n, 3e38f));
        EXPECT_TRUE(all_finite(x.data(), n));
        for (size_t i = 0; i < n; ++i) {
            for (const float bad : {kNan, kInfinity, -kInfinity}) {
                x.data()[i] = bad;
                EXPECT_FALSE(all_finite(x.data(), n)) << n << " " << i;
            }
            x.data()[i] = 3e38f;
        }
    }
}

TEST_P(ElementwiseTest, NanAndInfinitiesGoThrough) {
    for (const size_t n : {1u, 8u, 19u}) {
        for (size_t at = 0; at < n; ++at) {
            Guarded x(std::vector<float>(n, 1.0f)), y(std::vector<float>(n, 2.0f));
            x.data()[at] = kNan;
            scaled_add(1.0f, x.data(), 1.0f, n, y.data());
            for (size_t i = 0; i < n; ++i) EXPECT_EQ(std::isnan(y[i]), i == at);
            x.data()[at] = kInfinity;
            scaled_copy(-2.0f, x.data(), n, y.data());
            EXPECT_EQ(y[at], -kInfinity);
            x.data()[at] = -kInfinity;
            exponential(x.data(), n, y.data());
            EXPECT_EQ(y[at], 0.0f);
        }
    }
}

}  // namespace
}  // namespace atlas::kernels
