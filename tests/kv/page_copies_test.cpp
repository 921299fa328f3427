#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "kv/page_table.h"

namespace atlas::kv {
namespace {

constexpr size_t kRow = 48;
constexpr size_t kPage = kRow * kPageRows;

class PageCopiesTest : public testing::Test {
protected:
    static std::vector<uint8_t> contents(const PageTable& table) {
        std::vector<uint8_t> read(table.bytes());
        EXPECT_TRUE(table.read(0, read.data(), read.size()).is_ok());
        return read;
    }
    void write(PageTable& table, size_t offset, size_t bytes, uint8_t value) {
        const std::vector<uint8_t> data(bytes, value);
        ASSERT_TRUE(table.write(offset, data.data(), bytes).is_ok());
    }

    Budget budget_;
    RamTier tier_{budget_};
    WriteClock clock_;
    PageTable table_{tier_, clock_, kRow, 16 * kPageRows};
};

TEST_F(PageCopiesTest, SharesPagesUntilOneSideIsWritten) {
    write(table_, kPage, 2 * kPage, 5);
    write(table_, 9 * kPage, kPage, 9);  // where the source has nothing
    const uint64_t version = table_.page_version(9);
    ASSERT_TRUE(table_.copy(8 * kPage, table_, 0, 8 * kPage).is_ok());
    EXPECT_EQ(budget_.in_use(), 2 * kPage);
    EXPECT_TRUE(table_.is_unmade(8 * kPage, kPage));
    EXPECT_GT(table_.page_version(9), version);
    EXPECT_EQ(contents(table_)[9 * kPage], 5);

    write(table_, kPage + 3, 1, 6);  // the source
    EXPECT_EQ(budget_.in_use(), 3 * kPage);
    write(table_, 10 * kPage, 1, 7);  // the copy
    EXPECT_EQ(budget_.in_use(), 4 * kPage);
    write(table_, 9 * kPage + 1, 1, 8);  // nobody else holds it any more
    write(table_, 2 * kPage + 1, 1, 4);
    EXPECT_EQ(budget_.in_use(), 4 * kPage);
    const auto read = contents(table_);
    EXPECT_EQ(read[kPage + 3], 6);
    EXPECT_EQ(read[9 * kPage + 3], 5);
    EXPECT_EQ(read[10 * kPage], 7);
    EXPECT_EQ(read[2 * kPage], 5);
    EXPECT_EQ(read[9 * kPage + 1], 8);
    EXPECT_EQ(read[2 * kPage + 1], 4);
    table_.clear();
    EXPECT_EQ(budget_.in_use(), 0u);
}

TEST_F(PageCopiesTest, ACopyNeedsNoBudgetAndAWriteToItCanFailWithoutHarm) {
    write(table_, 0, 4 * kPage, 5);
    budget_.set_limit(4 * kPage);
    ASSERT_TRUE(table_.copy(8 * kPage, table_, 0, 4 * kPage).is_ok());
    WriteLease lease;
    EXPECT_EQ(table_.lease(8 * kPage, 1, &lease).code(), StatusCode::kOutOfMemory);
    EXPECT_EQ(lease.data(), nullptr);
    EXPECT_FALSE(table_.is_damaged());
    const auto read = contents(table_);
    EXPECT_TRUE(std::equal(read.begin(), read.begin() + 4 * kPage, read.begin() + 8 * kPage));
    const PageRange gone{0, 1};
    table_.release({&gone, 1});  // the copy keeps the memory
    EXPECT_EQ(budget_.in_use(), 4 * kPage);
    EXPECT_TRUE(table_.lease(8 * kPage, 1, &lease).is_ok());
    EXPECT_EQ(contents(table_)[8 * kPage], 5);
}

TEST_F(PageCopiesTest, PinnedReadersKeepWhatTheyPinned) {
    write(table_, 0, kPage, 5);
    ASSERT_TRUE(table_.copy(8 * kPage, table_, 0, kPage).is_ok());
    Pinned source, copy;
    const PageRange first{0, 1}, eighth{8, 1};
    ASSERT_TRUE(table_.pin({&first, 1}, &source).is_ok());
    ASSERT_TRUE(table_.pin({&eighth, 1}, &copy).is_ok());
    EXPECT_EQ(source.page(0), copy.page(8));
    write(table_, 0, 1, 6);
    table_.clear();
    EXPECT_EQ(source.page(0)[0], std::byte{5});
    EXPECT_EQ(copy.page(8)[0], std::byte{5});
    copy.unpin();
    EXPECT_EQ(source.page(0)[0], std::byte{5});
    EXPECT_EQ(budget_.in_use(), 2 * kPage);
    source.unpin();
    EXPECT_EQ(budget_.in_use(), 0u);
}

TEST_F(PageCopiesTest, RefusesOverlapsAndRangesOutside) {
    write(table_, 0, kPage, 5);
    PageTable other(tier_, clock_, kRow, kPageRows);
    EXPECT_EQ(table_.copy(0, other, 1, kPage).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(table_.damage().code(), StatusCode::kInvalidArgument);
    table_.clear();
    EXPECT_EQ(table_.copy(16 * kPage - 1, other, 0, 2).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(table_.copy(kPage, table_, 0, 2 * kPage).code(), StatusCode::kInvalidArgument);
}

TEST_F(PageCopiesTest, RandomCopiesAgreeWithPlainMemory) {
    PageTable other(tier_, clock_, kRow, 5 * kPageRows + 7);
    PageTable wide(tier_, clock_, 2 * kRow, 3 * kPageRows);
    PageTable* const tables[] = {&table_, &other, &wide};
    std::vector<uint8_t> plain[3];
    for (int i = 0; i < 3; ++i) plain[i].resize(tables[i]->bytes());
    std::mt19937 rng(3);
    const auto below = [&](size_t n) { return rng() % n; };
    for (int step = 0; step < 3000; ++step) {
        const size_t t = below(3), s = below(3);
        PageTable& to = *tables[t];
        size_t offset = below(to.bytes());
        size_t bytes = below(std::min<size_t>(to.bytes() - offset, 3 * kPage)) + 1;
        switch (below(6)) {
            case 0: {
                std::vector<uint8_t> data(bytes);
                for (uint8_t& x : data) x = static_cast<uint8_t>(below(4) ? rng() : 0);
                ASSERT_TRUE(to.write(offset, data.data(), bytes).is_ok());
                std::copy(data.begin(), data.end(), plain[t].begin() + static_cast<ptrdiff_t>(offset));
                break;
            }
            case 1: {
                const auto value = static_cast<uint8_t>(below(2));
                ASSERT_TRUE(to.fill(offset, value, bytes).is_ok());
                std::fill_n(plain[t].begin() + static_cast<ptrdiff_t>(offset), bytes, value);
                break;
            }
            case 2: {
                const auto page = static_cast<int64_t>(offset / to.page_bytes());
                const PageRange range{page, 1};
                to.release({&range, 1});
                const size_t begin = static_cast<size_t>(page) * to.page_bytes();
                std::fill_n(plain[t].begin() + static_cast<ptrdiff_t>(begin),
                            std::min(to.page_bytes(), to.bytes() - begin), uint8_t{0});
                break;
            }
            default: {
                size_t from = below(tables[s]->bytes());
                if (below(2)) {  // as hosts do: whole pages
                    offset -= offset % to.page_bytes();
                    from -= from % tables[s]->page_bytes();
                    bytes = (bytes / kPage + 1) * kPage;
                }
                bytes = std::min({bytes, to.bytes() - offset, tables[s]->bytes() - from});
                if (t == s && offset < from + bytes && from < offset + bytes) break;
                ASSERT_TRUE(to.copy(offset, *tables[s], from, bytes).is_ok());
                std::copy_n(plain[s].begin() + static_cast<ptrdiff_t>(from), bytes,
                            plain[t].begin() + static_cast<ptrdiff_t>(offset));
            }
        }
        if (step % 50 == 0) {
            for (int i = 0; i < 3; ++i) ASSERT_EQ(contents(*tables[i]), plain[i]) << step;
        }
    }
    for (PageTable* table : tables) table->clear();
    EXPECT_EQ(budget_.in_use(), 0u);
}

}  // namespace
}  // namespace atlas::kv
