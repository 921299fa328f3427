#include <gtest/gtest.h>

#include <array>
#include <numeric>

#include "kv/page_table.h"

namespace atlas::kv {
namespace {

constexpr size_t kRow = 64;
constexpr size_t kPage = kRow * kPageRows;

/** What a host does with two caches of one buffer: K and V of two streams of 8 pages each. */
class ReclaimTest : public testing::Test {
protected:
    static constexpr int64_t kStream = 8 * kPageRows;

    /** A graph that writes `count` rows from `row` on, and then reads the first `seen` of the stream. */
    Status graph(int64_t stream, int64_t row, int64_t count, int64_t seen) {
        clock_.advance();
        const std::vector<uint8_t> data(static_cast<size_t>(count) * kRow, 7);
        for (PageTable* table : {&k_, &v_}) {
            const int64_t first = (stream * kStream + row) / kPageRows;
            const int64_t end = (stream * kStream + row + count - 1) / kPageRows + 1;
            const PageRange range{first, end - first};
            if (Status status = table->reserve({&range, 1}); !status.is_ok()) return status;
            for (int64_t i = 0; i < count; ++i) {
                WriteLease lease;
                const auto at = static_cast<size_t>(stream * kStream + row + i) * kRow;
                if (Status status = table->lease(at, kRow, &lease); !status.is_ok()) return status;
                std::fill_n(lease.data(), kRow, std::byte{7});
            }
            table->note_live(stream * kStream, stream * kStream + seen, (stream + 1) * kStream);
        }
        return Status::ok();
    }

    Budget budget_;
    RamTier tier_{budget_};
    WriteClock clock_;
    PageTable k_{tier_, clock_, kRow, 2 * kStream}, v_{tier_, clock_, kRow, 2 * kStream};
};

TEST_F(ReclaimTest, AStreamGetsTheRoomThatAnotherNoLongerNeeds) {
    budget_.set_limit(2 * 9 * kPage);
    ASSERT_TRUE(graph(0, 0, kStream, kStream).is_ok());  // a long text in the first stream
    // All of it is live: nothing can be taken from it.
    EXPECT_EQ(graph(1, 0, 5 * kPageRows, 5 * kPageRows).code(), StatusCode::kOutOfMemory);
    EXPECT_FALSE(k_.is_damaged());
    // The host removed it and began a short one.
    ASSERT_TRUE(graph(0, 0, 10, 2 * kPageRows).is_ok());
    ASSERT_TRUE(graph(1, 0, 5 * kPageRows, 5 * kPageRows).is_ok());
    EXPECT_FALSE(k_.is_unmade(0, 2 * kPage));
    EXPECT_TRUE(k_.is_unmade(2 * kPage, 6 * kPage));
    EXPECT_FALSE(k_.is_unmade(8 * kPage, 5 * kPage));
    EXPECT_LE(budget_.in_use(), budget_.limit());
}

TEST_F(ReclaimTest, WhatWasWrittenAfterTheGraphStays) {
    budget_.set_limit(2 * 9 * kPage);
    ASSERT_TRUE(graph(0, 0, 10, kPageRows).is_ok());
    // A saved state is put behind what the last graph read.
    const std::vector<uint8_t> data(6 * kPage, 3);
    for (PageTable* table : {&k_, &v_}) ASSERT_TRUE(table->write(2 * kPage, data.data(), data.size()).is_ok());
    EXPECT_EQ(graph(1, 0, kStream, kStream).code(), StatusCode::kOutOfMemory);
    std::vector<uint8_t> read(data.size());
    EXPECT_TRUE(k_.read(2 * kPage, read.data(), read.size()).is_ok());
    EXPECT_EQ(read, data);
}

TEST_F(ReclaimTest, WithinAGraphTheLargestViewCounts) {
    budget_.set_limit(2 * 9 * kPage);
    ASSERT_TRUE(graph(0, 0, kStream, kStream).is_ok());
    clock_.advance();
    for (PageTable* table : {&k_, &v_}) {
        table->note_live(0, 6 * kPageRows, kStream);
        table->note_live(0, 2 * kPageRows, kStream);
    }
    ASSERT_TRUE(graph(1, 0, 2 * kPageRows, 2 * kPageRows).is_ok());
    EXPECT_FALSE(k_.is_unmade(0, 6 * kPage));
    EXPECT_TRUE(k_.is_unmade(6 * kPage, 2 * kPage));
}

TEST_F(ReclaimTest, AReservationHoldsAlsoWhatWasTakenForIt) {
    budget_.set_limit(2 * 9 * kPage);
    ASSERT_TRUE(graph(0, 0, kStream, kStream).is_ok());
    ASSERT_TRUE(graph(0, 0, 10, 2 * kPageRows).is_ok());
    // Pages 5 … 7 are there, hold nothing any more, and are asked for together with five that are not.
    const PageRange ranges[] = {{5, 3}, {8, 5}};
    ASSERT_TRUE(k_.reserve(ranges).is_ok());
    for (int64_t page = 5; page < 13; ++page) EXPECT_TRUE(k_.is_reserved(page)) << page;
    EXPECT_LE(budget_.in_use(), budget_.limit());
}

TEST_F(ReclaimTest, PinnedPagesAreNotTaken) {
    budget_.set_limit(2 * 9 * kPage);
    ASSERT_TRUE(graph(0, 0, kStream, kStream).is_ok());
    ASSERT_TRUE(graph(0, 0, 10, 2 * kPageRows).is_ok());
    Pinned pinned;
    const PageRange range{4, 4};
    ASSERT_TRUE(k_.pin({&range, 1}, &pinned).is_ok());
    ASSERT_TRUE(graph(1, 0, 2 * kPageRows, 2 * kPageRows).is_ok());
    EXPECT_EQ(pinned.page(5)[0], std::byte{7});
    EXPECT_FALSE(k_.is_unmade(4 * kPage, 4 * kPage));
    EXPECT_TRUE(v_.is_unmade(4 * kPage, 4 * kPage));
}

TEST_F(ReclaimTest, PagesOfZerosAreTaken) {
    budget_.set_limit(4 * kPage);
    const std::vector<uint8_t> data(3 * kPage, 3), zeros(kPage);
    ASSERT_TRUE(k_.write(0, data.data(), data.size()).is_ok());
    ASSERT_TRUE(k_.write(kPage, zeros.data(), zeros.size()).is_ok());
    const uint64_t version = k_.page_version(1), layout = k_.layout();
    ASSERT_TRUE(v_.write(0, data.data(), 2 * kPage).is_ok());
    EXPECT_EQ(k_.page_version(1), version);  // it holds what it held
    EXPECT_NE(k_.layout(), layout);
    EXPECT_FALSE(k_.is_unmade(0, kPage));
    EXPECT_TRUE(k_.is_unmade(kPage, kPage));
}

TEST_F(ReclaimTest, AServerThatRunsForDaysStaysInsideItsBudget) {
    // Texts of changing length, in turns, that are removed before the next one of their stream begins.
    const uint64_t limit = 2 * 11 * kPage;
    budget_.set_limit(limit);
    for (int round = 0; round < 300; ++round) {
        const int64_t stream = round % 2;
        const int64_t length = 1 + (round * 37 + 11) % (5 * kPageRows);
        // The other stream may hold 5 pages at most, this one what is left of its last text.
        for (int64_t row = 0; row < length; row += 100) {
            const int64_t count = std::min<int64_t>(100, length - row);
            const int64_t seen = (row + count + kPageRows - 1) / kPageRows * kPageRows;
            ASSERT_TRUE(graph(stream, row, count, seen).is_ok()) << round << ", row " << row;
        }
        ASSERT_LE(budget_.in_use(), limit);
        if (round % 50 == 49) {
            ASSERT_TRUE(graph(stream, 0, kStream - 2 * kPageRows, kStream - 2 * kPageRows).is_ok());
        }
    }
}

TEST_F(ReclaimTest, AReservationIsWholeOrNothing) {
    budget_.set_limit(5 * kPage);
    const PageRange ranges[] = {{0, 2}, {6, 3}, {1, 2}};
    ASSERT_EQ(k_.reserve(ranges).code(), StatusCode::kOutOfMemory);
    EXPECT_EQ(budget_.in_use(), 0u);
    EXPECT_FALSE(k_.is_damaged());
    budget_.set_limit(6 * kPage);
    ASSERT_TRUE(k_.reserve(ranges).is_ok());
    EXPECT_EQ(budget_.in_use(), 6 * kPage);
    budget_.set_limit(1);
    ASSERT_TRUE(k_.reserve(ranges).is_ok());
    for (const int64_t page : {0, 1, 2, 6, 7, 8}) EXPECT_TRUE(k_.is_reserved(page));
    WriteLease lease;
    EXPECT_TRUE(k_.lease(7 * kPage, kPage, &lease).is_ok());
    const PageRange outside{15, 2};
    EXPECT_EQ(k_.reserve({&outside, 1}).code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace atlas::kv
