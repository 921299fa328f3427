// What each kernel moves, beside what it must: every byte of K, V, queries and outputs once. Sectors that several requests share (blocks of 34 bytes) come
// out of a multiprocessor's own cache: for them the sectors touched are what device memory gives.
#include <gtest/gtest.h>

#include <bit>

#include "emulator/launch.h"
#include "fake_driver.h"
#include "kernels/attention_case.h"
#include "kernels/codes.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/sparse.h"
#include "sparse_problem.h"

namespace atlas::kernels::cuda::test {
namespace {

using kernels::test::Case;
using kernels::test::CaseSpec;

struct Measured {
    double moved, touched;  ///< bytes read, as a multiple of the floor
    double written;
};

Measured measure(const CaseSpec& spec, const AttentionTuning& tuning) {
    reset_fake(1);
    std::unique_ptr<Device> device;
    EXPECT_TRUE(Device::open(fake_driver(), 0, fake_image(), &device).is_ok());
    Case c(spec);
    simt::reset_traffic();
    EXPECT_TRUE(attention(*device, c.args, tuning).is_ok());
    const simt::Traffic traffic = simt::traffic();
    const auto rows = static_cast<double>(spec.n_tokens * spec.n_head);
    const double cells = static_cast<double>(spec.n_keys * spec.n_head_kv) *
                         static_cast<double>(row_bytes(spec.k_type, spec.d_k) + row_bytes(spec.v_type, spec.d_v));
    const double floor = cells + rows * static_cast<double>(spec.d_k) * 4;
    return {static_cast<double>(traffic.read) / floor, static_cast<double>(traffic.touched_by_reads) / floor,
            static_cast<double>(traffic.written) / (rows * static_cast<double>(spec.d_v) * 4)};
}

void report(const char* kernel, const Measured& m) {
    const auto text = [](double x) { return std::to_string(x).substr(0, 5); };
    testing::Test::RecordProperty(
        kernel, text(m.moved) + " read, " + text(m.touched) + " touched, " + text(m.written) + " written");
    std::printf("%-28s read %s, touched %s, written %s of the floor\n", kernel, text(m.moved).c_str(),
                text(m.touched).c_str(), text(m.written).c_str());
}

TEST(Traffic, DecodeReadsKeysAndValuesOnce) {
    for (const int64_t d : {64, 128, 256}) {
        for (const int64_t group : {1, 4}) {
            const CaseSpec spec{
                .d_k = d, .d_v = d, .n_head = 2 * group, .n_keys = 4096, .mask = kernels::test::MaskKind::kNone};
            const Measured m = measure(spec, {.splits = 4});
            report(("decode_" + std::to_string(group) + "x" + std::to_string(d)).c_str(), m);
            EXPECT_LE(m.moved, 1.1);
            EXPECT_GE(m.touched, 0.99) << "something was not read";
            EXPECT_LE(m.written, 8.0) << "four splits with their softmax, and the merged result";
        }
    }
}

TEST(Traffic, DecodeOfBlocksTouchesThemOnce) {
    for (const DataType type : {DataType::kQ8_0, DataType::kQ4_0}) {
        const CaseSpec spec{.d_k = 128,
                            .d_v = 128,
                            .n_head = 2,
                            .n_keys = 4096,
                            .k_type = type,
                            .v_type = type,
                            .mask = kernels::test::MaskKind::kNone};
        const Measured m = measure(spec, {.splits = 4});
        report(data_type_info(type).name, m);
        EXPECT_LE(m.touched, 1.1);
        EXPECT_LE(m.moved, 8.0);
    }
}

TEST(Traffic, TilesReadKeysAndValuesOncePerBlockOfRows) {
    for (const int64_t d : {64, 128, 256}) {
        // A group of 16 rows, and as many tokens of one head as a block has rows.
        for (const int rows : {16, d > 128 ? 32 : 64}) {
            const CaseSpec spec{.d_k = d,
                                .d_v = d,
                                .n_tokens = rows == 16 ? 1 : rows,
                                .n_head = rows == 16 ? 16 : 1,
                                .n_head_kv = 1,
                                .n_keys = 2048,
                                .mask = kernels::test::MaskKind::kNone};
            const Measured m = measure(spec, {.splits = 1, .rows = rows == 16 ? 16 : 64});
            report(("tiles_" + std::to_string(rows) + "x" + std::to_string(d)).c_str(), m);
            EXPECT_LE(m.moved, 1.1);
            EXPECT_GE(m.touched, 0.99) << "something was not read";
        }
    }
}

TEST(Traffic, SparseReadsCodesOnce) {
    for (const int64_t d : {64, 128}) {
        for (const int64_t group : {1, 4}) {
            reset_fake(1);
            std::unique_ptr<Device> device;
            ASSERT_TRUE(Device::open(fake_driver(), 0, fake_image(), &device).is_ok());
            // Few keys stand out: what is selected and looked at again is small beside the codes.
            SparseSpec spec;
            spec.d_k = spec.d_v = d;
            spec.n_head = group;
            spec.n_head_kv = 1;
            spec.far_pages = 160;
            spec.near_keys = 64;
            spec.budget = {.least = 16, .most = 64, .share = 0.01f};
            SparseProblem problem(*device, spec);
            SparseAttention sparse(*device);
            const CodeShape shape(d, d);
            // Codes, scales, means of keys once by score_pages; the page's entry, its sums.
            const double scored = static_cast<double>(spec.far_pages) * static_cast<double>(shape.value_mean + 4 + 8);
            // Means of values and factors once by attend_rest.
            const double rest = static_cast<double>(spec.far_pages) * static_cast<double>(d + 12 + 8 + 8 * group + 8);
            simt::reset_traffic();
            ASSERT_TRUE(sparse.run(problem.call, {.splits = 1}).is_ok());
            ASSERT_TRUE(device->wait().is_ok());
            const simt::Traffic all = simt::traffic();
            int64_t keys = 0;
            for (int64_t p = 0; p < spec.far_pages; ++p) keys += std::popcount(problem.selected(sparse, 0, p));
            const double read = static_cast<double>((keys + spec.near_keys) * d * 4);
            // Pages that were looked at for shares, and those of selected keys for the rest, once more each.
            int64_t looked = 0;
            int64_t partly = 0;
            for (int64_t p = 0; p < spec.far_pages; ++p) {
                looked += sparse.arguments().bounds[p] >= sparse.arguments().levels[0];
                partly += problem.selected(sparse, 0, p) != 0;
            }
            const double again = static_cast<double>(looked + partly) * static_cast<double>(shape.value_mean);
            const double floor = scored + rest + read + again;
            const Measured m{static_cast<double>(all.read) / floor, static_cast<double>(all.touched_by_reads) / floor,
                             static_cast<double>(all.written) / floor};
            report(("sparse_" + std::to_string(group) + "x" + std::to_string(d)).c_str(), m);
            std::printf(
                "%-28s %.0f KB of codes once, %.0f KB again for %lld pages, %lld keys read, %.3f of exact's K and V\n",
                "", scored / 1e3, again / 1e3, static_cast<long long>(looked + partly), static_cast<long long>(keys),
                static_cast<double>(all.read) / static_cast<double>((spec.far_pages + 1) * 64 * d * 4));
            EXPECT_LE(m.touched, 1.1);
            // Sectors of which a request wants 4 or 8 bytes (a page's entry, its factors) are a twelfth of a page at d 64; queries once per block.
            EXPECT_LE(m.moved, d == 64 ? 1.35 : 1.25);
        }
    }
}

TEST(Traffic, ProductsReadWeightsOnce) {
    for (const WeightType type : {WeightType::kQ8_0, WeightType::kQ4_0, WeightType::kQ5_1, WeightType::kIQ4_NL,
                                  WeightType::kQ4_K, WeightType::kQ5_K, WeightType::kQ6_K}) {
        for (const int64_t n : {1, 4}) {
            reset_fake(1);
            std::unique_ptr<Device> device;
            ASSERT_TRUE(Device::open(fake_driver(), 0, fake_image(), &device).is_ok());
            constexpr int64_t kRows = 128;
            constexpr int64_t kCols = 4096;
            const WeightTypeInfo& info = weight_type_info(type);
            const size_t bytes = weight_row_bytes(type, kCols);
            const std::vector<std::byte> weights(static_cast<size_t>(kRows) * bytes);
            const std::vector<std::byte> activations(activation_bytes(info.activations, kCols, n));
            std::vector<float> out(static_cast<size_t>(n * kRows));
            const WeightProduct product{.weights = {type, weights.data(), kRows, kCols, bytes},
                                        .activations = activations.data(),
                                        .n = n,
                                        .out = out.data(),
                                        .out_stride = static_cast<size_t>(kRows)};
            simt::reset_traffic();
            ASSERT_TRUE(multiply_weights(*device, product, 0, kRows).is_ok());
            const simt::Traffic all = simt::traffic();
            const double floor = static_cast<double>(weights.size()) + static_cast<double>(n * kCols) * 1.5;
            const Measured m{static_cast<double>(all.read) / floor, static_cast<double>(all.touched_by_reads) / floor,
                             static_cast<double>(all.written) / static_cast<double>(out.size() * sizeof(float))};
            report((std::string(info.name) + " times " + std::to_string(n)).c_str(), m);
            EXPECT_LE(m.touched, 1.1);
            EXPECT_GE(m.touched, 0.99) << "something was not read";
            // Blocks that begin at multiples of 2 are read in pieces, which come out of a multiprocessor's own cache but for the first.
            EXPECT_LE(m.moved, type == WeightType::kQ4_K || type == WeightType::kQ5_K ? 2.5 : 8.0);
        }
    }
}

}  // namespace
}  // namespace atlas::kernels::cuda::test
