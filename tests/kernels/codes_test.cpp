#include "kernels/codes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/row_codec.h"
#include "variant_test.h"

namespace atlas::kernels {
namespace {

constexpr size_t kKeys = kCodeKeys;

/** Floats at an address divisible by 64. */
class Aligned {
public:
    explicit Aligned(size_t n) : memory_(n + 16) {}
    float* data() { return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory_.data()) + 63) / 64 * 64); }

private:
    std::vector<float> memory_;
};

struct Page {
    Page(int64_t d_k, int64_t d_v, uint32_t seed, float offset = 0.0f) : shape(d_k, d_v), memory(shape.bytes + 64) {
        std::mt19937 random(seed);
        std::normal_distribution<float> normal;
        keys.assign(kKeys * static_cast<size_t>(shape.d), 0.0f);
        for (size_t key = 0; key < kKeys; ++key) {
            const float size = 0.5f + static_cast<float>(key) / 32.0f;
            for (int64_t i = 0; i < d_k; ++i)
                keys[key * static_cast<size_t>(shape.d) + static_cast<size_t>(i)] =
                    offset * static_cast<float>(i % 5) + size * normal(random);
        }
        values.resize(kKeys * static_cast<size_t>(d_v));
        for (float& x : values) x = normal(random);
    }
    bool encode() { return encode_codes(shape, keys.data(), values.data(), at()); }
    std::byte* at() {
        return reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    }

    CodeShape shape;
    std::vector<std::byte> memory;
    std::vector<float> keys, values;
};

/** What a page's bytes say of a key, in float64, by the layout in codes.h. */
std::vector<double> decoded(Page& page, size_t key) {
    float factors[3];
    std::memcpy(factors, page.at() + page.shape.factors, sizeof factors);
    const auto* words = reinterpret_cast<const uint32_t*>(page.at());
    const auto* scales = reinterpret_cast<const uint16_t*>(page.at() + page.shape.key_scale);
    const auto* mean = reinterpret_cast<const int8_t*>(page.at() + page.shape.mean);
    std::vector<double> key_values(static_cast<size_t>(page.shape.d));
    for (size_t i = 0; i < key_values.size(); ++i) {
        const uint32_t word = words[i / 16 * kKeys + key];
        const size_t j = i % 16 / 4, b = i % 4;
        const double level = static_cast<double>(word >> (8 * b + 2 * j) & 3) * 2.0 - 3.0;
        key_values[i] =
            static_cast<double>(factors[0]) * mean[i] + static_cast<double>(f16_to_f32(scales[key])) * level;
    }
    return key_values;
}

struct Queries {
    Queries(int64_t rows, int64_t d, uint32_t seed, float size = 1.0f)
        : exact(static_cast<size_t>(rows * d)), codes(exact.size()) {
        std::mt19937 random(seed);
        std::normal_distribution<float> normal;
        for (float& x : exact) x = size * normal(random);
        for (auto* part : {&scale, &offset, &squares}) part->resize(static_cast<size_t>(rows));
        quantise_queries(exact.data(), rows, d, codes.data(), scale.data(), offset.data(), squares.data());
        view = {rows, codes.data(), exact.data(), scale.data(), offset.data()};
    }
    std::vector<float> exact;
    std::vector<int8_t> codes;
    std::vector<float> scale, offset, squares;
    CodeQueries view;
};

class CodesTest : public test::VariantTest {};
INSTANTIATE_TEST_SUITE_P(Variants, CodesTest, testing::ValuesIn(test::codes_variants()),
                         [](const auto& variant) { return std::string(variant.param); });

/** Scores are those of the stored bytes: exact query times mean, rounded query times codes. */
TEST_P(CodesTest, ScoresAreThoseOfTheStoredBytes) {
    for (const int64_t d_k : {16, 40, 64, 80, 96, 128, 192, 256, 576}) {
        Page page(d_k, 32, static_cast<uint32_t>(d_k), 2.0f);
        ASSERT_TRUE(page.encode());
        const auto d = static_cast<size_t>(page.shape.d);
        for (const int64_t rows : {1, 2, 3, 5, 6, 7, 13}) {
            Queries queries(rows, page.shape.d, 7);
            Aligned logits(static_cast<size_t>(rows) * kKeys);
            score_codes(page.shape, queries.view, page.at(), logits.data());
            for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
                for (size_t key = 0; key < kKeys; ++key) {
                    float factors[3];
                    std::memcpy(factors, page.at() + page.shape.factors, sizeof factors);
                    const auto* mean = reinterpret_cast<const int8_t*>(page.at() + page.shape.mean);
                    const std::vector<double> stored = decoded(page, key);
                    double expected = 0.0, size = 0.0;
                    for (size_t i = 0; i < d; ++i) {
                        const double m = static_cast<double>(factors[0]) * mean[i];
                        const double rounded = static_cast<double>(queries.scale[row]) * queries.codes[row * d + i];
                        expected += static_cast<double>(queries.exact[row * d + i]) * m + rounded * (stored[i] - m);
                        size += std::fabs(static_cast<double>(queries.exact[row * d + i]) * stored[i]);
                    }
                    ASSERT_NEAR(logits.data()[row * kKeys + key], expected, 1e-6 * size + 1e-6)
                        << d_k << ' ' << rows << ' ' << row << ' ' << key;
                }
            }
        }
    }
}

/** Both ways to weights agree, whatever is brought near meanwhile. */
TEST_P(CodesTest, WeighedInOnePassAsInTwo) {
    for (const int64_t d_k : {16, 64, 80, 128, 256}) {
        Page page(d_k, 32, 11, 1.0f);
        Page ahead(d_k, 32, 12);
        ASSERT_TRUE(page.encode() && ahead.encode());
        for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 47, 96}) {
            Queries queries(rows, page.shape.d, 7, 0.3f);
            const auto n = static_cast<size_t>(rows);
            std::vector<float> shift(n), sums(n), expected_sums(n), most(n), expected_most(n);
            for (size_t row = 0; row < n; ++row) shift[row] = 2.0f * static_cast<float>(row % 4);
            Aligned expected(n * kKeys), weights(n * kKeys);
            score_codes(page.shape, queries.view, page.at(), expected.data());
            weigh_scores(expected.data(), rows, shift.data(), expected_sums.data(), expected_most.data());
            weigh_codes(page.shape, queries.view, page.at(), rows % 2 ? ahead.at() : nullptr, shift.data(),
                        weights.data(), sums.data(), most.data());
            for (size_t row = 0; row < n; ++row) {
                ASSERT_NEAR(sums[row], expected_sums[row], 1e-5f * expected_sums[row]) << rows << ' ' << row;
                ASSERT_NEAR(most[row], expected_most[row], 1e-5f * expected_most[row]) << rows << ' ' << row;
                ASSERT_EQ(expected_most[row],
                          *std::max_element(expected.data() + row * kKeys, expected.data() + (row + 1) * kKeys));
                for (size_t key = row * kKeys; key < (row + 1) * kKeys; ++key)
                    ASSERT_NEAR(weights.data()[key], expected.data()[key], 1e-5f * expected.data()[key])
                        << rows << ' ' << key;
            }
        }
    }
}

/** The largest query codes must not overflow the sums, whatever the codes of the keys are. */
TEST_P(CodesTest, TheLargestSumsFit) {
    for (const int64_t d : {16, 128, 176, 256, 576, 1024, 4096}) {
        Page page(d, 16, 3);
        for (size_t key = 0; key < kKeys; ++key)
            std::fill_n(page.keys.begin() + static_cast<std::ptrdiff_t>(key * static_cast<size_t>(d)), d,
                        key % 2 ? 4.0f : -4.0f);
        ASSERT_TRUE(page.encode());
        Queries queries(1, d, 1);
        std::fill(queries.exact.begin(), queries.exact.end(), 1.0f);
        quantise_queries(queries.exact.data(), 1, d, queries.codes.data(), queries.scale.data(), queries.offset.data(),
                         queries.squares.data());
        ASSERT_EQ(queries.codes[0], largest_query_code(d));
        Aligned logits(kKeys);
        score_codes(page.shape, queries.view, page.at(), logits.data());
        for (size_t key = 0; key < kKeys; ++key)
            EXPECT_NEAR(logits.data()[key], (key % 2 ? 4.0 : -4.0) * static_cast<double>(d),
                        0.01 * static_cast<double>(d))
                << d << ' ' << key;
    }
}

/** Over rotations the estimate is right on average, and errs by what it says. */
TEST_P(CodesTest, EstimatesAreUnbiasedWithTheStatedNoise) {
    constexpr int64_t d = 128;
    std::vector<float> signs(2 * d);
    std::mt19937 random(11);
    double error = 0.0, square = 0.0, stated = 0.0, n = 0.0;
    for (uint32_t round = 0; round < 40; ++round) {
        for (float& sign : signs) sign = (random() & 1) != 0 ? 1.0f : -1.0f;
        Page page(d, 16, 5, 1.0f);
        Queries queries(1, d, 9);
        // The same keys and query each time, another rotation.
        rotate_rows(signs.data(), kCodeKeys, d, page.keys.data());
        rotate_rows(signs.data(), 1, d, queries.exact.data());
        quantise_queries(queries.exact.data(), 1, d, queries.codes.data(), queries.scale.data(), queries.offset.data(),
                         queries.squares.data());
        ASSERT_TRUE(page.encode());
        Aligned logits(kKeys);
        score_codes(page.shape, queries.view, page.at(), logits.data());
        for (size_t key = 0; key < kKeys; ++key, n += 1.0) {
            double truth = 0.0;
            for (size_t i = 0; i < d; ++i)
                truth += static_cast<double>(queries.exact[i]) * static_cast<double>(page.keys[key * d + i]);
            const double off = static_cast<double>(logits.data()[key]) - truth;
            error += off;
            square += off * off;
        }
        stated += 2.0 * static_cast<double>(noise_of_codes(page.shape, page.at())) *
                  static_cast<double>(queries.squares[0]) * kKeys;
    }
    EXPECT_LT(std::fabs(error / n), 4.0 * std::sqrt(square / n / n) * 2.0);
    EXPECT_NEAR(square / stated, 1.0, 0.15);
}

TEST_P(CodesTest, RotationKeepsProducts) {
    for (const int64_t d : {16, 48, 64, 80, 112, 128, 144, 576}) {
        std::vector<float> signs(static_cast<size_t>(2 * d));
        std::mt19937 random(static_cast<uint32_t>(d));
        std::normal_distribution<float> normal;
        for (float& sign : signs) sign = (random() & 1) != 0 ? 1.0f : -1.0f;
        std::vector<float> rows(static_cast<size_t>(2 * d));
        for (float& x : rows) x = normal(random);
        // An outlier channel, as keys have them.
        rows[3] = rows[static_cast<size_t>(d) + 3] = 60.0f;
        const auto product = [&](size_t a, size_t b) {
            double sum = 0.0;
            for (size_t i = 0; i < static_cast<size_t>(d); ++i)
                sum += static_cast<double>(rows[a * static_cast<size_t>(d) + i]) *
                       static_cast<double>(rows[b * static_cast<size_t>(d) + i]);
            return sum;
        };
        const double before[] = {product(0, 0), product(0, 1), product(1, 1)};
        rotate_rows(signs.data(), 2, d, rows.data());
        const double after[] = {product(0, 0), product(0, 1), product(1, 1)};
        for (int i = 0; i < 3; ++i) EXPECT_NEAR(after[i], before[i], 1e-5 * before[0]) << d;
        const float most = *std::max_element(rows.begin(), rows.end());
        EXPECT_LT(most, 60.0f * 2.0f / std::sqrt(16.0f) + 6.0f)
            << "the outlier is spread over at least 16 dimensions, " << d;
    }
}

TEST_P(CodesTest, PagesOfEqualAndOfZeroKeysAreExact) {
    Page page(64, 16, 1);
    for (size_t key = 1; key < kKeys; ++key)
        std::copy_n(page.keys.begin(), 64, page.keys.begin() + static_cast<std::ptrdiff_t>(key * 64));
    for (int turn = 0; turn < 2; ++turn) {
        ASSERT_TRUE(page.encode());
        Queries queries(1, 64, 2);
        Aligned logits(kKeys);
        score_codes(page.shape, queries.view, page.at(), logits.data());
        double truth = 0.0;
        for (size_t i = 0; i < 64; ++i)
            truth += static_cast<double>(queries.exact[i]) * static_cast<double>(page.keys[i]);
        for (size_t key = 0; key < kKeys; ++key) EXPECT_NEAR(logits.data()[key], truth, 0.06) << turn;
        std::fill(page.keys.begin(), page.keys.end(), 0.0f);
    }
}

TEST_P(CodesTest, WhatIsNotFiniteIsRefused) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
        Page page(64, 20, 1);
        page.keys[17 * 64 + 5] = bad;
        EXPECT_FALSE(page.encode());
        Page other(64, 20, 1);
        other.values[63 * 20 + 19] = bad;
        EXPECT_FALSE(other.encode());
        EXPECT_TRUE(std::isnan(
            encode_value_mean(other.values.data(), 20, uint64_t{1} << 63, reinterpret_cast<int8_t*>(other.at()))));
        EXPECT_FALSE(std::isnan(encode_value_mean(other.values.data(), 20, 1, reinterpret_cast<int8_t*>(other.at()))));
    }
}

TEST_P(CodesTest, WeightsArePowersOfTwo) {
    std::mt19937 random(4);
    std::uniform_real_distribution<float> uniform(-160.0f, 130.0f);
    Aligned values(3 * kKeys);
    std::vector<float> before(3 * kKeys);
    for (size_t i = 0; i < before.size(); ++i) before[i] = values.data()[i] = uniform(random);
    before[5] = values.data()[5] = -std::numeric_limits<float>::infinity();
    before[70] = values.data()[70] = std::numeric_limits<float>::quiet_NaN();
    before[71] = values.data()[71] = std::numeric_limits<float>::infinity();
    const float shift[] = {0.0f, 3.5f, -20.0f};
    float sums[3], most[3];
    weigh_scores(values.data(), 3, shift, sums, most);
    for (size_t row = 0; row < 3; ++row) {
        double sum = 0.0;
        for (size_t key = 0; key < kKeys; ++key) {
            const size_t i = row * kKeys + key;
            const double x = std::min(static_cast<double>(before[i]) - static_cast<double>(shift[row]), 100.0);
            const double expected = x >= -126.0 ? std::exp2(x) : 0.0;
            ASSERT_NEAR(values.data()[i], expected, 1e-5 * expected) << i;
            sum += static_cast<double>(values.data()[i]);
        }
        EXPECT_NEAR(sums[row], sum, 1e-5 * sum);
        EXPECT_EQ(most[row], *std::max_element(values.data() + row * kKeys, values.data() + (row + 1) * kKeys));
    }
}

TEST_P(CodesTest, SharesSumsAndMeans) {
    std::mt19937 random(6);
    std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
    constexpr int64_t tokens = 3, group = 5;
    Aligned weights(tokens * group * kKeys);
    for (size_t i = 0; i < tokens * group * kKeys; ++i) weights.data()[i] = uniform(random);
    std::vector<float> factor(tokens * group);
    for (float& x : factor) x = uniform(random);
    std::vector<float> shares(kKeys), sums(tokens * group);
    share_of_keys(weights.data(), tokens, group, factor.data(), shares.data());
    uint64_t expected_keys = 0;
    for (size_t key = 0; key < kKeys; ++key) {
        double most = 0.0;
        for (size_t token = 0; token < tokens; ++token) {
            double sum = 0.0;
            for (size_t h = 0; h < group; ++h) {
                const size_t row = token * group + h;
                sum += static_cast<double>(weights.data()[row * kKeys + key]) * static_cast<double>(factor[row]);
            }
            most = std::max(most, sum);
        }
        EXPECT_NEAR(shares[key], most, 1e-5 * most);
        expected_keys |= uint64_t{shares[key] >= shares[20]} << key;
    }
    EXPECT_EQ(keys_at_least(shares.data(), shares[20]), expected_keys);
    EXPECT_EQ(keys_at_least(shares.data(), 0.0f), ~uint64_t{0});
    const uint64_t some = 0x8000'00F0'1234'0001ULL;
    sum_weights(weights.data(), tokens * group, some, sums.data());
    for (size_t row = 0; row < sums.size(); ++row) {
        double sum = 0.0;
        for (size_t key = 0; key < kKeys; ++key)
            sum += (some >> key & 1) != 0 ? static_cast<double>(weights.data()[row * kKeys + key]) : 0.0;
        EXPECT_NEAR(sums[row], sum, 1e-5 * sum);
    }
    for (const int64_t d_v : {1, 7, 16, 33, 128}) {
        Page page(16, d_v, 2);
        ASSERT_TRUE(page.encode());
        std::vector<float> out(sums.size() * static_cast<size_t>(d_v), 0.5f);
        add_value_mean(value_mean_of(page.shape, page.at()), d_v, sums.data(), tokens * group, out.data());
        std::vector<int8_t> part(static_cast<size_t>(d_v));
        const float part_scale = encode_value_mean(page.values.data(), d_v, some, part.data());
        for (int64_t i = 0; i < d_v; ++i) {
            double mean = 0.0, part_mean = 0.0, largest = 0.0;
            for (size_t key = 0; key < kKeys; ++key) {
                const double v =
                    static_cast<double>(page.values[key * static_cast<size_t>(d_v) + static_cast<size_t>(i)]);
                mean += v / kKeys;
                part_mean += (some >> key & 1) != 0 ? v / std::popcount(some) : 0.0;
                largest = std::max(largest, std::fabs(v));
            }
            for (size_t row = 0; row < sums.size(); ++row)
                EXPECT_NEAR(out[row * static_cast<size_t>(d_v) + static_cast<size_t>(i)],
                            0.5 + static_cast<double>(sums[row]) * mean,
                            static_cast<double>(sums[row]) * 0.004 * largest + 1e-5);
            EXPECT_NEAR(static_cast<double>(part_scale) * part[static_cast<size_t>(i)], part_mean, 0.004 * largest);
        }
    }
}

TEST_P(CodesTest, TheRestIsDebiasedByTheNoise) {
    for (const int64_t d_v : {16, 40, 128}) {
        Page page(64, d_v, 3);
        ASSERT_TRUE(page.encode());
        const ValueMean value = value_mean_of(page.shape, page.at());
        for (const int64_t rows : {1, 3, 8, 16, 19, 40}) {
            const auto n = static_cast<size_t>(rows);
            std::vector<float> sums(n), squares(n), total(n, 0.25f), out(n * static_cast<size_t>(d_v), 0.5f);
            for (size_t row = 0; row < n; ++row) {
                sums[row] = 0.1f + static_cast<float>(row % 7);
                squares[row] = row == 2 ? 1e9f : static_cast<float>(row % 5) / noise_of_codes(page.shape, page.at());
            }
            add_rest(page.shape, page.at(), sums.data(), squares.data(), rows, total.data(), out.data());
            for (size_t row = 0; row < n; ++row) {
                const double trust = std::exp(-std::pow(std::log(2.0), 2.0) * static_cast<double>(squares[row]) *
                                              static_cast<double>(noise_of_codes(page.shape, page.at())));
                const double weight = static_cast<double>(sums[row]) * trust;
                ASSERT_NEAR(total[row], 0.25 + weight, 1e-5 * (1.0 + weight)) << rows << ' ' << row;
                for (size_t i = 0; i < static_cast<size_t>(d_v); ++i)
                    ASSERT_NEAR(out[row * static_cast<size_t>(d_v) + i],
                                0.5 + weight * static_cast<double>(value.scale) * value.mean[i], 1e-5 * (1.0 + weight))
                        << rows << ' ' << row << ' ' << i;
            }
        }
    }
}

TEST_P(CodesTest, CapsAndMasks) {
    std::vector<float> values(64), capped(64);
    for (size_t i = 0; i < 64; ++i) values[i] = capped[i] = 2.0f * static_cast<float>(i) - 60.0f;
    cap_scores(capped.data(), 64, 20.0f);
    for (size_t i = 0; i < 64; ++i)
        EXPECT_NEAR(capped[i], 20.0 * std::tanh(static_cast<double>(values[i]) / 20.0), 1e-4);
    std::vector<uint16_t> mask(64, 0);
    mask[3] = 0xFC00;
    mask[61] = f32_to_f16(-2.5f);
    for (const int64_t count : {1, 62, 64}) {
        std::vector<float> out = values;
        add_mask(mask.data(), count, 0.5f, out.data());
        for (size_t i = 0; i < 64; ++i) {
            const bool masked = static_cast<int64_t>(i) < count;
            const float expected = masked && i == 3    ? -std::numeric_limits<float>::infinity()
                                   : masked && i == 61 ? values[i] - 1.25f
                                                       : values[i];
            EXPECT_EQ(out[i], expected) << count << ' ' << i;
        }
    }
}

}  // namespace
}  // namespace atlas::kernels
