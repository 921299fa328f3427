#include "kernels/matmul.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "../numbers.h"
#include "variant_test.h"

namespace atlas::kernels {
namespace {

using memory::Numbers;

/** A problem of random layout, one element off alignment, with three elements between rows of C that nobody may write. */
class Product {
public:
    Product(Numbers& numbers, int round)
        : m(numbers.size(1, round % 5 == 0 ? 100 : 20)),
          n(numbers.size(1, 80)),
          k(numbers.size(0, round % 3 == 0 ? 600 : 40)),
          alpha(round % 7 ? 1.0f : -0.5f),
          beta(round % 4 == 0   ? 0.0f
               : round % 4 == 1 ? 1.0f
                                : 0.25f),
          a_(numbers.normal(m * k + 1)),
          b_(numbers.normal(k * n + 1)),
          c_(numbers.normal(m * (n + 3))),
          a_turned_(round & 1),
          b_turned_(round & 2) {}

    /** C of one function. */
    template <class Run>
    std::vector<float> run(Run gemm_of) const {
        std::vector<float> c = c_;
        for (size_t i = 0; beta == 0.0f && i < m; ++i)
            std::fill_n(c.data() + i * (n + 3), n, std::numeric_limits<float>::quiet_NaN());  // not to be read
        gemm_of(args(a_, b_, &c));
        for (size_t i = 0; i < m; ++i) {
            for (size_t j = n; j < n + 3; ++j) EXPECT_EQ(c[i * (n + 3) + j], c_[i * (n + 3) + j]) << "between rows";
        }
        return c;
    }

    /** |alpha|·|A|·|B| + |beta·C|: what the rounding of each element is measured by. */
    std::vector<float> sizes() const {
        const auto absolute = [](std::vector<float> values) {
            for (float& x : values) x = std::fabs(x);
            return values;
        };
        const std::vector<float> a = absolute(a_), b = absolute(b_);
        std::vector<float> c = absolute(c_);
        GemmArgs of_sizes = args(a, b, &c);
        of_sizes.alpha = std::fabs(alpha);
        of_sizes.beta = std::fabs(beta);
        reference_table().gemm(of_sizes);
        return c;
    }

    /** `allowed` of an element's size. */
    void expect_near(const std::vector<float>& got, const std::vector<float>& expected, double allowed) const {
        const std::vector<float> size = sizes();
        for (size_t i = 0; i < m; ++i) {
            for (size_t j = 0; j < n; ++j) {
                const size_t at = i * (n + 3) + j;
                ASSERT_NEAR(got[at], expected[at], allowed * static_cast<double>(size[at]))
                    << m << "×" << n << "×" << k << " (" << i << ", " << j << ")";
            }
        }
    }

    /** Sums of k products in any order: errors grow like a random walk. */
    double sum_error() const { return test::kEpsilon * (4.0 + std::sqrt(static_cast<double>(k))); }

    const size_t m, n, k;
    const float alpha, beta;

private:
    GemmArgs args(const std::vector<float>& a, const std::vector<float>& b, std::vector<float>* c) const {
        return {.m = m,
                .n = n,
                .k = k,
                .a = a_turned_ ? MatrixView{a.data() + 1, m}.transposed() : MatrixView{a.data() + 1, k},
                .b = b_turned_ ? MatrixView{b.data() + 1, k}.transposed() : MatrixView{b.data() + 1, n},
                .c = c->data(),
                .c_stride = n + 3,
                .alpha = alpha,
                .beta = beta};
    }

    const std::vector<float> a_, b_, c_;
    const bool a_turned_, b_turned_;
};

ATLAS_VARIANT_TEST(MatmulTest);

TEST_P(MatmulTest, GemmEqualsFloat64InAllLayouts) {
    Numbers numbers(1);
    for (int round = 0; round < 120; ++round) {
        // Sizes around vector widths, row blocks and the packing depth of 256.
        const Product product(numbers, round);
        const auto got = product.run([](const GemmArgs& args) { gemm(args); });
        product.expect_near(got, product.run(reference_table().gemm), product.sum_error());
    }
}

/** Against float64: of rounded factors only the sums' rounding is left; of the given ones 2⁻⁸ of each factor. */
TEST_P(MatmulTest, GemmBf16EqualsFloat64OfRoundedFactors) {
    Numbers numbers(4);
    std::vector<uint32_t> work;
    for (int round = 0; round < 120; ++round) {
        const Product product(numbers, round);
        const auto got = product.run([&](const GemmArgs& args) { gemm_bf16(args, &work); });
        product.expect_near(got, product.run([&](const GemmArgs& args) { reference_table().gemm_bf16(args, &work); }),
                            product.sum_error());
        product.expect_near(got, product.run(reference_table().gemm), 1.0 / 128 + product.sum_error());
    }
}

TEST_P(MatmulTest, Bf16OfAMatrixAndItsOwnTranspose) {
    Numbers numbers(5);
    std::vector<uint32_t> work;
    for (const size_t m : {1u, 5u, 16u, 33u}) {
        for (const size_t k : {1u, 7u, 64u, 129u}) {
            const std::vector<float> x = numbers.normal(m * k);
            std::vector<float> got(m * m), expected(m * m);
            GemmArgs args{.m = m, .n = m, .k = k, .a = {x.data(), k}, .b = MatrixView{x.data(), k}.transposed()};
            args.c_stride = m;
            args.c = got.data();
            gemm_bf16(args, &work);
            args.c = expected.data();
            reference_table().gemm_bf16(args, &work);
            EXPECT_LT(memory::relative_error(got, expected), 1e-6) << m << " " << k;
        }
    }
}

TEST_P(MatmulTest, Bf16RoundsTiesToEvenAndKeepsWhatIsNotFinite) {
    std::vector<uint32_t> work;
    const float inf = std::numeric_limits<float>::infinity();
    // 1 + 2⁻⁸ and 1 + 3·2⁻⁸ lie between two bf16 each.
    const std::vector<float> x{1.00390625f, 1.01171875f, -inf, std::numeric_limits<float>::quiet_NaN(),
                               std::bit_cast<float>(0x7FFFFFFFu)};
    for (size_t i = 0; i < x.size(); ++i) {
        const float one = 1.0f;
        float c = 0.0f;
        gemm_bf16({.m = 1, .n = 1, .k = 1, .a = {&x[i], 1}, .b = {&one, 1}, .c = &c, .c_stride = 1}, &work);
        if (i > 2) {
            EXPECT_TRUE(std::isnan(c)) << i;
        } else {
            EXPECT_EQ(c, i == 0 ? 1.0f : i == 1 ? 1.015625f : -inf);
        }
    }
}

}  // namespace
}  // namespace atlas::kernels
