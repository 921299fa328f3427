#include "kv/page_pins.h"

#include <gtest/gtest.h>

#include <cstring>
#include <utility>

#include "kv/page_table.h"

namespace atlas::kv {
namespace {

constexpr size_t kRow = 64;
constexpr size_t kPage = kRow * kPageRows;

class PagePinsTest : public testing::Test {
protected:
    void write(int64_t page, uint8_t value) {
        const std::vector<uint8_t> data(kPage, value);
        ASSERT_TRUE(table_.write(static_cast<size_t>(page) * kPage, data.data(), kPage).is_ok());
    }
    static bool is_all(const std::byte* page, uint8_t value) {
        for (size_t i = 0; i < kPage; ++i) {
            if (page[i] != std::byte{value}) return false;
        }
        return true;
    }
    Status pin(std::vector<PageRange> ranges, Pinned* out) { return table_.pin(ranges, out); }

    Budget budget_;
    RamTier tier_{budget_};
    WriteClock clock_;
    PageTable table_{tier_, clock_, kRow, 20 * kPageRows};
};

TEST_F(PagePinsTest, GivesPagesOfItsRangesAndZerosWhereNothingWasWritten) {
    write(3, 3);
    write(4, 4);
    write(15, 15);
    Pinned pinned;
    ASSERT_TRUE(pin({{15, 2}, {3, 1}, {7, 0}, {3, 2}}, &pinned).is_ok());
    EXPECT_TRUE(is_all(pinned.page(3), 3));
    EXPECT_TRUE(is_all(pinned.page(4), 4));
    EXPECT_TRUE(is_all(pinned.page(15), 15));
    EXPECT_TRUE(is_all(pinned.page(16), 0));
    for (const int64_t page : {0, 2, 5, 7, 14, 17, 19}) EXPECT_FALSE(pinned.is_pinned(page)) << page;
#ifndef NDEBUG
    EXPECT_DEATH((void)pinned.page(5), "is_pinned");
#endif
}

TEST_F(PagePinsTest, AllTablesOfATierShareTheirZeros) {
    PageTable small(tier_, clock_, kRow / 2, kPageRows), large(tier_, clock_, kRow * 4, kPageRows);
    Pinned a, b;
    ASSERT_TRUE(pin({{0, 2}}, &a).is_ok());
    const PageRange first{0, 1};
    ASSERT_TRUE(small.pin({&first, 1}, &b).is_ok());
    EXPECT_EQ(a.page(0), a.page(1));
    EXPECT_EQ(a.page(0), b.page(0));
    ASSERT_TRUE(large.pin({&first, 1}, &b).is_ok());
    PageTable last(tier_, clock_, kRow, kPageRows);
    Pinned c;
    ASSERT_TRUE(last.pin({&first, 1}, &c).is_ok());
    EXPECT_EQ(b.page(0), c.page(0));
    EXPECT_EQ(budget_.in_use(), 0u);
}

TEST_F(PagePinsTest, RefusesRangesOutsideAndPinsNothing) {
    write(0, 1);
    for (const PageRange outside :
         {PageRange{-1, 1}, PageRange{0, 21}, PageRange{20, 1}, PageRange{1, -1}, PageRange{5, INT64_MAX}}) {
        Pinned pinned;
        const Status status = pin({{0, 1}, outside}, &pinned);
        EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << outside.first;
        EXPECT_FALSE(pinned.is_pinned(0));
    }
    table_.clear();
    EXPECT_EQ(budget_.in_use(), 0u);
}

TEST_F(PagePinsTest, APinnedPageOutlivesItsClearAndIsGivenBackAfterwards) {
    for (int64_t page = 0; page < 4; ++page) write(page, 7);
    Pinned one, two;
    ASSERT_TRUE(pin({{1, 2}}, &one).is_ok());
    ASSERT_TRUE(pin({{2, 1}}, &two).is_ok());
    table_.clear();
    EXPECT_EQ(budget_.in_use(), 2 * kPage);
    // The next writer gets memory of its own.
    write(2, 9);
    EXPECT_TRUE(is_all(one.page(1), 7));
    EXPECT_TRUE(is_all(one.page(2), 7));
    EXPECT_TRUE(is_all(two.page(2), 7));
    const PageRange released{2, 1};
    table_.release({&released, 1});
    EXPECT_EQ(budget_.in_use(), 3 * kPage);
    one.unpin();
    EXPECT_EQ(budget_.in_use(), 2 * kPage);
    EXPECT_TRUE(is_all(two.page(2), 7));
    two = {};
    EXPECT_EQ(budget_.in_use(), 0u);
}

TEST_F(PagePinsTest, MovesAndIsUsedAgain) {
    write(1, 1);
    write(2, 2);
    Pinned a;
    ASSERT_TRUE(pin({{1, 1}}, &a).is_ok());
    Pinned b = std::move(a);
    EXPECT_FALSE(a.is_pinned(1));  // NOLINT: what is left is empty
    EXPECT_TRUE(is_all(b.page(1), 1));
    ASSERT_TRUE(pin({{2, 1}}, &b).is_ok());
    EXPECT_FALSE(b.is_pinned(1));
    table_.clear();
    EXPECT_EQ(budget_.in_use(), kPage);
    a = std::move(b);
    EXPECT_TRUE(is_all(a.page(2), 2));
    a.unpin();
    EXPECT_EQ(budget_.in_use(), 0u);
}

TEST_F(PagePinsTest, ALeaseStampsWhenItBeginsAndWhenItEnds) {
    const uint64_t before = table_.page_version(2), chunk = table_.chunk_version(0), other = table_.page_version(1);
    clock_.advance();
    WriteLease lease;
    ASSERT_TRUE(table_.lease(2 * kPage + 5, 10, &lease).is_ok());
    const uint64_t during = table_.page_version(2), chunk_during = table_.chunk_version(0);
    EXPECT_GT(during, before);
    EXPECT_GT(chunk_during, chunk);
    EXPECT_EQ(table_.page_epoch(2), clock_.now());
    std::memset(lease.data(), 5, 10);
    clock_.advance();
    WriteLease moved = std::move(lease);
    EXPECT_EQ(lease.data(), nullptr);  // NOLINT: what is left is empty
    lease.end();
    EXPECT_EQ(table_.page_version(2), during);
    moved.end();
    EXPECT_GT(table_.page_version(2), during);
    EXPECT_GT(table_.chunk_version(0), chunk_during);
    EXPECT_EQ(table_.page_epoch(2), clock_.now());
    EXPECT_EQ(table_.page_version(1), other);
    uint8_t read[12];
    EXPECT_TRUE(table_.read(2 * kPage + 4, read, sizeof read).is_ok());
    EXPECT_EQ(read[0], 0);
    EXPECT_EQ(read[1], 5);
    EXPECT_EQ(read[10], 5);
    EXPECT_EQ(read[11], 0);
}

TEST_F(PagePinsTest, ALeaseStaysInsideOnePage) {
    WriteLease lease;
    EXPECT_EQ(table_.lease(kPage - 1, 2, &lease).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(table_.lease(20 * kPage, 1, &lease).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(table_.lease(SIZE_MAX, 2, &lease).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(lease.data(), nullptr);
    EXPECT_EQ(budget_.in_use(), 0u);
    budget_.set_limit(kPage - 1);
    EXPECT_EQ(table_.lease(0, 1, &lease).code(), StatusCode::kOutOfMemory);
    EXPECT_FALSE(table_.is_damaged());
    EXPECT_TRUE(table_.lease(19 * kPage + kPage - 1, 1, &lease).code() == StatusCode::kOutOfMemory);
}

}  // namespace
}  // namespace atlas::kv
