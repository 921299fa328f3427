#pragma once

#include <gtest/gtest.h>

#include <string>

#include "attention_case.h"
#include "kernels/kernel_table.h"
#include "variants.h"

namespace atlas::kernels::test {

/** Tests run once per kernel variant, named by the parameter; skipped where the processor lacks it. */
class VariantTest : public testing::TestWithParam<const char*> {
protected:
    void SetUp() override {
        if (!select_kernel_variant(GetParam()).is_ok()) GTEST_SKIP() << "not on this processor";
    }
    void TearDown() override { (void)select_kernel_variant("auto"); }

    /** Runs the float64 reference on one case and the kernels on the other; they differ at most in where the keys lie. */
    static void compare(Case& expected, Case& actual, int n_threads, const std::string& what) {
        if (declines(actual.args)) return;
        const double tolerance = attention_tolerance(actual.args);
        ASSERT_TRUE(reference_table().attention(expected.args, 1).is_ok());
        ASSERT_TRUE(attention(actual.args, n_threads).is_ok());
        EXPECT_LT(output_error(actual, expected), tolerance) << what;
        EXPECT_LT(lse_error(actual, expected), tolerance) << what;
    }
};

/** Of every table that runs on a CPU. The reference's own results are held against known ones in reference_test.cpp. */
inline constexpr const char* kVariants[] = {"auto", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "neon"};

/** Lengths on both sides of every width of vector and of unrolled loops. */
inline constexpr size_t kLengths[] = {0,  1,  3,  4,  5,  7,  8,   9,    15,   16,  17,
                                      31, 32, 33, 63, 64, 65, 100, 1000, 1025, 4099};

/** Distance of neighbouring f32 numbers of size 1. */
inline constexpr double kEpsilon = 1.1920929e-7;

}  // namespace atlas::kernels::test

/** NAME: a VariantTest of all variants. */
#define ATLAS_VARIANT_TEST(NAME)                                                                   \
    class NAME : public ::atlas::kernels::test::VariantTest {};                                    \
    INSTANTIATE_TEST_SUITE_P(Variants, NAME, testing::ValuesIn(::atlas::kernels::test::kVariants), \
                             [](const auto& info) { return std::string(info.param); })
