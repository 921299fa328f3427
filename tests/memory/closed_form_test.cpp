#include "memory/closed_form.h"

#include <gtest/gtest.h>

#include "../numbers.h"

namespace atlas::memory {
namespace {

/** At the minimum the gradient Σ(Wx − v)xᵀ + λW vanishes. */
TEST(Ridge, SolvesTheNormalEquations) {
    Numbers numbers(51);
    const size_t n = 50, d = 20, o = 7;
    const std::vector<double> x = widen(numbers.normal(n * d)), v = widen(numbers.normal(n * o));
    std::vector<double> w;
    ASSERT_TRUE(ridge(x, v, n, d, o, 0.3, &w).is_ok());
    for (size_t a = 0; a < o; ++a) {
        for (size_t b = 0; b < d; ++b) {
            double gradient = 0.3 * w[a * d + b];
            for (size_t i = 0; i < n; ++i) {
                double y = 0.0;
                for (size_t j = 0; j < d; ++j) y += w[a * d + j] * x[i * d + j];
                gradient += (y - v[i * o + a]) * x[i * d + b];
            }
            EXPECT_NEAR(gradient, 0.0, 1e-9);
        }
    }
    EXPECT_FALSE(ridge(x, v, 5, d, o, 0.0, &w).is_ok()) << "5 pairs do not determine 20 features";
}

TEST(Cholesky, InvertsWhatIsPositiveDefiniteAndRefusesTheRest) {
    Numbers numbers(52);
    for (const size_t n : {1u, 2u, 17u, 65u}) {
        const std::vector<double> x = widen(numbers.normal(2 * n * n));
        std::vector<double> a(n * n, 0.0);
        for (size_t i = 0; i < 2 * n; ++i) {
            for (size_t r = 0; r < n; ++r) {
                for (size_t c = 0; c < n; ++c) a[r * n + c] += x[i * n + r] * x[i * n + c];
            }
        }
        std::vector<double> inverse = a;
        // Only the lower half counts.
        for (size_t r = 0; r < n; ++r) {
            for (size_t c = r + 1; c < n; ++c) inverse[r * n + c] = 1e9;
        }
        ASSERT_TRUE(invert_symmetric(&inverse, n));
        for (size_t r = 0; r < n; ++r) {
            for (size_t c = 0; c < n; ++c) {
                double sum = 0.0;
                for (size_t k = 0; k < n; ++k) sum += a[r * n + k] * inverse[k * n + c];
                EXPECT_NEAR(sum, r == c ? 1.0 : 0.0, 1e-8);
            }
        }
    }
    std::vector<double> not_definite{1.0, 2.0, 2.0, 1.0};
    EXPECT_FALSE(invert_symmetric(&not_definite, 2));
}

TEST(RecursiveLeastSquaresTest, IsRidge) {
    Numbers numbers(52);
    const size_t n = 60, d = 24, o = 5;
    const std::vector<double> x = widen(numbers.normal(n * d)), v = widen(numbers.normal(n * o));
    std::vector<double> w;
    ASSERT_TRUE(ridge(x, v, n, d, o, 0.1, &w).is_ok());
    RecursiveLeastSquares rls(d, o, 0.1);
    for (size_t i = 0; i < n; ++i) rls.learn(x.data() + i * d, v.data() + i * o);
    EXPECT_LT(relative_error(rls.weights(), w), 1e-8);
}

TEST(RecursiveLeastSquaresTest, ForgetsByAge) {
    Numbers numbers(53);
    const size_t n = 40, d = 10, o = 3;
    const double f = 0.9;
    std::vector<double> x = widen(numbers.normal(n * d)), v = widen(numbers.normal(n * o)), w;
    RecursiveLeastSquares rls(d, o, 0.5, f);
    for (size_t i = 0; i < n; ++i) rls.learn(x.data() + i * d, v.data() + i * o);
    for (size_t i = 0; i < n; ++i) {
        const double scale = std::pow(f, 0.5 * static_cast<double>(n - 1 - i));
        for (size_t j = 0; j < d; ++j) x[i * d + j] *= scale;
        for (size_t j = 0; j < o; ++j) v[i * o + j] *= scale;
    }
    ASSERT_TRUE(ridge(x, v, n, d, o, 0.5 * std::pow(f, static_cast<double>(n)), &w).is_ok());
    EXPECT_LT(relative_error(rls.weights(), w), 1e-8);
}

TEST(DeltaRuleTest, AFullStepFitsThePairExactly) {
    Numbers numbers(54);
    DeltaRule rule(12, 4, 1.0);
    for (int i = 0; i < 5; ++i) {
        const std::vector<double> x = widen(numbers.normal(12)), v = widen(numbers.normal(4));
        rule.learn(x.data(), v.data());
        for (size_t o = 0; o < 4; ++o) {
            double y = 0.0;
            for (size_t j = 0; j < 12; ++j) y += rule.weights()[o * 12 + j] * x[j];
            EXPECT_NEAR(y, v[o], 1e-12);
        }
    }
    const std::vector<double> zero(12, 0.0), v(4, 1.0), before = rule.weights();
    rule.learn(zero.data(), v.data());
    EXPECT_EQ(rule.weights(), before);
}

TEST(Hebbian, RecallsOrthogonalKeysExactly) {
    const std::vector<double> x = {1, 0, 0, 0, 1, 0}, v = {3, 4, 5, 6};
    const std::vector<double> w = hebbian(x, v, 2, 3, 2);
    EXPECT_EQ(w, (std::vector<double>{3, 5, 0, 4, 6, 0}));
}

}  // namespace
}  // namespace atlas::memory
