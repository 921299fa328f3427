#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "../numbers.h"
#include "kernels/merge.h"
#include "variant_test.h"

namespace atlas::kernels {
namespace {

using memory::Numbers;
using test::kEpsilon;
using test::kLengths;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr uint16_t kHidden = 0xFC00;

ATLAS_VARIANT_TEST(MaskTest);

TEST_P(MaskTest, SummariesOfStridedMasksEqualTheReferences) {
    std::mt19937 random(1);
    for (const int64_t n_keys : {1, 63, 64, 65, 128, 500}) {
        for (const int threads : {1, 3}) {
            constexpr int64_t kStreams = 2, kHeads = 3, kTokens = 5;
            const int64_t token_stride = n_keys + 3, head_stride = kTokens * token_stride + 1;
            const int64_t stream_stride = kHeads * head_stride + 7;
            std::vector<uint16_t> values(static_cast<size_t>(1 + kStreams * stream_stride));
            // Whole blocks of each kind, and now and then one cell that differs; −0 is visible too.
            uint16_t filling = 0;
            for (size_t i = 0; i < values.size(); ++i) {
                if (i % 41 == 0) filling = random() % 3 == 0 ? kHidden : random() % 2 ? 0x8000 : 0;
                values[i] = random() % 97 == 0 ? static_cast<uint16_t>(0x3C00) : filling;
            }
            const Mask mask{.data = values.data() + 1,
                            .token_stride = token_stride,
                            .head_stride = head_stride,
                            .stream_stride = stream_stride,
                            .n_heads = kHeads,
                            .n_streams = kStreams};
            const size_t n = static_cast<size_t>(kStreams * kHeads * kTokens * ((n_keys + 63) / 64));
            std::vector<BlockVisibility> got(n + 1, BlockVisibility{9}), expected(got);
            summarize_mask(mask, kTokens, n_keys, got.data(), threads);
            reference_table().summarize_mask(mask, kTokens, n_keys, expected.data(), 1);
            EXPECT_EQ(got, expected) << n_keys;
        }
    }
}

TEST_P(MaskTest, ALargeMaskIsSummarisedByManyThreads) {
    constexpr int64_t kTokens = 600, kKeys = 1000;
    std::vector<uint16_t> values(kTokens * kKeys);
    for (int64_t t = 0; t < kTokens; ++t) {
        for (int64_t j = 0; j < kKeys; ++j) values[static_cast<size_t>(t * kKeys + j)] = j > t ? kHidden : 0;
    }
    const Mask mask{.data = values.data(), .token_stride = kKeys};
    std::vector<BlockVisibility> got(kTokens * 16), expected(got);
    summarize_mask(mask, kTokens, kKeys, got.data(), 4);
    reference_table().summarize_mask(mask, kTokens, kKeys, expected.data(), 1);
    EXPECT_EQ(got, expected);
}

ATLAS_VARIANT_TEST(MergeTest);

TEST_P(MergeTest, EqualsFloat64) {
    Numbers numbers(3);
    for (const size_t n : kLengths) {
        for (const auto& [lse_a, lse_b] :
             {std::pair{0.5f, 0.5f}, {-3.0f, 4.0f}, {1000.0f, 990.0f}, {kMinusInfinity, 2.0f}, {-80.0f, 80.0f}}) {
            std::vector<float> got = numbers.normal(n + 2);
            const std::vector<float> b = numbers.normal(n + 1);
            const std::vector<float> before = got;
            if (lse_a == kMinusInfinity) std::fill_n(got.begin() + 1, n, 0.0f);
            std::vector<float> expected = got;
            float lse = lse_a, expected_lse = lse_a;
            merge_partial(got.data() + 1, &lse, b.data() + 1, lse_b, static_cast<int64_t>(n));
            reference_table().merge(expected.data() + 1, &expected_lse, b.data() + 1, lse_b, static_cast<int64_t>(n));
            EXPECT_EQ(got.front(), before.front());
            EXPECT_EQ(got.back(), before.back());
            for (size_t i = 1; i <= n; ++i) {
                const double size = std::fabs(static_cast<double>(before[i])) + std::fabs(static_cast<double>(b[i]));
                ASSERT_NEAR(got[i], expected[i], 4 * kEpsilon * size) << n << " " << i << " " << lse_a << " " << lse_b;
            }
            EXPECT_NEAR(lse, expected_lse, kEpsilon * std::fmax(1.0, std::fabs(static_cast<double>(expected_lse))));
        }
    }
}

TEST_P(MergeTest, ASetWithoutAVisibleKeyChangesNothing) {
    std::vector<float> a{1.0f, 2.0f, 3.0f};
    const std::vector<float> b(3, std::numeric_limits<float>::quiet_NaN());
    for (float lse : {4.0f, kMinusInfinity}) {
        const float before = lse;
        merge_partial(a.data(), &lse, b.data(), kMinusInfinity, 3);
        EXPECT_EQ(a, (std::vector<float>{1.0f, 2.0f, 3.0f}));
        EXPECT_EQ(lse, before);
    }
}

}  // namespace
}  // namespace atlas::kernels
