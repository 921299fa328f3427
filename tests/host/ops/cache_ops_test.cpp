#include <gtest/gtest.h>

#include <cmath>
#include <utility>

#include "atlas_device.h"

namespace atlas::host::test {
namespace {

class CacheOps : public AtlasDevice {
protected:
    /** Runs `body` on our device and on the CPU; it returns what to compare. */
    template <typename Body>
    auto both(const Body& body) const {
        Bench ours(device_);
        Bench theirs(cpu_device());
        return std::pair(body(ours), body(theirs));
    }
};

class CacheTypes : public CacheOps, public ::testing::WithParamInterface<ggml_type> {};

TEST_P(CacheTypes, RowsWrittenEqualThoseOfTheHost) {
    for (const ggml_type index : {GGML_TYPE_I64, GGML_TYPE_I32}) {
        const auto [ours, theirs] = both([&](Bench& bench) {
            ggml_tensor* cache = bench.tensor("cache_k_l0", GetParam(), {128, 300});
            ggml_tensor* rows = bench.tensor("rows", GGML_TYPE_F32, {128, 70});
            ggml_tensor* where = bench.tensor("where", index, {70});
            ggml_tensor* written = ggml_set_rows(bench.context(), cache, rows, where);
            EXPECT_NE(bench.allocate(), nullptr);
            ggml_backend_buffer_clear(cache->buffer, 0);
            Bench::set(rows, noise(128 * 70, 4));
            for (int64_t i = 0; i < 70; ++i) {
                const int64_t row = (i * 37 + 11) % 300;
                if (index == GGML_TYPE_I64) {
                    ggml_backend_tensor_set(where, &row, static_cast<size_t>(i) * 8, 8);
                } else {
                    const auto small = static_cast<int32_t>(row);
                    ggml_backend_tensor_set(where, &small, static_cast<size_t>(i) * 4, 4);
                }
            }
            EXPECT_EQ(bench.compute(written), GGML_STATUS_SUCCESS);
            return Bench::bytes(cache);
        });
        EXPECT_EQ(ours, theirs);
    }
}

TEST_P(CacheTypes, AttentionOverPagesEqualsTheHosts) {
    constexpr int64_t kHead = 64, kHeadsKv = 2, kHeads = 8, kCells = 256, kTokens = 5;
    const auto run = [&](Bench& bench) {
        ggml_tensor* k = bench.tensor("cache_k_l0", GetParam(), {kHead * kHeadsKv, kCells});
        ggml_tensor* v = bench.tensor("cache_v_l0", GetParam(), {kHead * kHeadsKv, kCells});
        ggml_tensor* q = bench.tensor("q", GGML_TYPE_F32, {kHead, kTokens, kHeads});
        ggml_tensor* mask = bench.tensor("mask", GGML_TYPE_F16, {kCells, kTokens});
        const auto heads = [&](ggml_tensor* cache) {
            return ggml_view_4d(bench.context(), cache, kHead, kCells, kHeadsKv, 1, cache->nb[1],
                                ggml_row_size(cache->type, kHead), cache->nb[1] * kCells, 0);
        };
        ggml_tensor* out =
            ggml_flash_attn_ext(bench.context(), q, heads(k), heads(v), mask, 1.0f / std::sqrt(64.0f), 0.0f, 0.0f);
        EXPECT_NE(bench.allocate(), nullptr);
        Bench::set(k, noise(static_cast<size_t>(ggml_nelements(k)), 1));
        Bench::set(v, noise(static_cast<size_t>(ggml_nelements(v)), 2));
        Bench::set(q, noise(static_cast<size_t>(ggml_nelements(q)), 3));
        std::vector<ggml_fp16_t> visible(kCells * kTokens);
        for (int64_t i = 0; i < kCells * kTokens; ++i) {
            visible[static_cast<size_t>(i)] = ggml_fp32_to_fp16(i % kCells < 200 + i / kCells ? 0.0f : -INFINITY);
        }
        ggml_backend_tensor_set(mask, visible.data(), 0, ggml_nbytes(mask));
        EXPECT_EQ(bench.compute(out), GGML_STATUS_SUCCESS);
        return Bench::floats(out);
    };
    Bench ours(device_);
    Bench theirs(cpu_device());
    const std::vector<float> expected = run(theirs);
    // The host rounds q to the type of K, and we do not.
    EXPECT_LT(nmse(expected, run(ours)), 5e-4);
}

INSTANTIATE_TEST_SUITE_P(Types, CacheTypes,
                         ::testing::Values(GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0,
                                           GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_IQ4_NL),
                         [](const auto& info) { return std::string(ggml_type_name(info.param)); });

/** A cache of `cells` keys whose positions shift, as the host does it. Two heads of `head`, of which the last `rotated` dimensions turn. */
struct Shift {
    ggml_type type;
    int64_t head;
    int64_t rotated;
    int64_t cells;
    int streams = 1;
    bool frequencies = false;
    bool hadamard = false;
};

std::vector<uint8_t> shifted_keys(Bench& bench, const Shift& shift) {
    ggml_context* context = bench.context();
    const int64_t cells = shift.cells * shift.streams;
    ggml_tensor* cache = bench.tensor("cache_k_l0", shift.type, {2 * shift.head, shift.cells, shift.streams});
    ggml_tensor* by = bench.tensor("shift", GGML_TYPE_I32, {cells});
    ggml_tensor* factors = shift.frequencies ? bench.tensor("factors", GGML_TYPE_F32, {shift.rotated / 2}) : nullptr;
    ggml_tensor* turn = shift.hadamard ? bench.tensor("turn", GGML_TYPE_F32, {shift.rotated, shift.rotated}) : nullptr;
    ggml_tensor* keys = ggml_view_3d(context, cache, shift.rotated, 2, cells, ggml_row_size(cache->type, shift.head),
                                     cache->nb[1], ggml_row_size(cache->type, shift.head - shift.rotated));
    const auto turned = [&](ggml_tensor* x) {
        if (!turn) return x;
        ggml_tensor* flat = ggml_reshape_2d(context, x, shift.rotated, 2 * cells);
        return ggml_reshape_3d(context, ggml_mul_mat(context, turn, flat), shift.rotated, 2, cells);
    };
    const int n_rot = static_cast<int>(shift.rotated);
    ggml_tensor* result = nullptr;
    if (ggml_is_quantized(shift.type)) {
        ggml_tensor* x = turned(ggml_cast(context, keys, GGML_TYPE_F32));
        x = ggml_rope_ext(context, x, by, factors, n_rot, 2, 4096, 10000.0f, 1.0f, 0.0f, 1.0f, 32.0f, 1.0f);
        result = ggml_cpy(context, turned(x), keys);
    } else {
        result =
            ggml_rope_ext_inplace(context, keys, by, factors, n_rot, 0, 4096, 10000.0f, 1.0f, 0.0f, 1.0f, 32.0f, 1.0f);
    }
    EXPECT_NE(bench.allocate(), nullptr);
    Bench::set(cache, noise(static_cast<size_t>(ggml_nelements(cache)), 8));
    std::vector<int32_t> distances(static_cast<size_t>(cells));
    for (size_t i = 0; i < distances.size(); ++i) distances[i] = i % 3 == 0 ? -17 - static_cast<int32_t>(i % 1000) : 0;
    ggml_backend_tensor_set(by, distances.data(), 0, ggml_nbytes(by));
    if (factors) Bench::set(factors, std::vector<float>(static_cast<size_t>(shift.rotated / 2), 1.5f));
    if (turn) Bench::set(turn, noise(static_cast<size_t>(ggml_nelements(turn)), 5));
    EXPECT_EQ(bench.compute(result), GGML_STATUS_SUCCESS);
    return Bench::bytes(cache);
}

TEST_F(CacheOps, ContextShiftsEqualTheHosts) {
    // The host turns part of a head only where K is not quantised.
    // Works in slices of 1 MiB: fewer keys than one, an exact number of slices, one key more, and many with a rest.
    const Shift shifts[] = {
        {GGML_TYPE_F16, 64, 64, 200},           {GGML_TYPE_F16, 64, 64, 4096},
        {GGML_TYPE_F16, 64, 64, 4097},          {GGML_TYPE_F16, 128, 128, 9001},
        {GGML_TYPE_F16, 96, 32, 7000},          {GGML_TYPE_F16, 64, 64, 3000, 3},
        {GGML_TYPE_F16, 64, 64, 5000, 1, true}, {GGML_TYPE_F32, 64, 64, 5000, 1, true},
        {GGML_TYPE_F16, 576, 64, 2500},         {GGML_TYPE_Q8_0, 64, 64, 200},
        {GGML_TYPE_Q8_0, 64, 64, 2048},         {GGML_TYPE_Q8_0, 64, 64, 2049, 1, true},
        {GGML_TYPE_Q8_0, 64, 64, 9001},         {GGML_TYPE_Q8_0, 64, 64, 9001, 1, false, true},
        {GGML_TYPE_Q8_0, 96, 96, 5000},         {GGML_TYPE_Q4_0, 128, 128, 3000, 2, true, true},
        {GGML_TYPE_Q5_0, 64, 64, 5000, 1},      {GGML_TYPE_Q5_1, 64, 64, 2500, 1, false, true},
    };
    for (const Shift& shift : shifts) {
        const auto [ours, theirs] = both([&](Bench& bench) { return shifted_keys(bench, shift); });
        EXPECT_TRUE(ours == theirs) << ggml_type_name(shift.type) << ", heads of " << shift.head << ", "
                                    << shift.rotated << " turned, " << shift.cells << " cells, " << shift.streams
                                    << " streams";
    }
}

TEST_F(CacheOps, KeysThatWereNeverStoredStayZeroInAShift) {
    for (const ggml_type type : {GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0}) {
        const auto [ours, theirs] = both([&](Bench& bench) {
            // The cells in the middle alone were written; what is compared is what they and the others decode to.
            ggml_tensor* cache = bench.tensor("cache_k_l0", type, {128, 20000});
            ggml_tensor* by = bench.tensor("shift", GGML_TYPE_I32, {20000});
            ggml_tensor* keys =
                ggml_view_3d(bench.context(), cache, 64, 2, 20000, ggml_row_size(type, 64), cache->nb[1], 0);
            ggml_tensor* x = type == GGML_TYPE_F16 ? keys : ggml_cast(bench.context(), keys, GGML_TYPE_F32);
            const auto rope = type == GGML_TYPE_F16 ? ggml_rope_ext_inplace : ggml_rope_ext;
            x = rope(bench.context(), x, by, nullptr, 64, 0, 4096, 10000.0f, 1.0f, 0.0f, 1.0f, 32.0f, 1.0f);
            if (type != GGML_TYPE_F16) x = ggml_cpy(bench.context(), x, keys);
            ggml_tensor* decoded = ggml_cast(bench.context(), cache, GGML_TYPE_F32);
            EXPECT_NE(bench.allocate(), nullptr);
            ggml_backend_buffer_clear(cache->buffer, 0);
            std::vector<uint8_t> rows(3000 * cache->nb[1]);
            ggml_quantize_chunk(type, noise(128 * 3000, 8).data(), rows.data(), 0, 3000, 128, nullptr);
            ggml_backend_tensor_set(cache, rows.data(), 7777 * cache->nb[1], rows.size());
            const std::vector<int32_t> distances(20000, 5);
            ggml_backend_tensor_set(by, distances.data(), 0, ggml_nbytes(by));
            EXPECT_EQ(bench.compute(x), GGML_STATUS_SUCCESS);
            EXPECT_EQ(bench.compute(decoded), GGML_STATUS_SUCCESS);
            return Bench::floats(decoded);
        });
        EXPECT_TRUE(ours == theirs) << ggml_type_name(type);
    }
}

/** Reads decoded K through an operation besides those of the shift, or not at all. */
std::vector<std::vector<uint8_t>> shift_and_read(Bench& bench, bool read) {
    ggml_tensor* cache = bench.tensor("cache_k_l0", GGML_TYPE_Q8_0, {128, 3000});
    ggml_tensor* by = bench.tensor("shift", GGML_TYPE_I32, {3000});
    ggml_tensor* keys = ggml_view_3d(bench.context(), cache, 64, 2, 3000, 68, cache->nb[1], 0);
    ggml_tensor* decoded = ggml_cast(bench.context(), keys, GGML_TYPE_F32);
    ggml_tensor* turned =
        ggml_rope_ext(bench.context(), decoded, by, nullptr, 64, 0, 4096, 10000.0f, 1.0f, 0.0f, 1.0f, 32.0f, 1.0f);
    ggml_tensor* written = ggml_cpy(bench.context(), turned, keys);
    ggml_tensor* doubled = ggml_scale(bench.context(), turned, 2.0f);
    EXPECT_NE(bench.allocate(), nullptr);
    Bench::set(cache, noise(128 * 3000, 8));
    const std::vector<int32_t> distances(3000, 5);
    ggml_backend_tensor_set(by, distances.data(), 0, ggml_nbytes(by));
    ggml_cgraph* graph = ggml_new_graph(bench.context());
    ggml_build_forward_expand(graph, written);
    if (read) ggml_build_forward_expand(graph, doubled);
    EXPECT_EQ(ggml_backend_graph_compute(bench.backend(), graph), GGML_STATUS_SUCCESS);
    return {Bench::bytes(cache), Bench::bytes(doubled), Bench::bytes(turned)};
}

TEST_F(CacheOps, DecodedKeysExistOnlyWhereTheyAreRead) {
    Bench theirs(cpu_device());
    const auto expected = shift_and_read(theirs, true);
    Bench reading(device_);
    const auto read = shift_and_read(reading, true);
    // Read elsewhere it is no chain: keys are turned by our own ROPE, and sums may be rounded the other way.
    for (const size_t floats : {1u, 2u}) {
        ASSERT_EQ(read[floats].size(), expected[floats].size());
        const auto* got = reinterpret_cast<const float*>(read[floats].data());
        const auto* wanted = reinterpret_cast<const float*>(expected[floats].data());
        for (size_t i = 0; i < read[floats].size() / sizeof(float); ++i)
            ASSERT_NEAR(got[i], wanted[i], 1e-5f * (1.0f + std::fabs(wanted[i]))) << i;
    }
    size_t other = 0;
    for (size_t i = 0; i < expected[0].size(); ++i) other += read[0][i] != expected[0][i];
    EXPECT_LT(other, expected[0].size() / 1000);
    // Nobody else reads: the memory of the results between, a layer's K in f32, stays untouched.
    Bench alone(device_);
    const auto shifted = shift_and_read(alone, false);
    EXPECT_TRUE(shifted[0] == expected[0]);
    EXPECT_TRUE(shifted[2] == std::vector<uint8_t>(shifted[2].size(), 0));
}

/** Copies that do not run along the rows of the cache are made whole. */
TEST_F(CacheOps, PermutedCopiesOfACacheEqualTheHosts) {
    for (const ggml_type type : {GGML_TYPE_F16, GGML_TYPE_F32}) {
        const auto [ours, theirs] = both([&](Bench& bench) {
            ggml_tensor* cache = bench.tensor("cache_v_l0", type, {128, 6000});
            ggml_tensor* heads =
                ggml_view_3d(bench.context(), cache, 64, 6000, 2, cache->nb[1], ggml_row_size(type, 64), 0);
            ggml_tensor* out = ggml_cont(bench.context(), ggml_transpose(bench.context(), heads));
            EXPECT_NE(bench.allocate(), nullptr);
            Bench::set(cache, noise(128 * 6000, 8));
            EXPECT_EQ(bench.compute(out), GGML_STATUS_SUCCESS);
            return Bench::bytes(out);
        });
        EXPECT_TRUE(ours == theirs) << ggml_type_name(type);
    }
}

TEST_F(CacheOps, QuantisedKeysAreDecodedAndWrittenBack) {
    const auto [ours, theirs] = both([&](Bench& bench) {
        ggml_tensor* cache = bench.tensor("cache_k_l0", GGML_TYPE_Q8_0, {128, 130});
        ggml_tensor* doubled = ggml_scale(bench.context(), ggml_cast(bench.context(), cache, GGML_TYPE_F32), 2.0f);
        ggml_tensor* written = ggml_cpy(bench.context(), doubled, cache);
        EXPECT_NE(bench.allocate(), nullptr);
        Bench::set(cache, noise(128 * 130, 8));
        EXPECT_EQ(bench.compute(written), GGML_STATUS_SUCCESS);
        return Bench::bytes(cache);
    });
    EXPECT_EQ(ours, theirs);
}

TEST_F(CacheOps, ARowNumberOutsideOfTheCacheFailsTheGraph) {
    for (const int64_t bad : {int64_t{-1}, int64_t{64}, int64_t{1} << 40}) {
        Bench bench(device_);
        ggml_tensor* cache = bench.tensor("cache_k_l0", GGML_TYPE_F16, {32, 64});
        ggml_tensor* rows = bench.tensor("rows", GGML_TYPE_F32, {32, 1});
        ggml_tensor* where = bench.tensor("where", GGML_TYPE_I64, {1});
        ggml_tensor* written = ggml_set_rows(bench.context(), cache, rows, where);
        ASSERT_NE(bench.allocate(), nullptr);
        Bench::set(rows, noise(32, 1));
        ggml_backend_tensor_set(where, &bad, 0, 8);
        EXPECT_EQ(bench.compute(written), GGML_STATUS_FAILED);
        EXPECT_EQ(Bench::bytes(cache), std::vector<uint8_t>(ggml_nbytes(cache), 0));
    }
}

}  // namespace
}  // namespace atlas::host::test
