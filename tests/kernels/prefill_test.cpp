// The many-query path where it differs from the general tests: tile borders, short and cut tiles, keys shared out between tasks,
// masks per head, and cells that hold no numbers.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "variant_test.h"

namespace atlas::kernels::test {
namespace {

class PrefillTest : public VariantTest {
protected:
    void expect_equal(const CaseSpec& spec, int n_threads = 2) {
        Case expected(spec);
        Case actual(spec);
        compare(expected, actual, n_threads, describe(spec));
    }
};

INSTANTIATE_TEST_SUITE_P(Variants, PrefillTest, testing::ValuesIn(named_variants()),
                         [](const auto& info) { return info.param; });

TEST_P(PrefillTest, RowsAroundRegisterBlocks) {
    for (int64_t tokens = 33; tokens <= 46; ++tokens)
        expect_equal({.n_tokens = tokens, .n_head = 2, .n_head_kv = 2, .n_keys = 90});
    for (const int64_t tokens : {255, 256, 257, 300})
        expect_equal({.n_tokens = tokens, .n_head = 2, .n_head_kv = 2, .n_keys = 190});
}

TEST_P(PrefillTest, EveryTypeAtEveryHeadSizeOfItsBlocks) {
    for (int type = 0; type < kDataTypeCount; ++type) {
        for (const int64_t d : {32, 64, 96, 160, 224, 320}) {
            expect_equal({.d_k = d,
                          .d_v = d,
                          .n_tokens = 40,
                          .n_head = 4,
                          .n_keys = 70,
                          .k_type = static_cast<DataType>(type),
                          .v_type = static_cast<DataType>(type)});
        }
    }
}

TEST_P(PrefillTest, HeadSizesWithoutAWholeVector) {
    for (const int64_t d : {1, 3, 17, 41, 63, 100})
        expect_equal({.d_k = d, .d_v = d + 2, .n_tokens = 40, .n_keys = 70});
}

TEST_P(PrefillTest, KeysSharedOutBetweenTasks) {
    for (const int threads : {1, 2, 8}) {
        CaseSpec spec{.n_tokens = 12, .n_head = 4, .n_head_kv = 1, .n_keys = 4500, .sinks = true};
        expect_equal(spec, threads);
        spec.run_keys = 100;
        spec.mask = MaskKind::kRandom;
        expect_equal(spec, threads);
        spec.mask = MaskKind::kAllHidden;
        expect_equal(spec, threads);
    }
}

TEST_P(PrefillTest, LogitsThatRiseAndFallFarBeyondTheFirstTile) {
    for (const float scale : {40.0f, 400.0f}) {
        const CaseSpec spec{.n_tokens = 40, .n_keys = 400};
        Case expected(spec);
        Case actual(spec);
        expected.args.scale = actual.args.scale = scale / 64.0f;
        ASSERT_TRUE(reference_table().attention(expected.args, 1).is_ok());
        ASSERT_TRUE(attention(actual.args, 2).is_ok());
        // f32 logits of size L carry an error of about L · 2^-23, and so do their weights.
        EXPECT_LT(output_error(actual, expected), attention_tolerance(actual.args) * scale) << scale;
        EXPECT_LT(lse_error(actual, expected), attention_tolerance(actual.args)) << scale;
    }
}

TEST_P(PrefillTest, CellsThatNobodySeesMayHoldAnything) {
    // Stream 1 of a causal case hides its last 7 keys from every token. Bytes of ones are NaN in every type that has one, and the scale of
    // every quantised block; 0x7C00 is the infinity of f16 and of their scales, and a number near 1e36 in f32 and bf16.
    for (int type = 0; type < kDataTypeCount; ++type) {
        for (const auto& [tokens, summary] :
             {std::pair{40, false}, {40, true}, {1, false}, {1, true}, {3, false}, {3, true}}) {
            for (const uint16_t pattern : {uint16_t{0xFFFF}, uint16_t{0x7C00}}) {
                const CaseSpec spec{.n_tokens = tokens,
                                    .n_stream = 2,
                                    .n_keys = 131,
                                    .k_type = static_cast<DataType>(type),
                                    .v_type = static_cast<DataType>(type),
                                    .summary = summary};
                Case expected(spec);
                Case actual(spec);
                const kernels::Run run = actual.args.runs[actual.args.n_head_kv].runs[0];
                const auto poison = [&](const std::byte* rows, int64_t stride) {
                    auto* cells = const_cast<std::byte*>(rows) + (spec.n_keys - 7) * stride;
                    for (int64_t i = 0; i + 2 <= 7 * stride; i += 2) std::memcpy(cells + i, &pattern, 2);
                };
                poison(run.k, actual.args.k_stride);
                poison(run.v, actual.args.v_stride);
                compare(expected, actual, 2, describe(spec) + ", pattern " + std::to_string(pattern));
            }
        }
    }
}

TEST_P(PrefillTest, VisibleNanIsNotSwallowed) {
    const uint16_t nan = 0x7E00;
    for (const int64_t tokens : {1, 3, 40}) {
        for (const MaskKind mask : {MaskKind::kNone, MaskKind::kRandom}) {
            // All keys of a block, so that a block's maximum is NaN too, then a single one.
            for (const auto& [first, count] : {std::pair{0, 64}, {0, 131}, {77, 1}}) {
                const CaseSpec spec{.n_tokens = tokens, .n_keys = 131, .mask = mask};
                Case actual(spec);
                const kernels::Run run = actual.args.runs[0].runs[0];
                for (int key = first; key < first + count; ++key)
                    std::memcpy(const_cast<std::byte*>(run.k) + key * actual.args.k_stride, &nan, sizeof nan);
                ASSERT_TRUE(attention(actual.args, 2).is_ok());
                for (int64_t token = 0; token < tokens; ++token) {
                    const uint16_t* sees = mask == MaskKind::kNone ? nullptr : actual.args.mask.data + token * 131;
                    bool visible = false;
                    for (int key = first; key < first + count; ++key) visible |= !sees || sees[key] != 0xFC00;
                    // Only KV head 0 holds the NaN.
                    EXPECT_EQ(std::isnan(actual.lse[static_cast<size_t>(token * spec.n_head)]), visible)
                        << describe(spec) << ", token " << token << ", first " << first;
                    EXPECT_EQ(std::isnan(actual.out[static_cast<size_t>(token * spec.n_head * spec.d_v)]), visible);
                    EXPECT_TRUE(std::isfinite(actual.lse[static_cast<size_t>((token + 1) * spec.n_head - 1)]));
                }
            }
        }
    }
}

TEST_P(PrefillTest, ValuesThatAreNotFiniteStayWithTheRowsThatSeeThem) {
    // Two sequences share a batch: odd tokens do not see key 70, whose V is NaN in one dimension and infinite in another.
    for (const int64_t tokens : {2, 5, 40}) {
        for (const bool sinks : {false, true}) {
            const CaseSpec spec{.n_tokens = tokens, .n_keys = 131, .sinks = sinks};
            Case expected(spec);
            Case actual(spec);
            for (Case* c : {&expected, &actual}) {
                auto* mask = const_cast<uint16_t*>(c->args.mask.data);
                for (int64_t token = 1; token < tokens; token += 2) mask[token * spec.n_keys + 70] = 0xFC00;
                const kernels::Run run = c->args.runs[0].runs[0];
                auto* v = reinterpret_cast<uint16_t*>(const_cast<std::byte*>(run.v) + 70 * c->args.v_stride);
                v[1] = 0x7E00;
                v[2] = 0x7C00;
                summarize_mask(c->args.mask, tokens, spec.n_keys, const_cast<BlockVisibility*>(c->args.mask.summary),
                               1);
            }
            ASSERT_TRUE(reference_table().attention(expected.args, 1).is_ok());
            ASSERT_TRUE(attention(actual.args, 2).is_ok());
            EXPECT_TRUE(std::isnan(actual.out[1]));
            size_t finite = 0;
            for (size_t i = 0; i < actual.out.size(); ++i) {
                ASSERT_EQ(std::isfinite(actual.out[i]), std::isfinite(expected.out[i]))
                    << describe(spec) << " at " << i;
                if (!std::isfinite(expected.out[i])) continue;
                ++finite;
                EXPECT_NEAR(actual.out[i], expected.out[i],
                            attention_tolerance(actual.args) * std::max(1.0f, std::fabs(expected.out[i])));
            }
            EXPECT_GT(finite, actual.out.size() * 9 / 10);
            EXPECT_LT(lse_error(actual, expected), attention_tolerance(actual.args));
        }
    }
}

TEST_P(PrefillTest, MasksPerHead) {
    for (const int64_t mask_heads : {2, 3, 6, 12}) {
        for (const bool summary : {false, true}) {
            const CaseSpec spec{.n_tokens = 40, .n_head = 12, .n_head_kv = 4, .n_keys = 200, .mask = MaskKind::kNone};
            Case expected(spec);
            Case actual(spec);
            std::mt19937 rng(7);
            std::vector<uint16_t> values(static_cast<size_t>(mask_heads * spec.n_tokens * spec.n_keys));
            for (uint16_t& x : values)
                x = rng() % 3 == 0 ? 0xFC00 : f32_to_f16(static_cast<float>(rng() % 100) / 50.0f);
            Mask mask;
            mask.data = values.data();
            mask.token_stride = spec.n_keys;
            mask.head_stride = mask.stream_stride = spec.n_keys * spec.n_tokens;
            mask.n_heads = mask_heads;
            mask.summary_blocks = 4;
            std::vector<BlockVisibility> blocks(static_cast<size_t>(mask_heads * spec.n_tokens * 4));
            summarize_mask(mask, spec.n_tokens, spec.n_keys, blocks.data(), 1);
            if (summary) mask.summary = blocks.data();
            expected.args.mask = actual.args.mask = mask;
            compare(expected, actual, 2, describe(spec) + ", mask heads " + std::to_string(mask_heads));
        }
    }
}

}  // namespace
}  // namespace atlas::kernels::test
