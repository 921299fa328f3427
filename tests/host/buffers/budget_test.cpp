// Caches beyond their RAM budget. A program of its own: the budget is read once, when the plug-in is loaded.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>

#include "plugin.h"

namespace atlas::host::test {
namespace {

constexpr int64_t kHead = 64, kCells = 512, kStreams = 2;
// Of one cache: pages of 64 cells, f16.
constexpr size_t kRow = kHead * 2, kPage = kRow * 64;
constexpr size_t kBudget = 24 * kPage;

/** A K and a V cache of two streams, rows to write into them, and attention over the first cells of some streams. */
struct Caches {
    explicit Caches(ggml_backend_dev_t device, int64_t seen = kCells, int64_t streams = kStreams, int64_t n_rows = 1)
        : bench(device), seen(seen), streams(streams) {
        k = bench.tensor("cache_k_l7", GGML_TYPE_F16, {kHead, kCells, kStreams});
        v = bench.tensor("cache_v_l7", GGML_TYPE_F16, {kHead, kCells, kStreams});
        rows = bench.tensor("rows", GGML_TYPE_F32, {kHead, n_rows});
        where = bench.tensor("where", GGML_TYPE_I64, {n_rows});
        q = bench.tensor("q", GGML_TYPE_F32, {kHead, 1, 1, streams});
        mask = bench.tensor("mask", GGML_TYPE_F16, {seen, 1, 1, streams});
        ggml_context* context = bench.context();
        const auto flat = [&](ggml_tensor* cache) { return ggml_reshape_2d(context, cache, kHead, kCells * kStreams); };
        written[0] = ggml_set_rows(context, flat(k), rows, where);
        written[1] = ggml_set_rows(context, flat(v), rows, where);
        const auto attention = [&](int64_t stream, int64_t cells) {
            const auto heads = [&](ggml_tensor* cache) {
                return ggml_view_4d(context, cache, kHead, cells, 1, streams, cache->nb[1], kRow, cache->nb[2],
                                    static_cast<size_t>(stream) * cache->nb[2]);
            };
            ggml_tensor* seen_part =
                ggml_view_4d(context, mask, cells, 1, 1, streams, mask->nb[1], mask->nb[2], mask->nb[3], 0);
            return ggml_flash_attn_ext(context, q, heads(k), heads(v), seen_part, 1.0f, 0.0f, 0.0f);
        };
        attended = attention(0, seen);
        if (streams == 1) {
            attended_less = attention(0, 256);
            attended_second = attention(1, seen);
        }
        shift = bench.tensor("shift", GGML_TYPE_I32, {kCells * kStreams});
        ggml_tensor* keys = ggml_view_3d(context, k, kHead, 1, kCells * kStreams, kRow, kRow, 0);
        turned = ggml_rope_ext_inplace(context, keys, shift, nullptr, kHead, 0, 4096, 10000, 1, 0, 1, 32, 1);
        for (int64_t s = 0; s < kStreams; ++s) {
            k_stream[s] = ggml_view_2d(context, k, kHead, kCells, k->nb[1], static_cast<size_t>(s) * k->nb[2]);
            v_stream[s] = ggml_view_2d(context, v, kHead, kCells, v->nb[1], static_cast<size_t>(s) * v->nb[2]);
        }
        buffer = bench.allocate();
        Bench::set(rows, noise(static_cast<size_t>(kHead * n_rows), 1));
        Bench::set(q, noise(static_cast<size_t>(kHead * streams), 2));
        show(0, seen);
    }
    ~Caches() {
        if (buffer) ggml_backend_buffer_clear(buffer, 0);
    }

    /** All queries see cells first … end − 1. */
    void show(int64_t first, int64_t end) {
        std::vector<ggml_fp16_t> values(static_cast<size_t>(seen * streams), ggml_fp32_to_fp16(-INFINITY));
        for (int64_t s = 0; s < streams; ++s) {
            for (int64_t cell = first; cell < end; ++cell) values[static_cast<size_t>(s * seen + cell)] = 0;
        }
        ggml_backend_tensor_set(mask, values.data(), 0, ggml_nbytes(mask));
    }
    /** Writes rows first, first + 1, … and then runs an attention, as one graph. */
    ggml_status decode(int64_t first, ggml_tensor* attention = nullptr) {
        std::vector<int64_t> cells(static_cast<size_t>(where->ne[0]));
        for (size_t i = 0; i < cells.size(); ++i) cells[i] = first + static_cast<int64_t>(i);
        ggml_backend_tensor_set(where, cells.data(), 0, ggml_nbytes(where));
        return bench.compute({written[0], written[1], attention ? attention : attended});
    }
    ggml_status attend() { return bench.compute(attended); }

    Bench bench;
    int64_t seen, streams;
    ggml_tensor *k, *v, *rows, *where, *q, *mask, *written[2], *shift, *turned;
    ggml_tensor *attended, *attended_less = nullptr, *attended_second = nullptr;
    ggml_tensor *k_stream[kStreams], *v_stream[kStreams];
    ggml_backend_buffer_t buffer = nullptr;
};

class OverBudget : public ::testing::Test {
protected:
    void SetUp() override {
        setenv("ATLAS_KV_RAM", std::to_string(kBudget).c_str(), 1);
        ASSERT_NE(load_plugin(), nullptr);
        device_ = ggml_backend_dev_by_name("ATLAS0");
        ASSERT_NE(device_, nullptr);
    }
    /** The log while `work` is done. */
    template <typename Work>
    static std::string log_of(Work work) {
        testing::internal::CaptureStderr();
        work();
        return testing::internal::GetCapturedStderr();
    }
    static size_t lines(const std::string& log) {
        return static_cast<size_t>(std::count(log.begin(), log.end(), '\n'));
    }
    /** The next graph that looks at the cells is told, in one line; and no longer once they are hidden, written again or cleared. */
    static void expect_told(Caches& caches, const char* tensor, int64_t first, int64_t end) {
        for (int i = 0; i < 2; ++i) {
            ggml_status status = GGML_STATUS_SUCCESS;
            const std::string log = log_of([&] { status = caches.attend(); });
            EXPECT_EQ(status, GGML_STATUS_ALLOC_FAILED);
            EXPECT_EQ(lines(log), 1u) << log;
            EXPECT_NE(log.find(tensor), std::string::npos) << log;
            EXPECT_NE(log.find("ATLAS_KV_RAM=" + std::to_string(kBudget)), std::string::npos) << log;
        }
        if (first > 0) {
            caches.show(0, first);
            EXPECT_EQ(caches.attend(), GGML_STATUS_SUCCESS);
        }
        caches.show(first, end);
        EXPECT_NE(caches.attend(), GGML_STATUS_SUCCESS);
        ggml_backend_buffer_clear(caches.buffer, 0);
        EXPECT_EQ(caches.attend(), GGML_STATUS_SUCCESS);
        caches.show(0, caches.seen);
        EXPECT_EQ(caches.attend(), GGML_STATUS_SUCCESS);
    }
    static std::vector<uint8_t> bytes(size_t count) { return std::vector<uint8_t>(count, 0x11); }

    ggml_backend_dev_t device_ = nullptr;
};

TEST_F(OverBudget, ARestoredStateThatDoesNotFitFailsTheNextGraph) {
    Caches caches(device_, 512, 1);
    const auto state = bytes(15 * kPage);
    ggml_backend_tensor_set(caches.k, state.data(), 0, state.size());
    EXPECT_EQ(caches.attend(), GGML_STATUS_SUCCESS);
    const std::string log = log_of([&] {
        ggml_backend_tensor_set(caches.v, state.data(), 64 * kRow, 12 * kPage);
        ggml_backend_tensor_set(caches.v, state.data(), 64 * kRow, 12 * kPage);
    });
    EXPECT_EQ(lines(log), 1u) << log;
    // All or nothing.
    EXPECT_EQ(Bench::bytes(caches.v_stream[0])[64 * kRow], 0);
    expect_told(caches, "cache_v_l7", 64, 512);
}

TEST_F(OverBudget, RowsOfAStateFailTheNextGraph) {
    Caches caches(device_);
    const auto state = bytes(16 * kPage);
    ggml_backend_tensor_set(caches.k, state.data(), 0, state.size());
    ggml_backend_tensor_set_2d(caches.v, state.data(), 0, kRow, 16, kPage, kRow);  // a row on each page
    caches.show(0, 512);
    EXPECT_NE(caches.attend(), GGML_STATUS_SUCCESS);
    caches.show(1, 64);  // what did fit is there
    EXPECT_EQ(caches.attend(), GGML_STATUS_SUCCESS);
}

TEST_F(OverBudget, MemsetCopyAndClearFailTheNextGraph) {
    const auto state = bytes(16 * kPage);
    {
        Caches caches(device_, 512, 1);
        ggml_backend_tensor_set(caches.k, state.data(), 0, state.size());
        ggml_backend_tensor_memset(caches.v, 3, 64 * kRow, 12 * kPage);
        expect_told(caches, "cache_v_l7", 64, 512);
    }
    {
        Caches caches(device_);
        Caches others(cpu_device());
        ggml_backend_tensor_set(caches.k, state.data(), 0, state.size());
        Bench::set(others.v, noise(static_cast<size_t>(ggml_nelements(others.v)), 1));
        ggml_backend_tensor_copy(others.v, caches.v);
        expect_told(caches, "cache_v_l7", 0, 512);
    }
    {
        Caches caches(device_);
        ggml_backend_buffer_clear(caches.buffer, 5);
        EXPECT_NE(caches.attend(), GGML_STATUS_SUCCESS);
        ggml_backend_buffer_clear(caches.buffer, 0);
        EXPECT_EQ(caches.attend(), GGML_STATUS_SUCCESS);
    }
}

TEST_F(OverBudget, CellsWrittenAgainAreGoodAgain) {
    Caches caches(device_, 512, 1, 64);
    const auto state = bytes(16 * kPage);
    ggml_backend_tensor_set(caches.k, state.data(), 0, state.size());
    ggml_backend_tensor_set(caches.v, state.data(), 0, 10 * kPage);  // cells that the host believes in until it is told
    caches.show(0, 64);
    EXPECT_NE(caches.attend(), GGML_STATUS_SUCCESS);
    // It removes the sequence, and others write over the cells.
    EXPECT_EQ(caches.decode(0), GGML_STATUS_SUCCESS);
    caches.show(0, 65);
    EXPECT_NE(caches.attend(), GGML_STATUS_SUCCESS);
}

TEST_F(OverBudget, ABatchThatDoesNotFitIsRefusedWholeAndHarmsNothing) {
    Caches caches(device_, 512, 1, 512);  // its rows are written by several threads
    const auto state = bytes(16 * kPage);
    ggml_backend_tensor_set(caches.k, state.data(), 0, state.size());
    ggml_backend_tensor_set(caches.v, state.data(), 0, kPage);
    ggml_status status = GGML_STATUS_SUCCESS;
    const std::string log = log_of([&] { status = caches.decode(512); });  // V needs 8 pages more, 7 are left
    EXPECT_EQ(status, GGML_STATUS_ALLOC_FAILED);
    EXPECT_EQ(lines(log), 1u) << log;
    EXPECT_NE(log.find("SET_ROWS"), std::string::npos) << log;
    EXPECT_EQ(Bench::bytes(caches.v_stream[1]), std::vector<uint8_t>(kCells * kRow, 0));
    EXPECT_EQ(caches.attend(), GGML_STATUS_SUCCESS);
    EXPECT_EQ(caches.decode(0), GGML_STATUS_SUCCESS);
}

TEST_F(OverBudget, ACopiedStreamCostsNothingUntilItIsWritten) {
    Caches caches(device_);
    const auto keys = noise(static_cast<size_t>(kHead * kCells), 4);
    for (ggml_tensor* stream : {caches.k_stream[0], caches.v_stream[0]}) Bench::set(stream, keys);
    // 16 pages are there; as many again would be too many.
    ggml_backend_tensor_copy(caches.k_stream[0], caches.k_stream[1]);
    ggml_backend_tensor_copy(caches.v_stream[0], caches.v_stream[1]);
    EXPECT_EQ(Bench::bytes(caches.k_stream[1]), Bench::bytes(caches.k_stream[0]));
    EXPECT_EQ(caches.decode(512 + 70), GGML_STATUS_SUCCESS);
    EXPECT_NE(Bench::bytes(caches.k_stream[1]), Bench::bytes(caches.k_stream[0]));
    EXPECT_EQ(caches.decode(70), GGML_STATUS_SUCCESS);
    EXPECT_EQ(Bench::bytes(caches.k_stream[1]), Bench::bytes(caches.k_stream[0]));
}

TEST_F(OverBudget, AShiftThatFailsHalfWayIsTold) {
    Caches caches(device_);
    const auto keys = noise(static_cast<size_t>(kHead * kCells), 4);
    for (ggml_tensor* stream : {caches.k_stream[0], caches.v_stream[0]}) Bench::set(stream, keys);
    ggml_backend_tensor_copy(caches.k_stream[0], caches.k_stream[1]);  // 16 pages, of which K's 8 are shared
    const auto rest = bytes(4 * kPage);
    ggml_backend_tensor_set(caches.v_stream[1], rest.data(), 0, rest.size());
    const std::vector<int32_t> distances(static_cast<size_t>(kCells * kStreams), -5);
    ggml_backend_tensor_set(caches.shift, distances.data(), 0, ggml_nbytes(caches.shift));
    EXPECT_EQ(caches.bench.compute(caches.turned), GGML_STATUS_ALLOC_FAILED);  // 4 pages can be copied, 8 are to be
    const std::string log = log_of([&] { EXPECT_NE(caches.attend(), GGML_STATUS_SUCCESS); });
    EXPECT_NE(log.find("cache_k_l7"), std::string::npos) << log;
    ggml_backend_buffer_clear(caches.buffer, 0);
    EXPECT_EQ(caches.attend(), GGML_STATUS_SUCCESS);
}

TEST_F(OverBudget, AStreamWhoseTextWasRemovedMakesRoomForAnother) {
    Caches caches(device_, 512, 1, 512);
    EXPECT_EQ(caches.decode(0), GGML_STATUS_SUCCESS);  // 16 pages: a long text in the first stream
    EXPECT_EQ(caches.decode(512, caches.attended_second), GGML_STATUS_ALLOC_FAILED);
    // The host removed it; a graph of the short one that took its place looks at less.
    EXPECT_EQ(caches.bench.compute(caches.attended_less), GGML_STATUS_SUCCESS);
    EXPECT_EQ(caches.decode(512, caches.attended_second), GGML_STATUS_SUCCESS);
    const auto first = Bench::bytes(caches.k_stream[0]);
    EXPECT_NE(first[255 * kRow], 0);
    EXPECT_EQ(first[256 * kRow], 0);
    EXPECT_NE(Bench::bytes(caches.v_stream[1])[511 * kRow], 0);
}

TEST_F(OverBudget, AServerThatRunsForDaysIsNotStarved) {
    Caches caches(device_, 512, 1, 512);
    for (int text = 0; text < 20; ++text) {
        // Long texts in turns; between them the stream's next text has begun, which shows that the last one is gone.
        EXPECT_EQ(caches.decode(0), GGML_STATUS_SUCCESS) << text;
        EXPECT_EQ(caches.bench.compute(caches.attended_less), GGML_STATUS_SUCCESS);
        EXPECT_EQ(caches.decode(512, caches.attended_second), GGML_STATUS_SUCCESS) << text;
        ggml_backend_tensor_memset(caches.k_stream[1], 0, 0, kCells * kRow);  // as hosts do with a state they give up
        ggml_backend_tensor_memset(caches.v_stream[1], 0, 0, kCells * kRow);
    }
}

}  // namespace
}  // namespace atlas::host::test
