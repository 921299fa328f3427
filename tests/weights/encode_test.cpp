#include "weights/encode.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/reference/reference.h"
#include "kernels/row_codec.h"

namespace atlas::weights {
namespace {

using kernels::WeightType;

constexpr int64_t kCols = 512;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

/** SQNR in dB that the encoders had on these weights (seeds below), of which 0.3 dB are left to other compilers. */
struct Case {
    WeightType type;
    double normal, heavy, outliers;
};

constexpr Case kCases[] = {
    {WeightType::kQ8_0, 45.42, 42.81, 40.49}, {WeightType::kQ6_K, 35.41, 33.26, 31.60},
    {WeightType::kQ5_K, 29.13, 27.44, 27.01}, {WeightType::kQ4_K, 22.98, 21.18, 20.75},
    {WeightType::kQ5_1, 29.16, 27.53, 27.18}, {WeightType::kIQ4_NL, 22.72, 20.78, 19.19},
    {WeightType::kE4M3, 31.62, 31.47, 31.15},
};

std::vector<std::byte> encoded(WeightType type, const std::vector<float>& x) {
    const auto n = static_cast<int64_t>(x.size());
    std::vector<std::byte> out(kernels::weight_row_bytes(type, n));
    encode_weights(type, x.data(), n, out.data());
    return out;
}

/** Every weight of some blocks, by the reference's products with unit vectors: codes of 127 with a scale of 1 are one block's length. */
std::vector<double> decoded(WeightType type, const std::vector<std::byte>& blocks) {
    const kernels::WeightTypeInfo& info = kernels::weight_type_info(type);
    const int64_t k = info.block_elements;
    std::vector<float> unit(static_cast<size_t>(k * k));
    for (int64_t i = 0; i < k; ++i) unit[static_cast<size_t>(i * k + i)] = 127.0f;
    std::vector<std::byte> room(kernels::activation_bytes(info.activations, k, k) + 64);
    std::byte* columns = room.data() + (64 - reinterpret_cast<uintptr_t>(room.data()) % 64) % 64;
    kernels::reference::quantise_activations({info.activations, k, unit.data(), static_cast<size_t>(k) * 4, columns}, 0,
                                             k);
    const auto rows = static_cast<int64_t>(blocks.size()) / info.block_bytes;
    std::vector<float> out(static_cast<size_t>(k * rows));  // [element][block]
    kernels::WeightProduct product{};
    product.weights = {type, blocks.data(), rows, k, static_cast<size_t>(info.block_bytes)};
    product.activations = columns;
    product.n = k;
    product.out = out.data();
    product.out_stride = static_cast<size_t>(rows);
    kernels::reference::multiply_weights(product, 0, rows);
    std::vector<double> x;
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < k; ++i)
            x.push_back(static_cast<double>(out[static_cast<size_t>(i * rows + r)]) / 127.0);
    return x;
}

double squares(const std::vector<float>& x) {
    double sum = 0.0;
    for (const float v : x) sum += static_cast<double>(v) * static_cast<double>(v);
    return sum;
}

double squared_error(const std::vector<float>& x, const std::vector<double>& y) {
    double sum = 0.0;
    for (size_t i = 0; i < x.size(); ++i)
        sum += (static_cast<double>(x[i]) - y[i]) * (static_cast<double>(x[i]) - y[i]);
    return sum;
}

/** Σ (1 + 0.3 · x² / mean(x²)) · error² of a block of 32: what the encoders look for the least of. */
double counted_error(const float* x, const double* y) {
    const double mean = squares({x, x + 32}) / 32.0;
    double sum = 0.0;
    for (int i = 0; i < 32; ++i) {
        const double v = static_cast<double>(x[i]);
        sum += (1.0 + 0.3 * v * v / mean) * (v - y[i]) * (v - y[i]);
    }
    return sum;
}

double sqnr(WeightType type, const std::vector<float>& x) {
    return 10.0 * std::log10(squares(x) / squared_error(x, decoded(type, encoded(type, x))));
}

template <class Distribution>
std::vector<float> drawn(Distribution distribution, size_t n = 16 * kCols) {
    std::mt19937 random(7);
    std::vector<float> x(n);
    for (float& v : x) v = 0.03f * distribution(random);
    return x;
}

/** One weight in 100 is 10 times as large. */
std::vector<float> with_outliers() {
    std::vector<float> x = drawn(std::normal_distribution<float>());
    for (size_t i = 37; i < x.size(); i += 100) x[i] *= 10.0f;
    return x;
}

DataType native_type(WeightType type) {
    const std::string name = kernels::weight_type_info(type).name;
    for (int i = 0; i < kDataTypeCount - 1; ++i)
        if (name == data_type_info(static_cast<DataType>(i)).name) return static_cast<DataType>(i);
    return DataType::kOther;
}

class Encode : public testing::TestWithParam<Case> {
protected:
    WeightType type() const { return GetParam().type; }
    /** What a value alone in its block may be off by: whole numbers have a scale of their own for it, floats half a step. */
    double relative() const { return type() == WeightType::kE4M3 ? 0x1p-4 : 0.01; }

    /** What comes back from x; finite. */
    std::vector<double> round_trip(const std::vector<float>& x) const {
        std::vector<double> y = decoded(type(), encoded(type(), x));
        for (const double v : y) EXPECT_TRUE(std::isfinite(v));
        return y;
    }
};

TEST_P(Encode, NormalWeights) {
    EXPECT_GT(sqnr(type(), drawn(std::normal_distribution<float>())), GetParam().normal - 0.3);
}
TEST_P(Encode, HeavyTailedWeights) {
    EXPECT_GT(sqnr(type(), drawn(std::student_t_distribution<float>(4.0f))), GetParam().heavy - 0.3);
}
TEST_P(Encode, WeightsWithOutliers) { EXPECT_GT(sqnr(type(), with_outliers()), GetParam().outliers - 0.3); }

/** As a whole; of single blocks 2 % are left to searches that end beside the best scale. */
TEST_P(Encode, NeverWorseThanPlainRounding) {
    const DataType native = native_type(type());
    if (native == DataType::kOther) GTEST_SKIP() << "no plain rounding of this type";
    for (const auto& x :
         {drawn(std::normal_distribution<float>()), drawn(std::student_t_distribution<float>(4.0f)), with_outliers()}) {
        std::vector<std::byte> plain(row_bytes(native, static_cast<int64_t>(x.size())));
        kernels::encode_row(native, x.data(), plain.data(), static_cast<int64_t>(x.size()));
        const auto a = decoded(type(), encoded(type(), x)), b = decoded(type(), plain);
        EXPECT_LE(squared_error(x, a), squared_error(x, b));
        for (size_t block = 0; block < x.size(); block += 32)
            EXPECT_LE(counted_error(&x[block], &a[block]), 1.02 * counted_error(&x[block], &b[block]))
                << "block " << block / 32;
    }
}

TEST_P(Encode, ZerosStayZeros) {
    for (const float zero : {0.0f, -0.0f, 1e-40f, -1e-40f})
        for (const double y : round_trip(std::vector<float>(256, zero))) EXPECT_EQ(y, 0.0);
}

/** Half a step of a subnormal scale times the highest code, 128, is 2⁻¹⁸. */
TEST_P(Encode, BlocksOfOneValue) {
    for (const float value : {1.0f, -0.37f, 3e-5f, -1e-3f, 1e4f, 65504.0f, -65504.0f})
        for (const double y : round_trip(std::vector<float>(256, value)))
            ASSERT_NEAR(y, static_cast<double>(value), std::fabs(static_cast<double>(value)) * relative() + 0x1p-18);
}

TEST_P(Encode, OneOutlierIsKept) {
    std::vector<float> x = drawn(std::normal_distribution<float>(), 256);
    for (const float outlier : {1e4f, -1e4f}) {
        x[77] = outlier;
        const std::vector<double> y = round_trip(x);
        EXPECT_NEAR(y[77], static_cast<double>(outlier), type() == WeightType::kE4M3 ? 1e4 * relative() : 30.0);
        for (size_t i = 96; i < 256; ++i) EXPECT_LT(std::fabs(y[i]), 90.0) << i;
    }
}

TEST_P(Encode, SmallestWeightsOfF16) {
    std::vector<float> x = drawn(std::normal_distribution<float>(), 512);
    for (float& v : x) v *= 0x1p-16f;
    EXPECT_LE(squared_error(x, round_trip(x)), squares(x));
}

TEST_P(Encode, WhatIsNotFiniteCountsAsZero) {
    std::vector<float> x = drawn(std::normal_distribution<float>(), 512), zeros = x;
    for (const size_t i : {0u, 31u, 100u, 301u}) {
        zeros[i] = 0.0f;
        x[i] = i == 31u ? -kInf : i == 100u ? kInf : kNaN;
    }
    EXPECT_EQ(encoded(type(), x), encoded(type(), zeros));
}

TEST_P(Encode, LargestWeights) {
    std::vector<float> x = drawn(std::normal_distribution<float>(), 512), cut = x;
    for (size_t i = 0; i < x.size(); i += 3) {
        x[i] = i % 2 == 0 ? 3e38f : -7e4f;
        cut[i] = i % 2 == 0 ? 65504.0f : -65504.0f;
    }
    EXPECT_EQ(encoded(type(), x), encoded(type(), cut));
    EXPECT_LT(squared_error(cut, round_trip(x)), 0.01 * squares(cut));
}

TEST_P(Encode, BlocksDoNotDependOnEachOther) {
    const std::vector<float> x = drawn(std::student_t_distribution<float>(4.0f), 8 * kCols);
    const std::vector<std::byte> all = encoded(type(), x);
    std::vector<std::byte> rows;
    for (size_t at = 0; at < x.size(); at += 256) {
        const auto from = x.begin() + static_cast<std::ptrdiff_t>(at);
        const std::vector<std::byte> row = encoded(type(), {from, from + 256});
        rows.insert(rows.end(), row.begin(), row.end());
    }
    EXPECT_EQ(rows, all);
}

TEST_P(Encode, WritesNothingBehindTheRow) {
    const std::vector<float> x = drawn(std::normal_distribution<float>(), 512);
    const size_t bytes = kernels::weight_row_bytes(type(), 512);
    std::vector<std::byte> out(bytes + 65, std::byte{0xA5});
    encode_weights(type(), x.data(), 512, out.data() + 1);
    EXPECT_EQ(out[0], std::byte{0xA5});
    for (size_t i = bytes + 1; i < out.size(); ++i) EXPECT_EQ(out[i], std::byte{0xA5});
    EXPECT_EQ(std::memcmp(out.data() + 1, encoded(type(), x).data(), bytes), 0);
}

TEST_P(Encode, WantsWholeBlocks) {
    const int64_t block = kernels::weight_type_info(type()).block_elements;
    EXPECT_TRUE(can_encode(type(), block));
    EXPECT_TRUE(can_encode(type(), 3 * block));
    for (const int64_t cols : {int64_t{0}, -block, block - 1, block / 2, 3 * block + 8})
        EXPECT_FALSE(can_encode(type(), cols));
}

INSTANTIATE_TEST_SUITE_P(Types, Encode, testing::ValuesIn(kCases), [](const testing::TestParamInfo<Case>& info) {
    return std::string(kernels::weight_type_info(info.param.type).name);
});

/** Of all numbers that a block has with its scale each weight becomes the nearest one; both ways to read a block agree. */
TEST(EncodeE4M3, NearestOfAllNumbers) {
    std::vector<double> numbers{0.0};
    for (int exponent = 1; exponent < 16; ++exponent) {
        for (int fraction = 0; fraction < (exponent == 15 ? 7 : 8); ++fraction) {
            for (const double sign : {1.0, -1.0}) numbers.push_back(sign * std::ldexp(8 + fraction, exponent - 10));
        }
    }
    std::vector<float> x = drawn(std::student_t_distribution<float>(2.0f), 4096);
    for (size_t i = 0; i < 64; ++i) x[i] = std::ldexp(static_cast<float>(i + 1) * 7.25f, static_cast<int>(i % 20) - 20);
    x[63] = 464.0f;  // a tie of the largest number and of what would be NaN
    const std::vector<std::byte> blocks = encoded(WeightType::kE4M3, x);
    const std::vector<double> y = decoded(WeightType::kE4M3, blocks);
    std::vector<float> row(x.size());
    decode_e4m3(blocks.data(), static_cast<int64_t>(x.size()), row.data());
    EXPECT_EQ(y[63], 448.0);
    for (size_t b = 0; b < x.size(); b += 64) {
        float most = 0.0f;
        for (size_t i = b; i < b + 64; ++i) most = std::max(most, std::fabs(x[i]));
        const double scale = std::exp2(std::ceil(std::log2(static_cast<double>(most) / 464.0)));
        for (size_t i = b; i < b + 64; ++i) {
            ASSERT_EQ(static_cast<double>(row[i]), y[i]) << i;
            double nearest = 1e300;
            for (const double number : numbers)
                nearest = std::min(nearest, std::fabs(number * scale - static_cast<double>(x[i])));
            ASSERT_DOUBLE_EQ(std::fabs(y[i] - static_cast<double>(x[i])), nearest) << i << " " << x[i];
        }
    }
}

TEST(CanEncode, NoOtherTypes) {
    for (const WeightType type : {WeightType::kF32, WeightType::kF16, WeightType::kBF16, WeightType::kMXFP4,
                                  WeightType::kQ2_K, WeightType::kQ3_K, WeightType::kIQ4_XS})
        EXPECT_FALSE(can_encode(type, 256));
}

}  // namespace
}  // namespace atlas::weights
