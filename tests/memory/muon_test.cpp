#include "memory/muon.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "memory/reference/muon.h"
#include "memory/reference/svd.h"
#include "../numbers.h"

namespace atlas::memory {
namespace {

TEST(Svd, RebuildsTheMatrixWithOrthonormalFactors) {
    Numbers numbers(31);
    for (const auto& [rows, cols] : {std::pair{7u, 7u}, {20u, 5u}, {5u, 20u}, {1u, 9u}}) {
        const std::vector<double> a = widen(numbers.normal(rows * cols));
        const reference::Svd s = reference::svd(rows, cols, a);
        const size_t k = std::min(rows, cols);
        std::vector<double> rebuilt(a.size(), 0.0);
        for (size_t i = 0; i < rows; ++i) {
            for (size_t j = 0; j < cols; ++j) {
                for (size_t l = 0; l < k; ++l) rebuilt[i * cols + j] += s.u[i * k + l] * s.sigma[l] * s.v[j * k + l];
            }
        }
        EXPECT_LT(relative_error(rebuilt, a), 1e-12);
        for (size_t x = 0; x < k; ++x) {
            for (size_t y = 0; y < k; ++y) {
                double dot = 0.0;
                for (size_t i = 0; i < rows; ++i) dot += s.u[i * k + x] * s.u[i * k + y];
                EXPECT_NEAR(dot, x == y ? 1.0 : 0.0, 1e-10);
            }
        }
    }
}

class Muon : public testing::TestWithParam<NewtonSchulz> {};

TEST_P(Muon, EqualsFloat64) {
    Numbers numbers(32);
    MuonWorkspace work;
    for (int round = 0; round < 12; ++round) {
        const size_t rows = numbers.size(1, round % 2 ? 256 : 40), cols = numbers.size(1, round % 3 ? 64 : 200);
        const std::vector<float> s = numbers.normal(rows * cols, round % 4 ? 1.0 : 1e-4);
        std::vector<float> out(s.size());
        muon_step(GetParam(), rows, cols, s.data(), out.data(), &work);
        EXPECT_LT(relative_error(out, reference::muon_step(GetParam(), rows, cols, widen(s))), 1e-5)
            << rows << "×" << cols;
        std::vector<float> in_place = s;
        muon_step(GetParam(), rows, cols, in_place.data(), in_place.data(), &work);
        EXPECT_EQ(in_place, out);
    }
}

/** Rounded factors move the result by at most 5 %, where random matrices have small singular values; Polar Express stays in f32. */
TEST_P(Muon, InBf16StaysWithinFivePercent) {
    Numbers numbers(36);
    MuonWorkspace work;
    double worst = 0.0;
    for (int round = 0; round < 12; ++round) {
        const size_t rows = numbers.size(16, round % 2 ? 256 : 40), cols = numbers.size(16, round % 3 ? 64 : 200);
        const std::vector<float> s = numbers.normal(rows * cols, round % 4 ? 1.0 : 1e-4);
        std::vector<float> out(s.size());
        muon_step(GetParam(), rows, cols, s.data(), out.data(), &work, 0, true);
        worst = std::max(worst, relative_error(out, reference::muon_step(GetParam(), rows, cols, widen(s))));
    }
    if (GetParam() == NewtonSchulz::kStandard) {
        EXPECT_GT(worst, 1e-3) << "this was not bf16";
        EXPECT_LT(worst, 0.05);
    } else {
        EXPECT_LT(worst, 1e-5);
    }
}

INSTANTIATE_TEST_SUITE_P(Kinds, Muon,
                         testing::Values(NewtonSchulz::kStandard, NewtonSchulz::kPolarExpress, NewtonSchulz::kNone));

/**
 * Against the SVD: the singular vectors stay, only the singular values move, into the band that each set of coefficients has. Inputs have
 * condition 100, which five or six steps can lift.
 */
void check_band(NewtonSchulz kind, double low, double high) {
    Numbers numbers(33);
    MuonWorkspace work;
    for (const auto& [rows, cols] : {std::pair{32u, 64u}, {64u, 32u}, {48u, 48u}}) {
        const size_t k = std::min(rows, cols);
        const reference::Svd random = reference::svd(rows, cols, widen(numbers.normal(rows * cols)));
        std::vector<float> s(rows * cols);
        std::vector<double> polar(s.size(), 0.0);
        for (size_t l = 0; l < k; ++l) {
            const double sigma = std::pow(100.0, -static_cast<double>(l) / static_cast<double>(k - 1));
            for (size_t i = 0; i < rows; ++i) {
                for (size_t j = 0; j < cols; ++j) {
                    s[i * cols + j] += static_cast<float>(random.u[i * k + l] * sigma * random.v[j * k + l]);
                    polar[i * cols + j] += random.u[i * k + l] * random.v[j * k + l];
                }
            }
        }
        std::vector<float> out(s.size());
        muon_step(kind, rows, cols, s.data(), out.data(), &work);
        const double scale = std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(cols)));
        const reference::Svd result = reference::svd(rows, cols, widen(out));
        for (const double sigma : result.sigma) {
            EXPECT_GT(sigma / scale, low);
            EXPECT_LT(sigma / scale, high);
        }
        for (float& value : out) value /= static_cast<float>(scale);
        // ‖UΣVᵀ − UVᵀ‖ / ‖UVᵀ‖ is at most the largest |σ − 1|.
        EXPECT_LT(relative_error(out, polar), std::max(1.0 - low, high - 1.0));
    }
}

// 1.2024 is the polynomial's own maximum on (0, 1], at 0.5545: a singular value that meets it in the last step ends there.
TEST(NewtonSchulzBand, StandardCoefficients) { check_band(NewtonSchulz::kStandard, 0.66, 1.2025); }
TEST(NewtonSchulzBand, PolarExpress) { check_band(NewtonSchulz::kPolarExpress, 0.985, 1.015); }

TEST(NewtonSchulzEdge, ZeroStaysZero) {
    MuonWorkspace work;
    std::vector<float> s(12, 0.0f), out(12, 1.0f);
    muon_step(NewtonSchulz::kStandard, 3, 4, s.data(), out.data(), &work);
    EXPECT_EQ(out, s);
}

/** A matrix of rank 1 (one token's gradient): the direction is kept. Rounding in the empty directions grows by 3.4445⁵ = 485, hence 1e-4. */
TEST(NewtonSchulzEdge, RankOne) {
    Numbers numbers(34);
    const std::vector<float> u = numbers.normal(40), v = numbers.normal(24);
    std::vector<float> s, out(40 * 24);
    for (const float a : u) {
        for (const float b : v) s.push_back(a * b);
    }
    MuonWorkspace work;
    muon_step(NewtonSchulz::kStandard, 40, 24, s.data(), out.data(), &work);
    EXPECT_LT(relative_error(out, reference::muon_step(NewtonSchulz::kStandard, 40, 24, widen(s))), 1e-4);
}

}  // namespace
}  // namespace atlas::memory
