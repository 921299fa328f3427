#include <gtest/gtest.h>
#include <unistd.h>

#include <numeric>

#include "plugin.h"

namespace atlas::host::test {
namespace {

class OwnerBuffer : public ::testing::Test {
protected:
    void SetUp() override {
        ASSERT_NE(load_plugin(), nullptr);
        device_ = ggml_backend_dev_by_name("ATLAS0");
        ASSERT_NE(device_, nullptr);
    }
    ggml_backend_dev_t device_ = nullptr;
};

std::vector<uint8_t> counting(size_t count, int start) {
    std::vector<uint8_t> values(count);
    for (size_t i = 0; i < count; ++i) values[i] = static_cast<uint8_t>(start + static_cast<int>(i) * 7);
    return values;
}

TEST_F(OwnerBuffer, DeviceReportsMemoryAndType) {
    ggml_backend_dev_props props{};
    ggml_backend_dev_get_props(device_, &props);
    EXPECT_GT(props.memory_total, 0u);
    EXPECT_GT(props.memory_free, 0u);
    EXPECT_EQ(props.type, GGML_BACKEND_DEVICE_TYPE_GPU);
    EXPECT_EQ(props.device_id, nullptr);
    EXPECT_FALSE(ggml_backend_buft_is_host(ggml_backend_dev_buffer_type(device_)));
}

TEST_F(OwnerBuffer, CachesHoldWhatWasWrittenAndReadZeroElsewhere) {
    Bench bench(device_);
    ggml_tensor* k = bench.tensor("cache_k_l0", GGML_TYPE_F16, {96, 200});
    ggml_tensor* state = bench.tensor("cache_s_l0", GGML_TYPE_F32, {64, 3});
    ggml_tensor* v = bench.tensor("cache_v_l0", GGML_TYPE_Q8_0, {96, 200});
    ASSERT_NE(bench.allocate(), nullptr);
    EXPECT_EQ(Bench::bytes(k), std::vector<uint8_t>(ggml_nbytes(k), 0));

    // Across the border of a page (64 rows of 192 bytes), not aligned to rows.
    const std::vector<uint8_t> part = counting(5000, 3);
    ggml_backend_tensor_set(k, part.data(), 64 * 192 - 1234, part.size());
    std::vector<uint8_t> expected(ggml_nbytes(k), 0);
    std::copy(part.begin(), part.end(), expected.begin() + 64 * 192 - 1234);
    EXPECT_EQ(Bench::bytes(k), expected);
    EXPECT_EQ(Bench::bytes(v), std::vector<uint8_t>(ggml_nbytes(v), 0));

    ggml_backend_tensor_memset(k, 0xAB, 64 * 192 - 10, 20);
    std::fill_n(expected.begin() + 64 * 192 - 10, 20, uint8_t{0xAB});
    EXPECT_EQ(Bench::bytes(k), expected);

    const std::vector<uint8_t> all = counting(ggml_nbytes(state), 9);
    ggml_backend_tensor_set(state, all.data(), 0, all.size());
    EXPECT_EQ(Bench::bytes(state), all);
    EXPECT_EQ(Bench::bytes(k), expected);
}

TEST_F(OwnerBuffer, ClearReachesPagesAndOrdinaryTensors) {
    Bench bench(device_);
    ggml_tensor* state = bench.tensor("cache_r_l0", GGML_TYPE_F32, {64, 3});
    ggml_tensor* k = bench.tensor("cache_k_l0", GGML_TYPE_F16, {64, 130});
    ggml_backend_buffer_t buffer = bench.allocate();
    ASSERT_NE(buffer, nullptr);
    for (const uint8_t value : {uint8_t{0x5A}, uint8_t{0}}) {
        ggml_backend_buffer_clear(buffer, value);
        EXPECT_EQ(Bench::bytes(k), std::vector<uint8_t>(ggml_nbytes(k), value));
        EXPECT_EQ(Bench::bytes(state), std::vector<uint8_t>(ggml_nbytes(state), value));
    }
}

TEST_F(OwnerBuffer, TwoDimensionalAccess) {
    Bench bench(device_);
    ggml_tensor* k = bench.tensor("cache_k_l0", GGML_TYPE_F16, {32, 256});
    ASSERT_NE(bench.allocate(), nullptr);
    const std::vector<uint8_t> columns = counting(100 * 16, 1);
    // 16 bytes of every second row from row 20 on.
    ggml_backend_tensor_set_2d(k, columns.data(), 20 * 64 + 8, 16, 100, 128, 16);
    std::vector<uint8_t> back(columns.size());
    ggml_backend_tensor_get_2d(k, back.data(), 20 * 64 + 8, 16, 100, 128, 16);
    EXPECT_EQ(back, columns);
    const std::vector<uint8_t> dense = Bench::bytes(k);
    EXPECT_EQ(dense[20 * 64 + 8], columns[0]);
    EXPECT_EQ(dense[22 * 64 + 8], columns[16]);
    EXPECT_EQ(dense[21 * 64 + 8], 0);
}

TEST_F(OwnerBuffer, CopiesBetweenDevicesAndCaches) {
    Bench ours(device_);
    Bench theirs(cpu_device());
    ggml_tensor* a = ours.tensor("cache_k_l0", GGML_TYPE_F16, {64, 150});
    ggml_tensor* b = ours.tensor("cache_k_l1", GGML_TYPE_F16, {64, 150});
    ggml_tensor* c = theirs.tensor("plain", GGML_TYPE_F16, {64, 150});
    ggml_tensor* d = theirs.tensor("back", GGML_TYPE_F16, {64, 150});
    ASSERT_NE(ours.allocate(), nullptr);
    ASSERT_NE(theirs.allocate(), nullptr);
    const std::vector<uint8_t> values = counting(ggml_nbytes(c), 5);
    ggml_backend_tensor_set(c, values.data(), 0, values.size());
    ggml_backend_tensor_copy(c, a);
    ggml_backend_tensor_copy(a, b);
    ggml_backend_tensor_copy(b, d);
    EXPECT_EQ(Bench::bytes(d), values);
}

TEST_F(OwnerBuffer, CacheAddressesCannotBeReadBehindOurBack) {
    Bench bench(device_);
    ggml_tensor* k = bench.tensor("cache_k_l0", GGML_TYPE_F16, {64, 128});
    ASSERT_NE(bench.allocate(), nullptr);
    Bench::set(k, noise(static_cast<size_t>(ggml_nelements(k)), 1));
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    EXPECT_EQ(write(ends[1], k->data, 1), -1);  // EFAULT where a load would trap
    EXPECT_EQ(errno, EFAULT);
    close(ends[0]);
    close(ends[1]);
}

}  // namespace
}  // namespace atlas::host::test
