#include "kernels/columns.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "../numbers.h"
#include "variant_test.h"

namespace atlas::kernels {
namespace {

using memory::Numbers;

ATLAS_VARIANT_TEST(ColumnsTest);

uint16_t word_of(WeightType type, float value) {
    if (type == WeightType::kF16) return f32_to_f16(value);
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<uint16_t>(bits >> 16);
}

/** [columns][n] at any alignment; columns that are not asked for hold NaN. */
struct Matrix {
    Matrix(WeightType type, int64_t n, int64_t columns, const std::vector<int32_t>& asked, Numbers& numbers)
        : type(type), size(type == WeightType::kF32 ? 4 : 2), stride(static_cast<size_t>(n) * size + 6) {
        bytes.resize(static_cast<size_t>(columns) * stride + 1);
        for (int64_t c = 0; c < columns; ++c) {
            const bool is_asked = std::find(asked.begin(), asked.end(), static_cast<int32_t>(c)) != asked.end();
            const std::vector<float> values = numbers.normal(static_cast<size_t>(n));
            for (int64_t r = 0; r < n; ++r) {
                const float value = is_asked ? values[static_cast<size_t>(r)] : std::numeric_limits<float>::quiet_NaN();
                const uint16_t word = type == WeightType::kF32 ? uint16_t{0} : word_of(type, value);
                std::memcpy(data() + static_cast<size_t>(c) * stride + static_cast<size_t>(r) * size,
                            size == 4 ? static_cast<const void*>(&value) : &word, size);
            }
        }
    }
    // f32 columns are then not aligned to their elements, the others are not to vectors.
    std::byte* data() { return bytes.data() + (size == 4 ? 1 : 0); }

    WeightType type;
    size_t size, stride;
    std::vector<std::byte> bytes;
};

TEST_P(ColumnsTest, SumsEqualFloat64AndNothingElseIsRead) {
    Numbers numbers(11);
    for (const WeightType type : {WeightType::kF32, WeightType::kF16, WeightType::kBF16}) {
        for (const size_t length : test::kLengths) {
            const auto n = static_cast<int64_t>(std::min<size_t>(length, 1025));
            for (const int64_t count : {0, 1, 3, 4, 5, 9}) {
                std::vector<int32_t> which;
                for (int64_t i = 0; i < count; ++i) which.push_back(static_cast<int32_t>(2 * i + 1));
                std::reverse(which.begin(), which.end());
                Matrix matrix(type, n, 2 * count + 2, which, numbers);
                const std::vector<float> factors = numbers.normal(static_cast<size_t>(count)),
                                         before = numbers.normal(static_cast<size_t>(n));
                std::vector<float> got = before, expected = before;
                got.push_back(-77.0f);
                ColumnSum sum{type, matrix.data(), matrix.stride, n, which.data(), factors.data(), count, got.data()};
                add_columns(sum);
                sum.y = expected.data();
                reference_table().add_columns(sum);
                ASSERT_EQ(got.back(), -77.0f) << "n " << n;
                for (int64_t r = 0; r < n; ++r)
                    ASSERT_NEAR(got[static_cast<size_t>(r)], expected[static_cast<size_t>(r)],
                                16 * test::kEpsilon * (1.0 + static_cast<double>(count)))
                        << weight_type_info(type).name << ", " << count << " columns, row " << r << " of " << n;
            }
        }
    }
}

TEST(ColumnsReferenceTest, IsWhatItSays) {
    const uint16_t halves[] = {f32_to_f16(1.0f), f32_to_f16(2.0f), f32_to_f16(3.0f), f32_to_f16(4.0f)};
    const int32_t which[] = {1, 0};
    const float factors[] = {10.0f, 0.5f};
    float y[] = {100.0f, 200.0f};
    reference_table().add_columns(
        {WeightType::kF16, reinterpret_cast<const std::byte*>(halves), 4, 2, which, factors, 2, y});
    EXPECT_EQ(y[0], 130.5f);
    EXPECT_EQ(y[1], 241.0f);
}

}  // namespace
}  // namespace atlas::kernels
