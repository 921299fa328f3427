#include "kernels/row_codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/kernel_table.h"
#include "kernels/reference/reference.h"
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
        reference::row_encoder(type)(values.data(), row.data(), 256);
        reference::row_decoder(type)(row.data(), decoded.data(), 256);
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
        reference::row_encoder(type)(zeros.data(), row.data(), 64);
        reference::row_decoder(type)(row.data(), decoded.data(), 64);
        for (const float x : decoded) EXPECT_EQ(x, 0.0f) << data_type_info(type).name;
    }
    EXPECT_EQ(reference::row_decoder(DataType::kOther), nullptr);
    EXPECT_EQ(reference::row_encoder(DataType::kOther), nullptr);
}

TEST(RowCodecTest, BlockBytesAreThoseOfTheFormat) {
    // A block of q8_0 with values 0, 1, …, 31 times 4: scale 124/127 in f16, quants rounded.
    std::vector<float> values(32);
    for (size_t i = 0; i < 32; ++i) values[i] = static_cast<float>(4 * i);
    uint8_t block[34];
    reference::row_encoder(DataType::kQ8_0)(values.data(), block, 32);
    const double scale = 124.0 / 127.0;
    EXPECT_NEAR(f16_to_f32(static_cast<uint16_t>(block[0] | block[1] << 8)), scale, 5e-4);
    for (size_t i = 0; i < 32; ++i) EXPECT_EQ(static_cast<int8_t>(block[2 + i]), std::lround(values[i] / scale));
    // q4_1: minimum 0, scale 124/15; element i in the low nibble of byte i, element i+16 in its high nibble.
    uint8_t nibbles[20];
    reference::row_encoder(DataType::kQ4_1)(values.data(), nibbles, 32);
    for (size_t i = 0; i < 16; ++i) {
        EXPECT_EQ(nibbles[4 + i] & 15, static_cast<int>(values[i] / (124.0 / 15) + 0.5));
        EXPECT_EQ(nibbles[4 + i] >> 4, static_cast<int>(values[i + 16] / (124.0 / 15) + 0.5));
    }
}

ATLAS_VARIANT_TEST(RowCodecVariantTest);

TEST_P(RowCodecVariantTest, WritesTheBitsOfThePlainEncoder) {
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
                reference::row_encoder(type)(values.data(), plain.data(), static_cast<int64_t>(n));
                encode_row(type, values.data(), fast.data(), static_cast<int64_t>(n));
                EXPECT_EQ(plain, fast) << data_type_info(type).name << ", " << n << " elements of size " << size;
            }
        }
    }
}

TEST_P(RowCodecVariantTest, HalfTypesKeepNanAndInfinity) {
    const float values[3] = {std::nanf(""), HUGE_VALF, -HUGE_VALF};
    for (const DataType type : {DataType::kF16, DataType::kBF16}) {
        uint16_t bits[3];
        float decoded[3];
        encode_row(type, values, bits, 3);
        reference::row_decoder(type)(bits, decoded, 3);
        EXPECT_TRUE(std::isnan(decoded[0]));
        EXPECT_EQ(decoded[1], HUGE_VALF);
        EXPECT_EQ(decoded[2], -HUGE_VALF);
    }
}

TEST_P(RowCodecVariantTest, DecodedRowsEqualThePlainDecoders) {
    std::mt19937 rng(11);
    std::normal_distribution<float> normal;
    for (int t = 0; t < kDataTypeCount; ++t) {
        const auto type = static_cast<DataType>(t);
        const bool other = type == DataType::kOther;
        const DataType stored = other ? DataType::kQ8_0 : type;
        for (const int64_t d : {1, 5, 31, 32, 33, 64, 96, 100, 576}) {
            if (d % data_type_info(stored).block_elements != 0) continue;
            for (const int64_t count : {0, 1, 3, 17}) {
                // Rows off the alignment of vectors and with something between them.
                const auto bytes = static_cast<int64_t>(row_bytes(stored, d));
                const int64_t before = stored == DataType::kF32 ? 4 : 2;
                const int64_t stride = bytes + 3 * before;
                std::vector<std::byte> data(static_cast<size_t>(before + count * stride));
                std::vector<float> values(static_cast<size_t>(d));
                for (int64_t j = 0; j < count; ++j) {
                    for (float& x : values) x = normal(rng);
                    reference::row_encoder(stored)(values.data(), data.data() + before + j * stride, d);
                }
                const EncodedRows rows{
                    type, other ? reference::row_decoder(stored) : nullptr, data.data() + before, stride, count, d};
                std::vector<float> got(static_cast<size_t>(count * d + 1), -7.0f), expected(got);
                decode_rows(rows, got.data());
                reference_table().decode_rows(rows, expected.data());
                // A scale, a product and a sum are the same operations, but that vectors may fuse the last two.
                for (size_t i = 0; i < got.size(); ++i)
                    ASSERT_NEAR(got[i], expected[i],
                                test::kEpsilon * (1.0 + std::fabs(static_cast<double>(expected[i]))))
                        << data_type_info(stored).name << " " << d << " " << i;
                EXPECT_EQ(got.back(), -7.0f);
            }
        }
    }
}

}  // namespace
}  // namespace atlas::kernels
