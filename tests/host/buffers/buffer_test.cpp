#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>

#include "atlas_device.h"

namespace atlas::host::test {
namespace {

using OwnerBuffer = AtlasDevice;

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

/** A tensor as a server makes one from a message: nobody initialised it, and what it says besides its address is not to be trusted. */
ggml_tensor made_by_hand(const ggml_tensor* like, size_t offset, int64_t rows) {
    ggml_tensor tensor = *like;
    tensor.ne[1] = rows;
    for (int i = 2; i < GGML_MAX_DIMS; ++i) {
        tensor.ne[i] = 1;
        tensor.nb[i] = tensor.nb[1] * static_cast<size_t>(rows);
    }
    tensor.data = static_cast<std::byte*>(like->data) + offset;
    tensor.view_src = nullptr;
    tensor.extra = nullptr;
    return tensor;
}

TEST_F(OwnerBuffer, TensorsMadeByHandAreFoundByTheirAddress) {
    Bench bench(device_);
    ggml_tensor* k = bench.tensor("cache_k_l0", GGML_TYPE_F16, {96, 200});
    ggml_tensor* v = bench.tensor("cache_v_l0", GGML_TYPE_F16, {96, 200});
    ggml_tensor* state = bench.tensor("cache_s_l0", GGML_TYPE_F16, {96, 200});
    ASSERT_NE(bench.allocate(), nullptr);
    EXPECT_EQ(k->extra, nullptr);  // an RPC server cannot hand it on
    int garbage[64] = {1, 2, 3};
    uint8_t step = 0;
    for (ggml_tensor* like : {k, v, state}) {
        for (void* extra :
             {static_cast<void*>(nullptr), static_cast<void*>(garbage), reinterpret_cast<void*>(0x5a5a5a5a5a5a)}) {
            ggml_tensor part = made_by_hand(like, 70 * like->nb[1], 100);
            part.extra = extra;
            const auto values = counting(ggml_nbytes(&part) - 10, ++step);
            ggml_backend_tensor_set(&part, values.data(), 10, values.size());
            std::vector<uint8_t> back(values.size());
            ggml_backend_tensor_get(&part, back.data(), 10, back.size());
            EXPECT_EQ(back, values);
            const auto whole = Bench::bytes(like);
            EXPECT_TRUE(std::equal(values.begin(), values.end(), whole.begin() + 70 * 192 + 10));
        }
    }
}

TEST_F(OwnerBuffer, ACacheThatNobodyInitialisedWorks) {
    for (const char* name : {"cache_k_l0", "cache_s_l0", "cache_k_l0 (view)"}) {
        // Only a buffer: its tensor comes from a message.
        const std::unique_ptr<ggml_backend_buffer, Deleter> buffer(
            ggml_backend_buft_alloc_buffer(ggml_backend_dev_buffer_type(device_), 1 << 20));
        ASSERT_NE(buffer, nullptr);
        Bench bench(device_);
        ggml_tensor* other = bench.tensor(name, GGML_TYPE_F16, {96, 200});
        ASSERT_NE(bench.allocate(), nullptr);
        ggml_tensor cache = *other;
        cache.buffer = buffer.get();
        cache.data = ggml_backend_buffer_get_base(buffer.get());
        std::vector<uint8_t> back(ggml_nbytes(&cache), 1);
        ggml_backend_tensor_get(&cache, back.data(), 0, back.size());
        EXPECT_EQ(back, std::vector<uint8_t>(back.size(), 0));
        const auto values = counting(5000, 3);
        ggml_backend_tensor_set(&cache, values.data(), 1000, values.size());
        ggml_backend_tensor_get(&cache, back.data(), 0, back.size());
        EXPECT_TRUE(std::equal(values.begin(), values.end(), back.begin() + 1000));
        ggml_backend_tensor_memset(&cache, 9, 2000, 10);
        ggml_backend_tensor_get(&cache, back.data(), 0, back.size());
        EXPECT_EQ(back[2009], 9);
    }
}

TEST_F(OwnerBuffer, AGraphOfTensorsThatNobodyInitialisedRuns) {
    // As an RPC server's: addresses in two buffers, and no buffer_init_tensor.
    const ggml_backend_buffer_type_t type = ggml_backend_dev_buffer_type(device_);
    const std::unique_ptr<ggml_backend_buffer, Deleter> caches(ggml_backend_buft_alloc_buffer(type, 1 << 20));
    const std::unique_ptr<ggml_backend_buffer, Deleter> scratch(ggml_backend_buft_alloc_buffer(type, 1 << 20));
    Bench bench(device_);
    ggml_tensor* cache = bench.tensor("cache_k_l0", GGML_TYPE_F16, {64, 200});
    ggml_tensor* rows = bench.tensor("rows", GGML_TYPE_F32, {64, 3});
    ggml_tensor* where = bench.tensor("where", GGML_TYPE_I64, {3});
    ggml_tensor* written = ggml_set_rows(bench.context(), cache, rows, where);
    ggml_tensor* decoded = ggml_cast(bench.context(), written, GGML_TYPE_F32);
    size_t used = 0;
    for (ggml_tensor* tensor : {cache, rows, where, written, decoded}) {
        const bool is_cache = tensor == cache || tensor == written;
        tensor->buffer = is_cache ? caches.get() : scratch.get();
        auto* base = static_cast<std::byte*>(ggml_backend_buffer_get_base(tensor->buffer));
        tensor->data = is_cache ? base + 8192 : base + used;
        if (!is_cache) used += (ggml_nbytes(tensor) + 127) / 128 * 128;
    }
    const std::vector<float> values = noise(64 * 3, 1);
    ggml_backend_tensor_set(rows, values.data(), 0, ggml_nbytes(rows));
    const int64_t numbers[] = {3, 70, 199};
    ggml_backend_tensor_set(where, numbers, 0, sizeof numbers);
    ASSERT_EQ(bench.compute(decoded), GGML_STATUS_SUCCESS);
    const std::vector<float> result = Bench::floats(decoded);
    for (size_t i = 0; i < values.size(); ++i)
        ASSERT_NEAR(result[static_cast<size_t>(numbers[i / 64]) * 64 + i % 64], values[i], 1e-3f);
    EXPECT_EQ(result[4 * 64], 0.0f);
}

TEST_F(OwnerBuffer, AccessOutsideOfACacheIsRefused) {
    Bench bench(device_);
    ggml_tensor* k = bench.tensor("cache_k_l0", GGML_TYPE_F16, {96, 200});
    ggml_tensor* v = bench.tensor("cache_v_l0", GGML_TYPE_F16, {96, 200});
    ASSERT_NE(bench.allocate(), nullptr);
    const auto values = counting(ggml_nbytes(k), 3);
    ggml_backend_tensor_set(v, values.data(), 0, values.size());
    std::vector<ggml_tensor> strays;
    strays.push_back(made_by_hand(k, 150 * k->nb[1], 100));  // ends behind the cache, in the next one's memory
    strays.push_back(made_by_hand(k, 0, 100000));            // ends behind the buffer
    strays.push_back(made_by_hand(k, 0, 10));
    strays.back().data = &device_;  // somewhere else
    for (ggml_tensor& stray : strays) {
        testing::internal::CaptureStderr();
        std::vector<uint8_t> data(ggml_nbytes(&stray), 7);
        ggml_backend_tensor_set(&stray, data.data(), 0, data.size());
        ggml_backend_tensor_get(&stray, data.data(), 0, data.size());
        const std::string log = testing::internal::GetCapturedStderr();
        EXPECT_NE(log.find("cache_k_l0"), std::string::npos) << log;
        EXPECT_EQ(data, std::vector<uint8_t>(data.size(), 0));
    }
    EXPECT_EQ(Bench::bytes(v), values);
    EXPECT_EQ(Bench::bytes(k), std::vector<uint8_t>(ggml_nbytes(k), 0));
}

}  // namespace
}  // namespace atlas::host::test
