#include "kernels/reference/reference.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

// The oracle itself, against results that can be written down.

namespace atlas::kernels::reference {
namespace {

TEST(Reference, ProductOfTwoMatrices) {
    const float a[] = {1, 2, 3, 4, 5, 6};     // 2×3
    const float b[] = {7, 8, 9, 10, 11, 12};  // 3×2
    float c[] = {1, 1, -9, 1, 1};
    reference::gemm({.m = 2, .n = 2, .k = 3, .a = {a, 3}, .b = {b, 2}, .c = c, .c_stride = 3, .alpha = 2, .beta = 10});
    EXPECT_EQ(std::vector<float>(c, c + 5), (std::vector<float>{126, 138, -9, 288, 318}));
    // Of the transposes: (a as 3×2 turned) is 2×3.
    reference::gemm({.m = 2, .n = 2, .k = 3, .a = MatrixView{a, 2}.transposed(), .b = {b, 2}, .c = c, .c_stride = 3});
    EXPECT_EQ(std::vector<float>(c, c + 5), (std::vector<float>{89, 98, -9, 116, 128}));
}

TEST(Reference, Bf16RoundsFactors) {
    const float a = 1.0f + 0x1p-9f, b = 1.0f + 0x1p-7f;
    float c = 0.0f;
    std::vector<uint32_t> work;
    reference::gemm_bf16({.m = 1, .n = 1, .k = 1, .a = {&a, 1}, .b = {&b, 1}, .c = &c, .c_stride = 1}, &work);
    EXPECT_EQ(c, b);  // a rounds to 1, b is one
}

TEST(Reference, GeluAndItsSlope) {
    // 0.5·(1 + tanh(√(2/π)(z + 0.044715z³)))·z.
    for (const double z : {-5.0, -1.0, -0.1, 0.0, 0.5, 1.0, 3.0}) {
        const auto value_at = [](double x) {
            return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
        };
        const auto x = static_cast<float>(z);
        float value = 0.0f, slope = 0.0f;
        gelu(&x, 1, &value, &slope);
        EXPECT_NEAR(value, value_at(static_cast<double>(x)), 1e-7);
        EXPECT_NEAR(slope, (value_at(static_cast<double>(x) + 1e-5) - value_at(static_cast<double>(x) - 1e-5)) / 2e-5,
                    1e-6);
    }
}

TEST(Reference, ElementByElement) {
    const float x[] = {1, -2, 3};
    float y[] = {10, 20, 30};
    scaled_add(2.0f, x, 0.5f, 3, y);
    EXPECT_EQ(std::vector<float>(y, y + 3), (std::vector<float>{7, 6, 21}));
    product(x, y, 3, y);
    EXPECT_EQ(std::vector<float>(y, y + 3), (std::vector<float>{7, -12, 63}));
    scaled_copy(-1.0f, x, 3, y);
    EXPECT_EQ(std::vector<float>(y, y + 3), (std::vector<float>{-1, 2, -3}));
    EXPECT_EQ(square_sum(x, 3), 14.0);
    EXPECT_TRUE(all_finite(x, 3));
    cosine(x, 1, 2.0f, y);
    EXPECT_FLOAT_EQ(y[0], 1.0806046f);
    exponential(x, 1, y);
    EXPECT_FLOAT_EQ(y[0], 2.7182818f);
}

TEST(Reference, MergeIsTheSoftmaxOverTheUnion) {
    // Two keys with logits 1 and 3 and values 10 and 20, each a set of its own.
    float a = 10.0f, lse = 1.0f;
    const float b = 20.0f;
    merge(&a, &lse, &b, 3.0f, 1);
    const double weight = std::exp(1.0) / (std::exp(1.0) + std::exp(3.0));
    EXPECT_NEAR(a, weight * 10 + (1 - weight) * 20, 1e-5);
    EXPECT_NEAR(lse, std::log(std::exp(1.0) + std::exp(3.0)), 1e-6);
}

TEST(Reference, BlocksOfAMask) {
    std::vector<uint16_t> mask(130, 0);
    mask[64] = 0xFC00;               // block 1: mixed
    mask[128] = mask[129] = 0xFC00;  // block 2, of two keys: hidden
    mask[3] = 0x8000;                // −0 is visible
    BlockVisibility out[3];
    reference::summarize_mask({.data = mask.data(), .token_stride = 130}, 1, 130, out, 1);
    EXPECT_EQ(out[0], BlockVisibility::kAll);
    EXPECT_EQ(out[1], BlockVisibility::kMixed);
    EXPECT_EQ(out[2], BlockVisibility::kNone);
}

}  // namespace
}  // namespace atlas::kernels::reference
