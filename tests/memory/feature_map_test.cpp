#include "memory/feature_map.h"

#include <gtest/gtest.h>

#include "memory/feature_cache.h"
#include "memory/reference/feature_map.h"
#include "../numbers.h"

namespace atlas::memory {
namespace {

struct Case {
    FeatureType type;
    int degree;
};

class Features : public testing::TestWithParam<Case> {};

TEST_P(Features, EqualFloat64) {
    Numbers numbers(21);
    for (const bool normalize : {false, true}) {
        const size_t largest = GetParam().degree == 3 ? 40 : 256;
        for (const size_t d : {size_t{1}, size_t{3}, size_t{32}, numbers.size(32, largest), largest}) {
            FeatureConfig config{GetParam().type, d, GetParam().degree, 77, 0.0, normalize, 5};
            ASSERT_TRUE(check_features(config).is_ok());
            const FeatureMap map(config);
            const size_t n = 3;
            const std::vector<float> x = numbers.normal(n * d);
            std::vector<float> out(n * map.features());
            map.map(x.data(), n, out.data());
            const std::vector<double> x64 = widen(x);
            for (size_t i = 0; i < n; ++i) {
                const std::vector<double> expected = reference::map_features(map, x64.data() + i * d);
                ASSERT_EQ(expected.size(), map.features());
                const std::vector<float> row(out.begin() + static_cast<std::ptrdiff_t>(i * map.features()),
                                             out.begin() + static_cast<std::ptrdiff_t>((i + 1) * map.features()));
                EXPECT_LT(relative_error(row, expected), 1e-5) << "d " << d << " normalize " << normalize;
            }
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Types, Features,
                         testing::Values(Case{FeatureType::kIdentity, 1}, Case{FeatureType::kPolynomial, 1},
                                         Case{FeatureType::kPolynomial, 2}, Case{FeatureType::kPolynomial, 3},
                                         Case{FeatureType::kExponential, 1}, Case{FeatureType::kExponential, 2},
                                         Case{FeatureType::kExponential, 3}, Case{FeatureType::kFourier, 1},
                                         Case{FeatureType::kRbf, 1}));

TEST(FeatureCount, IsTheBinomial) {
    EXPECT_EQ(feature_count({FeatureType::kPolynomial, 64, 2}), 2145u);
    EXPECT_EQ(feature_count({FeatureType::kPolynomial, 128, 2}), 8385u);
    EXPECT_EQ(feature_count({FeatureType::kPolynomial, 32, 2}), 561u);
    EXPECT_EQ(feature_count({FeatureType::kPolynomial, 32, 3}), 6545u);
    EXPECT_FALSE(check_features({FeatureType::kPolynomial, 128, 3}).is_ok()) << "366145 features";
    EXPECT_FALSE(check_features({FeatureType::kPolynomial, 8, 4}).is_ok());
}

/** φ(q)·φ(k) = Σ_{n ≤ p} (q·k)^n / n!, which is exp(q·k) up to the remainder. */
TEST(ExponentialFeatures, DotProductIsTheTruncatedExponential) {
    Numbers numbers(22);
    for (int degree = 1; degree <= 3; ++degree) {
        const FeatureMap map({FeatureType::kExponential, 16, degree});
        const std::vector<float> x = numbers.normal(32, 0.3);
        std::vector<float> out(2 * map.features());
        map.map(x.data(), 2, out.data());
        double dot = 0.0, product = 0.0, expected = 0.0, term = 1.0;
        for (size_t i = 0; i < 16; ++i) dot += static_cast<double>(x[i]) * static_cast<double>(x[16 + i]);
        for (size_t i = 0; i < map.features(); ++i)
            product += static_cast<double>(out[i]) * static_cast<double>(out[map.features() + i]);
        for (int n = 0; n <= degree; ++n, term *= dot / n) expected += term;
        EXPECT_NEAR(product, expected, 1e-5 * std::fabs(expected)) << degree;
    }
}

/** Random Fourier features approximate the Gaussian kernel with error O(1/√D). */
TEST(FourierFeatures, DotProductApproximatesTheGaussianKernel) {
    Numbers numbers(23);
    const FeatureMap map({FeatureType::kFourier, 8, 1, 20000, 2.0});
    const std::vector<float> x = numbers.normal(16);
    std::vector<float> out(2 * map.features());
    map.map(x.data(), 2, out.data());
    double distance = 0.0, product = 0.0;
    for (size_t i = 0; i < 8; ++i) distance += std::pow(static_cast<double>(x[i]) - static_cast<double>(x[8 + i]), 2.0);
    for (size_t i = 0; i < map.features(); ++i)
        product += static_cast<double>(out[i]) * static_cast<double>(out[map.features() + i]);
    EXPECT_NEAR(product, std::exp(-distance / 8.0), 4.0 / std::sqrt(20000.0));
}

/** ∂ℓ/∂a_n by central differences of ℓ = Σ_i u_i φ_i. */
TEST(PolynomialCoefficients, GradientIsTheFiniteDifference) {
    Numbers numbers(24);
    for (const FeatureType type : {FeatureType::kPolynomial, FeatureType::kExponential}) {
        FeatureMap map({type, 9, 3});
        const std::vector<float> x = numbers.normal(2 * 9), u = numbers.normal(2 * map.features());
        const std::vector<double> x64 = widen(x);
        std::vector<double> analytic(4), numeric;
        map.coefficient_gradient(x.data(), 2, u.data(), analytic.data());
        const std::vector<double> kept(map.coefficients().begin(), map.coefficients().end());
        const auto loss = [&] {
            double sum = 0.0;
            for (size_t row = 0; row < 2; ++row) {
                const std::vector<double> phi = reference::map_features(map, x64.data() + row * 9);
                for (size_t i = 0; i < phi.size(); ++i) sum += phi[i] * static_cast<double>(u[row * phi.size() + i]);
            }
            return sum;
        };
        for (size_t n = 0; n < 4; ++n) {
            std::vector<double> moved = kept;
            moved[n] += 1e-3;
            map.set_coefficients(moved);
            const double above = loss();
            moved[n] -= 2e-3;
            map.set_coefficients(moved);
            numeric.push_back((above - loss()) / 2e-3);
        }
        EXPECT_LT(relative_error(analytic, numeric), 1e-6);
    }
}

TEST(FeatureCacheTest, HitsAreExactAndCounted) {
    Numbers numbers(25);
    const FeatureMap map({FeatureType::kPolynomial, 12, 2});
    FeatureCache cache(map, 1 << 20);
    EXPECT_LE(cache.bytes(), size_t{1} << 20);
    const std::vector<float> x = numbers.normal(20 * 12);
    std::vector<float> expected(20 * map.features()), got(expected.size());
    map.map(x.data(), 20, expected.data());
    cache.map(x.data(), 20, got.data());
    EXPECT_EQ(got, expected);
    EXPECT_EQ(cache.stats().misses, 20u);
    std::fill(got.begin(), got.end(), 0.0f);
    cache.map(x.data(), 20, got.data());
    EXPECT_EQ(got, expected);
    EXPECT_EQ(cache.stats().hits, 20u);
    EXPECT_DOUBLE_EQ(cache.stats().hit_ratio(), 0.5);
    cache.clear();
    EXPECT_EQ(cache.stats().hits + cache.stats().misses, 0u);
}

/** Far more inputs than rows: never a wrong row, and recent inputs are still there. */
TEST(FeatureCacheTest, EvictsTheOldest) {
    Numbers numbers(26);
    const FeatureMap map({FeatureType::kPolynomial, 6, 2});
    FeatureCache cache(map, 64 * (6 + map.features() + 2) * sizeof(float));
    std::vector<float> got(map.features()), expected(map.features());
    for (int i = 0; i < 500; ++i) {
        const std::vector<float> x = numbers.normal(6);
        for (int again = 0; again < 2; ++again) {
            cache.map(x.data(), 1, got.data());
            map.map(x.data(), 1, expected.data());
            ASSERT_EQ(got, expected);
        }
    }
    EXPECT_EQ(cache.stats().hits, 500u) << "an input just seen must be found";
    const float bad[6] = {1, NAN, 1, 1, 1, 1};
    cache.map(bad, 1, got.data());
    cache.map(bad, 1, got.data());
    EXPECT_EQ(cache.stats().hits, 500u) << "inputs that are not finite are not kept";
    FeatureCache none(map, 10);
    none.map(expected.data(), 1, got.data());
    none.map(expected.data(), 1, got.data());
    EXPECT_EQ(none.stats().hits, 0u);
}

}  // namespace
}  // namespace atlas::memory
