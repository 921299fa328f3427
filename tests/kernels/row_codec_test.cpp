#include "kernels/row_codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/attention.h"
#include "kernels/merge.h"
#include "variant_test.h"

namespace atlas::kernels {
namespace {

/** Steps between levels of a block whose values span [−1, 1] or whose largest magnitude is 1. */
double step(DataType type) {
    switch (type) {
        case DataType::kQ8_0:
            return 1.0 / 127;
        case DataType::kQ4_0:
            return 1.0 / 8;
        case DataType::kQ4_1:
            return 2.0 / 15;
        case DataType::kQ5_0:
            return 1.0 / 16;
        case DataType::kQ5_1:
            return 2.0 / 31;
        case DataType::kIQ4_NL:
            return 30.0 / 113;
        default:
            return 0;
    }
}

TEST(RowCodecTest, RoundTripStaysWithinHalfAStep) {
    std::mt19937 rng(3);
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    for (int t = 0; t < kDataTypeCount - 1; ++t) {
        const auto type = static_cast<DataType>(t);
        std::vector<float> values(256);
        for (float& x : values) x = uniform(rng);
        std::vector<std::byte> row(row_bytes(type, 256));
        std::vector<float> decoded(256);
        row_encoder(type)(values.data(), row.data(), 256);
        row_decoder(type)(row.data(), decoded.data(), 256);
        // The extreme of q4_0 and q5_0 with the other sign has no level of its own: a whole step there.
        const bool one_sided = type == DataType::kQ4_0 || type == DataType::kQ5_0;
        const double allowed = type == DataType::kF32    ? 0
                               : type == DataType::kF16  ? 5e-4
                               : type == DataType::kBF16 ? 4e-3
                                                         : step(type) * (one_sided ? 1.0 : 0.5) + 2e-3;
        for (size_t i = 0; i < values.size(); ++i) {
            EXPECT_LE(std::fabs(values[i] - decoded[i]), allowed) << data_type_info(type).name << " element " << i;
        }
    }
}

TEST(RowCodecTest, ZerosStayZero) {
    for (int t = 0; t < kDataTypeCount - 1; ++t) {
        const auto type = static_cast<DataType>(t);
        const std::vector<float> zeros(64);
        std::vector<std::byte> row(row_bytes(type, 64));
        std::vector<float> decoded(64, 1.0f);
        row_encoder(type)(zeros.data(), row.data(), 64);
        row_decoder(type)(row.data(), decoded.data(), 64);
        for (const float x : decoded) EXPECT_EQ(x, 0.0f) << data_type_info(type).name;
    }
    EXPECT_EQ(row_decoder(DataType::kOther), nullptr);
    EXPECT_EQ(row_encoder(DataType::kOther), nullptr);
}

TEST(RowCodecTest, BlockBytesAreThoseOfTheFormat) {
    // A block of q8_0 with values 0, 1, …, 31 times 4: scale 124/127 in f16, quants rounded.
    std::vector<float> values(32);
    for (size_t i = 0; i < 32; ++i) values[i] = static_cast<float>(4 * i);
    uint8_t block[34];
    row_encoder(DataType::kQ8_0)(values.data(), block, 32);
    const double scale = 124.0 / 127.0;
    EXPECT_NEAR(f16_to_f32(static_cast<uint16_t>(block[0] | block[1] << 8)), scale, 5e-4);
    for (size_t i = 0; i < 32; ++i) EXPECT_EQ(static_cast<int8_t>(block[2 + i]), std::lround(values[i] / scale));
    // q4_1: minimum 0, scale 124/15; element i in the low nibble of byte i, element i+16 in its high nibble.
    uint8_t nibbles[20];
    row_encoder(DataType::kQ4_1)(values.data(), nibbles, 32);
    for (size_t i = 0; i < 16; ++i) {
        EXPECT_EQ(nibbles[4 + i] & 15, static_cast<int>(values[i] / (124.0 / 15) + 0.5));
        EXPECT_EQ(nibbles[4 + i] >> 4, static_cast<int>(values[i + 16] / (124.0 / 15) + 0.5));
    }
}

class EncodeRowTest : public test::VariantTest {};

INSTANTIATE_TEST_SUITE_P(Variants, EncodeRowTest, testing::Values("avx2", "avx512", "avx512_bf16", "neon"),
                         [](const auto& info) { return info.param; });

TEST_P(EncodeRowTest, WritesTheBitsOfThePlainEncoder) {
    std::mt19937 rng(9);
    std::normal_distribution<float> normal;
    for (int t = 0; t < kDataTypeCount - 1; ++t) {
        const auto type = static_cast<DataType>(t);
        for (const size_t n : {1, 5, 17, 32, 64, 100, 576}) {
            if (n % static_cast<size_t>(data_type_info(type).block_elements) != 0) continue;
            // From subnormal to large, and halves of the steps of q8_0, which round away from zero.
            for (const float size : {1e-41f, 1e-6f, 1.0f, 3e4f}) {
                // The inverse of a subnormal scale is infinite: what q8_0 makes of it is not defined.
                if (size < 1e-38f && data_type_info(type).block_elements > 1) continue;
                std::vector<float> values(n);
                for (float& x : values) x = size * normal(rng);
                for (size_t i = 1; i < n; i += 2) values[i] = size * std::round(values[i] / size * 4) / 2;
                values[n / 2] = 127 * size;
                const size_t bytes = row_bytes(type, static_cast<int64_t>(n));
                std::vector<std::byte> plain(bytes + 1, std::byte{0x5A}), fast(plain);
                row_encoder(type)(values.data(), plain.data(), static_cast<int64_t>(n));
                encode_row(type, values.data(), fast.data(), static_cast<int64_t>(n));
                EXPECT_EQ(plain, fast) << data_type_info(type).name << ", " << n << " elements of size " << size;
            }
        }
    }
}

TEST_P(EncodeRowTest, HalfTypesKeepNanAndInfinity) {
    const float values[3] = {std::nanf(""), HUGE_VALF, -HUGE_VALF};
    for (const DataType type : {DataType::kF16, DataType::kBF16}) {
        uint16_t bits[3];
        float decoded[3];
        encode_row(type, values, bits, 3);
        row_decoder(type)(bits, decoded, 3);
        EXPECT_TRUE(std::isnan(decoded[0]));
        EXPECT_EQ(decoded[1], HUGE_VALF);
        EXPECT_EQ(decoded[2], -HUGE_VALF);
    }
}

TEST(MergeTest, EqualsSoftmaxOverTheUnion) {
    // Two keys with logits 1 and 3 and values 10 and 20, each a set of its own.
    float a[1] = {10.0f};
    float lse = 1.0f;
    const float b[1] = {20.0f};
    merge_partial(a, &lse, b, 3.0f, 1);
    const double weight = std::exp(1.0) / (std::exp(1.0) + std::exp(3.0));
    EXPECT_NEAR(a[0], weight * 10 + (1 - weight) * 20, 1e-5);
    EXPECT_NEAR(lse, std::log(std::exp(1.0) + std::exp(3.0)), 1e-6);
    merge_partial(a, &lse, b, -HUGE_VALF, 1);
    EXPECT_NEAR(a[0], weight * 10 + (1 - weight) * 20, 1e-5);
}

}  // namespace
}  // namespace atlas::kernels
