// Products on the emulated device, beside the bodies of tests/kernels/weights_test.cpp: activations bit for bit, every number of rows and columns, what is refused.
#include "kernels/cuda/products.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <tuple>
#include <vector>

#include "fake_driver.h"
#include "kernels/kernel_table.h"

namespace atlas::kernels::cuda::test {
namespace {

class CudaProducts : public testing::TestWithParam<unsigned> {
protected:
    void SetUp() override {
        reset_fake(GetParam());
        const Status status = Device::open(fake_driver(), 0, fake_image(), &device_);
        ASSERT_TRUE(status.is_ok()) << status.to_string();
    }
    std::unique_ptr<Device> device_;
};
INSTANTIATE_TEST_SUITE_P(Seeds, CudaProducts, testing::Values(0u, 1u, 2u, 3u));

TEST_P(CudaProducts, ActivationsAreTheReferencesBitForBit) {
    std::mt19937 random(GetParam());
    std::normal_distribution<float> normal;
    for (const ActivationType type : {ActivationType::kQ8, ActivationType::kQ8K}) {
        const bool wide = type == ActivationType::kQ8K;
        for (const size_t blocks : {1, 2, 7, 9, 18}) {
            const size_t k = blocks * (wide ? 256 : 32);
            constexpr size_t kColumns = 8;
            std::vector<float> x(kColumns * k);
            for (float& value : x) value = normal(random);
            const auto column = [&](size_t j) { return x.data() + j * k; };
            std::fill_n(column(1), k, 0.0f);
            std::fill_n(column(2), k, -1.5f);
            column(3)[k / 2] = std::numeric_limits<float>::quiet_NaN();
            column(4)[k - 1] = -std::numeric_limits<float>::infinity();
            for (size_t i = 0; i < k; ++i) column(5)[i] *= 1e-41f;               // subnormal
            for (size_t i = 0; i < k; ++i) column(6)[i] = i % 2 ? 2.0f : -2.0f;  // a tie of signs
            for (size_t i = 0; i < k; ++i) column(7)[i] = static_cast<float>(i % 255) / 2.0f - 63.5f;
            const ActivationLayout at(type, static_cast<int64_t>(k));
            std::vector<std::byte> memory(kColumns * at.bytes + 64);
            auto* expected = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
            const ActivationArgs args{type, static_cast<int64_t>(k), x.data(), k * sizeof(float), expected};
            reference_table().quantise_activations(args, 0, kColumns);
            std::vector<int8_t> codes(kColumns * k);
            std::vector<ActivationPart> parts(kColumns * k / 32);
            const Status status = quantise_activations(*device_, args, kColumns, codes.data(), parts.data());
            ASSERT_TRUE(status.is_ok()) << status.to_string();
            for (size_t j = 0; j < kColumns; ++j) {
                const std::byte* right = expected + j * at.bytes;
                for (size_t i = 0; i < k; ++i) {
                    ASSERT_EQ(codes[j * k + i], static_cast<int8_t>(right[at.codes + i]))
                        << blocks << " blocks, wide " << wide << ", column " << j << " at " << i;
                }
                for (size_t part = 0; part < k / 32; ++part) {
                    float scale;
                    std::memcpy(&scale, right + at.scales + (wide ? part / 8 : part) * sizeof scale, sizeof scale);
                    const ActivationPart& got = parts[j * k / 32 + part];
                    ASSERT_TRUE(got.scale == scale || (std::isnan(got.scale) && std::isnan(scale)))
                        << blocks << " blocks, wide " << wide << ", column " << j << ", part " << part << ": "
                        << got.scale << " for " << scale;
                    float offset = 0.0f;
                    if (!wide) std::memcpy(&offset, right + at.offsets + part * sizeof offset, sizeof offset);
                    ASSERT_TRUE(got.offset == offset || (std::isnan(got.offset) && std::isnan(offset)))
                        << blocks << " blocks, column " << j << ", part " << part << ": " << got.offset << " for "
                        << offset;
                    int sums[2] = {};
                    for (size_t i = 0; i < 32; ++i) sums[i / 16] += codes[j * k + part * 32 + i];
                    ASSERT_EQ(static_cast<int16_t>(got.sums), sums[0]);
                    ASSERT_EQ(static_cast<int16_t>(got.sums >> 16), sums[1]);
                }
            }
        }
    }
}

/** Rows and columns on both sides of what a warp and a block take, rows longer than a tile; ranges of rows. */
TEST_P(CudaProducts, RowsAndColumnsAroundBlocks) {
    std::mt19937 random(GetParam() + 9);
    std::normal_distribution<float> normal;
    for (const WeightType type : {WeightType::kQ8_0, WeightType::kQ4_0, WeightType::kQ5_1, WeightType::kIQ4_NL,
                                  WeightType::kQ4_K, WeightType::kQ5_K, WeightType::kQ6_K}) {
        const WeightTypeInfo& info = weight_type_info(type);
        for (const auto [rows, cols, n] : {std::tuple<int64_t, int64_t, int64_t>{1, 256, 1},
                                           {15, 512, 4},
                                           {17, 4096, 1},
                                           {9, 4352, 3},
                                           {33, 256, 5}}) {
            const size_t bytes = weight_row_bytes(type, cols);
            std::vector<std::byte> weights(static_cast<size_t>(rows) * bytes);
            for (std::byte& byte : weights) byte = static_cast<std::byte>(random());
            const uint16_t one = 0x2C00;  // a scale of 1/16
            for (size_t block = 0; block < weights.size(); block += static_cast<size_t>(info.block_bytes)) {
                std::memcpy(weights.data() + block + (type == WeightType::kQ6_K ? 208 : 0), &one, 2);
                if (type == WeightType::kQ4_K || type == WeightType::kQ5_K || type == WeightType::kQ5_1)
                    std::memcpy(weights.data() + block + 2, &one, 2);
            }
            std::vector<float> x(static_cast<size_t>(n * cols));
            for (float& value : x) value = normal(random);
            const ActivationLayout at(info.activations, cols);
            std::vector<std::byte> memory(static_cast<size_t>(n) * at.bytes + 64);
            auto* activations =
                reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
            reference_table().quantise_activations(
                {info.activations, cols, x.data(), static_cast<size_t>(cols) * 4, activations}, 0, n);
            std::vector<float> out(static_cast<size_t>(n * rows), -1.0f);
            std::vector<float> expected = out;
            WeightProduct product{.weights = {type, weights.data(), rows, cols, bytes},
                                  .activations = activations,
                                  .n = n,
                                  .out = out.data(),
                                  .out_stride = static_cast<size_t>(rows)};
            const int64_t first = rows / 3;
            ASSERT_TRUE(multiply_weights(*device_, product, 0, first).is_ok());
            ASSERT_TRUE(multiply_weights(*device_, product, first, rows).is_ok());
            product.out = expected.data();
            reference_table().multiply_weights(product, 0, rows);
            double most = 0;
            for (const float e : expected) most = std::max(most, std::fabs(static_cast<double>(e)));
            for (size_t i = 0; i < out.size(); ++i) {
                ASSERT_NEAR(out[i], expected[i], 2e-6 * std::sqrt(static_cast<double>(cols)) * most)
                    << info.name << ", rows " << rows << ", cols " << cols << ", columns " << n << ", at " << i;
            }
        }
    }
}

TEST_P(CudaProducts, WhatDoesNotFitIsRefusedAndFailuresAreStatuses) {
    std::vector<std::byte> weights(22 * 8);
    std::vector<float> out(8);
    std::vector<std::byte> activations(4096);
    WeightProduct product{.weights = {WeightType::kQ5_0, weights.data(), 8, 32, 22},
                          .activations = activations.data(),
                          .n = 1,
                          .out = out.data(),
                          .out_stride = 8};
    EXPECT_NE(multiply_weights(*device_, product, 0, 8).message().find("weights in q5_0"), std::string::npos);
    product.weights = {WeightType::kQ4_0, weights.data(), 8, 32, 18};
    const int open = things_open();
    const int before = calls_made();
    ASSERT_TRUE(multiply_weights(*device_, product, 0, 8).is_ok());
    const int calls = calls_made() - before;
    for (int call = 0; call < calls; ++call) {
        fail_call(call, 2);
        EXPECT_EQ(multiply_weights(*device_, product, 0, 8).code(), StatusCode::kOutOfMemory) << call;
        EXPECT_EQ(things_open(), open) << call;
    }
}

}  // namespace
}  // namespace atlas::kernels::cuda::test
