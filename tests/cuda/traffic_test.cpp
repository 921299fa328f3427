// What each kernel moves, beside what it must: every byte of K, V, queries and outputs once. Sectors that several requests share (blocks of 34 bytes) come
// out of a multiprocessor's own cache: for them the sectors touched are what device memory gives.
#include <gtest/gtest.h>

#include "emulator/launch.h"
#include "fake_driver.h"
#include "kernels/attention_case.h"
#include "kernels/cuda/attention.h"

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

}  // namespace
}  // namespace atlas::kernels::cuda::test
