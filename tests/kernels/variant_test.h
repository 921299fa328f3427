#pragma once

#include <gtest/gtest.h>

#include <string>

#include "attention_case.h"
#include "kernels/attention.h"

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
        constexpr double kTolerance = 1e-5;
        ASSERT_TRUE(attention_reference(expected.args).is_ok());
        ASSERT_TRUE(attention(actual.args, n_threads).is_ok());
        EXPECT_LT(output_error(actual, expected), kTolerance) << what;
        EXPECT_LT(lse_error(actual, expected), kTolerance) << what;
    }
};

}  // namespace atlas::kernels::test
