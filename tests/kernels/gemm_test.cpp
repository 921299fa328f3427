#include "kernels/gemm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "memory/reference/deep_memory.h"
#include "kernels/vector_ops.h"
#include "../numbers.h"

namespace atlas::memory {
namespace {

TEST(Gemm, EqualsFloat64InAllLayouts) {
    Numbers numbers(1);
    for (int round = 0; round < 120; ++round) {
        // Sizes around vector widths, row blocks and the packing depth of 256.
        const size_t m = numbers.size(1, round % 5 == 0 ? 100 : 20), n = numbers.size(1, 80),
                     k = numbers.size(0, round % 3 == 0 ? 600 : 40);
        const bool a_turned = round & 1, b_turned = round & 2;
        const float alpha = round % 7 ? 1.0f : -0.5f, beta = round % 4 == 0 ? 0.0f : round % 4 == 1 ? 1.0f : 0.25f;
        // One element off, so that nothing is aligned.
        const std::vector<float> a = numbers.normal(m * k + 1), b = numbers.normal(k * n + 1),
                                 start = numbers.normal(m * (n + 3));
        std::vector<float> c = start;
        if (beta == 0.0f) c.assign(c.size(), std::numeric_limits<float>::quiet_NaN());
        for (size_t i = 0; i < m; ++i) std::copy_n(start.data() + i * (n + 3) + n, 3, c.data() + i * (n + 3) + n);
        const MatrixView view_a = a_turned ? MatrixView{a.data() + 1, m}.transposed() : MatrixView{a.data() + 1, k};
        const MatrixView view_b = b_turned ? MatrixView{b.data() + 1, k}.transposed() : MatrixView{b.data() + 1, n};
        gemm(m, n, k, alpha, view_a, view_b, beta, c.data(), n + 3);
        std::vector<double> expected, got;
        for (size_t i = 0; i < m; ++i) {
            for (size_t j = 0; j < n; ++j) {
                double sum = 0.0;
                for (size_t l = 0; l < k; ++l) {
                    sum += static_cast<double>(view_a.data[i * view_a.row_stride + l * view_a.col_stride]) *
                           static_cast<double>(view_b.data[l * view_b.row_stride + j * view_b.col_stride]);
                }
                expected.push_back(static_cast<double>(alpha) * sum +
                                   (beta == 0.0f ? 0.0 : static_cast<double>(beta * start[i * (n + 3) + j])));
                got.push_back(static_cast<double>(c[i * (n + 3) + j]));
            }
            for (size_t j = n; j < n + 3; ++j)
                ASSERT_EQ(c[i * (n + 3) + j], start[i * (n + 3) + j]) << "written beyond the row";
        }
        ASSERT_LT(relative_error(got, expected), 2e-6) << m << "×" << n << "×" << k << " round " << round;
    }
}

/** To the nearest, ties to even, as the kernel should. */
float rounded(float x) {
    uint32_t bits = std::bit_cast<uint32_t>(x);
    bits += 0x7FFF + (bits >> 16 & 1);
    return std::bit_cast<float>(bits & 0xFFFF0000u);
}

/** Against float64: of rounded factors only the sums' rounding is left, of the given ones a part in 300 (bf16 has 8 bits). */
TEST(Gemm, Bf16EqualsFloat64OfRoundedFactors) {
    Numbers numbers(4);
    std::vector<uint32_t> work;
    for (int round = 0; round < 120; ++round) {
        const size_t m = numbers.size(1, round % 5 == 0 ? 100 : 20), n = numbers.size(1, 80),
                     k = numbers.size(round == 0 ? 0 : 1, round % 3 == 0 ? 600 : 40);
        const bool a_turned = round & 1, b_turned = round & 2;
        const float alpha = round % 7 ? 1.0f : -0.5f, beta = round % 4 == 0 ? 0.0f : round % 4 == 1 ? 1.0f : 0.25f;
        const std::vector<float> a = numbers.normal(m * k + 1), b = numbers.normal(k * n + 1),
                                 start = numbers.normal(m * (n + 3));
        std::vector<float> c = start;
        if (beta == 0.0f) c.assign(c.size(), std::numeric_limits<float>::quiet_NaN());
        for (size_t i = 0; i < m; ++i) std::copy_n(start.data() + i * (n + 3) + n, 3, c.data() + i * (n + 3) + n);
        const MatrixView view_a = a_turned ? MatrixView{a.data() + 1, m}.transposed() : MatrixView{a.data() + 1, k};
        const MatrixView view_b = b_turned ? MatrixView{b.data() + 1, k}.transposed() : MatrixView{b.data() + 1, n};
        gemm_bf16(m, n, k, alpha, view_a, view_b, beta, c.data(), n + 3, &work);
        std::vector<double> of_rounded, of_given, got;
        for (size_t i = 0; i < m; ++i) {
            for (size_t j = 0; j < n; ++j) {
                double sums[2] = {};
                for (size_t l = 0; l < k; ++l) {
                    const float x = view_a.data[i * view_a.row_stride + l * view_a.col_stride];
                    const float y = view_b.data[l * view_b.row_stride + j * view_b.col_stride];
                    sums[0] += static_cast<double>(rounded(x)) * static_cast<double>(rounded(y));
                    sums[1] += static_cast<double>(x) * static_cast<double>(y);
                }
                const double kept = beta == 0.0f ? 0.0 : static_cast<double>(beta * start[i * (n + 3) + j]);
                of_rounded.push_back(static_cast<double>(alpha) * sums[0] + kept);
                of_given.push_back(static_cast<double>(alpha) * sums[1] + kept);
                got.push_back(static_cast<double>(c[i * (n + 3) + j]));
            }
            for (size_t j = n; j < n + 3; ++j)
                ASSERT_EQ(c[i * (n + 3) + j], start[i * (n + 3) + j]) << "written beyond the row";
        }
        ASSERT_LT(relative_error(got, of_rounded), 2e-6) << m << "×" << n << "×" << k << " round " << round;
        if (m * n > 50) {
            ASSERT_LT(relative_error(got, of_given), 1.0 / 300) << m << "×" << n << "×" << k;
        }
    }
}

TEST(Gemm, Bf16RoundsTiesToEvenAndKeepsWhatIsNotFinite) {
    std::vector<uint32_t> work;
    const float inf = std::numeric_limits<float>::infinity();
    // 1 + 2⁻⁸ and 1 + 3·2⁻⁸ lie between two bf16 each.
    const std::vector<float> x{1.00390625f, 1.01171875f, -inf, std::numeric_limits<float>::quiet_NaN(),
                               std::bit_cast<float>(0x7FFFFFFFu)};
    for (size_t i = 0; i < x.size(); ++i) {
        const float one = 1.0f;
        float c = 0.0f;
        gemm_bf16(1, 1, 1, 1.0f, {&x[i], 1}, {&one, 1}, 0.0f, &c, 1, &work);
        if (i > 2) {
            EXPECT_TRUE(std::isnan(c)) << i;
        } else {
            EXPECT_EQ(c, i == 0 ? 1.0f : i == 1 ? 1.015625f : -inf);
        }
    }
}

TEST(VectorOps, GeluAndItsSlopeEqualFloat64) {
    Numbers numbers(2);
    for (const size_t n : {1u, 7u, 8u, 15u, 16u, 17u, 1000u}) {
        std::vector<float> z = numbers.normal(n, 3.0), value(n), slope(n);
        z[0] = n % 2 ? -60.0f : 60.0f;
        gelu(z.data(), n, value.data(), slope.data());
        for (size_t i = 0; i < n; ++i) {
            const auto exact = static_cast<double>(z[i]);
            EXPECT_NEAR(value[i], reference::gelu(exact), 1e-6 * std::fmax(1.0, std::fabs(exact))) << exact;
            EXPECT_NEAR(slope[i], reference::gelu_slope(exact), 2e-6) << exact;
        }
    }
}

TEST(VectorOps, FindNonFiniteAnywhere) {
    for (size_t n = 1; n < 40; ++n) {
        std::vector<float> x(n, 1.0f);
        EXPECT_TRUE(all_finite(x.data(), n));
        for (size_t i = 0; i < n; ++i) {
            for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                                    -std::numeric_limits<float>::infinity()}) {
                x[i] = bad;
                EXPECT_FALSE(all_finite(x.data(), n)) << n << " " << i;
            }
            x[i] = 1.0f;
        }
    }
}

TEST(VectorOps, CosineAndExponentialEqualTheLibrarys) {
    Numbers numbers(3);
    const std::vector<float> x = numbers.normal(333, 8.0);
    std::vector<float> y(x.size());
    cosine(x.data(), x.size(), 0.5f, y.data());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(y[i], 0.5 * std::cos(static_cast<double>(x[i])), 1e-6);
    exponential(x.data(), x.size(), y.data());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(y[i] / std::exp(static_cast<double>(x[i])), 1.0, 1e-6);
    EXPECT_NEAR(
        square_sum(x.data(), x.size()),
        [&] {
            double sum = 0.0;
            for (const float v : x) sum += static_cast<double>(v) * static_cast<double>(v);
            return sum;
        }(),
        1e-2);
}

}  // namespace
}  // namespace atlas::memory
