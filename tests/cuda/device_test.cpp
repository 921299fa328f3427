// The host's side of CUDA on the emulated device: every kernel at sizes around pages and blocks, forced launches, what is refused, and every call of the
// driver failing once.
#include "kernels/cuda/device.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "emulator/launch.h"
#include "fake_driver.h"
#include "kernels/attention_case.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/packed.h"
#include "kernels/cuda/table.h"
#include "kernels/cuda/write_rows.h"
#include "kernels/kernel_table.h"
#include "kernels/reference/reference.h"
#include "kernels/variants.h"

namespace atlas::kernels::cuda::test {
namespace {

using kernels::test::Case;
using kernels::test::CaseSpec;
using kernels::test::MaskKind;

/** A device of its own, whose streams and blocks go by the seed. */
class CudaDevice : public testing::TestWithParam<unsigned> {
protected:
    void SetUp() override {
        reset_fake(GetParam());
        before_ = things_open();
        const Status status = Device::open(fake_driver(), 0, fake_image(), &device_);
        ASSERT_TRUE(status.is_ok()) << status.to_string();
    }
    void TearDown() override {
        device_.reset();
        EXPECT_EQ(things_open(), before_);
    }

    void expect_equal(const CaseSpec& spec, const AttentionTuning& tuning) {
        Case expected(spec);
        Case actual(spec);
        ASSERT_TRUE(reference_table().attention(expected.args, 1).is_ok());
        const Status status = attention(*device_, actual.args, tuning);
        ASSERT_TRUE(status.is_ok()) << status.to_string();
        const bool streamed = tuning.rows <= 4 || spec.k_type == DataType::kBF16 || spec.v_type == DataType::kBF16;
        const double tolerance = streamed ? 2e-5 : 4e-3;
        const std::string what =
            describe(spec) + ", rows " + std::to_string(tuning.rows) + ", splits " + std::to_string(tuning.splits);
        EXPECT_LT(output_error(actual, expected), tolerance) << what;
        EXPECT_LT(lse_error(actual, expected), tolerance) << what;
    }

    std::unique_ptr<Device> device_;

private:
    int before_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Seeds, CudaDevice, testing::Values(0u, 1u, 2u, 3u));

TEST_P(CudaDevice, EveryKernelAtAnyShape) {
    std::mt19937 rng(GetParam() + 100);
    const auto one_of = [&](auto... values) {
        const std::common_type_t<decltype(values)...> all[] = {values...};
        return all[rng() % sizeof...(values)];
    };
    for (int i = 0; i < 24; ++i) {
        CaseSpec spec;
        spec.seed = GetParam() * 1000 + static_cast<unsigned>(i);
        spec.k_type = one_of(DataType::kF16, DataType::kF16, DataType::kBF16, DataType::kQ8_0, DataType::kQ4_0);
        spec.v_type = one_of(DataType::kF16, DataType::kF16, DataType::kBF16, DataType::kQ8_0, DataType::kQ4_0);
        // Each of the three widths of head, in turn.
        const int width = i % 3;
        spec.d_k = width == 0 ? one_of(32, 64) : width == 1 ? one_of(96, 128) : one_of(160, 256);
        spec.d_v = width == 0 ? one_of(32, 64) : width == 1 ? one_of(96, 128) : one_of(192, 256);
        spec.n_head_kv = one_of(1, 2, 3);
        spec.n_head = spec.n_head_kv * one_of(1, 2, 3, 5, 8);
        spec.n_tokens = one_of(1, 1, 2, 7, 19);
        spec.n_stream = one_of(1, 1, 2);
        spec.n_keys = one_of(1, 2, 63, 64, 65, 127, 128, 129, 200, 300);
        spec.mask = one_of(MaskKind::kNone, MaskKind::kCausal, MaskKind::kRandom, MaskKind::kAllHidden);
        spec.max_bias = one_of(0.0f, 0.0f, 8.0f);
        spec.softcap = one_of(0.0f, 0.0f, 5.0f);
        spec.sinks = rng() % 2 != 0;
        spec.run_keys = one_of(0, 0, 1, 30, 64);
        if (rng() % 4 == 0) spec.tokens_per_tile = one_of(1, 3, 16);
        expect_equal(spec, {.splits = one_of(1, 1, 2, 3, 7),
                            .rows = i / 3 % 4 == 0   ? 1
                                    : i / 3 % 4 == 1 ? 4
                                    : i / 3 % 4 == 2 ? 16
                                                     : 64});
    }
}

TEST_P(CudaDevice, TheSameRowsWhateverTheSplit) {
    for (const int rows : {1, 4, 16, 64}) {
        for (const int splits : {1, 2, 5}) {
            expect_equal({.n_tokens = 3, .n_head = 6, .n_keys = 450, .sinks = true}, {.splits = splits, .rows = rows});
        }
    }
}

TEST_P(CudaDevice, TicketsAreLeftAsTheyWereFound) {
    // Two launches over one set of tickets, as a graph that runs again has it.
    for (const Kernel kernel : {Kernel::decode_1x64, Kernel::tiles_16x64}) {
        const CaseSpec spec{.n_head = 2, .n_head_kv = 2, .n_keys = 200, .mask = MaskKind::kNone};
        Case c(spec);
        PackedAttention packed(c.args);
        Buffer rows, pages, lists, q, out, partial, tickets;
        const auto put = [&](Buffer* buffer, const void* from, size_t bytes) {
            ASSERT_TRUE(device_->allocate(bytes, buffer).is_ok());
            if (!from) return;
            ASSERT_TRUE(device_->upload(*buffer, from, bytes).is_ok());
        };
        put(&rows, packed.rows.data(), packed.rows.size());
        packed.relocate(rows.address());
        put(&pages, packed.pages.data(), packed.pages.size() * sizeof(Page));
        put(&lists, packed.lists.data(), packed.lists.size() * sizeof(PageList));
        put(&q, packed.q.data(), packed.q.size() * sizeof(float));
        put(&out, nullptr, c.out.size() * sizeof(float));
        put(&partial, nullptr, size_t{2} * 3 * 66 * sizeof(float));
        put(&tickets, nullptr, 2 * sizeof(unsigned));
        ASSERT_TRUE(device_->clear(tickets).is_ok());
        AttentionArguments a{};
        a.pages = pages.as<Page>();
        a.lists = lists.as<PageList>();
        a.q = q.as<float>();
        a.out = out.as<float>();
        a.partial = partial.as<float>();
        a.tickets = tickets.as<unsigned>();
        a.q_head_stride = a.out_head_stride = 64;
        a.q_token_stride = a.out_token_stride = a.q_stream_stride = a.out_stream_stride = 128;
        a.k_stride = a.v_stride = 128;
        a.d_k = a.d_v = 64;
        a.n_tokens = a.n_stream = a.tile_tokens = a.tiles = a.mask_heads = a.mask_streams = 1;
        a.n_head = a.n_head_kv = 2;
        a.splits = 3;
        a.scale = 0.125f;
        std::vector<float> results[2];
        for (std::vector<float>& result : results) {
            result.assign(c.out.size(), -1.0f);
            ASSERT_TRUE(device_->launch(kernel, 2, 3, &a).is_ok());
            ASSERT_TRUE(device_->download(result.data(), out, result.size() * sizeof(float)).is_ok());
        }
        unsigned left[2] = {1, 1};
        ASSERT_TRUE(device_->download(left, tickets, sizeof left).is_ok());
        ASSERT_TRUE(device_->wait().is_ok());
        EXPECT_EQ(left[0] + left[1], 0u);
        EXPECT_EQ(results[0], results[1]);
        EXPECT_NE(results[0][0], -1.0f);
    }
}

TEST_P(CudaDevice, WindowsAreMasks) {
    // The last 100 keys and the first 4 of 400: pages in between are hidden.
    for (const int rows : {1, 16}) {
        const CaseSpec spec{.n_tokens = 2, .n_keys = 400};
        Case expected(spec);
        Case actual(spec);
        for (Case* c : {&expected, &actual}) {
            auto* mask = const_cast<uint16_t*>(c->args.mask.data);
            for (int64_t token = 0; token < spec.n_tokens; ++token) {
                for (int64_t key = 4; key < 300; ++key) mask[token * spec.n_keys + key] = 0xFC00;
            }
            c->args.mask.summary = nullptr;
        }
        ASSERT_TRUE(reference_table().attention(expected.args, 1).is_ok());
        ASSERT_TRUE(attention(*device_, actual.args, {.splits = 3, .rows = rows}).is_ok());
        EXPECT_LT(output_error(actual, expected), rows <= 4 ? 2e-5 : 4e-3);
    }
}

TEST_P(CudaDevice, WrittenRowsHaveTheBitsOfTheQuantiser) {
    std::mt19937 rng(GetParam());
    std::normal_distribution<float> normal;
    for (const DataType type : {DataType::kF16, DataType::kBF16, DataType::kQ8_0, DataType::kQ4_0}) {
        for (const int64_t n : {2, 32, 50, 64, 96, 256}) {
            if (n % data_type_info(type).block_elements != 0) continue;
            const auto bytes = static_cast<int64_t>(row_bytes(type, n));
            for (const int64_t count : {1, 5, 63, 65}) {
                RowWrites w;
                w.type = type;
                w.n = n;
                w.offset = 4;
                w.row_stride = bytes + 6;
                std::vector<float> rows(static_cast<size_t>(count * n));
                for (float& x : rows) x = normal(rng) * (rng() % 5 == 0 ? 1e-6f : 1.0f);
                for (size_t i = 0; i < rows.size(); i += 3) rows[i] = std::round(rows[i] * 4) / 2;  // ties
                std::fill_n(rows.begin(), n, 0.0f);
                std::vector<int64_t> cells(static_cast<size_t>(count));
                for (size_t i = 0; i < cells.size(); ++i) cells[i] = static_cast<int64_t>(i);
                std::shuffle(cells.begin(), cells.end(), rng);
                std::vector<std::byte> expected(static_cast<size_t>(2 * 64 * w.row_stride), std::byte{0x5A});
                std::vector<std::byte> pages = expected;
                cells[static_cast<size_t>(count) / 2] = count > 1 ? -1 : 70;
                for (size_t i = 0; i < cells.size(); ++i) {
                    if (cells[i] < 0) continue;
                    reference::row_encoder(type)(rows.data() + static_cast<int64_t>(i) * n,
                                                 expected.data() + cells[i] * w.row_stride + w.offset, n);
                }
                w.rows = rows;
                w.cells = cells;
                w.pages = pages;
                const Status status = write_rows(*device_, w);
                ASSERT_TRUE(status.is_ok()) << status.to_string();
                EXPECT_EQ(pages, expected) << data_type_info(type).name << ", " << count << " rows of " << n;
            }
        }
    }
}

TEST_P(CudaDevice, WhatDoesNotFitIsRefusedWithItsValues) {
    const auto refused = [&](auto change) {
        Case c({});
        change(c.args);
        const Status status = attention(*device_, c.args);
        EXPECT_EQ(status.code(), StatusCode::kUnsupported);
        return status.message();
    };
    EXPECT_NE(refused([](AttentionArgs& a) { a.k_type = DataType::kQ5_1; }).find("keys in q5_1"), std::string::npos);
    EXPECT_NE(refused([](AttentionArgs& a) { a.d_v = 576; }).find("value size 576 with f16"), std::string::npos);
    EXPECT_NE(refused([](AttentionArgs& a) { a.d_k = 20; }).find("multiples of 8 up to 256"), std::string::npos);
    EXPECT_NE(refused([](AttentionArgs& a) { a.n_head = 5; }).find("5 query heads"), std::string::npos);
    std::vector<float> row(64);
    std::vector<std::byte> page(64 * 128);
    const int64_t cell = 64;
    EXPECT_NE(write_rows(*device_, {DataType::kF16, 64, row, {&cell, 1}, page, 128, 0}).message().find("cell 64 of 64"),
              std::string::npos);
    const int64_t first = 0;
    EXPECT_FALSE(write_rows(*device_, {DataType::kF16, 64, row, {&first, 1}, page, 100, 0}).is_ok());
    EXPECT_FALSE(write_rows(*device_, {DataType::kF32, 64, row, {&first, 1}, page, 256, 0}).is_ok());
}

TEST_P(CudaDevice, EveryFailureOfTheDriverIsAStatus) {
    const CaseSpec spec{.n_tokens = 2, .n_keys = 600, .sinks = true};
    const int before = calls_made();
    Case whole(spec);
    ASSERT_TRUE(attention(*device_, whole.args, {.splits = 2}).is_ok());
    const int calls = calls_made() - before;
    ASSERT_GT(calls, 15);
    const int open = things_open();
    for (int n = 0; n < calls; ++n) {
        Case c(spec);
        fail_call(n, 2);
        const Status status = attention(*device_, c.args, {.splits = 2});
        EXPECT_EQ(status.code(), StatusCode::kOutOfMemory) << n;
        EXPECT_NE(status.message().find("CUDA_ERROR_OUT_OF_MEMORY"), std::string::npos) << status.message();
        EXPECT_EQ(things_open(), open) << n;
        EXPECT_EQ(c.out, Case(spec).out) << "written in spite of failure " << n;
    }
    // And afterwards all is well.
    Case again(spec);
    ASSERT_TRUE(attention(*device_, again.args, {.splits = 2}).is_ok());
    EXPECT_EQ(again.out, whole.out);
}

TEST(CudaOpening, EveryFailureLeavesNothingOpen) {
    reset_fake(0);
    const int before = things_open();
    std::unique_ptr<Device> device;
    ASSERT_TRUE(Device::open(fake_driver(), 0, fake_image(), &device).is_ok());
    EXPECT_EQ(device->name(), "Emulated GPU");
    EXPECT_EQ(device->architecture(), 80);
    const int calls = calls_made();
    device.reset();
    for (int n = 0; n < calls; ++n) {
        reset_fake(0);
        fail_call(n, 999);
        const Status status = Device::open(fake_driver(), 0, fake_image(), &device);
        EXPECT_FALSE(status.is_ok()) << n;
        EXPECT_NE(status.message().find("error 999"), std::string::npos) << status.message();
        EXPECT_EQ(things_open(), before) << n;
    }
}

TEST(CudaOpening, MachinesThatCannotAreToldWhy) {
    std::unique_ptr<Device> device;
    const int before = things_open();
    const auto refused = [&](auto change, std::span<const std::byte> image) {
        reset_fake(0);
        change();
        return Device::open(fake_driver(), 0, image, &device).message();
    };
    EXPECT_NE(refused([] { set_architecture(7, 0); }, fake_image()).find("sm_70"), std::string::npos);
    EXPECT_NE(refused([] { set_devices(0); }, fake_image()).find("there are 0"), std::string::npos);
    EXPECT_NE(refused([] { set_shared_bytes(32 * 1024); }, fake_image()).find("32768 bytes of shared memory"),
              std::string::npos);
    EXPECT_NE(refused([] {}, {}).find("nvcc was not there"), std::string::npos);
    EXPECT_EQ(things_open(), before);
    reset_fake(0);
}

TEST(CudaTable, IsTheDevicesForAttentionAndTheCpusForTheRest) {
    reset_fake(0);
    static const DriverApi api = fake_driver();
    use_driver(&api, fake_image());
    const Table* table = nullptr;
    ASSERT_TRUE(cuda_table(&table).is_ok());
    EXPECT_STREQ(table->variant(), "cuda");
    EXPECT_EQ(table->gemm, cpu_table().gemm);
    EXPECT_NE(table->attention, cpu_table().attention);
    EXPECT_NE(table->score_codes, cpu_table().score_codes);
    EXPECT_EQ(table->add_rest, cpu_table().add_rest);
    // What it cannot do the CPU does, and it is known how often.
    const int64_t before = fallbacks();
    for (const int64_t d : {64, 256, 272}) {
        std::vector<float> rows(static_cast<size_t>(3 * d));
        std::vector<float> signs(static_cast<size_t>(2 * d));
        std::mt19937 random(static_cast<unsigned>(d));
        std::normal_distribution<float> normal;
        for (float& x : rows) x = normal(random);
        for (float& sign : signs) sign = random() % 2 ? 1.0f : -1.0f;
        std::vector<float> expected = rows;
        table->rotate_rows(signs.data(), 3, d, rows.data());
        reference_table().rotate_rows(signs.data(), 3, d, expected.data());
        for (size_t i = 0; i < rows.size(); ++i) EXPECT_NEAR(rows[i], expected[i], 1e-4);
        EXPECT_EQ(fallbacks() - before, d > 256 ? 1 : 0) << d;
    }
    EXPECT_NE(describe().find("1 device; not used by graphs yet"), std::string::npos) << describe();
}

}  // namespace
}  // namespace atlas::kernels::cuda::test
