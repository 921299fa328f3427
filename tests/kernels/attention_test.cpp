#include "kernels/kernel_table.h"

#include <gtest/gtest.h>

#include <cmath>

#include "attention_case.h"
#include "variants.h"

namespace atlas::kernels::test {
namespace {

class AttentionTest : public testing::TestWithParam<std::string> {
protected:
    void SetUp() override { ASSERT_TRUE(select_kernel_variant(GetParam().c_str()).is_ok()); }
    void TearDown() override { (void)select_kernel_variant("auto"); }

    void expect_equal(const CaseSpec& spec, int n_threads = 2) {
        Case actual(spec);
        if (declines(actual.args)) return;
        Case expected(spec);
        ASSERT_TRUE(reference_table().attention(expected.args, 1).is_ok());
        ASSERT_TRUE(attention(actual.args, n_threads).is_ok());
        EXPECT_LT(output_error(actual, expected), attention_tolerance(actual.args)) << describe(spec);
        EXPECT_LT(lse_error(actual, expected), attention_tolerance(actual.args)) << describe(spec);
    }
};

INSTANTIATE_TEST_SUITE_P(Variants, AttentionTest, testing::ValuesIn(running_variants()),
                         [](const auto& info) { return info.param; });

TEST_P(AttentionTest, ForcedVariantRuns) {
    if (GetParam() == "auto") GTEST_SKIP() << "no named variant on this processor";
    EXPECT_EQ(GetParam(), kernel_variant());
}

TEST_P(AttentionTest, EveryPairOfTypes) {
    for (int k = 0; k < kDataTypeCount; ++k) {
        for (int v = 0; v < kDataTypeCount; ++v) {
            for (const int64_t tokens : {1, 40}) {
                CaseSpec spec{.n_tokens = tokens,
                              .n_keys = 131,
                              .k_type = static_cast<DataType>(k),
                              .v_type = static_cast<DataType>(v)};
                spec.seed = static_cast<uint64_t>(k * 10 + v);
                expect_equal(spec);
            }
        }
    }
}

TEST_P(AttentionTest, HeadSizes) {
    for (const int64_t d : {8, 40, 64, 72, 80, 96, 112, 128, 192, 256, 576}) {
        for (const int64_t tokens : {1, 3, 35}) {
            expect_equal(
                {.d_k = d, .d_v = d == 576 ? 512 : d, .n_tokens = tokens, .n_head = 6, .n_head_kv = 2, .n_keys = 77});
            expect_equal({.d_k = d,
                          .d_v = d,
                          .n_tokens = tokens,
                          .n_keys = 65,
                          .k_type = DataType::kF32,
                          .v_type = DataType::kBF16,
                          .misalign = 2 * sizeof(float)});
        }
    }
}

TEST_P(AttentionTest, Groups) {
    for (const int64_t group : {1, 2, 3, 4, 5, 7, 8, 16, 32}) {
        for (const int64_t tokens : {1, 2, 9}) expect_equal({.n_tokens = tokens, .n_head = 2 * group, .n_keys = 150});
    }
}

TEST_P(AttentionTest, KeyAndTokenCountsAroundBlocks) {
    for (const int64_t keys : {1, 2, 3, 5, 63, 64, 65, 127, 129, 700}) {
        for (const int64_t tokens : {1, 16, 17, 31, 33, 64, 65, 130}) {
            expect_equal(
                {.n_tokens = tokens, .n_keys = keys, .mask = MaskKind::kRandom, .seed = static_cast<uint64_t>(keys)});
        }
    }
}

TEST_P(AttentionTest, MasksBiasesCapsAndSinks) {
    for (const MaskKind mask : {MaskKind::kNone, MaskKind::kCausal, MaskKind::kRandom, MaskKind::kAllHidden}) {
        for (const bool summary : {false, true}) {
            for (const int64_t tokens : {1, 40}) {
                CaseSpec spec{
                    .n_tokens = tokens, .n_head = 12, .n_stream = 2, .n_keys = 260, .mask = mask, .summary = summary};
                expect_equal(spec);
                spec.sinks = true;
                expect_equal(spec);
                spec.softcap = 3.0f;
                expect_equal(spec);
                spec.max_bias = 8.0f;
                expect_equal(spec);
            }
        }
    }
}

TEST_P(AttentionTest, RunsCutAnywhereGiveTheSame) {
    for (const int64_t run_keys : {1, 7, 16, 64, 100}) {
        for (const int64_t tokens : {1, 40}) {
            expect_equal({.n_tokens = tokens, .n_stream = 2, .n_keys = 333, .run_keys = run_keys});
            expect_equal({.n_tokens = tokens, .n_keys = 333, .run_keys = run_keys, .tokens_per_tile = 16});
        }
    }
}

TEST_P(AttentionTest, ManyKeysAndThreads) {
    for (const int threads : {1, 2, 3, 4}) {
        expect_equal({.n_head = 8, .n_keys = 9000, .k_type = DataType::kQ8_0, .v_type = DataType::kQ8_0}, threads);
        expect_equal({.n_tokens = 70, .n_head = 8, .n_keys = 2000}, threads);
    }
}

TEST(AttentionContract, NothingVisibleGivesZeroAndMinusInfinity) {
    Case hidden({.n_tokens = 2, .mask = MaskKind::kAllHidden});
    ASSERT_TRUE(attention(hidden.args, 1).is_ok());
    for (const float x : hidden.out) EXPECT_EQ(x, 0.0f);
    for (const float x : hidden.lse) EXPECT_EQ(x, -HUGE_VALF);
}

TEST(AttentionContract, ReferenceVariantIsTheOracle) {
    ASSERT_TRUE(select_kernel_variant("reference").is_ok());
    EXPECT_STREQ(kernel_variant(), "reference");
    Case forced({.n_tokens = 3});
    ASSERT_TRUE(attention(forced.args, 1).is_ok());
    ASSERT_TRUE(select_kernel_variant("auto").is_ok());
    Case expected({.n_tokens = 3});
    ASSERT_TRUE(reference_table().attention(expected.args, 1).is_ok());
    EXPECT_EQ(forced.out, expected.out);
}

TEST(AttentionContract, BadShapesAreRefusedWithTheirValues) {
    const auto message = [](auto change) {
        Case bad({});
        change(bad.args);
        const Status status = attention(bad.args, 1);
        EXPECT_FALSE(status.is_ok());
        return status.message();
    };
    EXPECT_NE(message([](AttentionArgs& a) { a.d_k = 0; }).find("key size 0"), std::string::npos);
    EXPECT_NE(message([](AttentionArgs& a) { a.d_v = 5000; }).find("value size 5000"), std::string::npos);
    EXPECT_NE(message([](AttentionArgs& a) { a.n_head = 5; }).find("5 query heads"), std::string::npos);
    EXPECT_NE(message([](AttentionArgs& a) { a.k_type = DataType::kOther; }).find("no decoder"), std::string::npos);
    EXPECT_NE(message([](AttentionArgs& a) {
                  a.k_type = DataType::kQ4_0;
                  a.d_k = 80;
              }).find("80 with q4_0"),
              std::string::npos);
}

TEST(RowError, SeesAWrongRowAmongLargeOnes) {
    const std::vector<float> right = {100.0f, -50.0f, 0.5f, 0.25f};
    EXPECT_EQ(row_error(right, right, 2, kOutputFloor), 0.0);
    EXPECT_NEAR(row_error({100.0f, -50.0f, 0.5f, 0.255f}, right, 2, kOutputFloor), 0.01, 1e-6);
    EXPECT_EQ(row_error({100.0f, NAN, 0.5f, 0.25f}, right, 2, kOutputFloor), HUGE_VAL);
    EXPECT_EQ(row_error({1.0f}, {-HUGE_VALF}, 1, 1.0), HUGE_VAL);
    EXPECT_EQ(row_error({-HUGE_VALF}, {-HUGE_VALF}, 1, 1.0), 0.0);
}

TEST(AlibiTest, SlopesOfThePaper) {
    // 2108.12409: 8 heads, ratio 2^-1; the exponents run 1…8.
    for (int64_t head = 0; head < 8; ++head)
        EXPECT_FLOAT_EQ(alibi_slope(8.0f, head, 8), std::exp2(-static_cast<float>(head + 1)));
    EXPECT_FLOAT_EQ(alibi_slope(8.0f, 8, 12), std::exp2(-0.5f));
    EXPECT_FLOAT_EQ(alibi_slope(0.0f, 3, 8), 1.0f);
}

}  // namespace
}  // namespace atlas::kernels::test
