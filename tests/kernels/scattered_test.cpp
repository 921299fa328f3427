// Lists whose runs are single cells, short runs and runs with gaps among long ones, as a planner makes them that selects keys by likeness.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "variant_test.h"

namespace atlas::kernels::test {
namespace {

constexpr uint16_t kHidden = 0xFC00;

/** Lists that replace those of a case: other keys for each stream, KV head and tile of tokens. */
struct Scattered {
    std::vector<std::vector<Run>> runs;
    std::vector<HeadRuns> heads;

    /** `longest`: of 1 in 8 runs; of the others a third have gaps, the rest 1 to 3 keys. `gap`: mean number of keys between two runs. */
    Scattered(Case& c, const CaseSpec& spec, int64_t longest, int64_t gap, bool descending = false) {
        std::mt19937 rng(static_cast<uint32_t>(spec.seed + 77));
        const int64_t tile = std::min(spec.tokens_per_tile, spec.n_tokens);
        const auto lists = static_cast<size_t>(spec.n_stream * spec.n_head_kv * ((spec.n_tokens + tile - 1) / tile));
        runs.resize(lists);
        for (size_t list = 0; list < lists; ++list) {
            const HeadRuns& whole = c.args.runs[list];
            const Run& all = whole.runs[0];
            for (int64_t key = static_cast<int64_t>(rng() % 3); key < spec.n_keys;) {
                if (longest > 1 && rng() % 3 == 0) {
                    const int64_t width = std::min<int64_t>(1 + static_cast<int64_t>(rng() % 64), spec.n_keys - key);
                    const uint64_t inside = width == 64 ? kAllCells : (uint64_t{1} << width) - 1;
                    // From nearly none to nearly all.
                    const auto draw = [&] { return uint64_t{rng()} << 32 | rng(); };
                    const uint64_t some = rng() % 2 ? draw() & draw() & draw() : draw() | draw();
                    const uint64_t cells = (some & inside) != 0 ? some & inside : 1;
                    runs[list].push_back({all.k + key * c.args.k_stride, all.v + key * c.args.v_stride,
                                          static_cast<int32_t>(key), std::popcount(cells), cells});
                    key += width;
                    continue;
                }
                const int64_t wanted = rng() % 8 == 0 ? 1 + rng() % static_cast<uint64_t>(longest) : 1 + rng() % 3;
                const int64_t count = std::min(wanted, spec.n_keys - key);
                runs[list].push_back({all.k + key * c.args.k_stride, all.v + key * c.args.v_stride,
                                      static_cast<int32_t>(key), static_cast<int32_t>(count)});
                key += count + static_cast<int64_t>(gap > 0 ? rng() % static_cast<uint64_t>(2 * gap) : 0);
            }
            if (descending) std::reverse(runs[list].begin(), runs[list].end());
            heads.push_back({runs[list], whole.k_offset, whole.v_offset});
        }
        c.args.runs = heads.data();
    }
};

/** A mask whose 64-key blocks are, per mask head and token, visible, hidden or of both kinds, some with a bias. */
struct BlockMask {
    std::vector<uint16_t> values;
    std::vector<BlockVisibility> summary;

    BlockMask(Case& c, const CaseSpec& spec, int64_t mask_heads) {
        std::mt19937 rng(static_cast<uint32_t>(spec.seed));
        values.resize(static_cast<size_t>(mask_heads * spec.n_tokens * spec.n_keys));
        for (int64_t row = 0; row < mask_heads * spec.n_tokens; ++row) {
            for (int64_t block = 0; block < spec.n_keys; block += kBlockKeys) {
                const uint32_t kind = rng() % 8;
                for (int64_t key = block; key < std::min(block + kBlockKeys, spec.n_keys); ++key) {
                    const bool hidden = kind == 0 || (kind == 1 && rng() % 2) || (kind == 2 && key % 32 > 20);
                    const float bias = kind == 3 ? 0.25f * static_cast<float>(rng() % 9) : 0.0f;
                    values[static_cast<size_t>(row * spec.n_keys + key)] = hidden ? kHidden : f32_to_f16(bias);
                }
            }
        }
        Mask mask;
        mask.data = values.data();
        mask.token_stride = spec.n_keys;
        mask.head_stride = spec.n_keys * spec.n_tokens;
        mask.n_heads = mask_heads;
        mask.summary_blocks = (spec.n_keys + kBlockKeys - 1) / kBlockKeys;
        c.args.mask = mask;
        summarize(c, spec);
    }
    void summarize(Case& c, const CaseSpec& spec) {
        summary.resize(static_cast<size_t>(c.args.mask.n_heads * spec.n_tokens * c.args.mask.summary_blocks));
        summarize_mask(c.args.mask, spec.n_tokens, spec.n_keys, summary.data(), 1);
        c.args.mask.summary = spec.summary ? summary.data() : nullptr;
    }
};

class ScatteredTest : public VariantTest {
protected:
    void expect_equal(const CaseSpec& spec, int64_t longest = 150, int64_t gap = 4, int n_threads = 2,
                      bool descending = false) {
        Case expected(spec);
        Case actual(spec);
        const Scattered lists(expected, spec, longest, gap, descending);
        actual.args.runs = lists.heads.data();
        compare(expected, actual, n_threads, describe(spec));
    }
};

INSTANTIATE_TEST_SUITE_P(Variants, ScatteredTest, testing::ValuesIn(named_variants()),
                         [](const auto& info) { return info.param; });

TEST_P(ScatteredTest, EveryPairOfTypes) {
    for (int k = 0; k < kDataTypeCount; ++k) {
        for (int v = 0; v < kDataTypeCount; ++v) {
            for (const int64_t tokens : {1, 21})
                expect_equal({.n_tokens = tokens,
                              .n_keys = 160,
                              .k_type = static_cast<DataType>(k),
                              .v_type = static_cast<DataType>(v),
                              .seed = static_cast<uint64_t>(k * 10 + v)});
        }
    }
}

TEST_P(ScatteredTest, HeadSizes) {
    for (const int64_t d : {40, 64, 72, 80, 128, 192, 256, 576}) {
        for (const int64_t tokens : {1, 3, 35}) {
            for (const DataType type : {DataType::kF16, DataType::kF32, DataType::kOther})
                expect_equal({.d_k = d,
                              .d_v = d == 576 ? 512 : d,
                              .n_tokens = tokens,
                              .n_keys = 300,
                              .k_type = type,
                              .v_type = type,
                              .misalign = type == DataType::kF16 ? 2u : 0u});
        }
    }
}

TEST_P(ScatteredTest, MasksStreamsAndTiles) {
    for (const MaskKind mask : {MaskKind::kNone, MaskKind::kCausal, MaskKind::kRandom, MaskKind::kAllHidden}) {
        for (const bool summary : {false, true}) {
            for (const int64_t tokens : {1, 2, 5, 11, 64}) {
                expect_equal({.n_tokens = tokens,
                              .n_stream = 2,
                              .n_keys = 333,
                              .mask = mask,
                              .summary = summary,
                              .sinks = true});
                expect_equal({.n_tokens = tokens,
                              .n_keys = 333,
                              .mask = mask,
                              .summary = summary,
                              .max_bias = 8.0f,
                              .softcap = 5.0f,
                              .tokens_per_tile = 4});
            }
        }
    }
}

TEST_P(ScatteredTest, BlocksOfEveryVisibility) {
    for (const int64_t tokens : {1, 2, 7, 40}) {
        for (const int64_t mask_heads : {1, 2, 3, 12}) {
            for (const bool summary : {false, true}) {
                const CaseSpec spec{.n_tokens = tokens,
                                    .n_head = 12,
                                    .n_head_kv = 4,
                                    .n_keys = 900,
                                    .mask = MaskKind::kNone,
                                    .summary = summary,
                                    .seed = static_cast<uint64_t>(tokens + mask_heads)};
                Case expected(spec);
                Case actual(spec);
                const BlockMask mask(expected, spec, mask_heads);
                actual.args.mask = expected.args.mask;
                const Scattered lists(expected, spec, 150, 6);
                actual.args.runs = lists.heads.data();
                compare(expected, actual, 2, describe(spec) + ", mask heads " + std::to_string(mask_heads));
            }
        }
    }
}

TEST_P(ScatteredTest, NumbersOfKeysAroundBatches) {
    for (const int64_t keys : {1, 2, 5, 60, 64, 66, 130, 195}) {
        for (const int64_t tokens : {1, 3, 33}) {
            // Neighbours in runs of their own, and every other cell or so.
            expect_equal({.n_tokens = tokens, .n_keys = keys, .mask = MaskKind::kRandom}, 1, 0);
            expect_equal({.n_tokens = tokens, .n_keys = 2 * keys, .mask = MaskKind::kNone}, 1, 1);
        }
    }
}

TEST_P(ScatteredTest, ManyKeysAndThreads) {
    for (const int threads : {1, 2, 5}) {
        expect_equal({.n_keys = 6000, .k_type = DataType::kQ8_0, .v_type = DataType::kQ8_0}, 100, 1, threads);
        expect_equal({.n_tokens = 6, .n_head = 2, .n_head_kv = 1, .n_keys = 6000}, 1, 1, threads);
        expect_equal({.n_tokens = 70, .n_head = 2, .n_head_kv = 1, .n_keys = 4000}, 100, 1, threads);
    }
}

TEST_P(ScatteredTest, OrderOfTheRunsDoesNotMatter) {
    for (const int64_t tokens : {1, 4, 40}) {
        for (const MaskKind mask : {MaskKind::kCausal, MaskKind::kRandom})
            expect_equal({.n_tokens = tokens, .n_keys = 700, .mask = mask}, 100, 4, 2, true);
    }
}

TEST_P(ScatteredTest, HeadsThatShareAList) {
    for (const int64_t tokens : {1, 2}) {
        const CaseSpec spec{.n_tokens = tokens, .n_head = 16, .n_head_kv = 8, .n_keys = 2000};
        Case expected(spec);
        Case actual(spec);
        Scattered lists(expected, spec, 100, 4);
        for (HeadRuns& head : lists.heads) head.runs = lists.runs[0];
        expected.args.runs = actual.args.runs = lists.heads.data();
        compare(expected, actual, 2, describe(spec));
    }
}

TEST_P(ScatteredTest, CellsThatNobodySeesMayHoldAnything) {
    for (int type = 0; type < kDataTypeCount; ++type) {
        for (const int64_t tokens : {1, 3, 40}) {
            for (const uint16_t pattern : {uint16_t{0xFFFF}, uint16_t{0x7C00}}) {
                for (const bool summary : {false, true}) {
                    const CaseSpec spec{.n_tokens = tokens,
                                        .n_keys = 230,
                                        .k_type = static_cast<DataType>(type),
                                        .v_type = static_cast<DataType>(type),
                                        .mask = MaskKind::kNone,
                                        .summary = summary};
                    Case expected(spec);
                    Case actual(spec);
                    BlockMask mask(expected, spec, 1);
                    // Single cells, neighbours and a whole block.
                    const auto poisoned = [](int64_t key) { return key % 7 == 0 || key % 7 == 1 || key / 64 == 2; };
                    for (int64_t token = 0; token < tokens; ++token) {
                        for (int64_t key = 0; key < spec.n_keys; ++key) {
                            if (poisoned(key)) mask.values[static_cast<size_t>(token * spec.n_keys + key)] = kHidden;
                        }
                    }
                    mask.summarize(expected, spec);
                    actual.args.mask = expected.args.mask;
                    const kernels::Run run = actual.args.runs[0].runs[0];
                    const auto poison = [&](const std::byte* rows, int64_t stride, int64_t key) {
                        auto* cell = const_cast<std::byte*>(rows) + key * stride;
                        for (int64_t i = 0; i + 2 <= stride; i += 2) std::memcpy(cell + i, &pattern, 2);
                    };
                    for (int64_t key = 0; key < spec.n_keys; ++key) {
                        if (!poisoned(key)) continue;
                        poison(run.k, actual.args.k_stride, key);
                        poison(run.v, actual.args.v_stride, key);
                    }
                    const Scattered own(actual, spec, 100, 3);
                    const Scattered lists(expected, spec, 100, 3);
                    compare(expected, actual, 2, describe(spec) + ", pattern " + std::to_string(pattern));
                }
            }
        }
    }
}

TEST_P(ScatteredTest, WhatIsNotFiniteStaysWithTheRowsThatSeeIt) {
    // Cell 70 stands alone between two gaps; odd tokens do not see it.
    for (const bool in_key : {false, true}) {
        for (const int64_t tokens : {1, 2, 5, 40}) {
            const CaseSpec spec{.n_tokens = tokens, .n_keys = 400};
            Case expected(spec);
            Case actual(spec);
            std::vector<std::vector<kernels::Run>> runs(2);
            std::vector<HeadRuns> heads[2];
            for (Case* c : {&expected, &actual}) {
                const size_t i = c == &actual;
                auto* mask = const_cast<uint16_t*>(c->args.mask.data);
                for (int64_t token = 1; token < tokens; token += 2) mask[token * spec.n_keys + 70] = kHidden;
                summarize_mask(c->args.mask, tokens, spec.n_keys, const_cast<BlockVisibility*>(c->args.mask.summary),
                               1);
                const kernels::Run all = c->args.runs[0].runs[0];
                const std::byte* row = in_key ? all.k + 70 * c->args.k_stride : all.v + 70 * c->args.v_stride;
                auto* x = reinterpret_cast<uint16_t*>(const_cast<std::byte*>(row));
                x[1] = 0x7E00;
                if (!in_key) x[2] = 0x7C00;
                for (int32_t key = 1; key < 400; key += 3)
                    runs[i].push_back({all.k + key * c->args.k_stride, all.v + key * c->args.v_stride, key, 1});
                for (int64_t h = 0; h < spec.n_head_kv; ++h)
                    heads[i].push_back({runs[i], c->args.runs[h].k_offset, c->args.runs[h].v_offset});
                c->args.runs = heads[i].data();
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
            EXPECT_GE(finite, actual.out.size() / 2);
        }
    }
}

}  // namespace
}  // namespace atlas::kernels::test
