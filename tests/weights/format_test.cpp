#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <thread>
#include <vector>

#include "kernels/row_codec.h"
#include "mapped_file.h"
#include "weights/encode.h"
#include "weights/format_settings.h"
#include "weights/format_store.h"

namespace atlas::weights {
namespace {

using kernels::WeightMatrix;
using kernels::WeightType;

// --- settings ---

TEST(FormatSettingsTest, WhatIsAllowedIsTaken) {
    FormatSettings settings;
    for (const char* text : {"", "native"}) {
        ASSERT_TRUE(parse_format(text, &settings).is_ok());
        EXPECT_TRUE(settings.is_native());
    }
    for (const int bits : {8, 6, 5, 4}) {
        ASSERT_TRUE(parse_format("int" + std::to_string(bits), &settings).is_ok());
        EXPECT_EQ(settings.kind, FormatSettings::Kind::kFixed);
        EXPECT_EQ(settings.bits, bits);
    }
    EXPECT_FALSE(settings.head);
    EXPECT_FALSE(settings.floats);
    ASSERT_TRUE(parse_format("fp8", &settings).is_ok());
    EXPECT_TRUE(settings.floats);
    ASSERT_TRUE(parse_format("int4+head", &settings).is_ok());
    EXPECT_TRUE(settings.head);
    EXPECT_EQ(settings.bits, 4);
    ASSERT_TRUE(parse_format("auto:5.25+head", &settings).is_ok());
    EXPECT_TRUE(settings.head);
    EXPECT_EQ(settings.kind, FormatSettings::Kind::kAuto);
    EXPECT_DOUBLE_EQ(settings.bits_each, 5.25);
}

TEST(FormatSettingsTest, WhatIsNotIsNamed) {
    FormatSettings settings;
    for (const char* text : {"int7", "int", "fp6", "fp", "8", "auto", "auto:", "auto:4.4", "auto:16.5", "auto:nan",
                             "auto:5x", "INT8", " int8", "+head", "native+head", "int8+heads"}) {
        const Status status = parse_format(text, &settings);
        EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << text;
        EXPECT_NE(status.message().find(std::string("ATLAS_WEIGHT_FORMAT=") + text + ":"), std::string::npos)
            << status.message();
        EXPECT_TRUE(settings.is_native());
    }
}

TEST(FormatSettingsTest, BodiesFollowTheRows) {
    EXPECT_EQ(body_of(8, 512), WeightType::kQ8_0);
    EXPECT_EQ(body_of(6, 512), WeightType::kQ6_K);
    EXPECT_EQ(body_of(5, 512), WeightType::kQ5_K);
    EXPECT_EQ(body_of(4, 512), WeightType::kQ4_K);
    EXPECT_EQ(body_of(6, 576), WeightType::kQ8_0);  // no multiple of 256
    EXPECT_EQ(body_of(5, 576), WeightType::kQ5_1);
    EXPECT_EQ(body_of(4, 576), WeightType::kIQ4_NL);
    EXPECT_FALSE(body_of(8, 40).has_value());
    EXPECT_EQ(float_body_of(576), WeightType::kE4M3);
    EXPECT_EQ(float_body_of(96), WeightType::kQ8_0);
    for (const int64_t cols : {256, 32}) {
        for (const WeightType type : bodies(cols))
            EXPECT_TRUE(can_encode(type, cols)) << kernels::weight_type_info(type).name;
        for (size_t i = 1; i < bodies(cols).size(); ++i)
            EXPECT_LT(bits_of(bodies(cols)[i]), bits_of(bodies(cols)[i - 1]));
    }
}

TEST(FormatSettingsTest, BitsGoWhereTheySaveMost) {
    // Each bit less makes noise four times as large; the second matrix has ten times the first one's, and the third is small.
    const std::vector<double> noise[] = {
        {1e-6, 1e-4, 4e-4, 1.6e-3}, {1e-5, 1e-3, 4e-3, 1.6e-2}, {1e-6, 1e-4, 4e-4, 1.6e-3}};
    std::vector<Candidate> candidates;
    for (size_t i = 0; i < 3; ++i) candidates.push_back({i == 2 ? 1e4 : 1e6, bodies(256), noise[i], 16.0});
    const auto bits = [&](double budget) {
        const double price = price_of_a_bit(candidates, budget);
        std::vector<double> each;
        double all = 0.0, weights = 0.0;
        for (const Candidate& candidate : candidates) {
            const auto type = choose(candidate, price);
            each.push_back(type ? bits_of(*type) : candidate.native_bits);
            all += candidate.weights * each.back();
            weights += candidate.weights;
        }
        EXPECT_LE(all, budget * weights * (1 + 1e-12));
        return each;
    };
    EXPECT_EQ(bits(16.0), (std::vector<double>{16.0, 16.0, 16.0}));
    const std::vector<double> middle = bits(6.0);
    EXPECT_GT(middle[1], middle[0]);
    EXPECT_GE(middle[2], middle[1]);
    EXPECT_EQ(bits(4.5), (std::vector<double>{4.5, 4.5, 4.5}));
}

// --- store ---

/** Types of blocks of 32 alone, by the codec that KV caches have: the host's functions know the others too. */
void decode(WeightType type, const std::byte* row, int64_t cols, float* out) {
    const std::map<WeightType, DataType> known = {
        {WeightType::kF32, DataType::kF32},   {WeightType::kF16, DataType::kF16},
        {WeightType::kBF16, DataType::kBF16}, {WeightType::kQ8_0, DataType::kQ8_0},
        {WeightType::kQ5_1, DataType::kQ5_1}, {WeightType::kIQ4_NL, DataType::kIQ4_NL}};
    kernels::decode_rows({known.at(type), nullptr, row, 0, 1, cols}, out);
}

constexpr auto kLayers = FormatStore::Part::kLayers;
constexpr int64_t kCols = 96;  // no multiple of 256

class FormatStoreTest : public testing::Test {
protected:
    /** A model of matrices of kCols f16 columns each. */
    FormatStoreTest() : file_(size_t{1} << 20) {
        std::vector<std::byte> halves(file_.bytes());
        uint32_t seed = 7;
        for (size_t i = 0; i < halves.size(); i += 2) {
            float sum = -2.0f;
            for (int j = 0; j < 4; ++j) {
                seed = seed * 1664525u + 1013904223u;
                sum += static_cast<float>(seed >> 8) * 0x1p-24f;
            }
            const uint16_t half = kernels::f32_to_f16(sum * 0.05f);
            std::memcpy(halves.data() + i, &half, 2);
        }
        file_.write(0, halves);
    }
    WeightMatrix matrix(int i, int64_t rows = 50) const {
        return {WeightType::kF16, file_.memory() + static_cast<size_t>(i) * 20000 + 2, rows, kCols, kCols * 2};
    }
    static std::vector<float> values(const WeightMatrix& matrix) {
        std::vector<float> all(static_cast<size_t>(matrix.rows * matrix.cols));
        for (int64_t r = 0; r < matrix.rows; ++r)
            decode(matrix.type, matrix.data + static_cast<size_t>(r) * matrix.row_stride, matrix.cols,
                   all.data() + r * matrix.cols);
        return all;
    }
    FormatSettings settings(const char* text) const {
        FormatSettings out;
        EXPECT_TRUE(parse_format(text, &out).is_ok());
        return out;
    }

    test::MappedFile file_;
};

TEST_F(FormatStoreTest, EachMatrixIsRoundedOnceAndRight) {
    FormatStore store(settings("int8"));
    store.add(file_.memory(), file_.bytes());
    const std::vector<WeightMatrix> all = {matrix(0), matrix(1), matrix(2, 33)};
    EXPECT_EQ(store.find(all[0].data), nullptr);
    store.round(kLayers, all, decode, 2);
    std::vector<const std::byte*> where;
    for (const WeightMatrix& exact : all) {
        const WeightMatrix* rounded = store.find(exact.data);
        ASSERT_NE(rounded, nullptr);
        EXPECT_EQ(rounded->type, WeightType::kQ8_0);
        EXPECT_EQ(rounded->rows, exact.rows);
        EXPECT_EQ(rounded->cols, exact.cols);
        const std::vector<float> a = values(exact), b = values(*rounded);
        for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 0.1f / 127 * 0.51f) << i;
        where.push_back(rounded->data);
    }
    store.round(kLayers, all, decode, 1);
    for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(store.find(all[i].data)->data, where[i]);
    const FormatStats stats = store.stats();
    EXPECT_EQ(stats.matrices, 3u);
    EXPECT_EQ(stats.native_bytes, 133u * kCols * 2);
    EXPECT_EQ(stats.bytes, 133u * kCols * 34 / 32);
    EXPECT_EQ(stats.held_bytes, stats.bytes);
    EXPECT_NE(store.json().find("\"bits_each\": 8.500"), std::string::npos) << store.json();
}

TEST_F(FormatStoreTest, WhatIsNotMappedStaysAsItIs) {
    FormatStore store(settings("int8"));
    store.add(file_.memory(), file_.bytes() / 2);
    const WeightMatrix inside = matrix(0);
    WeightMatrix across = matrix(0);
    across.data = file_.memory() + file_.bytes() / 2 - 10;
    const std::vector<float> elsewhere(kCols * 4);
    const WeightMatrix other{WeightType::kF32, reinterpret_cast<const std::byte*>(elsewhere.data()), 4, kCols,
                             kCols * 4};
    WeightMatrix odd = matrix(1);
    odd.cols = 40;
    const std::vector<WeightMatrix> all = {inside, across, other, odd};
    store.round(kLayers, all, decode, 2);
    EXPECT_NE(store.find(inside.data), nullptr);
    EXPECT_EQ(store.find(across.data), nullptr);
    EXPECT_EQ(store.find(other.data), nullptr);
    EXPECT_EQ(store.find(odd.data), nullptr);
}

TEST_F(FormatStoreTest, AMappingThatEndsTakesItsMatricesWithIt) {
    FormatStore store(settings("int4"));
    store.add(file_.memory(), file_.bytes());
    const test::MappedFile second(1 << 20, 3);
    store.add(second.memory(), second.bytes());
    const std::vector<WeightMatrix> all = {matrix(0), {WeightType::kF16, second.memory(), 4, kCols, kCols * 2}};
    store.round(kLayers, all, decode, 2);
    EXPECT_EQ(store.stats().matrices, 2u);
    store.remove(file_.memory());
    EXPECT_EQ(store.find(all[0].data), nullptr);
    ASSERT_NE(store.find(all[1].data), nullptr);
    EXPECT_EQ(store.find(all[1].data)->type, WeightType::kIQ4_NL);
    EXPECT_EQ(store.stats().matrices, 2u);
    EXPECT_EQ(store.stats().held_bytes, 4u * kCols * 18 / 32);
    store.remove(file_.memory());  // nothing for one that is not there
}

TEST_F(FormatStoreTest, AHeadTakesEightBits) {
    FormatStore store(settings("int4+head"));
    EXPECT_TRUE(store.rounds_head());
    store.add(file_.memory(), file_.bytes());
    const std::vector<WeightMatrix> layer = {matrix(0)}, head = {matrix(1)};
    store.round(kLayers, layer, decode, 2);
    store.round(FormatStore::Part::kHead, head, decode, 2);
    EXPECT_EQ(store.find(layer[0].data)->type, WeightType::kIQ4_NL);
    EXPECT_EQ(store.find(head[0].data)->type, WeightType::kQ8_0);
}

TEST_F(FormatStoreTest, AutoKeepsToItsBits) {
    for (const double bits : {16.0, 8.5, 6.0, 4.5}) {
        FormatStore store(settings(("auto:" + std::to_string(bits)).c_str()));
        store.add(file_.memory(), file_.bytes());
        const std::vector<WeightMatrix> all = {matrix(0), matrix(1), matrix(2, 20), matrix(3, 90)};
        store.round(kLayers, all, decode, 2);
        double used = 0.0, weights = 0.0;
        for (const WeightMatrix& exact : all) {
            const WeightMatrix* rounded = store.find(exact.data);
            const auto n = static_cast<double>(exact.rows * exact.cols);
            used += n * (rounded ? bits_of(rounded->type) : 16.0);
            weights += n;
        }
        EXPECT_LE(used, bits * weights * (1 + 1e-9)) << bits;
        EXPECT_GT(used, (bits - 4.0) * weights) << bits;  // and does not leave much of them
    }
}

TEST_F(FormatStoreTest, ThreadsThatComeTogetherFindTheSame) {
    FormatStore store(settings("int8"));
    store.add(file_.memory(), file_.bytes());
    std::vector<WeightMatrix> all;
    for (int i = 0; i < 20; ++i) all.push_back(matrix(i));
    std::vector<std::vector<const std::byte*>> found(4);
    std::vector<std::thread> threads;
    for (auto& of_thread : found) {
        threads.emplace_back([&] {
            store.round(kLayers, all, decode, 1);
            for (const WeightMatrix& one : all) of_thread.push_back(store.find(one.data)->data);
        });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& of_thread : found) EXPECT_EQ(of_thread, found[0]);
    EXPECT_EQ(store.stats().matrices, all.size());
}

TEST_F(FormatStoreTest, NothingRoundedIsSaidOnce) {
    FormatStore store(settings("int8"));
    testing::internal::CaptureStderr();
    store.say_if_nothing_is_rounded(1);  // a part of a graph
    store.say_if_nothing_is_rounded(100);
    store.say_if_nothing_is_rounded(100);
    const std::string log = testing::internal::GetCapturedStderr();
    const std::string said = "ATLAS_WEIGHT_FORMAT takes no part: the program has not mapped";
    EXPECT_NE(log.find(said), std::string::npos) << log;
    EXPECT_EQ(log.find(said), log.rfind(said)) << log;
}

}  // namespace
}  // namespace atlas::weights
