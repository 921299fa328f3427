#include "kernels/weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>

#include "../numbers.h"
#include "kernels/e4m3.h"
#include "variant_test.h"

namespace atlas::kernels {
namespace {

using memory::Numbers;

constexpr WeightType type_number(int i) { return static_cast<WeightType>(i); }
const char* name_of(WeightType type) { return weight_type_info(type).name; }

/** Bytes whose last one is the last of a page, before a page that traps. */
class GuardedBytes {
public:
    explicit GuardedBytes(size_t size) : size_(size), page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
        mapped_ = (size + page_ - 1) / page_ * page_ + page_;
        base_ =
            static_cast<uint8_t*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        EXPECT_NE(base_, MAP_FAILED);
        EXPECT_EQ(mprotect(base_ + mapped_ - page_, page_, PROT_NONE), 0);
    }
    ~GuardedBytes() { munmap(base_, mapped_); }
    GuardedBytes(const GuardedBytes&) = delete;
    GuardedBytes& operator=(const GuardedBytes&) = delete;

    uint8_t* data() const { return base_ + mapped_ - page_ - size_; }
    size_t size() const { return size_; }

private:
    size_t size_, page_, mapped_ = 0;
    uint8_t* base_ = nullptr;
};

/** 64-byte aligned bytes, as activations are. */
struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
};
struct Aligned {
    explicit Aligned(size_t size) : bytes(static_cast<std::byte*>(std::aligned_alloc(64, std::max<size_t>(size, 64)))) {
        std::memset(bytes.get(), 0xFF, std::max<size_t>(size, 64));  // NaN: what nobody wrote shows
    }
    std::unique_ptr<std::byte, Free> bytes;
};

/** Where a type's blocks hold f16 numbers. */
std::vector<size_t> halves_of(WeightType type) {
    switch (type) {
        case WeightType::kQ4_1:
        case WeightType::kQ5_1:
        case WeightType::kQ4_K:
        case WeightType::kQ5_K:
            return {0, 2};
        case WeightType::kQ2_K:
            return {80, 82};
        case WeightType::kQ3_K:
            return {108};
        case WeightType::kQ6_K:
            return {208};
        case WeightType::kMXFP4:
        case WeightType::kE4M3:
        case WeightType::kF32:
        case WeightType::kBF16:
            return {};
        default:
            return {0};
    }
}

enum class Fill { kRandom, kZeros, kOnes };

/** Blocks of random codes with scales of ordinary size. */
void fill_row(std::mt19937& random, WeightType type, Fill fill, uint8_t* row, size_t bytes) {
    const auto block = static_cast<size_t>(weight_type_info(type).block_bytes);
    for (size_t i = 0; i < bytes; ++i) {
        row[i] = fill == Fill::kRandom  ? static_cast<uint8_t>(random())
                 : fill == Fill::kZeros ? uint8_t{0}
                                        : uint8_t{255};
    }
    std::normal_distribution<float> normal(0.0f, 0.3f);
    for (size_t b = 0; b < bytes; b += block) {
        const float number = normal(random);
        if (type == WeightType::kF32) std::memcpy(row + b, &number, 4);
        if (type == WeightType::kBF16) std::memcpy(row + b, reinterpret_cast<const uint8_t*>(&number) + 2, 2);
        if (type == WeightType::kE4M3) {
            row[b] = static_cast<uint8_t>(fill == Fill::kOnes    ? kE4M3MostScale
                                          : fill == Fill::kZeros ? kE4M3LeastScale
                                                                 : 120 + random() % 16);
            for (size_t i = 1; i < block; ++i) row[b + i] &= (row[b + i] & 0x78) ? 0xFF : 0x80;  // no subnormals
        }
        if (type == WeightType::kMXFP4) row[b] = static_cast<uint8_t>(120 + random() % 16);
        for (const size_t at : halves_of(type)) {
            const uint16_t half = f32_to_f16(normal(random));
            std::memcpy(row + b + at, &half, sizeof half);
        }
    }
}

struct Problem {
    WeightType type;
    int64_t rows, cols, n;
    std::vector<float> x;
    size_t out_stride;
    std::unique_ptr<GuardedBytes> weights;
    std::vector<ColumnPair> columns;

    Problem(Numbers& numbers, std::mt19937& random, WeightType of, int64_t rows_, int64_t cols_, int64_t n_,
            Fill fill = Fill::kRandom)
        : type(of),
          rows(rows_),
          cols(cols_),
          n(n_),
          x(numbers.normal(static_cast<size_t>(n_ * cols_))),
          out_stride(static_cast<size_t>(rows_) + 3) {
        const size_t bytes = weight_row_bytes(type, cols);
        weights = std::make_unique<GuardedBytes>(bytes * static_cast<size_t>(rows));
        for (int64_t r = 0; r < rows; ++r)
            fill_row(random, type, fill, weights->data() + static_cast<size_t>(r) * bytes, bytes);
    }

    std::vector<float> run(const Table& table, int64_t part = 1 << 30) const {
        const ActivationType activations = weight_type_info(type).activations;
        const Aligned quantised(activation_bytes(activations, cols, n));
        table.quantise_activations({activations, cols, x.data(), static_cast<size_t>(cols) * 4, quantised.bytes.get()},
                                   0, n);
        int64_t outputs = n;
        for (const ColumnPair& pair : columns) outputs = std::max<int64_t>(outputs, pair.out + 1);
        std::vector<float> out(out_stride * static_cast<size_t>(outputs), -77.0f);
        const WeightProduct product{.weights = {type, reinterpret_cast<const std::byte*>(weights->data()), rows, cols,
                                                weight_row_bytes(type, cols)},
                                    .activations = quantised.bytes.get(),
                                    .n = columns.empty() ? n : static_cast<int64_t>(columns.size()),
                                    .out = out.data(),
                                    .out_stride = out_stride,
                                    .columns = columns.empty() ? nullptr : columns.data()};
        for (int64_t r = 0; r < rows; r += part) table.multiply_weights(product, r, std::min(rows, r + part));
        return out;
    }

    /** Sizes of the sums' terms: what errors are measured by. */
    void expect_equal(const std::vector<float>& got, const std::vector<float>& expected) const {
        ASSERT_EQ(got.size(), expected.size());
        double most = 0.0;
        for (const float e : expected) {
            if (e != -77.0f && std::isfinite(e)) most = std::max(most, std::fabs(static_cast<double>(e)));
        }
        // Terms are as large as the largest results over the root of k, and minima cancel a few times as much.
        const double allowed = 2e-6 * (4.0 + std::sqrt(static_cast<double>(cols))) * most;
        for (size_t i = 0; i < got.size(); ++i) {
            if (std::isnan(expected[i])) {
                ASSERT_TRUE(std::isnan(got[i])) << describe(i);
            } else if (std::isinf(expected[i])) {
                ASSERT_FALSE(std::isfinite(got[i])) << describe(i);
            } else {
                ASSERT_NEAR(got[i], expected[i], allowed) << describe(i);
            }
        }
    }
    std::string describe(size_t i) const {
        return std::string(name_of(type)) + " rows " + std::to_string(rows) + " cols " + std::to_string(cols) + " n " +
               std::to_string(n) + " at column " + std::to_string(i / out_stride) + " row " +
               std::to_string(i % out_stride);
    }
};

class WeightsTest : public test::VariantTest {};
INSTANTIATE_TEST_SUITE_P(Variants, WeightsTest, testing::ValuesIn(test::weights_variants()),
                         [](const auto& variant) { return std::string(variant.param); });

TEST_P(WeightsTest, ActivationsAreTheReferencesBitForBit) {
    Numbers numbers(1);
    for (const ActivationType type : {ActivationType::kF32, ActivationType::kF16, ActivationType::kBF16,
                                      ActivationType::kQ8, ActivationType::kQ8K, ActivationType::kShiftedBF16}) {
        const int64_t unit = type == ActivationType::kQ8 ? 32 : type == ActivationType::kQ8K ? 256 : 1;
        for (const int64_t blocks : {1, 2, 3, 4, 5, 7, 8, 9, 18, 22, 65}) {
            const int64_t k = blocks * unit;
            const int64_t n = 9;
            std::vector<float> x = numbers.normal(static_cast<size_t>(n * k));
            const auto column = [&](int64_t j) { return x.data() + j * k; };
            std::fill_n(column(1), k, 0.0f);
            std::fill_n(column(2), k, -1.5f);  // all largest
            column(3)[k / 2] = std::numeric_limits<float>::quiet_NaN();
            column(4)[k - 1] = -std::numeric_limits<float>::infinity();
            column(5)[k - 1] = 1e30f;
            for (int64_t i = 0; i < k; ++i) column(6)[i] *= 1e-41f;               // subnormal
            for (int64_t i = 0; i < k; ++i) column(7)[i] = i % 2 ? 2.0f : -2.0f;  // a tie of signs
            for (int64_t i = 0; i < k; ++i)
                column(8)[i] = static_cast<float>(i % 255 - 127) / 2.0f;  // ties of rounding
            const size_t bytes = activation_bytes(type, k, n);
            const Aligned got(bytes), expected(bytes);
            std::memset(expected.bytes.get(), 0, bytes);
            std::memset(got.bytes.get(), 0, bytes);
            quantise_activations({type, k, x.data(), static_cast<size_t>(k) * 4, got.bytes.get()}, 0, 4);
            quantise_activations({type, k, x.data(), static_cast<size_t>(k) * 4, got.bytes.get()}, 4, n);
            reference_table().quantise_activations(
                {type, k, x.data(), static_cast<size_t>(k) * 4, expected.bytes.get()}, 0, n);
            const size_t per_column = bytes / static_cast<size_t>(n);
            for (size_t i = 0; i < bytes / 4; ++i) {
                uint32_t a, b;
                std::memcpy(&a, got.bytes.get() + 4 * i, 4);
                std::memcpy(&b, expected.bytes.get() + 4 * i, 4);
                const bool both_nan = (a & 0x7FFFFFFFu) > 0x7F800000u && (b & 0x7FFFFFFFu) > 0x7F800000u;
                ASSERT_TRUE(a == b || both_nan)
                    << "type " << static_cast<int>(type) << " k " << k << " column " << 4 * i / per_column << " byte "
                    << 4 * i % per_column << std::hex << " " << a << " " << b;
            }
        }
    }
}

TEST_P(WeightsTest, EveryTypeEqualsFloat64) {
    Numbers numbers(2);
    std::mt19937 random(2);
    for (int i = 0; i < kWeightTypeCount; ++i) {
        const WeightType type = type_number(i);
        const int64_t unit = weight_type_info(type).block_elements;
        for (const int64_t rows : {1, 2, 3, 7, 31, 32, 33, 70}) {
            for (const int64_t blocks : {1, 2, 3, 5, 8, 9}) {
                const int64_t cols = unit == 1 ? 61 * blocks - 60 : unit * blocks;
                for (const int64_t n : {1, 2, 5, 33}) {
                    if (n == 33 && rows % 3 != 0) continue;
                    const Problem problem(numbers, random, type, rows, cols, n);
                    problem.expect_equal(problem.run(table()), problem.run(reference_table()));
                    if (HasFatalFailure()) return;
                }
            }
        }
    }
}

TEST_P(WeightsTest, EveryNumberOfColumns) {
    Numbers numbers(3);
    std::mt19937 random(3);
    for (int i = 0; i < kWeightTypeCount; ++i) {
        const WeightType type = type_number(i);
        const int64_t cols = weight_type_info(type).block_elements == 1 ? 300 : 512 + 256 * (i % 2);
        for (int64_t n = 1; n <= 33; ++n) {
            const Problem problem(numbers, random, type, 37, cols, n);
            problem.expect_equal(problem.run(table()), problem.run(reference_table()));
            if (HasFatalFailure()) return;
        }
    }
}

TEST_P(WeightsTest, PartsOfTheRowsEqualTheWhole) {
    Numbers numbers(4);
    std::mt19937 random(4);
    for (int i = 0; i < kWeightTypeCount; ++i) {
        for (const int64_t n : {1, 9, 33}) {
            const Problem problem(numbers, random, type_number(i), 100, 256, n);
            const std::vector<float> whole = problem.run(table());
            for (const int64_t part : {1, 13, 32, 64})
                EXPECT_EQ(problem.run(table(), part), whole) << name_of(problem.type);
        }
    }
}

TEST_P(WeightsTest, ChosenColumns) {
    Numbers numbers(5);
    std::mt19937 random(5);
    for (int i = 0; i < kWeightTypeCount; ++i) {
        for (const int32_t count : {1, 2, 3, 4, 5, 8, 9, 16, 17, 40}) {
            Problem problem(numbers, random, type_number(i), 35, 512, 5);
            for (int32_t j = 0; j < count; ++j)
                problem.columns.push_back({static_cast<int32_t>(random() % 5), (j * 7) % 41});
            problem.expect_equal(problem.run(table()), problem.run(reference_table()));
            if (HasFatalFailure()) return;
        }
    }
}

/** More columns, and more of k, than kernels take at once. */
TEST_P(WeightsTest, ManyColumnsOfLongRows) {
    Numbers numbers(7);
    std::mt19937 random(7);
    for (const WeightType type : {WeightType::kQ4_1, WeightType::kQ8_0, WeightType::kQ4_K, WeightType::kQ3_K}) {
        const Problem problem(numbers, random, type, 18, 2304, 530);
        problem.expect_equal(problem.run(table()), problem.run(reference_table()));
        if (HasFatalFailure()) return;
    }
}

/** All bits set or none in the codes and their scales; scales that are not finite; activations that are not. */
TEST_P(WeightsTest, HostileBlocks) {
    Numbers numbers(6);
    std::mt19937 random(6);
    for (int i = 0; i < kWeightTypeCount; ++i) {
        const WeightType type = type_number(i);
        for (const Fill fill : {Fill::kZeros, Fill::kOnes}) {
            for (const int64_t n : {1, 7, 20}) {
                Problem problem(numbers, random, type, 33, 768, n, fill);
                // The same sign everywhere: the largest sums there are.
                for (float& x : problem.x) x = fill == Fill::kOnes ? 1.0f : x;
                problem.expect_equal(problem.run(table()), problem.run(reference_table()));
                if (HasFatalFailure()) return;
            }
        }
        for (const int64_t n : {1, 7, 20}) {
            Problem problem(numbers, random, type, 33, 768, n);
            problem.x[5] = std::numeric_limits<float>::quiet_NaN();
            const uint16_t nan = 0x7E01, infinity = 0x7C00;
            for (const size_t at : halves_of(type)) {
                const size_t bytes = weight_row_bytes(type, 768);
                std::memcpy(problem.weights->data() + 3 * bytes + at, &nan, 2);
                std::memcpy(problem.weights->data() + 9 * bytes + at, &infinity, 2);
            }
            const std::vector<float> got = problem.run(table()), expected = problem.run(reference_table());
            for (size_t j = 0; j < got.size(); ++j)
                ASSERT_EQ(std::isfinite(got[j]), std::isfinite(expected[j])) << problem.describe(j);
        }
    }
}

}  // namespace
}  // namespace atlas::kernels
